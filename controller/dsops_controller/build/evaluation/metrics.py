"""Figures of merit, in NumPy alone: each takes arrays and returns plain numbers.

Truth ``y`` of a classification is int64 [N], the index of each frame's label; ``scores`` are probabilities [N, C].
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops_controller.build.data import Array

Counts = NDArray[np.int64]

TOP = 5
RELIABILITY_BINS = 10


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class, each an array [C]; 0 where there is nothing to divide by.

    ``support`` is how often each class occurs, ``given`` how often the model said it.
    """

    precision: Array
    recall: Array
    f1: Array
    support: Counts
    given: Counts


@dataclass(frozen=True)
class ReliabilityBin:
    """Frames with a confidence in ``(lower, upper]``: how many, how sure the model is, and how often it is right."""

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Difference:
    """How far one output of two models is apart.

    Attributes:
        output: Its name.
        largest: Largest absolute difference.
        mean: Mean absolute difference.
        relative: The largest difference over the largest absolute value of the float model's output.
        cosine: Cosine similarity of the two, all frames taken as one vector.
        sqnr_db: Signal to quantization noise ratio, ``10 log10(sum f^2 / sum (f - q)^2)``; None when they are equal.
    """

    output: str
    largest: float
    mean: float
    relative: float
    cosine: float
    sqnr_db: float | None


def accuracy(y: Array, choices: Array) -> float:
    """Return the share of frames that are labelled rightly."""
    return float((y == choices).mean())


def confusion_matrix(y: Array, choices: Array, classes: int) -> Counts:
    """Return how often each class (row) was given each label (column), int64 [C, C]."""
    cells = np.bincount(np.asarray(y, np.int64) * classes + choices, minlength=classes * classes)
    return cells.astype(np.int64).reshape(classes, classes)


def class_scores(confusion: Counts) -> ClassScores:
    """Return precision, recall and F1 of each class from a confusion matrix.

    F1 is the harmonic mean of the two, ``2 TP / (2 TP + FP + FN)`` (van Rijsbergen, Information Retrieval, 1979).
    """
    hits = np.diag(confusion).astype(np.float64)
    support, given = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(_share(hits, given), _share(hits, support), _share(2 * hits, support + given), support, given)


def f1_macro(scores: ClassScores) -> float:
    """Return the mean F1 of the classes that occur, or that the model gave."""
    return float(scores.f1[scores.support + scores.given > 0].mean())


def f1_weighted(scores: ClassScores) -> float:
    """Return the mean F1 of the classes, weighted by how often each occurs."""
    return float((scores.f1 * scores.support).sum() / scores.support.sum())


def top_accuracy(y: Array, scores: Array, top: int = TOP) -> float:
    """Return the share of frames whose label is among the ``top`` best scored; ties count in the frame's favour."""
    own = np.take_along_axis(scores, np.asarray(y, np.int64)[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < top).mean())


def auc(positive: Array, scores: Array) -> float | None:
    """Return the area under the ROC curve, or None when only one of the two kinds occurs.

    It is the Mann-Whitney statistic: the share of (positive, negative) pairs in which the positive has the higher
    score, a tie counting half (Hanley and McNeil, Radiology 143, 1982).

    Args:
        positive: Which frames are positive, bool or 0/1 [N].
        scores: A score for each, higher for positives.
    """
    positive = np.asarray(positive).astype(bool)
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return None
    ranks = _mid_ranks(np.asarray(scores, np.float64))
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def auc_one_vs_rest(y: Array, scores: Array) -> float | None:
    """Return the mean AUC of each class against all others; None when fewer than two classes occur.

    With two classes it is the AUC of the second. Classes that do not occur are left out.
    """
    if scores.shape[1] == 2:
        return auc(y == 1, scores[:, 1])
    areas = [auc(y == label, scores[:, label]) for label in np.unique(y)]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def reliability(correct: Array, confidence: Array, bins: int = RELIABILITY_BINS) -> tuple[ReliabilityBin, ...]:
    """Return how often a model is right where it is how sure, in bins of equal width; empty bins are left out.

    Args:
        correct: Whether each frame is labelled rightly, bool [N].
        confidence: The score of the label that was given, [N].
        bins: Number of bins over 0..1.
    """
    where = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for place in np.unique(where):
        inside = where == place
        found.append(
            ReliabilityBin(
                lower=int(place) / bins,
                upper=(int(place) + 1) / bins,
                count=int(inside.sum()),
                confidence=float(np.asarray(confidence, np.float64)[inside].mean()),
                accuracy=float(np.asarray(correct)[inside].mean()),
            )
        )
    return tuple(found)


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy, weighted by each bin's frames.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    frames = sum(one.count for one in bins)
    return math.fsum(one.count * abs(one.accuracy - one.confidence) for one in bins) / frames


def r_squared(y: Array, residual_squares: float) -> float | None:
    """Return the coefficient of determination over all values of ``y``; None when they are all the same.

    ``1 - sum (y - f)^2 / sum (y - mean)^2``, the mean taken for each quantity [N, ...], the sums over all of them.
    """
    values = np.asarray(y, np.float64).reshape(len(y), -1)
    spread = float(((values - values.mean(axis=0)) ** 2).sum())
    return 1.0 - residual_squares / spread if spread > 0.0 else None


class DifferenceSums:
    """Measures how far one output of two models is apart, a chunk of frames at a time.

    ``floor`` is the smallest value that a difference is set in relation to.
    """

    def __init__(self, output: str, floor: float = 0.0) -> None:
        self._output = output
        self._peak = floor
        self._largest = self._absolute = self._noise = 0.0
        self._expected = self._got = self._product = 0.0
        self._count = 0

    def add(self, expected: Array, got: Array) -> None:
        """Take the same frames' output of the float model and of the other one."""
        if not expected.size:
            return
        before = np.asarray(expected, np.float64).ravel()
        after = np.asarray(got, np.float64).ravel()
        gap = np.abs(before - after)
        self._largest = max(self._largest, float(gap.max()))
        self._peak = max(self._peak, float(np.abs(before).max()))
        self._absolute += float(gap.sum())
        self._noise += float(gap @ gap)
        self._expected += float(before @ before)
        self._got += float(after @ after)
        self._product += float(before @ after)
        self._count += gap.size

    def result(self) -> Difference:
        """Return the figures of everything that was added."""
        length = math.sqrt(self._expected) * math.sqrt(self._got)
        equal_zero = self._expected == self._got == 0.0
        return Difference(
            output=self._output,
            largest=self._largest,
            mean=self._absolute / max(self._count, 1),
            relative=self._largest / self._peak if self._peak else float(self._largest > 0.0),
            cosine=min(self._product / length, 1.0) if length else float(equal_zero),
            sqnr_db=self._sqnr_db(),
        )

    def _sqnr_db(self) -> float | None:
        if not self._noise:
            return None
        return 10.0 * math.log10(max(self._expected, np.finfo(np.float64).tiny) / self._noise)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=np.asarray(whole) > 0)


def _mid_ranks(values: Array) -> Array:
    """Return ranks from 1 on; equal values share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[where]
    return ranks
