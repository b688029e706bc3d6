"""Cohen's kappa and Krippendorff's alpha against published tables, and their intervals against simulations."""

import random
import statistics

import pytest

from dsops_controller.dataops.labels.agreement import Scale, cohen_kappa, krippendorff_alpha, wilson

_ = None
FOUR_OBSERVERS = [  # Krippendorff 2011, section C
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
THREE_CODERS = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


def units(raters: list[list[int | None]]) -> list[list[float]]:
    return [[float(v) for v in unit if v is not None] for unit in zip(*raters, strict=True)]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(Scale.NOMINAL, 0.743), (Scale.ORDINAL, 0.815), (Scale.INTERVAL, 0.849), (Scale.RATIO, 0.797)],
)
def test_alpha_of_four_observers(scale: Scale, expected: float) -> None:
    found = krippendorff_alpha(units(FOUR_OBSERVERS), scale)
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert found.items == 11
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("scale", "expected"), [(Scale.NOMINAL, 0.691), (Scale.INTERVAL, 0.811)])
def test_alpha_of_three_coders(scale: Scale, expected: float) -> None:
    assert krippendorff_alpha(units(THREE_CODERS), scale).value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [((20, 5, 10, 15), 0.400), ((45, 15, 25, 15), 0.1304), ((25, 35, 5, 35), 0.2593)],
)
def test_kappa_of_published_tables(cells: tuple[int, int, int, int], expected: float) -> None:
    both, first, second, neither = cells
    table = {("yes", "yes"): both, ("yes", "no"): first, ("no", "yes"): second, ("no", "no"): neither}
    found = cohen_kappa(table)
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert found.items == sum(cells)


def test_labels_of_one_class_only_have_no_kappa_and_no_alpha() -> None:
    assert cohen_kappa({("a", "a"): 9}).value is None
    assert krippendorff_alpha([[1, 1], [1, 1]], Scale.NOMINAL).value is None
    assert cohen_kappa({}).value is None
    assert krippendorff_alpha([[1], []], Scale.NOMINAL).items == 0


def test_three_items_on_which_all_agree_are_no_proof() -> None:
    few, many = ({("a", "a"): n, ("b", "b"): n} for n in (3, 200))
    assert cohen_kappa(few).value == cohen_kappa(many).value == 1.0
    assert (cohen_kappa(few).low or 0) < 0.8 < (cohen_kappa(many).low or 0)


def two_labellers(draw: random.Random, items: int, right: float, classes: int = 10) -> dict[tuple[int, int], int]:
    table: dict[tuple[int, int], int] = {}
    for _item in range(items):
        truth = draw.randrange(classes)
        others = [name for name in range(classes) if name != truth]
        pair = tuple(truth if draw.random() < right else draw.choice(others) for _ in range(2))
        table[pair[0], pair[1]] = table.get((pair[0], pair[1]), 0) + 1
    return table


@pytest.mark.parametrize(("items", "spread"), [(50, 0.043), (100, 0.030), (200, 0.023), (500, 0.015)])
def test_the_interval_of_kappa_is_as_wide_as_kappa_scatters(items: int, spread: float) -> None:
    """Ten classes, labellers who are right in 95 of 100: kappa is about 0.90 and scatters by what is given."""
    draw = random.Random(5)
    found = [cohen_kappa(two_labellers(draw, items, 0.95)) for _ in range(400)]
    values = [one.value or 0.0 for one in found]
    assert statistics.fmean(values) == pytest.approx(0.895, abs=0.01)
    assert statistics.pstdev(values) == pytest.approx(spread, rel=0.15)
    covered = sum((one.low or 0) <= 0.895 <= (one.high or 0) for one in found) / len(found)
    assert covered >= 0.93
    assert statistics.fmean((one.high or 0) - (one.low or 0) for one in found) < 2 * 1.96 * spread * 1.35


def test_the_interval_of_alpha_covers_it() -> None:
    draw, hits = random.Random(8), 0
    for _round in range(60):
        pairs = two_labellers(draw, 100, 0.9, classes=4)
        items = [[float(a), float(b)] for (a, b), n in pairs.items() for _ in range(n)]
        found = krippendorff_alpha(items, Scale.NOMINAL, resamples=200)
        truth = 1 - (1 - (0.81 + 0.01 / 3)) / 0.75
        hits += (found.low or 0) <= truth <= (found.high or 0)
    assert hits >= 52


@pytest.mark.parametrize(("scale", "items"), [(Scale.INTERVAL, 300), (Scale.RATIO, 100)])
def test_of_very_many_values_a_ratio_scale_compares_some(scale: Scale, items: int) -> None:
    draw = random.Random(9)
    truth = [draw.uniform(1, 10) for _ in range(300)]
    found = krippendorff_alpha([[value + draw.random(), value + draw.random()] for value in truth], scale)
    assert found.items == items
    assert found.low is not None
    assert found.high is not None
    assert 0.9 < found.low < (found.value or 0.0) < found.high <= 1.0


def test_zero_is_as_far_as_can_be_on_a_ratio_scale() -> None:
    apart = krippendorff_alpha([[0, 1], [0, 2], [1, 1], [0, 0]], Scale.RATIO, resamples=1)
    # By hand: observed 4 ordered pairs of distance 1; expected 2 * (4 * 4 + 3 * 1 / 9), of 8 values.
    assert apart.value == pytest.approx(1 - 7 * 4 / (2 * (16 + 3 / 9)))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (20, 20, 0.8389, 1.0)]
)
def test_shares_have_wilson_intervals(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_what_never_or_always_happened_reaches_the_end_exactly() -> None:
    assert {wilson(0, trials)[0] for trials in range(1, 200)} == {0.0}
    assert {wilson(trials, trials)[1] for trials in range(1, 200)} == {1.0}
