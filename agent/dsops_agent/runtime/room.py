"""How many bytes of requests may be under way together: memory is taken only after they found room.

What is weighed: the body of a message before it is received, where its length is told, and the tensors that are made
of it beside it. A body that is parsed is there twice for a moment, so that the memory of the process grows by up to
three times this.
"""

import threading
from types import TracebackType

from dsops.errors import QueueFull
from dsops_agent.runtime.shares import NOBODY, Shares

MOST_BYTES = 128 << 20
"""Of all requests together; one has a quarter of it at most."""
SMALL_BYTES = 64 << 10
"""Requests of up to so many bytes are not weighed: as many as there are connections take little, and find room always,
whoever fills it with large ones."""
WAIT_S = 0.5


class Room:
    """Bytes that requests hold. Safe to call from several threads.

    Attributes:
        wait_s: How long who finds too few waits for others to give them back.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, wait_s: float = WAIT_S, small_bytes: int = SMALL_BYTES) -> None:
        self._most_bytes = most_bytes
        self.wait_s = wait_s
        self._small_bytes = small_bytes
        self._shares = Shares(most_bytes)
        self._changed = threading.Condition()

    def held(self, size: int, user: str = NOBODY) -> "Held":
        """Return bytes to be held by ``with``; to enter waits a short time for others to give them back.

        To enter raises QueueFull when others hold too many, or this user does: a known one may hold three quarters.

        Args:
            size: Bytes; few always fit, and are not counted.
            user: Who asks.
        """
        return Held(self, 0 if size <= self._small_bytes else size, user)

    def take(self, size: int, user: str) -> None:
        """Take bytes; see :meth:`held`.

        Raises:
            QueueFull: They are not there in time.
        """
        with self._changed:
            fits = self._shares.fits
            if not fits(size, user) and not self._changed.wait_for(lambda: fits(size, user), self.wait_s):
                raise self.full()
            self._shares.take(size, user)

    def try_take(self, size: int, user: str) -> bool:
        """Take bytes if they are there now; return whether they were."""
        with self._changed:
            if not self._shares.fits(size, user):
                return False
            self._shares.take(size, user)
        return True

    def full(self) -> QueueFull:
        """Return what who finds too few is told."""
        return QueueFull("too many bytes of requests are under way", why=f"{self._most_bytes} are possible")

    def give_back(self, size: int, user: str) -> None:
        """Give bytes back."""
        with self._changed:
            self._shares.give_back(size, user)
            self._changed.notify_all()


class Held:
    """Bytes of a room. Of plain methods, as every request makes one: generators take 5 us more."""

    __slots__ = ("_room", "_size", "_user")

    def __init__(self, room: Room, size: int, user: str) -> None:
        self._room, self._size, self._user = room, size, user

    def __enter__(self) -> None:
        if self._size:
            self._room.take(self._size, self._user)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._room.give_back(self._size, self._user)
