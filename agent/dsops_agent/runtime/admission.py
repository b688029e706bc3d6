"""Who may wait for an answer, and for how long: bounded queues, one a model, deadlines, and callers that go away.

Every model has places of its own, so that one with many callers takes none from another; which model's thread runs next
is up to the operating system's scheduler, which is fair. Who finds no place is told so at once. Who holds one waits for
the model's turn until it comes, its deadline passes, or the caller is gone; after that a request is not run.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from dsops.errors import Abandoned, DsopsError, NotServing, QueueFull, TimedOut

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


def ended() -> NotServing:
    """Return what whoever asks while the process ends is told."""
    return NotServing("the runtime ends", hint="ask again in a moment: it may be started again")


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
        self._is_over = False

    def close(self) -> None:
        """Let nobody in any more, and send everybody away who waits; who has the model's turn keeps it."""
        self._is_over = True

    def check(self) -> None:
        """Raise NotServing after :meth:`close`."""
        if self._is_over:
            raise ended()

    @property
    def shed(self) -> int:
        """Requests that found no place."""
        return self._shed

    def places(self, model: str) -> int:
        """Return how many requests of a model are under way."""
        with self._lock:
            line = self._lines.get(model)
            return line.places if line else 0

    def place(self, model: str) -> "Place":
        """Return a place in a model's queue, to be held by ``with``; to enter raises QueueFull when all are taken."""
        return Place(self, model)

    def enter(self, model: str) -> threading.Lock:
        """Take a place; returns the model's turn.

        Raises:
            QueueFull: All are taken.
            NotServing: The process ends.
        """
        self.check()
        places = max(1, min(self._queue + 1, self._capacity // max(1, self._models())))
        with self._lock:
            line = self._lines.get(model)
            if line is None:
                line = self._lines[model] = _Line()
            if line.places < places:
                line.places += 1
                return line.turn
            self._shed += 1
        raise QueueFull(f"model {model} has too many requests", why=f"{places} are under way")

    def leave(self, model: str) -> None:
        """Give a place back."""
        with self._lock:
            self._lines[model].places -= 1


class Place:
    """A place in a model's queue. Of plain classes, as every request makes one: generators take 5 us more."""

    __slots__ = ("_admission", "_model", "_turn")

    def __init__(self, admission: Admission, model: str) -> None:
        self._admission, self._model = admission, model

    def __enter__(self) -> "Place":
        self._turn = self._admission.enter(self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self._model)

    def turn(self, caller: Caller) -> "Turn":
        """Return the model's turn, to be held by ``with``.

        To enter raises TimedOut when the caller's deadline passes before, Abandoned when the caller is gone before, and
        NotServing when the process ends before.
        """
        return Turn(self._admission, self._turn, caller)


class Turn:
    """A caller's turn at a model."""

    __slots__ = ("_admission", "_caller", "_turn")

    def __init__(self, admission: Admission, turn: threading.Lock, caller: Caller) -> None:
        self._admission, self._turn, self._caller = admission, turn, caller

    def __enter__(self) -> None:
        left_s = self._caller.check()
        if self._turn.acquire(blocking=False):
            return
        while not self._turn.acquire(timeout=min(left_s, _LOOK_S)):
            self._admission.check()
            left_s = self._caller.check()
        try:
            self._admission.check()
            self._caller.check()  # what it waited for may have come too late
        except DsopsError:
            self._turn.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.release()
