"""What a data process is known by: a lock on its pid file, a digest of its settings, and files that are its own."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsops.files import write_atomically

PID_FILE = "runtime.pid"


def settings_digest(text: str) -> str:
    """Return what tells settings apart, from the text that a process was started with."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder: the pid file names this process, and has its lock until the end of the block or the process.

    Raises:
        OSError: The file cannot be made.
    """
    path = folder / PID_FILE
    write_atomically(path, f"{os.getpid()}\n".encode())
    with path.open("r+b") as file:  # whoever opened and closed it in this process would end the lock (fcntl(2))
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove = own_file(path)
        try:
            yield
        finally:
            remove()


def own_file(path: Path) -> Callable[[], None]:
    """Return what removes the file that is at ``path`` now, and leaves alone what another process put in its place."""
    made = _identity(path)

    def remove() -> None:
        if made is not None and _identity(path) == made:
            path.unlink(missing_ok=True)

    return remove


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return which file that is: numbers of files are used again, with another time."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
