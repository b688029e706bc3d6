import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from dsops_controller.build.evaluation import metrics

Scores = NDArray[np.float32]
CLASSES = 7


@pytest.fixture(params=range(3))
def answers(request: pytest.FixtureRequest) -> tuple[NDArray[np.int64], Scores]:
    """Truth and tied probabilities of 400 frames; one class never occurs and another is never said."""
    rng = np.random.default_rng(request.param)
    y = rng.integers(0, CLASSES - 1, 400)
    raw = rng.random((400, CLASSES)) + 0.8 * np.eye(CLASSES)[y]
    raw[:, 2] = 0.0
    scores = np.round(raw / raw.sum(axis=1, keepdims=True), 2).astype(np.float32)
    return y, scores


def test_class_scores_are_those_of_scikit_learn(answers: tuple[NDArray[np.int64], Scores]) -> None:
    y, scores = answers
    choices = scores.argmax(axis=1)
    confusion = metrics.confusion_matrix(y, choices, CLASSES)
    assert (confusion == reference.confusion_matrix(y, choices, labels=range(CLASSES))).all()
    found = metrics.class_scores(confusion)
    expected = reference.precision_recall_fscore_support(y, choices, labels=range(CLASSES), zero_division=0)
    for got, wanted in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        np.testing.assert_allclose(got, wanted)
    assert metrics.accuracy(y, choices) == pytest.approx(reference.accuracy_score(y, choices))
    macro = reference.f1_score(y, choices, average="macro", zero_division=0)
    assert metrics.f1_macro(found) == pytest.approx(macro)
    weighted = reference.f1_score(y, choices, average="weighted", zero_division=0)
    assert metrics.f1_weighted(found) == pytest.approx(weighted)


def test_the_area_counts_ties_half(answers: tuple[NDArray[np.int64], Scores]) -> None:
    y, scores = answers
    for label in (0, 3):
        expected = reference.roc_auc_score(y == label, scores[:, label])
        assert metrics.auc(y == label, scores[:, label]) == pytest.approx(expected)
    assert metrics.auc(np.array([0, 1, 0, 1]), np.ones(4)) == 0.5
    assert metrics.auc(np.ones(4), np.arange(4)) is None


def test_the_area_of_several_classes_is_the_mean_of_those_that_occur(answers: tuple[NDArray[np.int64], Scores]) -> None:
    y, scores = answers
    expected = np.mean([reference.roc_auc_score(y == label, scores[:, label]) for label in np.unique(y)])
    assert metrics.auc_one_vs_rest(y, scores) == pytest.approx(expected)
    two = scores[:, :2]
    assert metrics.auc_one_vs_rest(y % 2, two) == pytest.approx(reference.roc_auc_score(y % 2, two[:, 1]))
    assert metrics.auc_one_vs_rest(np.zeros(400, np.int64), scores) is None


def test_top_accuracy_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    scores, y = rng.random((300, 12)), rng.integers(0, 12, 300)
    expected = reference.top_k_accuracy_score(y, scores, k=5, labels=range(12))
    assert metrics.top_accuracy(y, scores) == pytest.approx(expected)


def test_calibration_error_weighs_the_gap_of_each_bin() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, False])
    bins = metrics.reliability(correct, confidence)
    assert [(one.lower, one.upper, one.count, one.accuracy) for one in bins] == [
        (0.5, 0.6, 2, 0.5),
        (0.9, 1.0, 4, 0.75),
    ]
    assert metrics.calibration_error(bins) == pytest.approx((2 * 0.05 + 4 * 0.2) / 6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    bins = metrics.reliability(np.array([True, True, False]), np.array([0.5, 1.0, 0.0]))
    assert [(one.lower, one.upper) for one in bins] == [(0.0, 0.1), (0.4, 0.5), (0.9, 1.0)]


@pytest.mark.parametrize("columns", [1, 3])
def test_r_squared_is_that_of_scikit_learn(columns: int) -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=(200, columns))
    guess = y + rng.normal(size=y.shape) * 0.3
    expected = reference.r2_score(y, guess, multioutput="variance_weighted")
    assert metrics.r_squared(y, float(((y - guess) ** 2).sum())) == pytest.approx(expected)
    assert metrics.r_squared(np.ones((5, columns)), 1.0) is None


def test_differences_are_the_same_in_pieces_and_at_once() -> None:
    rng = np.random.default_rng(5)
    before = rng.normal(size=(50, 3, 4)).astype(np.float32)
    after = before + rng.normal(size=before.shape).astype(np.float32) * 0.01
    sums = metrics.DifferenceSums("y")
    for start in range(0, 50, 7):
        sums.add(before[start : start + 7], after[start : start + 7])
    found = sums.result()
    gap = np.abs(before.astype(np.float64) - after)
    assert found.largest == gap.max()
    assert found.mean == pytest.approx(gap.mean())
    assert found.relative == pytest.approx(gap.max() / np.abs(before).max())
    flat = before.ravel().astype(np.float64), after.ravel().astype(np.float64)
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert found.cosine == pytest.approx(cosine)
    assert found.sqnr_db == pytest.approx(10 * np.log10((flat[0] ** 2).sum() / (gap**2).sum()))


@pytest.mark.parametrize(
    ("before", "after", "cosine", "relative"), [(0, 0, 1, 0), (1, 0, 0, 1), (0, 1, 0, 1), (2, 2, 1, 0)]
)
def test_differences_of_constant_outputs(before: float, after: float, cosine: float, relative: float) -> None:
    sums = metrics.DifferenceSums("y")
    sums.add(np.full((2, 3), before, np.float32), np.full((2, 3), after, np.float32))
    found = sums.result()
    assert found.cosine == pytest.approx(cosine)
    assert found.relative == relative
    assert (found.sqnr_db is None) == (before == after)
