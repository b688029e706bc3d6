"""Who may wait for an answer, and for how long: bounded queues, one a model, deadlines, and callers that go away.

Every model has places of its own, so that one with many callers takes none from another; which model's thread runs next
is up to the operating system's scheduler, which is fair. Who finds no place is told so at once. Who holds one waits for
the model's turn until it comes, its deadline passes, or the caller is gone; after that a request is not run. Who has
many frames gives its turn up in between, and waits for the next in the same way. A turn is at one of the model's
instances (:mod:`dsops_agent.runtime.instances`); where callers go on waiting, another instance is asked for.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from dsops.errors import Abandoned, DsopsError, NotServing, QueueFull, TimedOut
from dsops_agent.runtime.instances import SHARE_NS, Instance, Instances

_LOOK_S = 0.1
"""How often a request that waits looks whether its caller is still there."""
_HANDOVER_S, _MOST_HANDOVER_S = 0.0005, 0.02
"""How long a turn that is given up is left to others: a moment, and longer while one of them has yet to wake up."""


def _never() -> bool:
    return False


def at_leisure() -> None:
    """Go on, for who keeps nobody else waiting."""


@dataclass(frozen=True)
class Caller:
    """Who waits for an answer.

    Attributes:
        ends_s: Until when, as time.monotonic() tells it.
        is_gone: Whether it no longer waits.
        slowly: Is called before something that may take long.
    """

    ends_s: float = float("inf")
    is_gone: Callable[[], bool] = _never
    slowly: Callable[[], None] = at_leisure

    def check(self) -> float:
        """Return for how many seconds it waits from now on.

        Raises:
            TimedOut: Its deadline has passed.
            Abandoned: It is gone.
        """
        left_s = self.left_s()
        if self.is_gone():
            raise Abandoned("the caller went away before the answer")
        return left_s

    def left_s(self) -> float:
        """Return the same without a look at whether it is gone, which asks the kernel.

        Raises:
            TimedOut: Its deadline has passed.
        """
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            raise TimedOut("the deadline passed before the answer", hint="allow more time, or ask less often")
        return left_s


PATIENT = Caller()
"""Waits for as long as it takes."""


def ended() -> NotServing:
    """Return what whoever asks while the process ends is told."""
    return NotServing("the runtime ends", hint="ask again in a moment: it may be started again")


def _none_more() -> None:
    """Make no other instance."""


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
        self._taken: dict[str, int] = {}
        self._lock = threading.Lock()
        self._shed = 0
        self._is_over = False

    def close(self) -> None:
        """Let nobody in any more, and send away who waits; who has the model's turn keeps it until it gives way."""
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
            return self._taken.get(model, 0)

    def place(self, model: str) -> "Place":
        """Return a place in a model's queue, to be held by ``with``; to enter raises QueueFull when all are taken."""
        return Place(self, model)

    def enter(self, model: str) -> None:
        """Take a place in a model's line.

        Raises:
            QueueFull: All are taken.
            NotServing: The process ends.
        """
        self.check()
        places = max(1, min(self._queue + 1, self._capacity // max(1, self._models())))
        with self._lock:
            taken = self._taken.get(model, 0)
            if taken < places:
                self._taken[model] = taken + 1
                return
            self._shed += 1
        raise QueueFull(f"model {model} has too many requests", why=f"{places} are under way")

    def leave(self, model: str) -> None:
        """Give a place back."""
        with self._lock:
            self._taken[model] -= 1


class Place:
    """A place in a model's queue. Of plain classes, as every request makes one: generators take 5 us more."""

    __slots__ = ("_admission", "_model")

    def __init__(self, admission: Admission, model: str) -> None:
        self._admission, self._model = admission, model

    def __enter__(self) -> "Place":
        self._admission.enter(self._model)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self._model)

    def turn(self, caller: Caller, instances: Instances, more: Callable[[], None] = _none_more) -> "CallersTurn":
        """Return the caller's turns at the model, to be held by ``with``, one after the other.

        To enter raises TimedOut when the caller's deadline passes before, Abandoned when the caller is gone before, and
        NotServing when the process ends before.

        Args:
            caller: Who waits.
            instances: Those of the model.
            more: Asks for another instance, later: callers wait too often.
        """
        return CallersTurn(self._admission, caller, instances, more)


class CallersTurn:
    """A caller's turns at a model. Implements :class:`dsops_agent.runtime.instances.Turn`."""

    __slots__ = ("_admission", "_caller", "_held", "_instances", "_more")
    share_ns = SHARE_NS

    def __init__(self, admission: Admission, caller: Caller, instances: Instances, more: Callable[[], None]) -> None:
        self._admission, self._caller, self._instances, self._more = admission, caller, instances, more

    def __enter__(self) -> Instance:
        left_s = self._caller.left_s()  # a moment after it asked; whether it is gone is for those who wait
        self._held = self._instances.take() or self._waited(left_s)
        return self._held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._instances.give_back(self._held)

    def give_way(self) -> None:
        """Let others have their turn: raises as to enter does.

        Who only released an instance and took it again would always be faster than who has to wake up for it.
        """
        until_s = time.monotonic() + _MOST_HANDOVER_S
        time.sleep(_HANDOVER_S)
        while self._instances.is_awaited and time.monotonic() < until_s:
            time.sleep(_HANDOVER_S)
        self._admission.check()
        self._caller.check()  # its turn comes at once when nobody else waits, however long it has been gone

    def _waited(self, left_s: float) -> Instance:
        self._caller.slowly()
        if self._instances.is_short():
            self._more()
        while (found := self._instances.wait(min(left_s, _LOOK_S))) is None:
            self._admission.check()
            left_s = self._caller.check()
        try:
            self._admission.check()
            self._caller.check()  # what it waited for may have come too late
        except DsopsError:
            self._instances.give_back(found)
            raise
        return found
