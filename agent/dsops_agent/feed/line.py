"""Between a source and the sinks: asks the model, makes answers, counts."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from dsops.errors import DsopsError, Forbidden, InvalidInput
from dsops_agent.feed.after import AfterAll
from dsops_agent.feed.counts import Counts
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.ports import Answer, Answered, Model, Sink
from dsops_agent.feed.record import Origin, records

MAX_BATCH = 32
"""Frames of a request at most."""
_FIRST_WAIT_S, _MOST_WAIT_S = 0.1, 5.0
_LASTING = (InvalidInput, Forbidden)
"""What does not pass by itself."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class ModelLine:
    """The line of one source. Implements :class:`dsops_agent.feed.ports.Line`.

    Attributes:
        device: Name of this device.
        source: Name of the source.
        model_name: Name of the model.
        model: The model.
        sinks: Where answers go.
        counts: What is counted.
        key: Who or what asks, in every request; empty: each request is one by itself.
    """

    device: str
    source: str
    model_name: str
    model: Model
    sinks: Sequence[Sink]
    counts: Counts
    key: str = ""

    def form(self, stop: threading.Event) -> Form | None:
        """Return the model's input, once the model is there; None when ``stop`` was set meanwhile."""
        return self._patiently(self.model.form, stop, ())

    def came(self, count: int = 1) -> None:
        """Count frames that the source has."""
        self.counts.add("frames", count)

    def dropped(self, count: int = 1) -> None:
        """Count frames that nobody is asked about."""
        self.counts.add("drops", count)

    def failed(self, why: str, count: int = 1) -> None:
        """Count frames that no answer came of, and say why."""
        self.counts.add("failures", count)
        self.counts.trouble(f"source {self.source}: {why}")

    def in_order(self) -> None:
        """Take note that the source works."""
        self.counts.trouble("")

    def trouble(self, why: str) -> None:
        """Take note that the source does not work at the moment."""
        self.counts.trouble(f"source {self.source}: {why}")

    def answers(self, batch_id: str, time: datetime, frames: Frames) -> list[Answer]:
        """Ask once about frames that the model takes, [n, ...].

        Raises:
            DsopsError: See :meth:`dsops_agent.feed.ports.Model.ask`.
        """
        return self._answers(batch_id, time, frames, self.model.ask)

    def patient_answers(self, batch_id: str, time: datetime, frames: Frames, stop: threading.Event) -> list[Answer]:
        """Ask until there is an answer; an empty list when ``stop`` was set meanwhile.

        Raises:
            InvalidInput: The frames are not what the model takes.
            Forbidden: This process may not ask.
        """

        def ask(batch: Frames, request_id: str, key: str) -> Answered | None:
            return self._patiently(lambda: self.model.ask(batch, request_id, key), stop, _LASTING)

        return self._answers(batch_id, time, frames, ask)

    def give(self, answers: list[Answer]) -> None:
        """Give answers to the sinks; never blocks."""
        for answer in answers:
            settled = AfterAll(len(self.sinks), answer.settled)
            for sink in self.sinks:
                sink.put(replace(answer, settled=settled.one))

    def _patiently(
        self, call: Callable[[], Found], stop: threading.Event, lasting: tuple[type[DsopsError], ...]
    ) -> Found | None:
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            try:
                found = call()
            except lasting:
                raise
            except DsopsError as error:
                self.trouble(f"waits for model {self.model_name}: {_text(error)}")
                stop.wait(wait_s)
                wait_s = min(_MOST_WAIT_S, 2 * wait_s)
            else:
                self.in_order()
                return found
        return None

    def _answers(
        self, batch_id: str, time: datetime, frames: Frames, ask: Callable[[Frames, str, str], Answered | None]
    ) -> list[Answer]:
        found: list[Answer] = []
        origin = Origin(self.device, self.source, self.model_name, batch_id, time)
        for first in range(0, len(frames), MAX_BATCH):
            batch = frames[first : first + MAX_BATCH]
            request_id = origin.request_id(first, is_alone=len(frames) == 1)
            answered = ask(batch, request_id, self.key or f"{self.device}/{request_id}")
            if answered is None:
                return []
            found.extend(records(answered, origin, first, is_alone=len(frames) == 1))
        self.counts.add("answers", len(found))
        return found


def _text(error: DsopsError) -> str:
    return f"{error}: {error.why}" if error.why and error.why not in str(error) else str(error)
