"""How many bytes of requests may be under way together: memory is taken only after they found room."""

import threading
from types import TracebackType

from dsops.errors import QueueFull

MOST_BYTES = 128 << 20
"""Of all requests together; one has a quarter of it at most."""
WAIT_S = 0.5


class Room:
    """Bytes that requests hold. Safe to call from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES, wait_s: float = WAIT_S) -> None:
        self._most_bytes = self._left_bytes = most_bytes
        self._wait_s = wait_s
        self._changed = threading.Condition()

    def held(self, size: int) -> "Held":
        """Return so many bytes, to be held by ``with``; to enter waits a short time for others to give them back.

        To enter raises QueueFull when others hold too many.
        """
        return Held(self, size)

    def take(self, size: int) -> None:
        """Take bytes.

        Raises:
            QueueFull: Others hold too many.
        """
        with self._changed:
            if self._left_bytes < size and not self._changed.wait_for(lambda: self._left_bytes >= size, self._wait_s):
                raise QueueFull("too many bytes of requests are under way", why=f"{self._most_bytes} are possible")
            self._left_bytes -= size

    def give_back(self, size: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._left_bytes += size
            self._changed.notify_all()


class Held:
    """Bytes of a room. Of plain methods, as every request makes one: generators take 5 us more."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._size = room, size

    def __enter__(self) -> None:
        self._room.take(self._size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give_back(self._size)
