"""Which start of the host this is: times of a clock that begins anew with each start mean something only within one."""

from pathlib import Path

_PATH = Path("/proc/sys/kernel/random/boot_id")
BYTES = 36
"""Length of the name of a start: random(4) has it as a UUID."""


def boot_id() -> str:
    """Return the name of this start of the host; empty where the kernel has none."""
    try:
        return _PATH.read_text().strip()[:BYTES]
    except OSError:
        return ""
