"""Builds the reference profile: what each signal looks like on held-out frames, seen through the device's own model."""

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput
from dsops.profile import MIN_REFERENCE, Profile, Signal
from dsops.signals import SIGNALS, bin_of, measure
from dsops_controller.build.arrays import Floats, check_frames
from dsops_controller.build.litert import LitertModel, require_labels

DATA = "the profile's data"
INNER_BINS = 10
_BORDER = 5e-7
"""How far, relative to a value, an outermost edge lies beyond it; signals carry six significant digits."""

Values = NDArray[np.float64]


def build_profile(model: bytes, x_reference: Floats, labels_count: int) -> Profile:
    """Measure every signal on every reference frame.

    Args:
        model: The model that the devices will run; a float model's profile would later measure its quantization.
        x_reference: Frames that the model was not trained on, float32 [N, H, W, C] or [N, F]; 500 and more are advised.
        labels_count: Number of labels.

    Raises:
        InvalidInput: There are fewer than 200 frames, or they do not fit the model.
        InvalidModel: The model cannot be run, or its output does not match its labels.
    """
    runner = LitertModel(model)
    require_labels(runner, labels_count)
    check_frames(x_reference, DATA, runner.input.shape[1:])
    if len(x_reference) < MIN_REFERENCE:
        raise InvalidInput(
            f"{DATA} has {len(x_reference)} frames",
            why=f"a profile from fewer than {MIN_REFERENCE} gives false alarms",
            hint="give 500 held-out frames or more",
        )
    scores = runner.run(x_reference)
    rows = [measure(frame, score) for frame, score in zip(x_reference, scores, strict=True)]
    signals = []
    for name, kind in SIGNALS.items():
        values = np.array([row[name] for row in rows])
        signals.append(_ordinal(name, values) if kind == "ordinal" else _categorical(name, values, labels_count))
    return Profile(n_ref=len(rows), signals=tuple(signals))


def _ordinal(name: str, values: Values) -> Signal:
    edges = quantile_edges(values)
    bins = [bin_of(edges, value) for value in values]
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return Signal(name=name, kind="ordinal", edges=edges, counts=tuple(counts.tolist()))


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
