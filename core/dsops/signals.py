"""The signals that drift is measured on: the same definitions where the profile is built and on the device.

All of them need only frames and what the model answered to it, no label and no embedding. The arrays come from the
caller; this module uses nothing but their own methods, so that it imports no numeric package.

A value is rounded to six significant digits. Scores of an int8 model are heavily tied, and a tie must fall on one side
of a bin's edge on every processor, whatever the last bit of its floating-point sums is.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import mul, truediv
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
_OF_FRAME = (*_OF_INPUT, "row", "column")
MAX_FEATURES = 16
"""An input of so many numbers at most, a row of a table, is watched number by number."""
_DIGITS = 6
MOST_VALUES = 10_000
"""Of larger frames about so many values are measured: to look at all 150,528 of a photograph takes 0.6 ms."""
_LEAST_PAIRS = 4
_LEAST_ROWS = 32
"""Frames with fewer rows, as those with their channels first, are measured whole."""


def signals_of(task: Task, inputs: Sequence[TensorSpec]) -> dict[str, Kind]:
    """Return every signal of a model and its kind, in the order in which a profile lists them.

    What is measured of an input is named ``input_mean`` and so on for the first, ``input2_mean`` for the second; the
    features of a row are ``input_1``, ``input_2`` and so on. Inputs of whole numbers without a scale (indices, flags)
    are not measured.
    """
    found = dict(_OF_SCORES[task])
    for position in watched_inputs(inputs):
        found |= dict.fromkeys(_names_of(position, inputs[position].shape[1:]), "ordinal")
    return found


def signals_of_answers(task: Task) -> dict[str, Kind]:
    """Return the signals of what a model answers; every profile watches them, whatever it watches of the inputs."""
    return dict(_OF_SCORES[task])


def features_of(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """Return the names of the signals that are features of rows."""
    rows = (position for position in watched_inputs(inputs) if is_row(inputs[position].shape[1:]))
    return frozenset(name for position in rows for name in _names_of(position, inputs[position].shape[1:]))


def is_row(shape: Sequence[int]) -> bool:
    """Whether an input of this shape, without its batch axis, is a row of a table."""
    return len(shape) == 1 and 1 < shape[0] <= MAX_FEATURES


def watched_inputs(inputs: Sequence[TensorSpec]) -> tuple[int, ...]:
    """Return the positions of the inputs whose signals are measured."""
    real = (position for position, spec in enumerate(inputs) if spec.scale or spec.datatype in ("FP32", "FP16"))
    return tuple(real)[:WATCHED_INPUTS]


@dataclass(frozen=True)
class Strips:
    """What of large frames is measured: pairs of neighbouring rows at even distances, [n, pairs, 2, ...]."""

    values: Array


def strips(x: Array) -> Strips | None:
    """Return what of frames [n, ...] is measured, a copy; None when all of them is.

    Rows are along a frame's first axis; where a frame is a row, its values are taken for them.
    """
    pairs = _pairs_in(x.shape)
    if not pairs:
        return None
    apart = x.shape[1] // pairs
    return Strips(x[:, : pairs * apart].reshape(len(x), pairs, apart, *x.shape[2:])[:, :, :2].copy())


def measure(
    task: Task, inputs: Sequence[tuple[int, Array | Strips]], outputs: Array, scores: Array | None
) -> dict[str, list[float]]:
    """Return the value of every signal for each of ``n`` frames.

    The values of a frame do not depend on which frames it is measured with; together they cost less. Of frames
    with more than :data:`MOST_VALUES` values only their :func:`strips` are measured.

    Args:
        task: What the first output means.
        inputs: The watched inputs, each with its position: real values, float32 [n, H, W, C], [n, F], ..., or what
            :func:`strips` made of them.
        outputs: The first output's real values [n, ...].
        scores: What :func:`dsops.decision.decide` made of the frames: probabilities [n, C], anomaly scores [n], or
            nothing.

    Returns:
        A value a frame for each name in :func:`signals_of`; a predicted class is its index. A frame with NaN gives NaN.
    """
    found = _measure_answers(task, outputs, scores)
    for position, x in inputs:
        seen = x if isinstance(x, Strips) else strips(x) or x
        rows = _rows_of(seen)
        found.update(zip(_names_of(position, rows.shape[1:]), _measure_input(seen, rows), strict=True))
    return {name: _rounded(values) for name, values in found.items()}


def _rows_of(seen: Array | Strips) -> Array:
    """Return what is measured as frames [n, ...]; those of strips are short of most of their rows."""
    if isinstance(seen, Strips):
        return seen.values.reshape(len(seen.values), -1, *seen.values.shape[3:])
    return seen


def _measure_input(seen: Array | Strips, rows: Array) -> Sequence[list[float]]:
    if is_row(rows.shape[1:]):
        columns: list[list[float]] = rows.T.tolist()
        return columns
    flat = rows.reshape(len(rows), -1)
    means, stds, saturated = _statistics(flat)
    steps = _steps_in_strips(seen.values) if isinstance(seen, Strips) else _steps(seen)
    of_every = (means, stds, _mean_gradients(steps, len(rows)), saturated)
    return (*of_every, *_centres(rows, flat.min(axis=1))) if rows.ndim == 4 else of_every


def _measure_answers(task: Task, outputs: Array, scores: Array | None) -> dict[str, list[float]]:
    if task is Task.CLASSIFICATION:
        return {} if scores is None else _measure_scores(scores)
    if task is Task.RECONSTRUCTION and scores is not None:
        return {"reconstruction_error": scores.tolist()}
    means, stds, _ = _statistics(outputs.reshape(len(outputs), -1))
    return {"output_mean": means, "output_std": stds}


def _measure_scores(scores: Array) -> dict[str, list[float]]:
    ordered = scores.copy()
    ordered.partition((-2, -1), axis=1)
    second, first = ordered[:, -2].tolist(), ordered[:, -1].tolist()
    return {
        "confidence": first,
        "margin": [one - other for one, other in zip(first, second, strict=True)],
        "entropy": [entropy(values) for values in scores.tolist()],
        "predicted_class": [float(choice) for choice in scores.argmax(axis=1).tolist()],
    }


@cache
def _names_of(position: int, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of an input's signals; :func:`measure` runs all the time, and making them costs time."""
    name = "input" if position == 0 else f"input{position + 1}"
    if is_row(shape):
        return tuple(f"{name}_{number}" for number in range(1, shape[0] + 1))
    return tuple(f"{name}_{what}" for what in (_OF_FRAME if len(shape) == 3 else _OF_INPUT))


