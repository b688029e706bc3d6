"""The interpreters of one served bundle: one at first, another when callers wait, and which of them run.

Whoever runs frames holds an instance, so that each runs one at a time. The one that was used last is given first: its
weights are in the processor's caches. Who waits is woken when one is given back, and whoever comes in between may be
faster: an instance kept for somebody who has yet to wake up is idle for longer than a frame of a small model takes.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from dsops_agent.runtime.flight import Marks
from dsops_agent.runtime.interpreter import Interpreter

SHARE_NS = 50_000_000
"""A request with more frames than the model answers in this time lets other callers have their turn in between."""
MOST_INSTANCES = 4
"""Where nothing else is configured: each takes the memory of the weights once more."""
_PATIENCE_S = 60.0
PRESSURE = 16
"""Another instance is asked for when so many more turns had to be waited for than were there at once."""


@dataclass(frozen=True)
class Instance:
    """An interpreter of a bundle, and who is told what it runs."""

    interpreter: Interpreter
    marks: Marks


class Turn(Protocol):
    """A caller's turns at a model, one after the other: ``with`` holds an instance for one of them."""

    @property
    def share_ns(self) -> float:
        """How long one may last before others have theirs."""
        ...

    def __enter__(self) -> Instance:
        """Wait for an instance."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        ...

    def give_way(self) -> None:
        """Let others have theirs, between two; raises when nobody waits for the answer any more."""
        ...


def most_instances(wanted: int, cpus: int, threads: int, cpu_percent: float) -> int:
    """Return how many instances of a model may run at once. Pure.

    Args:
        wanted: What is configured; 0: as many as have a processor of their own, :data:`MOST_INSTANCES` at most.
        cpus: Processors that the process may use.
        threads: Threads of each interpreter.
        cpu_percent: Percent of one core that inference may use; 0: no limit.
    """
    if wanted:
        return wanted
    cores = min(cpus, math.ceil(cpu_percent / 100)) if cpu_percent else cpus
    return max(1, min(MOST_INSTANCES, cores // threads))


@dataclass(eq=False)
class _Waiter:
    """One who waits: its lock is released when it is worth a look."""

    called: threading.Lock = field(default_factory=threading.Lock)


class Instances:
    """The instances of a served bundle. Safe to call from several threads.

    Args:
        first: The one that is there.
        most: How many there may be.
    """

    def __init__(self, first: Instance, most: int = 1) -> None:
        self._free = [first]
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        self._pressure = 0
        self._most = most
        self._is_asked_for = most == 1
        self.count = 1

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits although one is free: it has yet to wake up."""
        return bool(self._waiting and self._free)

    def take(self) -> Instance | None:
        """Return an instance that nobody holds, if there is one; it must be given back."""
        try:
            found = self._free.pop()  # one step for all threads: no lock on the way of every request
        except IndexError:
            return None
        if self._pressure:
            self._pressure -= 1
        return found

    def wait(self, timeout_s: float) -> Instance | None:
        """Return an instance as soon as one is free, to be given back; None when the time passes before."""
        until_s = time.monotonic() + timeout_s
        waiter = _Waiter()
        waiter.called.acquire()
        with self._lock:
            self._waiting.append(waiter)
        try:
            while True:
                if self._free and (found := self._pop()):
                    return found
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return None
                if waiter.called.acquire(timeout=left_s):
                    with self._lock:
                        self._waiting.appendleft(waiter)  # who comes in between may be faster, but only once
        finally:
            self._leave(waiter)

    def give_back(self, instance: Instance) -> None:
        """Let others have it."""
        self._free.append(instance)
        if self._waiting:
            self._call_next()

    def is_short(self) -> bool:
        """Take note that one had to be waited for; return whether another one shall be made, once for each."""
        with self._lock:
            self._pressure += 1
            if self._is_asked_for or self._pressure < PRESSURE:
                return False
            self._is_asked_for = True
            return True

    def add(self, instance: Instance) -> None:
        """Take another one in."""
        with self._lock:
            self.count += 1
        self.ask_again()
        self.give_back(instance)

    def ask_again(self) -> None:
        """Ask for another one when callers go on waiting, if there may be more; for one that was not to be had now."""
        with self._lock:
            self._pressure, self._is_asked_for = 0, self.count >= self._most

    def _pop(self) -> Instance | None:
        try:
            return self._free.pop()
        except IndexError:
            return None

    def _call_next(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().called.release()

    def _leave(self, waiter: _Waiter) -> None:
        """Wait no longer; a call that came too late for this one is the next one's."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                return
        if self._free:
            self._call_next()


class Held:
    """Turns of somebody who waits for as long as it takes. Implements :class:`Turn`.

    Args:
        instances: Those of the model.
        between: Called between two turns; without it one turn lasts to the end.
    """

    def __init__(self, instances: Instances, between: Callable[[], None] | None = None) -> None:
        self._instances = instances
        self._between = between
        self.share_ns = SHARE_NS if between else math.inf

    def __enter__(self) -> Instance:
        found = self._instances.take()
        while found is None:
            found = self._instances.wait(_PATIENCE_S)
        self._held = found
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._instances.give_back(self._held)

    def give_way(self) -> None:
        """Do what is to be done between two turns."""
        if self._between:
            self._between()
