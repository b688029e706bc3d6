"""Builds the reference profile: what each signal looks like on held-out frames, seen through the device's own model."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput
from dsops.profile import MIN_REFERENCE, Profile, Signal
from dsops.signals import features_of, measure, signals_of, watched_inputs
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.runs import Runs

DATA = "the profile's data"
INNER_BINS = 10
_TOGETHER = 16
"""Frames that are measured together; more would only take memory."""
_BORDER = 5e-7
"""How far, relative to a value, an outermost edge lies beyond it; signals carry six significant digits."""

Values = NDArray[np.float64]


def build_profile(model: bytes | Runs, reference: DataSet, meaning: Meaning) -> Profile:
    """Measure every signal on every reference frame.

    Args:
        model: The model that the devices will run; a float model's profile would later measure its quantization.
        reference: Frames that the model was not trained on; 500 and more are advised.
        meaning: What the model's outputs mean.

    Raises:
        InvalidInput: There are fewer than 200 frames, or they do not fit the model.
        InvalidModel: The model cannot be run, or is not what is meant.
    """
    runs = model if isinstance(model, Runs) else Runs(model)
    runner = runs.model
    meaning.check(runner)
    if len(reference) < MIN_REFERENCE:
        raise InvalidInput(
            f"{DATA} has {len(reference)} frames",
            why=f"a profile from fewer than {MIN_REFERENCE} gives false alarms",
            hint="give 500 held-out frames or more",
        )
    kinds = signals_of(meaning.task, runner.inputs)
    features = features_of(runner.inputs)
    measured = measure_frames(runner, reference, runs.all(reference), meaning)
    signals = []
    for name, kind in kinds.items():
        values = np.array(measured[name])
        if kind == "categorical":
            signals.append(_categorical(name, values, classes_of(runner, meaning)))
        else:
            signals.append(feature(name, values) if name in features else _ordinal(name, values))
    return Profile(n_ref=len(reference), signals=tuple(signals))


def measure_frames(
    runner: LitertModel, data: DataSet, outputs: Mapping[str, Array], meaning: Meaning
) -> dict[str, list[float]]:
    """Return the value of every signal for each frame, given what the model answered to all of them.

    See :func:`dsops.signals.measure`.
    """
    scores = meaning.decide(runner, data.inputs, outputs).scores
    watched = [(position, runner.inputs[position].name) for position in watched_inputs(runner.inputs)]
    first = outputs[runner.outputs[0].name]
    found: dict[str, list[float]] = {name: [] for name in signals_of(meaning.task, runner.inputs)}
    for start in range(0, len(data), _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        inputs = [(position, data.inputs[name][rows]) for position, name in watched]
        some = measure(meaning.task, inputs, first[rows], None if scores is None else scores[rows])
        for name, values in some.items():
            found[name] += values
    return found


def classes_of(runner: LitertModel, meaning: Meaning) -> int:
    """Return how many classes a classifier tells apart; a single score is that of the second of two."""
    return len(meaning.labels) or max(int(np.prod(runner.outputs[0].shape)), 2)


def feature(name: str, values: Values) -> Signal:
    """Return the signal of a feature: missing values have a bin of their own, and so has a 0 that is rare.

    Many sources send 0 for what they did not measure. Where that is within the usual range, no other bin would show it.
    """
    there = values[~np.isnan(values)]
    if not len(there):
        raise InvalidInput(f"{DATA} has no value of {name}", hint="leave the feature out, or give data that has it")
    zeros = float((there == 0.0).mean())
    marks = (0.0,) if there.min() < 0.0 < there.max() and zeros < 1 / INNER_BINS else ()
    edges = quantile_edges(there)
    empty = _empty(edges, 1 + len(marks))
    return _counted(Signal(name=name, kind="ordinal", edges=edges, marks=marks, missing=True, counts=empty), values)


def _ordinal(name: str, values: Values) -> Signal:
    edges = quantile_edges(values)
    return _counted(Signal(name=name, kind="ordinal", edges=edges, counts=_empty(edges, 0)), values)


def _empty(edges: Sequence[float], more: int) -> tuple[int, ...]:
    return (0,) * (len(edges) + 1 + more)


def _counted(signal: Signal, values: Values) -> Signal:
    counts = np.bincount([signal.bin(value) for value in values.tolist()], minlength=len(signal.counts))
    return signal.model_copy(update={"counts": tuple(counts.tolist())})


def _categorical(name: str, values: Values, labels_count: int) -> Signal:
    counts = np.bincount(values.astype(np.int64), minlength=labels_count)
    return Signal(name=name, kind="categorical", counts=tuple(counts.tolist()))


def quantile_edges(values: Values) -> tuple[float, ...]:
    """Return the ascending edges of at most ten bins that hold equal shares, and of a bin below and one above them all.

    An edge lies half-way between two different values that occurred, so equal values share a bin and the last bit of a
    value does not matter; bins that ties would leave empty are not made.
    """
    seen = np.unique(values)
    quantiles = np.quantile(values, np.arange(1, INNER_BINS) / INNER_BINS, method="higher")
    starts = np.searchsorted(seen, quantiles)
    between = {float((seen[at - 1] + seen[at]) / 2) for at in starts if at > 0}
    border = _BORDER * max(abs(seen[0]), abs(seen[-1]), np.finfo(np.float32).tiny)
    return (float(seen[0] - border), *sorted(between), float(seen[-1] + border))
