"""Who may wait for an answer, and for how long: bounded queues, one a model, deadlines, and callers that go away.

Every model has places of its own, so that one with many callers takes none from another; which model's thread runs next
is up to the operating system's scheduler, which is fair. Who finds no place is told so at once. Who holds one waits for
the model's turn until it comes, its deadline passes, or the caller is gone; after that a request is not run.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsops.errors import Abandoned, QueueFull, TimedOut

_LOOK_S = 0.1
"""How often a request that waits looks whether its caller is still there."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Caller:
    """Who waits for an answer.

    Attributes:
        ends_s: Until when, as time.monotonic() tells it.
        is_gone: Whether it no longer waits.
    """

    ends_s: float = float("inf")
    is_gone: Callable[[], bool] = _never

    def check(self) -> float:
        """Return for how many seconds it waits from now on.

        Raises:
            TimedOut: Its deadline has passed.
            Abandoned: It is gone.
        """
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            raise TimedOut("the deadline passed while the request waited", hint="allow more time, or ask less often")
        if self.is_gone():
            raise Abandoned("the caller went away while the request waited")
        return left_s


PATIENT = Caller()
"""Waits for as long as it takes."""


@dataclass
class _Line:
    places: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)


class Admission:
    """Gives requests places, and turns at a model. Safe to call from several threads.

    Args:
        queue: Requests of one model that may wait while one is answered.
        capacity: Requests of all models at most: as many as there are threads for them.
        models: Tells how many models there are to share the capacity.
    """

    def __init__(self, queue: int, capacity: int, models: Callable[[], int]) -> None:
        self._queue = queue
        self._capacity = capacity
        self._models = models
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._shed = 0

    @property
    def shed(self) -> int:
        """Requests that found no place."""
        return self._shed

    def places(self, model: str) -> int:
        """Return how many requests of a model are under way."""
        with self._lock:
            line = self._lines.get(model)
            return line.places if line else 0

    @contextmanager
    def place(self, model: str) -> Iterator["Place"]:
        """Hold a place in a model's queue.

        Raises:
            QueueFull: All are taken.
        """
        line = self._enter(model)
        try:
            yield Place(line.turn)
        finally:
            with self._lock:
                line.places -= 1

    def _enter(self, model: str) -> _Line:
        places = max(1, min(self._queue + 1, self._capacity // max(1, self._models())))
        with self._lock:
            line = self._lines.setdefault(model, _Line())
            if line.places < places:
                line.places += 1
                return line
            self._shed += 1
        raise QueueFull(f"model {model} has too many requests", why=f"{places} are under way")


@dataclass(frozen=True)
class Place:
    """A place in a model's queue."""

    _turn: threading.Lock

    @contextmanager
    def turn(self, caller: Caller) -> Iterator[None]:
        """Wait for the model, and hold it.

        Raises:
            TimedOut: The caller's deadline passed before.
            Abandoned: The caller was gone before.
        """
        while not self._turn.acquire(timeout=min(caller.check(), _LOOK_S)):
            pass
        try:
            caller.check()  # what it waited for may have come too late
            yield
        finally:
            self._turn.release()
