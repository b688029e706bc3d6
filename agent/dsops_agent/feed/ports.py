"""What sources, the line behind them, and sinks are to each other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dsops_agent.feed.fit import Form, Frames
from dsops_agent.runtime.litert import Array


@dataclass(frozen=True)
class Answered:
    """What a model answered to a batch of frames.

    Attributes:
        outputs: The outputs by name, each [n, ...]; texts are str.
        release: The release that answered.
        digest: SHA-256 of its bundle.
    """

    outputs: dict[str, Array]
    release: int
    digest: str


class Model(Protocol):
    """The model that is asked."""

    def form(self) -> Form:
        """Return the input that frames are for, as the active release has it.

        Raises:
            DsopsError: The model is not there; see :meth:`ask`.
        """
        ...

    def ask(self, frames: Frames, request_id: str, key: str) -> Answered:
        """Ask about frames [n, ...].

        Args:
            frames: The frames.
            request_id: Names the request.
            key: Who or what asks: it decides between two releases that are compared.

        Raises:
            InvalidInput: They are not what the model takes, also not the release that is active by now.
            Forbidden: This process may not ask.
            DsopsError: There is no answer at the moment.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """One answer on its way into the sinks.

    Attributes:
        id: Names it for good: an answer that is given a second time has the same.
        source: Name of the source.
        model: Name of the model.
        record: One line of JSON, without its end.
        is_again: Whether it may have been given before a restart.
        settled: Called once, from any thread, when a sink took it, failed, or dropped it.
    """

    id: str
    source: str
    model: str
    record: bytes
    is_again: bool = False
    settled: Callable[[], None] = field(default=lambda: None, compare=False)


class Sink(Protocol):
    """Where answers go."""

    name: str

    def put(self, answer: Answer) -> None:
        """Take an answer into the queue; never blocks."""
        ...


class Line(Protocol):
    """What a source hands its frames to."""

    def form(self, stop: threading.Event) -> Form | None:
        """Return the model's input, once the model is there; None when ``stop`` was set meanwhile."""
        ...

    def came(self, count: int = 1) -> None:
        """Count frames that the source has."""
        ...

    def dropped(self, count: int = 1) -> None:
        """Count frames that nobody is asked about."""
        ...

    def failed(self, why: str, count: int = 1) -> None:
        """Count frames that no answer came of, and say why."""
        ...

    def in_order(self) -> None:
        """Take note that the source works."""
        ...

    def trouble(self, why: str) -> None:
        """Take note that the source does not work at the moment."""
        ...

    def answers(self, batch_id: str, time: datetime, frames: Frames) -> list[Answer]:
        """Ask once about frames that the model takes, [n, ...].

        Raises:
            DsopsError: See :meth:`Model.ask`.
        """
        ...

    def patient_answers(self, batch_id: str, time: datetime, frames: Frames, stop: threading.Event) -> list[Answer]:
        """Ask until there is an answer; an empty list when ``stop`` was set meanwhile.

        Raises:
            InvalidInput: The frames are not what the model takes.
            Forbidden: This process may not ask.
        """
        ...

    def give(self, answers: list[Answer]) -> None:
        """Give answers to the sinks; never blocks."""
        ...


class Source(Protocol):
    """Where frames come from."""

    def run(self, line: Line, stop: threading.Event) -> None:
        """Hand frames over until ``stop`` is set, or there will be no more.

        Raises:
            DsopsError: It cannot go on; the process is started again.
        """
        ...
