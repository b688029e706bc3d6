"""What the process says about its own memory."""

import subprocess
import sys

from dsops_agent.runtime.memory import peak_bytes, resident_bytes


def test_the_peak_is_not_below_what_is_held_and_sees_an_allocation() -> None:
    before = peak_bytes()
    held = bytearray(b"x") * (64 << 20)
    assert len(held) <= resident_bytes() <= peak_bytes()
    assert peak_bytes() >= before


def test_a_small_child_of_a_large_process_is_small() -> None:
    held = bytearray(b"x") * (200 << 20)
    code = "from dsops_agent.runtime.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < len(held) // 2
