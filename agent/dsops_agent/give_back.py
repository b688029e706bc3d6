"""Gives memory back that a process no longer needs: what its start did, what an install did, a model that was replaced.

The kernel maps sixteen pages around each one that is touched (``fault_around_bytes``), and a start touches a library
everywhere: of 40 MB of mapped files a running agent uses half. Those pages stay in the page cache; a page that is used
again is mapped again, in about a microsecond. Nothing that was ever written is touched.

Source: madvise(2), MADV_DONTNEED ("subsequent accesses ... will result in ... repopulating the memory contents from the
up-to-date contents of the underlying mapped file"); proc_pid_smaps(5); malloc_trim(3) ("free memory ... in all arenas
and whole free pages").
"""

import ctypes
import gc
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_SMAPS = Path("/proc/self/smaps")
_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)")
_MADV_DONTNEED = 4
_M_ARENA_MAX = -8
FIRST_S, AGAIN_S = 10.0, 600.0
"""So long after it is ready the agent has connected, and what it needs only for that is over; what an install or a new
certificate needed is given back with the next turn, which takes some milliseconds."""


class Turns:
    """When memory is given back: :data:`FIRST_S` after a process is ready, then every :data:`AGAIN_S`. Pure."""

    def __init__(self) -> None:
        self._due_s: float | None = None
        self.count = 0

    def is_due(self, now_s: float, *, is_ready: bool) -> bool:
        """Return whether to give back now; a turn that is due is counted."""
        if self._due_s is None:
            self._due_s = now_s + FIRST_S if is_ready else None
            return False
        if now_s < self._due_s:
            return False
        self._due_s, self.count = now_s + AGAIN_S, self.count + 1
        return True


def one_pool() -> None:
    """Let all threads share one pool of malloc, where each takes another one and keeps what it needed once.

    None of them is in a hurry. To be called before there are threads (mallopt(3), M_ARENA_MAX).
    """
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (OSError, AttributeError) as error:  # not glibc
        logger.debug("malloc has a pool for every thread: %s", error)


def settle() -> None:
    """Say that the start is over: what is there now stays, and later collections need not look through it. Once."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Collect garbage, and let the kernel have what is free, and pages of files that can be read again."""
    gc.collect()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        with _SMAPS.open() as lines:
            ranges = list(clean_file_ranges(lines))
        for begin, end in ranges:
            libc.madvise(begin, end - begin, _MADV_DONTNEED)
        libc.malloc_trim(0)
    except (OSError, AttributeError) as error:  # not Linux, or not glibc
        logger.debug("no memory is given back: %s", error)


def give_back_free() -> None:
    """Collect garbage, and let the kernel have what is free, wherever in the heap it is.

    malloc by itself gives back only what is free at the heap's end. Takes a millisecond where what was there at the
    start is frozen (:func:`gc.freeze`), tens of them otherwise; Python's lock is held for the collection.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError) as error:  # not glibc
        logger.debug("no memory is given back: %s", error)


def clean_file_ranges(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Return the ranges of addresses of files that cannot be written, and of which no page was ever changed.

    Args:
        smaps: Lines of ``/proc/PID/smaps``. Constants of a library that the loader relocated were changed, too.
    """
    head: re.Match[str] | None = None
    for line in smaps:
        if found := _HEAD.match(line):
            head = found
        elif line.startswith("Anonymous:") and head is not None:
            is_file, is_read_only = head[4] != "0", head[3] in {"r-xp", "r--p"}
            if is_file and is_read_only and line.split()[1] == "0":
                yield int(head[1], 16), int(head[2], 16)
