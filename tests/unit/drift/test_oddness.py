"""How little a single frame fits the profile."""

import math

import pytest

from dsops.profile import Profile, Signal
from dsops_agent.drift.oddness import Oddness

PROFILE = Profile(
    n_ref=400,
    signals=(
        Signal(name="confidence", kind="ordinal", edges=(0.0, 0.5, 1.0), counts=(0, 100, 300, 0)),
        Signal(name="predicted_class", kind="categorical", counts=(399, 1)),
    ),
)


def test_what_is_rare_in_the_reference_is_odd() -> None:
    oddness = Oddness(PROFILE, {"confidence", "predicted_class"})
    values = {"confidence": [0.9, 0.3, 2.0, math.nan], "predicted_class": [0.0, 0.0, 1.0, 0.0]}
    usual, rarer, odd, missing = oddness.of(values)
    assert usual == pytest.approx(-math.log(300.5 / 402) - math.log(399.5 / 401))
    assert usual < rarer < missing < odd
    assert odd == pytest.approx(-math.log(0.5 / 402) - math.log(1.5 / 401))


def test_signals_that_are_not_measured_do_not_count() -> None:
    assert Oddness(PROFILE, {"predicted_class"}).of({"predicted_class": [0.0], "confidence": [9.0]}) == [
        pytest.approx(-math.log(399.5 / 401))
    ]
