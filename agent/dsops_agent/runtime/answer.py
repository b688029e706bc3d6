"""What a model says to a request, and how the outputs that programs get are taken of it. Pure.

Which outputs there are, and their names, is said in :mod:`dsops.contract`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dsops.contract import Derived, offers_of
from dsops.decision import Decision, best
from dsops.manifest import Manifest, Task
from dsops_agent.runtime.litert import Array

Values: TypeAlias = Array | list[bytes]


@dataclass(frozen=True)
class Answer:
    """What a model says to ``n`` frames.

    Attributes:
        outputs: Each output [n, ...] in the model's order: real values float32, plain integers and truth values as
            they are.
        decision: What they mean.
        latency_us: Time in the interpreter, a value a frame.
    """

    outputs: tuple[Array, ...]
    decision: Decision
    latency_us: tuple[float, ...]

    @property
    def frames(self) -> int:
        """How many frames were answered."""
        return len(self.latency_us)

    @property
    def scores(self) -> Array:
        """The decision's scores, of a task that has them."""
        return np.asarray(self.decision.scores)

    @property
    def choices(self) -> Array:
        """The decision's choices, of a model that chooses."""
        return np.asarray(self.decision.choices)


@dataclass(frozen=True)
class Exchange:
    """What was asked and answered, of one request or of some consecutive frames of it.

    Attributes:
        inputs: Every input by name, each [n, ...], as the caller sent it.
        answer: The answer to these frames.
        request_id: What the caller calls the request.
    """

    inputs: Mapping[str, Array]
    answer: Answer
    request_id: str

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(next(iter(self.inputs.values())))

    def part(self, start: int, stop: int) -> "Exchange":
        """Return frames ``start`` to ``stop``; the memory stays the same."""
        rows, answer = slice(start, stop), self.answer
        scores, choices = answer.decision.scores, answer.decision.choices
        decision = Decision(None if scores is None else scores[rows], None if choices is None else choices[rows])
        outputs = tuple(output[rows] for output in answer.outputs)
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return Exchange(inputs, Answer(outputs, decision, answer.latency_us[rows]), self.request_id)


@dataclass(frozen=True)
class Output:
    """One output as programs know it.

    Attributes:
        name: Its name.
        datatype: Its Open Inference Protocol type.
        shape: The shape of one frame.
        take: Returns its values [n, ...] of an answer; those of BYTES as a list, row by row.
        by_default: Whether it is part of an answer to a request that names no outputs.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    take: Callable[[Answer], Values]
    by_default: bool = True


def outputs_of(manifest: Manifest) -> dict[str, Output]:
    """Return the outputs that programs may ask a model for, by name, in the order of an answer."""
    labels = [label.encode() for label in manifest.labels]
    return {
        offer.shown.name: Output(
            offer.shown.name,
            offer.shown.datatype,
            offer.shown.shape,
            _taking(offer.source, labels, manifest.postprocessing.top_k),
            offer.by_default,
        )
        for offer in offers_of(manifest)
    }


def named_choice(manifest: Manifest, choice: int) -> str:
    """Return what a choice is called: the label, its index where labels have no names, or whether it is an anomaly."""
    if manifest.task is Task.RECONSTRUCTION:
        return Derived.ANOMALY.value if choice else "normal"
    return manifest.labels[choice] if manifest.labels else str(choice)


def _taking(source: int | Derived, labels: list[bytes], top_k: int) -> Callable[[Answer], Values]:
    match source:
        case Derived.SCORES | Derived.SCORE:
            return lambda answer: answer.scores
        case Derived.LABEL:
            return lambda answer: [labels[choice] for choice in answer.choices.tolist()]
        case Derived.ANOMALY:
            return lambda answer: answer.choices.astype(np.bool_)
        case Derived.TOP_LABELS:
            return lambda answer: [labels[place] for place in best(answer.scores, top_k).ravel().tolist()]
        case Derived.TOP_SCORES:
            return lambda answer: np.take_along_axis(answer.scores, best(answer.scores, top_k), axis=1)
    position = source
    return lambda answer: answer.outputs[position]
