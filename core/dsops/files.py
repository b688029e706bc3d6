"""Files that are there whole or not at all, also after a power cut: write beside, sync, rename, sync the folder."""

import contextlib
import errno
import os
from pathlib import Path

from dsops.errors import NoSpace

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file; it never has a wider mode than ``mode``, not for a moment.

    Raises:
        NoSpace: The disk is full; nothing is left behind, and what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _FULL:
            raise NoSpace(f"cannot write {path.name}", why=str(error.strerror)) from error
        raise


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read.

    Raises:
        NoSpace: The disk is full; nothing is left behind.
    """
    write_atomically(path, data, mode=0o600)


def fsync_or_discard(path: Path, handle: int) -> None:
    """Make a file durable; one that the disk did not take is removed, so that nobody takes it for durable later.

    After an fsync that failed, the kernel counts the pages that were lost as written: the next one succeeds, and
    reading gives them back as long as they are in memory.

    Args:
        path: The file.
        handle: Its descriptor.

    Raises:
        OSError: The disk did not take it.

    Sources:
        A. Rebello et al., Can Applications Recover from fsync Failures?, USENIX ATC 2020, section 3.
    """
    try:
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_private(path: Path) -> None:
    """Make a file if there is none, and let nobody but its owner read it; what SQLite puts beside it is alike.

    What stands in the way is not said here: whoever opens the file next is told.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
