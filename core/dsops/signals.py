"""The signals that drift is measured on: the same definitions where the profile is built and on the device.

All of them need only a frame and the scores that the model gave it, no label and no embedding. The arrays come from the
caller; this module uses nothing but their own methods, so that it imports no numeric package.

A value is rounded to six significant digits. Scores of an int8 model are heavily tied, and a tie must fall on one side
of a bin's edge on every processor, whatever the last bit of its floating-point sums is.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

Array: TypeAlias = Any
"""A NumPy array, or what has its methods; naming the type would import the package."""

Kind = Literal["ordinal", "categorical"]

SIGNALS: dict[str, Kind] = {
    "confidence": "ordinal",
    "margin": "ordinal",
    "entropy": "ordinal",
    "predicted_class": "categorical",
    "input_mean": "ordinal",
    "input_std": "ordinal",
    "input_gradient": "ordinal",
    "input_saturated": "ordinal",
}
"""Every signal and its kind, in the order in which a profile lists them."""

_DIGITS = 6


def measure(x: Array, scores: Array) -> dict[str, float]:
    """Return the value of every signal for one frame.

    Args:
        x: The model's real-valued input without its batch axis: float32 [H, W, C] or [F].
        scores: The model's real-valued output without its batch axis: float32 [C], probabilities, at least two.

    Returns:
        A value for each name in ``SIGNALS``; a predicted class is its index. A frame with NaN gives NaN.
    """
    values = [float(score) for score in scores.tolist()]
    second, first = sorted(values)[-2:]
    mean, std, saturated = _statistics(x.reshape(-1))
    found = {
        "confidence": first,
        "margin": first - second,
        "entropy": entropy(values),
        "predicted_class": float(scores.argmax()),
        "input_mean": mean,
        "input_std": std,
        "input_gradient": _mean_gradient(x),
        "input_saturated": saturated,
    }
    return {name: _rounded(value) for name, value in found.items()}


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
    steps = [abs(x[1:] - x[:-1])] if x.shape[0] > 1 else []
    if x.ndim == 3 and x.shape[1] > 1:
        steps.append(abs(x[:, 1:] - x[:, :-1]))
    return sum(float(step.sum()) / step.size for step in steps) / len(steps) if steps else 0.0


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
