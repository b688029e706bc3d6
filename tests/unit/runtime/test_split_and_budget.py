"""Who answers a key, how much processor time a shadow gets, and how two answers differ: all pure."""

import os
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.manifest import Task
from dsops_agent.runtime.answer import Values
from dsops_agent.runtime.compare import difference
from dsops_agent.runtime.cpu_allowance import BURST_S, CpuAllowance, process_cpu_s
from dsops_agent.runtime.split import draw, goes_to_challenger

KEYS = 10_000


@pytest.mark.parametrize("salt", ["de-1", "de-2", "de-000000000000", ""])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", ["{}", "user-{}", "10.0.{}.1"])
def test_a_split_of_ten_thousand_keys_is_right_within_one_percent(salt: str, share: float, form: str) -> None:
    count = sum(goes_to_challenger(salt, form.format(number), share) for number in range(KEYS))
    assert abs(count / KEYS - share) <= 0.01


@given(st.text(max_size=64), st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_key_stays_where_it_is_while_the_share_grows(salt: str, key: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert goes_to_challenger(salt, key, low) <= goes_to_challenger(salt, key, high)
    assert goes_to_challenger(salt, key, low) == goes_to_challenger(salt, key, low)


def test_the_draw_is_the_same_on_every_device_and_after_every_restart() -> None:
    assert draw("de-7", "user-1") == 12589087667144355775
    assert draw("de-7", "") == 2501378591444850710


def test_no_key_no_challenger() -> None:
    assert not goes_to_challenger("de-7", "", 1.0)


def test_another_challenger_gets_other_keys() -> None:
    first = [goes_to_challenger("de-1", str(key), 0.5) for key in range(KEYS)]
    second = [goes_to_challenger("de-2", str(key), 0.5) for key in range(KEYS)]
    same = sum(one == other for one, other in zip(first, second, strict=True))
    assert abs(same / KEYS - 0.5) < 0.02


@given(st.floats(0.01, 1), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 0.3)), max_size=60))
def test_a_shadow_takes_no_more_than_its_share_a_burst_and_one_request(
    share: float, steps: list[tuple[float, float]]
) -> None:
    allowance, now_s, spent_s, largest_s = CpuAllowance(share, 0.0), 0.0, 0.0, 0.0
    for pause_s, cost_s in steps:
        now_s += pause_s
        if allowance.has_any(now_s):
            allowance.spend(cost_s)
            spent_s += cost_s
            largest_s = max(largest_s, cost_s)
    assert spent_s <= share * now_s + BURST_S + largest_s + 1e-9


def test_an_allowance_that_is_spent_comes_back_with_time() -> None:
    allowance = CpuAllowance(0.5, 0.0)
    assert allowance.has_any(0.0)
    allowance.spend(BURST_S + 1.0)
    assert not allowance.has_any(1.9)
    assert allowance.has_any(2.1)


def test_the_clock_of_a_process_goes_while_it_works_and_ends_with_it() -> None:
    before = process_cpu_s(os.getpid())
    sum(range(200_000))
    assert process_cpu_s(os.getpid()) > before
    with pytest.raises(OSError, match=r"Invalid argument|No such process"):
        process_cpu_s(2**22 + 1)


def scores(*rows: list[float], label: list[bytes] | None = None) -> Mapping[str, Values]:
    named: dict[str, Values] = {"scores": np.array(rows, np.float32)}
    return named | ({"label": label} if label is not None else {})


def test_classifications_are_compared_by_label_where_there_are_labels() -> None:
    ours, theirs = scores([0.75, 0.25], label=[b"a"]), scores([0.25, 0.75], label=[b"a"])
    found = difference(Task.CLASSIFICATION, ours, theirs)
    assert (found.agree, found.distance) == ((True,), (0.5,))
    assert difference(Task.CLASSIFICATION, scores([0.75, 0.25]), scores([0.25, 0.75])).agree == (False,)


def test_reconstructions_are_compared_by_what_they_call_an_anomaly() -> None:
    ours = {"score": np.array([1.0, 3.0]), "anomaly": np.array([False, True])}
    theirs = {"score": np.array([1.0, 1.0]), "anomaly": np.array([False, False])}
    found = difference(Task.RECONSTRUCTION, ours, theirs)
    assert (found.agree, found.distance) == ((True, False), (0.0, 0.5))


def test_other_outputs_have_a_distance_only() -> None:
    ours, theirs = {"y": np.array([[0.0, 0.0], [1.0, 1.0]])}, {"y": np.array([[0.0, 0.0], [np.nan, 1.0]])}
    found = difference(Task.REGRESSION, ours, theirs)
    assert (found.agree, found.distance) == (None, (0.0, 1.0))
