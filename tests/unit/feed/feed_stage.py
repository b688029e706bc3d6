"""Simulators of the ports of the feed: a model that answers or fails as told, a sink and an outlet that remember."""

import threading
from dataclasses import dataclass, field

import numpy as np

from dsops.errors import DsopsError
from dsops_agent.feed.counts import Counts
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.line import ModelLine
from dsops_agent.feed.ports import Answer, Answered
from dsops_agent.runtime.litert import Array


@dataclass
class SimModel:
    """Answers with the sum of each frame; fails first with the errors in ``failures``, one a call."""

    shape: tuple[int, ...] = (4,)
    datatype: str = "FP32"
    failures: list[DsopsError] = field(default_factory=list)
    asked: list[Array] = field(default_factory=list)
    later_shape: tuple[int, ...] = ()
    raw: Form | None = None
    ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def form(self) -> Form:
        return Form("x", self.datatype, self.shape, raw=self.raw)

    def ask(self, given: Frames, request_id: str, key: str) -> Answered:
        if self.failures:
            if self.later_shape:
                self.shape = self.later_shape
            raise self.failures.pop(0)
        frames = given.values
        self.asked.append(frames)
        self.ids.append(request_id)
        self.keys.append(key)
        self.said.append(given.form.said)
        return Answered({"score": frames.reshape(len(frames), -1).sum(axis=1)}, 7, "d" * 64)


class SimSink:
    """Takes answers and settles them when told to."""

    def __init__(self, name: str = "kept", *, settles: bool = True) -> None:
        self.name = name
        self.taken: list[Answer] = []
        self.settles = settles

    def put(self, answer: Answer) -> None:
        self.taken.append(answer)
        if self.settles:
            answer.settled()

    @property
    def ids(self) -> list[str]:
        return [answer.id for answer in self.taken]


class SimOutlet:
    """Writes into a list; holds each write until ``gate`` is set."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.failures: list[Exception] = []

    def write(self, answer: Answer, stop: threading.Event) -> None:
        self.begun.set()
        self.gate.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(answer.id)

    def close(self) -> None:
        self.written.append("closed")


def line_of(model: SimModel, *sinks: SimSink) -> tuple[ModelLine, Counts]:
    counts = Counts("directory")
    return ModelLine("cam-1", "inbox", "digits", model, sinks, counts), counts


def row(*values: float) -> Array:
    return np.array(values, np.float32)
