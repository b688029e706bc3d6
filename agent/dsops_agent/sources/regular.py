"""Reading files that somebody else may have put there: regular files only, no more than is asked for.

A symbolic link could lead anywhere, a pipe or a device could block or never end, and a medium may be pulled out.
"""

import errno
import os
import stat
from pathlib import Path

from dsops.errors import SourceEndless, SourceLacks, SourceRefused, SourceTruncated, SourceUnreachable


def read_part(path: Path, offset: int, length: int) -> bytes:
    """Return ``length`` bytes of a file.

    Raises:
        SourceFailed: It is absent, no regular file, too short, or cannot be read; each with a class of its own.
    """
    data = _read(path, offset, length)
    if len(data) < length:
        raise SourceTruncated(f"{path.name} is cut short", why=f"{len(data)} of {length} bytes at {offset}")
    return data


def read_whole(path: Path, most_bytes: int) -> bytes:
    """Return a file of at most ``most_bytes``; raises as :func:`read_part`, and SourceEndless when it is longer."""
    data = _read(path, 0, most_bytes + 1)
    if len(data) > most_bytes:
        raise SourceEndless(f"{path.name} is too long", why=f"more than {most_bytes} bytes")
    return data


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _named(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise SourceRefused(f"{path.name} is not a regular file")
        return _pread(handle, offset, length)
    except OSError as error:
        raise _named(path, error) from error
    finally:
        os.close(handle)


def _pread(handle: int, offset: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (piece := os.pread(handle, length - len(data), offset + len(data))):
        data += piece
    return bytes(data)


def _named(path: Path, error: OSError) -> SourceLacks | SourceRefused | SourceUnreachable:
    if error.errno == errno.ENOENT and _is_folder(path.parent):
        return SourceLacks(f"{path.parent} does not have the file", why=path.name)
    if error.errno in (errno.ELOOP, errno.ENXIO):
        return SourceRefused(f"{path.name} is not a regular file", why=str(error.strerror))
    return SourceUnreachable(f"{path} cannot be read", why=str(error.strerror))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the medium fails
        return False
