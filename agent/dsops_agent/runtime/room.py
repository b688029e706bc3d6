"""How many bytes of requests may be under way together: memory is taken only after they found room."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Hold so many bytes, after a short wait for others to give them back.

        Raises:
            QueueFull: Others hold too many.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._left_bytes >= size, self._wait_s):
                raise QueueFull("too many bytes of requests are under way", why=f"{self._most_bytes} are possible")
            self._left_bytes -= size
        try:
            yield
        finally:
            with self._changed:
                self._left_bytes += size
                self._changed.notify_all()
