"""Unix sockets as files: their length limit, what an earlier process left behind, and who may connect.

To connect is to write to the file (unix(7)), so that the kernel keeps strangers out by the file's permissions and its
access list.
"""

import grp
import os
import pwd
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from dsops import access_list
from dsops.errors import InvalidConfig, PortBusy
from dsops_agent.runtime.shares import user_named

MAX_PATH_BYTES = 107
"""``sun_path`` of ``struct sockaddr_un`` has 108 bytes, the last of which is 0 (unix(7))."""
_CREDENTIALS = struct.Struct("=iII")


@dataclass(frozen=True)
class Access:
    """Who may connect to a socket, besides root and the user of the process.

    Attributes:
        uids: Users; none of them means everybody in the process's group.
        is_private: Nobody.
    """

    uids: tuple[int, ...] = ()
    is_private: bool = False

    @property
    def first_mode(self) -> int:
        """Permissions of the file when it is made: nobody more than in the end."""
        return 0o600 if self.uids or self.is_private else 0o660

    def grant(self, path: Path) -> None:
        """Let them connect.

        Raises:
            InvalidConfig: The file system keeps no access lists.
        """
        path.chmod(self.first_mode)
        if self.is_private or not self.uids:
            return
        try:
            os.setxattr(path, access_list.ATTRIBUTE, access_list.for_users(self.uids))
        except OSError as error:
            raise InvalidConfig(
                f"users cannot be allowed at the socket {path}",
                why=f"its file system keeps no access lists: {error.strerror}",
                hint="put the socket on a file system that does, as tmpfs, ext4 or XFS, or empty inference.allow",
            ) from error

    def permits(self, uid: int) -> bool:
        """Tell whether a user may connect."""
        if uid in (0, os.geteuid()):
            return True
        if self.is_private:
            return False
        return uid in self.uids or (not self.uids and _is_in_group(uid, os.getegid()))


def _is_in_group(uid: int, gid: int) -> bool:
    try:
        user = pwd.getpwuid(uid)
        return user.pw_gid == gid or user.pw_name in grp.getgrgid(gid).gr_mem
    except KeyError:  # a user or group without an entry
        return False


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


def listen(path: Path, mode: int, backlog: int = 4) -> socket.socket:
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
    listener.listen(backlog)
    return listener


def peer_user(connection: socket.socket) -> str:
    """Return who connected to a Unix socket, as the kernel knows it (SO_PEERCRED of unix(7))."""
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user_named(uid)


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
