"""Unix sockets as files: their length limit, and what an earlier process left behind."""

import os
import socket
import stat
from pathlib import Path

from dsops.errors import InvalidConfig, PortBusy

MAX_PATH_BYTES = 107
"""``sun_path`` of ``struct sockaddr_un`` has 108 bytes, the last of which is 0 (unix(7))."""


def make_room(path: Path) -> None:
    """Check that a socket can be bound at ``path``, and remove one that nobody listens on any more.

    Raises:
        InvalidConfig: The path is too long, its folder is missing, or something else than a socket is there.
        PortBusy: A process listens there.
    """
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise InvalidConfig(
            f"the socket path {path} is too long",
            why=f"{length} bytes, {MAX_PATH_BYTES} are possible",
            hint="set a shorter path for the socket",
        )
    if not path.parent.is_dir():
        raise InvalidConfig(f"the folder of the socket {path} does not exist", hint="create it, or set another path")
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise InvalidConfig(f"{path} is not a socket", hint="remove the file, or set another path")
    if _someone_listens(path):
        raise PortBusy(f"another process listens on {path}")
    path.unlink()


def listen(path: Path, mode: int) -> socket.socket:
    """Return a listening socket at ``path`` with these permissions from its first moment.

    Raises:
        InvalidConfig: See :func:`make_room`.
        PortBusy: A process listens there.
    """
    make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(4)
    return listener


def _someone_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # busy, or not ours to ask: in either case not ours to remove
            return True
        return True
