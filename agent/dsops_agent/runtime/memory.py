"""How much memory this process holds, from proc(5); elsewhere from getrusage(2)."""

import ctypes
import logging
import os
import resource
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

_KIB = 1024
_PR_SET_DUMPABLE = 4


def resident_bytes() -> int:
    """Return the memory that this process holds now; where the host does not tell, at most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _most_so_far()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most memory that this program held so far.

    ``ru_maxrss`` is no measure of that on Linux: a child begins with the figure of the process that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return _most_so_far()
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIB
    return _most_so_far()


def forbid_dumps() -> None:
    """Keep this process's memory out of core dumps, and from other processes of its user: prctl(2), PR_SET_DUMPABLE.

    What the host does not offer is logged: the secret is in memory all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux") or ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        logger.warning("this host cannot keep a sealed model out of memory dumps")


def _most_so_far() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
