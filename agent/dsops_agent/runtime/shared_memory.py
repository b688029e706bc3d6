"""System shared memory as clients of Triton use it: regions by name, out of which inputs come, into which outputs go.

A region is a file descriptor, never a mapping. Its owner may shrink the object at any moment, and an access to a mapped
page that is no longer there kills the process with SIGBUS; to look at the size before each access would not help,
because the owner can shrink it in between. ``pread`` answers with fewer bytes instead, an error of that request only.
The copy also keeps a caller from changing an input after it was checked. It takes 10 us for 150 KB.

POSIX shared memory objects are files below /dev/shm (shm_overview(7)). Who holds a lock on one (flock(2)) as it
registers it need not unregister it: the kernel ends the lock with the last process that has it, and the region goes
within a second. Of an object without a lock nobody can tell whether its owner lives: it stays until it is unregistered.
"""

import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsops.errors import Conflict, Forbidden, InvalidInput, NotFound
from dsops_agent.runtime.litert import Array

MAX_REGIONS = 64
MAX_REGION_BYTES = 1 << 30
MAX_NAME = 128
_SHM = Path("/dev", "shm")
_KEY_BYTES = 255
"""NAME_MAX of tmpfs."""


@dataclass(frozen=True)
class Span:
    """A part of a region: where a tensor's bytes are.

    Attributes:
        region: Name of the region.
        size: Bytes.
        offset: Where it begins in the region.
    """

    region: str
    size: int
    offset: int = 0


class Region:
    """A registered region; its descriptor is closed when nobody uses it any more.

    Args:
        name: What requests call it.
        key: What shm_open calls the object.
        offset: Where the region begins in the object.
        size: Bytes.
        descriptor: The open object; it belongs to the region from now on.
    """

    def __init__(self, name: str, key: str, offset: int, size: int, descriptor: int) -> None:
        self.name, self.key, self.offset, self.size = name, key, offset, size
        self._descriptor = descriptor
        self._was_locked = _is_locked(descriptor)
        weakref.finalize(self, os.close, descriptor)

    @property
    def is_left(self) -> bool:
        """Whether an owner held a lock on the object, and is gone."""
        return self._was_locked and not _is_locked(self._descriptor)

    def read(self, span: Span) -> Array:
        """Return a copy of a part, uint8 [n].

        Raises:
            InvalidInput: The part is not inside the region, or the object has become shorter.
        """
        at = self._place(span)
        found = np.empty(span.size, np.uint8)
        view = found.data
        done = 0
        while done < span.size:
            got = os.preadv(self._descriptor, [view[done:]], at + done)
            if not got:
                raise self._shortened()
            done += got
        return found

    def write(self, span: Span, data: bytes) -> None:
        """Write to a part's beginning.

        Raises:
            InvalidInput: The part is not inside the region, too short for the bytes, or no longer there.
        """
        at = self._place(span)
        if len(data) > span.size:
            raise InvalidInput(f"an output has {len(data)} bytes", why=f"its part of {self.name!r} has {span.size}")
        if os.fstat(self._descriptor).st_size < at + len(data):  # else a write would lengthen it again
            raise self._shortened()
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], at + done)
        except OSError as error:
            raise InvalidInput(f"shared memory {self.name!r} cannot be written", why=error.strerror or "") from error

    def _place(self, span: Span) -> int:
        if span.offset < 0 or span.size < 0 or span.offset + span.size > self.size:
            raise InvalidInput(
                f"bytes {span.offset} to {span.offset + span.size} are not inside shared memory {self.name!r}",
                why=f"it has {self.size}",
            )
        return self.offset + span.offset

    def _shortened(self) -> InvalidInput:
        return InvalidInput(
            f"shared memory {self.name!r} is shorter than it was registered",
            hint="unregister it before its object is made smaller or removed",
        )


