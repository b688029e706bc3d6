"""Ends other processes, and tells who holds a file's lock: neither looks into /proc.

A process that forbids dumps of its memory, as one with a sealed model does, is hidden from its own user where /proc is
mounted with ``hidepid`` (systemd's ``ProtectProc=invisible``). Signals, descriptors of processes (pidfd_open(2)) and
record locks (fcntl(2), ``F_GETLK``) do not care.
"""

import fcntl
import logging
import os
import select
import signal
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

logger = logging.getLogger(__name__)

TERMINATE_S = 5.0
"""How long a process may take to end in order."""
_FLOCK = struct.Struct("@hhqqi")
"""``struct flock`` with offsets of 64 bits, as Python is built everywhere: type, whence, start, length, pid."""


class Child(Protocol):
    """A process that this one started, as :class:`subprocess.Popen` shows it."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """How it ended, as the newest look at it saw; None when it was alive then."""
        ...

    def poll(self) -> int | None:
        """Return how it ended; None while it lives."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended; raise TimeoutExpired when it lives longer than so many seconds."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


def holder(path: Path) -> int | None:
    """Return which process holds a write lock on a file; None when none does, or there is no file.

    The kernel lets go of a lock at the end of its process, so that a number which is used again is nobody's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = bytearray(_FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        kind, *_, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, bytes(asked)))
    except OSError as error:
        logger.warning("who holds %s is not known: %s", path, error)
        return None
    finally:
        os.close(descriptor)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def end(pid: int, child: Child | None) -> bool:
    """End a process and return when it is gone; return whether it had to be killed.

    Args:
        pid: The process.
        child: The same, when this process started it.
    """
    return _end_stranger(pid) if child is None else _end_child(child)


def kill(pid: int, child: Child | None) -> None:
    """Kill a process that is known not to end in order, and return when it is gone; as :func:`end` otherwise."""
    if child is not None:
        _kill_child(child)
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel before 5.3, or a filter that does not know the call
        with suppress(psutil.NoSuchProcess):
            _kill_by_number(psutil.Process(pid))
        return
    try:
        _kill_by_handle(handle)
    finally:
        os.close(handle)


def _end_child(child: Child) -> bool:
    child.terminate()
    try:
        child.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        _warn(child.pid)
        _kill_child(child)
        return True
    return False


def _kill_child(child: Child) -> None:
    child.kill()
    with suppress(subprocess.TimeoutExpired):  # the kernel does not let go of it: we need not wait
        child.wait(TERMINATE_S)


def _end_stranger(pid: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel before 5.3, or a filter that does not know the call
        return _end_by_number(pid)
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        if select.select([handle], [], [], TERMINATE_S)[0]:
            return False
        _warn(pid)
        _kill_by_handle(handle)
    finally:
        os.close(handle)
    return True


def _kill_by_handle(handle: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    select.select([handle], [], [], TERMINATE_S)


def _end_by_number(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(TERMINATE_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        _warn(pid)
        _kill_by_number(process)
        return True
    return False


def _kill_by_number(process: psutil.Process) -> None:
    process.kill()
    with suppress(psutil.TimeoutExpired):
        process.wait(TERMINATE_S)


def _warn(pid: int) -> None:
    logger.warning("inference process %d does not end and is killed", pid)
