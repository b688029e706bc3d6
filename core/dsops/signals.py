"""The signals that drift is measured on: the same definitions where the profile is built and on the device.

All of them need only a frame and what the model answered to it, no label and no embedding. The arrays come from the
caller; this module uses nothing but their own methods, so that it imports no numeric package.

A value is rounded to six significant digits. Scores of an int8 model are heavily tied, and a tie must fall on one side
of a bin's edge on every processor, whatever the last bit of its floating-point sums is.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

from dsops.manifest import Task, TensorSpec

Array: TypeAlias = Any
"""A NumPy array, or what has its methods; naming the type would import the package."""

Kind = Literal["ordinal", "categorical"]

WATCHED_INPUTS = 4
"""Signals of more inputs than this are not measured; they would cost more than they tell."""

_OF_SCORES: dict[Task, dict[str, Kind]] = {
    Task.CLASSIFICATION: {
        "confidence": "ordinal",
        "margin": "ordinal",
        "entropy": "ordinal",
        "predicted_class": "categorical",
    },
    Task.REGRESSION: {"output_mean": "ordinal", "output_std": "ordinal"},
    Task.RECONSTRUCTION: {"reconstruction_error": "ordinal"},
    Task.OTHER: {"output_mean": "ordinal", "output_std": "ordinal"},
}
_OF_INPUT = ("mean", "std", "gradient", "saturated")
_DIGITS = 6


def signals_of(task: Task, inputs: Sequence[TensorSpec]) -> dict[str, Kind]:
    """Return every signal of a model and its kind, in the order in which a profile lists them.

    What is measured of an input is named ``input_mean`` and so on for the first, ``input2_mean`` for the second.
    Inputs of whole numbers without a scale (indices, flags) are not measured.
    """
    found = dict(_OF_SCORES[task])
    for position in watched_inputs(inputs):
        found |= dict.fromkeys(_names_of(position), "ordinal")
    return found


def watched_inputs(inputs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the positions of the inputs whose signals are measured."""
    real = (position for position, spec in enumerate(inputs) if spec.scale or spec.datatype in ("FP32", "FP16"))
    return tuple(real)[:WATCHED_INPUTS]


def measure(task: Task, inputs: Sequence[tuple[int, Array]], output: Array, scores: Array | None) -> dict[str, float]:
    """Return the value of every signal for one frame.

    Args:
        task: What the first output means.
        inputs: The watched inputs, each with its position: real values without batch axis, float32 [H, W, C], [F], ...
        output: The first output's real values without batch axis.
        scores: What :func:`dsops.decision.decide` made of the frame: probabilities [C], an anomaly score, or nothing.

    Returns:
        A value for each name in :func:`signals_of`; a predicted class is its index. A frame with NaN gives NaN.
    """
    found = _measure_answer(task, output, scores)
    for position, x in inputs:
        mean, std, saturated = _statistics(x.reshape(-1))
        found.update(zip(_names_of(position), (mean, std, _mean_gradient(x), saturated), strict=True))
    return {name: _rounded(value) for name, value in found.items()}


def _measure_answer(task: Task, output: Array, scores: Array | None) -> dict[str, float]:
    if task is Task.CLASSIFICATION:
        values = [float(score) for score in scores.tolist()] if scores is not None else []
        second, first = sorted(values)[-2:]
        return {
            "confidence": first,
            "margin": first - second,
            "entropy": entropy(values),
            "predicted_class": float(values.index(first)),
        }
    if task is Task.RECONSTRUCTION and scores is not None:
        return {"reconstruction_error": float(scores)}
    mean, std, _ = _statistics(output.reshape(-1))
    return {"output_mean": mean, "output_std": std}


@cache
def _names_of(position: int) -> tuple[str, ...]:
    """Return the names of an input's signals; :func:`measure` runs for each frame, and making them costs time."""
    name = "input" if position == 0 else f"input{position + 1}"
    return tuple(f"{name}_{what}" for what in _OF_INPUT)


def entropy(scores: Sequence[float]) -> float:
    """Return the Shannon entropy, in nats, of scores that are scaled to a sum of 1; scores below zero count as zero."""
    total = math.fsum(score for score in scores if score > 0.0)
    return math.fsum(-score / total * math.log(score / total) for score in scores if score > 0.0)


def bin_of(edges: Sequence[float], value: float) -> int:
    """Return the bin of an ordinal signal's value: 0 below the first edge, ``len(edges)`` from the last one on.

    NaN falls into the last bin, with what is above everything seen in the reference.
    """
    return bisect_right(edges, value)


def _statistics(flat: Array) -> tuple[float, float, float]:
    """Return mean, standard deviation, and the share of values that are the smallest or the largest.

    Sums and a dot product take half the time of ``mean`` and ``std`` on the small frames of an edge device.
    """
    mean = float(flat.sum()) / flat.size
    centred = flat - mean
    extremes = (flat <= flat.min()) | (flat >= flat.max())
    return mean, math.sqrt(float(centred.dot(centred)) / flat.size), float(extremes.sum()) / flat.size


def _mean_gradient(x: Array) -> float:
    """Return the mean absolute difference of neighbours, averaged over height and width, or along the features."""
    steps = [abs(x[1:] - x[:-1])] if x.ndim and x.shape[0] > 1 else []  # a frame may be a single number
    if x.ndim == 3 and x.shape[1] > 1:
        steps.append(abs(x[:, 1:] - x[:, :-1]))
    return sum(float(step.sum()) / step.size for step in steps) / len(steps) if steps else 0.0


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
