"""Chooses golden inputs, and checks a model against them.

Half of them are frames that the model labels rightly but with little to spare: a fault in the preprocessing or in a
kernel shows on these first. The other half are drawn at random.
"""

import numpy as np
from numpy.typing import NDArray

from dsops.errors import GoldenMismatch, InvalidInput
from dsops.golden import MAX_GOLDEN, GoldenSet, TensorBytes
from dsops_controller.build.arrays import Floats, Labelled, check_frames, check_labels
from dsops_controller.build.litert import LitertModel, require_labels

DATA = "the golden data"
COUNT = 32
SCORE_TOLERANCE = 0.05
_SEED = 20260101


def choose_golden(
    model: bytes, data: Labelled, labels: tuple[str, ...], count: int = COUNT, tolerance: float = SCORE_TOLERANCE
) -> GoldenSet:
    """Choose ``count`` frames of labelled, held-out data.

    A frame is taken only when its label leads by more than twice the tolerance: while every score is within it, no
    device can give that frame another label. And only when the fast and the plain kernels agree on it to half the
    tolerance: int8 kernels round differently, and what differs between two may differ more on a third. The choice
    depends on nothing but the arguments.

    Raises:
        InvalidInput: The data does not fit the model, or too few frames are labelled rightly and clearly enough.
        InvalidModel: The model cannot be run, or its output does not match its labels.
    """
    runner = LitertModel(model)
    require_labels(runner, len(labels))
    check_frames(data.x, DATA, runner.input.shape[1:])
    y = check_labels(data.y, len(data.x), DATA, len(labels))
    if not 1 <= count <= MAX_GOLDEN:
        raise InvalidInput(f"{count} golden inputs were asked for", why=f"1 to {MAX_GOLDEN} are possible")
    scores = runner.run(data.x)
    spread = np.abs(scores - LitertModel(model, reference_kernels=True).run(data.x)).max(axis=1)
    rows = _choose_rows(scores, y, count, tolerance, agreed=spread <= tolerance / 2)
    return GoldenSet(
        inputs=_tensor(data.x[rows]),
        scores=_tensor(scores[rows]),
        labels=tuple(labels[label] for label in y[rows]),
        score_tolerance=tolerance,
    )


def check_golden(model: bytes, golden: GoldenSet, labels: tuple[str, ...]) -> None:
    """Run a model on golden inputs, with the fast and with the plain kernels.

    Raises:
        GoldenMismatch: A label is unknown, an answer is not the frame's label, or a score is off by more than the
            tolerance.
    """
    unknown = sorted(set(golden.labels) - set(labels))
    if unknown:
        raise GoldenMismatch(f"golden inputs carry the label {unknown[0]!r}", why="the bundle's labels do not hold it")
    x, expected = array_of(golden.inputs), array_of(golden.scores)
    for reference_kernels in (False, True):
        runner = LitertModel(model, reference_kernels=reference_kernels)
        if x.shape[1:] != runner.input.shape[1:] or runner.output.shape != (1, len(labels)):
            raise GoldenMismatch("the golden inputs do not have the form of the payload's input and output")
        _compare(runner.run(x), expected, golden, labels)


def array_of(tensor: TensorBytes) -> Floats:
    """Return a golden tensor as an array."""
    return np.frombuffer(tensor.data, np.dtype("<f4")).reshape(tensor.shape).astype(np.float32)


def _compare(scores: Floats, expected: Floats, golden: GoldenSet, labels: tuple[str, ...]) -> None:
    if scores.shape != expected.shape:
        raise GoldenMismatch(f"the payload gives {list(scores.shape)} scores", why=f"{list(expected.shape)} expected")
    for row, answer in enumerate(scores.argmax(axis=1)):
        if labels[answer] != golden.labels[row]:
            raise GoldenMismatch(
                f"golden input {row} is answered {labels[answer]!r}",
                why=f"its label is {golden.labels[row]!r}",
                row=row,
            )
    distance = np.abs(scores - expected).max(axis=1)
    worst = int(distance.argmax())
    if distance[worst] > golden.score_tolerance:
        raise GoldenMismatch(
            f"golden input {worst} scores {distance[worst]:.3f} away from what is expected",
            why=f"{golden.score_tolerance:.3f} is allowed",
            row=worst,
        )


def _choose_rows(
    scores: Floats, y: NDArray[np.int64], count: int, tolerance: float, agreed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    ordered = np.sort(scores, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    fit = np.flatnonzero((scores.argmax(axis=1) == y) & (margin > 2 * tolerance) & agreed)
    if len(fit) < count:
        raise InvalidInput(
            f"{len(fit)} frames of {DATA} can be golden inputs, and {count} are needed",
            why="a golden input is labelled rightly, by more than twice the score tolerance, by every kind of kernel",
            hint="give more labelled frames, or ask for fewer golden inputs",
        )
    by_margin = fit[np.argsort(margin[fit], kind="stable")]
    close, others = by_margin[: count // 2], by_margin[count // 2 :]
    drawn = np.random.default_rng(_SEED).choice(others, count - len(close), replace=False)
    return np.concatenate([close, np.sort(drawn)])


def _tensor(values: Floats) -> TensorBytes:
    return TensorBytes("float32", values.shape, np.ascontiguousarray(values, "<f4").tobytes())