class Regions:
    """The registered regions, by name. All programs that may use the sockets share them. Safe to call from threads.

    Args:
        may_share: Tells of a uid whether its objects may be used: the runtime may be able to open objects of users who
            may not ask it, and would read and write those on behalf of somebody else.
        folder: Where the objects are.
    """

    def __init__(self, may_share: Callable[[int], bool], folder: Path = _SHM) -> None:
        self._may_share = may_share
        self._folder = folder
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Take a shared memory object, or a part of it, under a name.

        Raises:
            InvalidInput: Name, key, offset or size cannot be.
            NotFound: There is no such object.
            Forbidden: The runtime may not open it, or it belongs to a user who may not ask for inference.
            Conflict: The name is taken, or there are too many regions.
        """
        _check(name, offset, size)
        descriptor = self._open(key, offset + size)
        with self._lock:  # also to look at locks, for which they are taken for a moment
            region = Region(name, key, offset, size, descriptor)
            self._forget_left()
            if name in self._regions:
                raise Conflict(f"shared memory {name!r} is registered already", hint="unregister it first")
            if len(self._regions) >= MAX_REGIONS:
                raise Conflict(f"{MAX_REGIONS} regions of shared memory are registered", hint="unregister some")
            self._regions[name] = region

    def let_go(self) -> None:
        """Forget the regions whose owners held a lock and are gone: their memory is the system's again.

        To look costs a microsecond a region; requests under way still use what is forgotten.
        """
        with self._lock:
            self._forget_left()

    def unregister(self, name: str) -> None:
        """Forget a region, or all for an empty name; requests under way still use it. An unknown one is no error."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str = "") -> list[Region]:
        """Return one region, or all for an empty name.

        Raises:
            NotFound: There is no such region.
        """
        if name:
            return [self.get(name)]
        with self._lock:
            return [self._regions[known] for known in sorted(self._regions)]

    def get(self, name: str) -> Region:
        """Return a region.

        Raises:
            NotFound: There is no such region.
        """
        with self._lock:
            found = self._regions.get(name)
        if found is None:
            raise NotFound(f"no shared memory {name[:MAX_NAME]!r} is registered")
        return found

    def _forget_left(self) -> None:
        self._regions = {known: old for known, old in self._regions.items() if not old.is_left}

    def _open(self, key: str, needed: int) -> int:
        path = self._folder / _file_name(key)
        try:  # neither a link elsewhere, nor a pipe that keeps us waiting
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFound(f"there is no shared memory object {key!r}") from error
        except PermissionError as error:
            raise Forbidden(
                f"the runtime may not open the shared memory object {key!r}",
                hint=f"let uid {os.geteuid()} read and write {path}, for example by its group or an access list",
            ) from error
        except OSError as error:
            raise InvalidInput(f"{key!r} is no shared memory object", why=error.strerror or "") from error
        try:
            self._check_object(os.fstat(descriptor), key, needed)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_object(self, found: os.stat_result, key: str, needed: int) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{key!r} is no shared memory object")
        if not self._may_share(found.st_uid):
            raise Forbidden(
                f"the shared memory object {key!r} belongs to another user",
                why=f"uid {found.st_uid} may not ask for inference",
            )
        if found.st_size < needed:
            raise InvalidInput(
                f"the shared memory object {key!r} is too short", why=f"{found.st_size} of {needed} bytes"
            )


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _check(name: str, offset: int, size: int) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInput(f"a region's name has 1 to {MAX_NAME} printable characters", why=f"got {name[:MAX_NAME]!r}")
    if not 0 < size <= MAX_REGION_BYTES or not 0 <= offset <= 1 << 40:
        raise InvalidInput(f"a region has 1 to {MAX_REGION_BYTES} bytes", why=f"got {size} at {offset}")


def _file_name(key: str) -> str:
    name = key.removeprefix("/")
    is_one = name and name not in (".", "..") and "/" not in name and name.isprintable()
    if not is_one or len(os.fsencode(name)) > _KEY_BYTES:
        raise InvalidInput(f"{key[:64]!r} is no name of a shared memory object", hint="it is /name, with one slash")
    return name
