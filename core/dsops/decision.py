"""What a model's real outputs say: the same rules where a model is evaluated and on the device.

The arrays come from the caller; this module uses nothing but their own methods and operators, so that it imports no
numeric package.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dsops.manifest import Postprocessing, Task

Array: TypeAlias = Any
"""A NumPy array, or what has its methods; naming the type would import the package."""

_EXTREME = 80.0
"""Exponents beyond this change no float32 probability, and would overflow."""


@dataclass(frozen=True)
class Decision:
    """What a model says of ``n`` frames.

    Attributes:
        scores: Classification: probabilities [n, C]. Reconstruction: the anomaly score [n]. Else nothing.
        choices: Classification: index of each frame's label, int [n]. Reconstruction with a threshold: 1 for an
            anomaly, else 0, int [n]. Else nothing.
    """

    scores: Array | None = None
    choices: Array | None = None


def decide(task: Task, rule: Postprocessing, inputs: Sequence[Array], outputs: Sequence[Array]) -> Decision:
    """Return what real outputs say.

    Args:
        task: What the first output means.
        rule: How it is read.
        inputs: Real inputs of ``n`` frames, each [n, ...]; only a reconstruction looks at the first.
        outputs: Real outputs, float32 [n, ...].
    """
    if task is Task.CLASSIFICATION:
        return _classify(rule, outputs[0])
    if task is Task.RECONSTRUCTION:
        return _judge(rule, inputs[0], outputs[0])
    return Decision()


def probabilities(rule: Postprocessing, scores: Array) -> Array:
    """Return a classifier's probabilities [n, C] from its raw scores [n, ...].

    A single score a frame is that of the second of two labels.
    """
    flat = scores.reshape(len(scores), -1)
    if rule.activation == "softmax":
        powers = math.e ** (flat - flat.max(axis=1, keepdims=True))
        flat = powers / powers.sum(axis=1, keepdims=True)
    elif rule.activation == "sigmoid":
        flat = 1.0 / (1.0 + math.e ** -flat.clip(-_EXTREME, _EXTREME))
    return flat if flat.shape[1] > 1 else (flat * (-1.0, 1.0) + (1.0, 0.0)).astype(flat.dtype)


def best(scores: Array, count: int) -> Array:
    """Return the indices [n, count] of each frame's largest probabilities [n, C], in order; of equals the first."""
    return (-scores).argsort(axis=1, kind="stable")[:, :count]


def reconstruction_errors(rule: Postprocessing, given: Array, rebuilt: Array) -> Array:
    """Return the distance of each frame [n, ...] from its reconstruction, [n]."""
    difference = (rebuilt - given).reshape(len(given), -1)
    distance = difference * difference if rule.error == "mean_squared" else abs(difference)
    return distance.sum(axis=1) / distance.shape[1]


def _classify(rule: Postprocessing, raw: Array) -> Decision:
    scores = probabilities(rule, raw)
    if rule.threshold is not None and scores.shape[1] == 2:
        return Decision(scores, (scores[:, 1] >= rule.threshold) * 1)
    return Decision(scores, scores.argmax(axis=1))


def _judge(rule: Postprocessing, given: Array, rebuilt: Array) -> Decision:
    scores = reconstruction_errors(rule, given, rebuilt)
    return Decision(scores, None if rule.threshold is None else (scores >= rule.threshold) * 1)