def entropy(scores: Sequence[float]) -> float:
    """Return the Shannon entropy, in nats, of scores that are scaled to a sum of 1; scores below zero count as zero."""
    positive = [score for score in scores if score > 0.0]
    total = math.fsum(positive)
    shares = [score / total for score in positive]
    return -math.fsum(map(mul, shares, map(math.log, shares)))


def bin_of(edges: Sequence[float], value: float, marks: Sequence[float] = (), *, missing: bool = False) -> int:
    """Return the bin of an ordinal signal's value: 0 below the first edge, ``len(edges)`` from the last one on.

    Args:
        edges: Ascending edges of the bins.
        value: What was measured.
        marks: Values that have a bin each, after those between the edges: a 0 that stands for "nothing measured".
        missing: Whether NaN has a bin of its own, the last; else it falls into the last one between the edges, with
            what is above everything seen in the reference.
    """
    if value in marks:
        return len(edges) + 1 + marks.index(value)
    if missing and math.isnan(value):
        return len(edges) + 1 + len(marks)
    return bisect_right(edges, value)


def _statistics(flat: Array) -> tuple[list[float], list[float], list[float]]:
    """Return each row's mean, standard deviation, and share of values that are the smallest or the largest, [n, F].

    Sums and dot products take half the time of ``mean`` and ``std`` on the small frames of an edge device.
    """
    size = flat.shape[1]
    sums = flat.sum(axis=1)
    means = sums.astype("float64") / size
    centred = flat - (means.astype(flat.dtype) if flat.dtype.kind == "f" else means)[:, None]
    stds = [math.sqrt(float(row.dot(row)) / size) for row in centred]
    extremes = (flat <= flat.min(axis=1)[:, None]) | (flat >= flat.max(axis=1)[:, None])
    return means.tolist(), stds, [count / size for count in extremes.sum(axis=1).tolist()]


@cache
def _pairs_in(shape: tuple[int, ...]) -> int:
    """Return how many pairs of rows are measured; 0 when all of a frame is."""
    size = math.prod(shape[1:])
    if size <= MOST_VALUES or shape[1] < _LEAST_ROWS:
        return 0
    return max(shape[1] * MOST_VALUES // (2 * size), _LEAST_PAIRS)


def _centres(x: Array, darkest: Array) -> tuple[list[float], list[float]]:
    """Return where the light of each frame [n, H, W, C] has its centre, down and across, from 0 to 1.

    Light is what is above the frame's darkest value; a frame without any has its centre in the middle.
    """
    count, height, width, channels = x.shape
    down = x.reshape(count, height, -1).sum(axis=2) - darkest[:, None] * (width * channels)
    across = x.sum(axis=1).sum(axis=2) - darkest[:, None] * (height * channels)
    return _means_of_places(down), _means_of_places(across)


def _means_of_places(light: Array) -> list[float]:
    sums = light.sum(axis=1).tolist()
    weighed = (light * _places(light.shape[1])).sum(axis=1).tolist()
    return [place / total if total > 0.0 else 0.5 + 0.0 * total for place, total in zip(weighed, sums, strict=True)]


@cache
def _places(count: int) -> tuple[float, ...]:
    return tuple((at + 0.5) / count for at in range(count))


def _steps(x: Array) -> list[Array]:
    """Return the differences of neighbours over height and width, or along a frame's first axis."""
    steps = [x[:, 1:] - x[:, :-1]] if x.ndim > 1 and x.shape[1] > 1 else []  # a frame may be a single number
    return [*steps, x[:, :, 1:] - x[:, :, :-1]] if x.ndim == 4 and x.shape[2] > 1 else steps


def _steps_in_strips(seen: Array) -> list[Array]:
    """Return the same of strips: from a row to its neighbour, and along the rows of images."""
    steps = [seen[:, :, 1] - seen[:, :, 0]]
    return [*steps, seen[:, :, :, 1:] - seen[:, :, :, :-1]] if seen.ndim == 5 and seen.shape[3] > 1 else steps


def _mean_gradients(steps: Sequence[Array], frames: int) -> list[float]:
    """Return each frame's mean absolute difference of neighbours, over the axes that there are."""
    if not steps:
        return [0.0] * frames
    sizes = [step.size // frames for step in steps]
    sums = [abs(step).reshape(frames, -1).sum(axis=1).tolist() for step in steps]
    return [sum(map(truediv, of_frame, sizes)) / len(steps) for of_frame in zip(*sums, strict=True)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
