"""Places to receive messages whose length nobody knows before they are there, as those of gRPC.

Each may become as long as a message can be, so that few are received at once. Who is slow keeps a place only while
nobody else wants it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dsops_agent.runtime.shares import Shares

PLACES = 4
SLOW_S = 1.0
"""How long a message may take to arrive while others wait; on one device the longest takes a fifth of that."""


@dataclass(eq=False)
class _Arriving:
    """A message that is received.

    Attributes:
        user: Who sends it.
        give_up: Ends the call.
        since_s: When its place was taken.
        is_out: Whether it was given up for another.
    """

    user: str
    give_up: Callable[[], object]
    since_s: float
    is_out: bool = False


class Intake:
    """The places. Safe to call from several threads."""

    def __init__(self, places: int = PLACES, slow_s: float = SLOW_S) -> None:
        self._slow_s = slow_s
        self._shares = Shares(places)
        self._arriving: list[_Arriving] = []
        self._changed = threading.Condition()

    @contextmanager
    def place(self, user: str, give_up: Callable[[], object]) -> Iterator[None]:
        """Hold a place; waits for it, at most until the slowest have been given up.

        Args:
            user: Who sends the message; one that is known may have three places of four.
            give_up: Ends the call, if it is slow and others wait.
        """
        with self._changed:
            while not self._shares.fits(1, user):
                self._changed.wait(self._give_up_slowest(user))
            self._shares.take(1, user)
            mine = _Arriving(user, give_up, time.monotonic())
            self._arriving.append(mine)
        try:
            yield
        finally:
            with self._changed:
                if not mine.is_out:
                    self._leave(mine)

    def _give_up_slowest(self, user: str) -> float:
        """Give up who has taken too long for another's patience; return how long to wait before the next look."""
        theirs = [one for one in self._arriving if one.user == user]
        in_the_way = theirs if self._shares.fits(1, "") else self._arriving
        slowest = min(in_the_way, key=lambda one: one.since_s)
        left_s = slowest.since_s + self._slow_s - time.monotonic()
        if left_s > 0:
            return left_s
        slowest.is_out = True
        self._leave(slowest)
        slowest.give_up()
        return 0.0

    def _leave(self, one: _Arriving) -> None:
        self._arriving.remove(one)
        self._shares.give_back(1, one.user)
        self._changed.notify_all()
