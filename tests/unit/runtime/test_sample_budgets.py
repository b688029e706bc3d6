"""What a model may spend on samples outlives releases and processes, and is never there twice."""

import json
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops_agent.drift.sampler import Reason, SamplerSettings
from dsops_agent.runtime.sample_budgets import NAME, SampleBudgets

SETTINGS = SamplerSettings(bytes_per_day=86_400, burst_bytes=10_000)
SHARE = 1000
"""Of the burst for requests."""


def clock_at(seconds: float) -> ManualClock:
    clock = ManualClock()
    clock.advance(seconds)
    return clock


def test_releases_of_a_model_share_a_budget_and_models_do_not() -> None:
    budgets = SampleBudgets(SETTINGS, ManualClock())
    assert budgets.of("digits") is budgets.of("digits")
    assert budgets.of("digits").take(Reason.REQUEST, SHARE, 0.0)
    assert not budgets.of("digits").take(Reason.REQUEST, 1, 0.0)
    assert budgets.of("words").take(Reason.REQUEST, SHARE, 0.0)


def test_a_process_that_is_started_again_goes_on_with_what_came_in_meanwhile(tmp_path: Path) -> None:
    first, start_s = SampleBudgets(SETTINGS, clock_at(500.0), tmp_path), clock_at(500.0).monotonic_s()
    assert first.of("digits").take(Reason.REQUEST, SHARE, start_s)
    assert first.of("words").take(Reason.RANDOM, 1, start_s)
    again = SampleBudgets(SETTINGS, clock_at(500.0), tmp_path)
    assert not again.of("digits").take(Reason.REQUEST, 1, start_s)
    later = SampleBudgets(SETTINGS, clock_at(1500.0), tmp_path)  # a tenth of a byte a second is for requests
    assert not later.of("digits").take(Reason.REQUEST, 101, start_s + 1000)
    assert later.of("digits").take(Reason.REQUEST, 99, start_s + 1000)
    last = SampleBudgets(SETTINGS, clock_at(1500.0), tmp_path)
    assert not last.of("digits").take(Reason.REQUEST, 50, start_s + 1000)
    assert last.of("words").take(Reason.REQUEST, SHARE, start_s + 1000), "what others spent is not lost from the note"


def test_after_a_boot_a_budget_is_full(tmp_path: Path) -> None:
    before = clock_at(9000.0)
    assert SampleBudgets(SETTINGS, before, tmp_path).of("digits").take(Reason.REQUEST, SHARE, before.monotonic_s())
    now_s = ManualClock().monotonic_s()
    assert SampleBudgets(SETTINGS, ManualClock(), tmp_path).of("digits").take(Reason.REQUEST, SHARE, now_s)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[]",
        b"{}",
        b'{"digits": 5}',
        b'{"digits": [{"nobody": 1}, 0]}',
        b'{"digits": [{}, "x"]}',
        b'{"digits": [{"request": NaN}, 0]}',
        b"\xff",
    ],
)
def test_a_note_that_is_none_is_as_good_as_none(tmp_path: Path, note: bytes) -> None:
    (tmp_path / NAME).write_bytes(note)
    budgets = SampleBudgets(SETTINGS, ManualClock(), tmp_path)
    now_s = ManualClock().monotonic_s()
    assert budgets.of("digits").take(Reason.REQUEST, SHARE, now_s)
    assert set(json.loads((tmp_path / NAME).read_bytes())) == {"digits"}


def test_a_note_of_more_than_fits_is_what_fits(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"digits": [{"request": 1e9}, 0.0]}')
    now_s = ManualClock().monotonic_s()
    budget = SampleBudgets(SETTINGS, ManualClock(), tmp_path).of("digits")
    assert budget.take(Reason.REQUEST, SHARE, now_s)
    assert not budget.take(Reason.REQUEST, 1, now_s)


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    budgets = SampleBudgets(SETTINGS, ManualClock(), tmp_path / "gone")
    assert budgets.of("digits").take(Reason.REQUEST, SHARE, ManualClock().monotonic_s())
