"""How many bytes of requests may be under way together: memory is taken only after they found room.

What is weighed: the body of a message before it is received, where its length is told, and the tensors that are made
of it beside it. A body that is parsed is there twice for a moment, so that the memory of the process grows by up to
three times this.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dsops.errors import QueueFull
from dsops_agent.runtime.shares import NOBODY, Shares

MOST_BYTES = 128 << 20
"""Of all requests together; one has a quarter of it at most."""
SMALL_BYTES = 64 << 10
"""Requests of up to so many bytes are not weighed: as many as there are connections take little, and find room always,
whoever fills it with large ones."""
WAIT_S = 0.5


class Room:
    """Bytes that requests hold. Safe to call from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES, wait_s: float = WAIT_S, small_bytes: int = SMALL_BYTES) -> None:
        self._most_bytes = most_bytes
        self._wait_s = wait_s
        self._small_bytes = small_bytes
        self._shares = Shares(most_bytes)
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int, user: str = NOBODY) -> Iterator[None]:
        """Hold so many bytes, after a short wait for others to give them back.

        Args:
            size: Bytes.
            user: Who asks; a user that is known may hold three quarters.

        Raises:
            QueueFull: Others hold too many, or this user does.
        """
        if size <= self._small_bytes:
            yield
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self._shares.fits(size, user), self._wait_s):
                raise QueueFull("too many bytes of requests are under way", why=f"{self._most_bytes} are possible")
            self._shares.take(size, user)
        try:
            yield
        finally:
            with self._changed:
                self._shares.give_back(size, user)
                self._changed.notify_all()
