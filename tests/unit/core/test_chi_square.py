"""Chi-square against published values, and its false positives under what devices do to counts."""

import numpy as np
import pytest

from dsops.betting import Bet
from dsops.chi_square import filled, survival, two_samples


@pytest.mark.parametrize(
    ("statistic", "freedom", "p_value"),
    [
        # Abramowitz and Stegun, table 26.8.
        (3.84146, 1, 0.05),
        (6.63490, 1, 0.01),
        (18.3070, 10, 0.05),
        (31.264, 11, 0.001),
        (2.15586, 10, 0.995),
        (124.342, 100, 0.05),
        (10.8276, 1, 0.001),
    ],
)
def test_the_tail_of_chi_square_is_that_of_the_tables(statistic: float, freedom: int, p_value: float) -> None:
    assert survival(statistic, freedom) == pytest.approx(p_value, rel=2e-3)


def test_extremes_of_the_tail() -> None:
    assert survival(0.0, 5) == 1.0
    assert 0.0 <= survival(5000.0, 10) < 1e-300
    assert survival(1e-9, 3) == pytest.approx(1.0)


def test_the_statistic_of_two_samples_by_hand() -> None:
    # Pearson's for the 2 x 2 table 60, 40; 30, 70: 200 (60 * 70 - 40 * 30)^2 / (100 * 100 * 90 * 110).
    found = two_samples([60, 40], [30, 70])
    assert found.statistic == pytest.approx(200 * (60 * 70 - 40 * 30) ** 2 / (100 * 100 * 90 * 110))
    assert found.freedom == 1


def test_nothing_to_test_is_no_difference() -> None:
    assert two_samples([0, 0], [1, 2]).p_value == 1.0
    assert two_samples([5, 5], [0, 0]).p_value == 1.0
    assert two_samples([5], [7]).p_value == 1.0


@pytest.mark.parametrize(("hold", "epsilon"), [(1, 0.0), (4, 0.0), (1, 0.2), (1, 0.1)])
def test_false_positives_are_as_rare_as_they_should_be(hold: int, epsilon: float) -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    noise = 2 * np.exp(-epsilon) / (1 - np.exp(-epsilon)) ** 2 if epsilon else 0.0
    for _ in range(400):
        reference = rng.multinomial(1000, [0.1] * 10)
        sample = rng.multinomial(1000 // hold, [0.1] * 10) * hold
        if epsilon:
            ends = rng.geometric(1 - np.exp(-epsilon), (2, 10))
            sample += ends[0] - ends[1]  # discrete Laplace
        wrong += two_samples(reference.tolist(), sample.tolist(), noise=noise, thinning=hold).p_value < 0.05
    assert 5 <= wrong <= 36  # 20 on average


def test_a_rare_bin_is_no_alarm_by_itself_and_many_in_it_are() -> None:
    reference = [0, *[200] * 10, 0]
    usual = [10] * 10
    assert two_samples(reference, [2, *usual, 0]).p_value > 0.5
    assert two_samples(reference, [0, *[8] * 10, 20]).p_value < 1e-6


def test_suppressed_counts_are_filled_with_what_is_usual() -> None:
    assert filled([100, 100, 2], [50, 50, 0], 5) == pytest.approx([50, 50, 200 / 202 * 1.0], rel=0.02)
    assert filled([100, 100, 100], [50, 50, 0], 5)[2] == 4.0, "more than that would not have been suppressed"
    assert filled([1, 1], [0, 3], 0)[0] == 0.0


def test_a_bet_wins_only_when_the_mean_is_above_the_limit() -> None:
    rng = np.random.default_rng(1)
    rich = 0
    for _ in range(300):
        bet = Bet(0.1)
        rich += any(bet.add(float(value)) >= np.log(20) for value in rng.random(400) < 0.1)
    assert rich <= 24  # at most 15 on average, at any time
    bet = Bet(0.1)
    for value in rng.random(400) < 0.25:
        bet.add(float(value))
    assert bet.log_wealth > np.log(1000)


def test_a_bet_refuses_what_it_cannot_bet_on() -> None:
    with pytest.raises(ValueError, match="limit"):
        Bet(1.0)
    with pytest.raises(ValueError, match="between"):
        Bet(0.5).add(1.5)
