"""A sink as a bounded queue and a thread: what is slow or away drops answers, counted, and stops no source."""

import logging
import threading
from collections import deque
from typing import Protocol

from dsops.errors import DsopsError
from dsops_agent.feed.counts import Counts
from dsops_agent.feed.ports import Answer

logger = logging.getLogger(__name__)

LAST_S = 1.0
"""How long what waits may take at the end."""


class Outlet(Protocol):
    """What a sink does with one answer."""

    def write(self, answer: Answer, stop: threading.Event) -> None:
        """Take an answer for good. May block; ends soon after ``stop`` was set.

        Raises:
            DsopsError: It does not take this one.
            OSError: Likewise.
        """
        ...

    def close(self) -> None:
        """Give up what it holds."""
        ...


class QueuedSink:
    """Implements :class:`dsops_agent.feed.ports.Sink`; :meth:`run` is a thread.

    Args:
        name: Name of the sink.
        outlet: Takes the answers.
        limit: Answers that wait.
        counts: What is counted.
    """

    def __init__(self, name: str, outlet: Outlet, limit: int, counts: Counts) -> None:
        self.name = name
        self._outlet = outlet
        self._limit = limit
        self._counts = counts
        self._changed = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._is_over = False

    def put(self, answer: Answer) -> None:
        """Take an answer into the queue; the oldest one makes room when it is full. Never blocks."""
        with self._changed:
            dropped = self._waiting.popleft() if len(self._waiting) >= self._limit else None
            self._waiting.append(answer)
            self._changed.notify()
        if dropped is not None:
            self._counts.add("drops")
            dropped.settled()

    def end(self) -> None:
        """Let :meth:`run` return once nothing waits any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def run(self, stop: threading.Event) -> None:
        """Hand answers on until :meth:`end`, or until ``stop`` is set. What waits then is not settled."""
        while not stop.is_set() and (answer := self._next()) is not None:
            self._write(answer, stop)
        self._outlet.close()

    def _next(self) -> Answer | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            return self._waiting.popleft() if self._waiting else None

    def _write(self, answer: Answer, stop: threading.Event) -> None:
        try:
            self._outlet.write(answer, stop)
        except (DsopsError, OSError) as error:
            if stop.is_set():  # cut short; what outlives a restart is given again then
                return
            self._counts.add("failures")
            self._counts.trouble(f"sink {self.name}: {error}")
        else:
            self._counts.add("answers")
            self._counts.trouble("")
        answer.settled()
