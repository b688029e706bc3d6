"""What the process says about its own memory."""

import os
import platform
import subprocess
import sys

import pytest

from dsops_agent.runtime.memory import peak_bytes, resident_bytes
from dsops_agent.runtime_process import runtime_environment


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


_LARGE_BLOCKS = """
from dsops_agent.runtime.memory import resident_bytes
block = b"x" * (8 << 20)
del block
before = resident_bytes()
block = b"x" * (8 << 20)  # malloc would take it from its heap now, and keep the heap
small = [bytes(1000) for _ in range(100)]
del block
print(resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc has other settings")
def test_the_memory_of_a_large_block_goes_back_to_the_system() -> None:
    environment = {name: value for name, value in runtime_environment().items() if name not in os.environ} | {
        "PYTHONPATH": os.pathsep.join(sys.path)
    }
    command = [sys.executable, "-c", _LARGE_BLOCKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 4 << 20
