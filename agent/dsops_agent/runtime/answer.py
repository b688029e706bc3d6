"""What a model says to a request, and the outputs under which programs get it. Pure.

Of a classification programs get ``scores`` (probabilities) and, when the bundle names labels, ``label``; of a
reconstruction ``score`` and, when there is a threshold, ``anomaly``. These names mean the same for every model. The
model's own outputs have their own names; one whose name is taken gets ``model_`` before it. The raw scores of a
classification are left out of an answer unless they are asked for, and are not offered at all when they are the
probabilities already.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dsops.decision import Decision
from dsops.manifest import Manifest, Task, TensorSpec
from dsops_agent.runtime.litert import Array

SCORES = "scores"
LABEL = "label"
SCORE = "score"
ANOMALY = "anomaly"
_PREFIX = "model_"

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
    def scores(self) -> Array:
        """The decision's scores, of a task that has them."""
        return np.asarray(self.decision.scores)

    @property
    def choices(self) -> Array:
        """The decision's choices, of a model that chooses."""
        return np.asarray(self.decision.choices)


@dataclass(frozen=True)
class Output:
    """One output as programs know it.

    Attributes:
        name: Its name.
        datatype: Its Open Inference Protocol type.
        shape: The shape of one frame.
        take: Returns its values [n, ...] of an answer; those of BYTES as a list.
        by_default: Whether it is part of an answer to a request that names no outputs.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    take: Callable[[Answer], Values]
    by_default: bool = True


def outputs_of(manifest: Manifest) -> dict[str, Output]:
    """Return the outputs that programs may ask a model for, by name, in the order of an answer."""
    derived = list(_derived(manifest))
    taken = {output.name for output in derived} | {spec.name for spec in manifest.outputs}
    own = []
    for position, spec in enumerate(manifest.outputs):
        if position or _is_offered_raw(manifest):
            name = _free_name(spec.name, {output.name for output in derived}, taken)
            own.append(_own(name, position, spec, by_default=position > 0 or not _is_classification(manifest)))
    first, last = (derived, own) if _is_classification(manifest) else (own, derived)
    return {output.name: output for output in (*first, *last)}


def named_choice(manifest: Manifest, choice: int) -> str:
    """Return what a choice is called: the label, its index where labels have no names, or whether it is an anomaly."""
    if manifest.task is Task.RECONSTRUCTION:
        return ANOMALY if choice else "normal"
    return manifest.labels[choice] if manifest.labels else str(choice)


def _derived(manifest: Manifest) -> Iterator[Output]:
    if _is_classification(manifest):
        yield Output(SCORES, "FP32", (max(manifest.outputs[0].shape[-1], 2),), lambda answer: answer.scores)
        if manifest.labels:
            yield Output(LABEL, "BYTES", (), _naming([label.encode() for label in manifest.labels]))
    elif manifest.task is Task.RECONSTRUCTION:
        yield Output(SCORE, "FP32", (), lambda answer: answer.scores)
        if manifest.postprocessing.threshold is not None:
            yield Output(ANOMALY, "BOOL", (), lambda answer: answer.choices.astype(np.bool_))


def _naming(labels: list[bytes]) -> Callable[[Answer], list[bytes]]:
    return lambda answer: [labels[choice] for choice in answer.choices.tolist()]


def _own(name: str, position: int, spec: TensorSpec, *, by_default: bool) -> Output:
    is_real = bool(spec.scale) or spec.datatype in ("FP32", "FP16")
    datatype = "FP32" if is_real else spec.datatype
    return Output(name, datatype, spec.shape[1:], lambda answer: answer.outputs[position], by_default)


def _is_classification(manifest: Manifest) -> bool:
    return manifest.task is Task.CLASSIFICATION


def _is_offered_raw(manifest: Manifest) -> bool:
    if not _is_classification(manifest):
        return True
    return manifest.postprocessing.activation != "none" or manifest.outputs[0].shape[-1] == 1


def _free_name(name: str, derived: set[str], taken: set[str]) -> str:
    if name not in derived:
        return name
    while name in taken:
        name = _PREFIX + name
    taken.add(name)
    return name
