"""What a device may fetch: a rate with a small burst, an allowance a day, whatever the clock says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.clock import ManualClock
from dsops.directive import Directive, TransferLimits
from dsops_agent.install.budget import BURST_BYTES, BURST_S, DAY_S, Budget, Moment, Today, burst, lowest
from dsops_agent.install.journal import Journal
from dsops_agent.install.spending import Spending

CHUNK = 32 * 1024
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = Moment(0.0, NOON)


def later(seconds: float) -> Moment:
    return Moment(seconds, NOON + timedelta(seconds=seconds))


def fetch(budget: Budget, now: Moment) -> int:
    """Ask for chunks for as long as the budget allows it; return the bytes."""
    asked = 0
    while asked < 100_000_000 and budget.take(CHUNK, now):
        asked += CHUNK
    return asked


def test_without_limits_everything_is_allowed() -> None:
    budget = Budget(TransferLimits(), Today(), 0.0)
    assert fetch(budget, START) == 100_007_936
    assert budget.wait_s(CHUNK, START) == 0


def test_nothing_is_asked_for_at_the_start_then_at_the_rate_and_a_few_seconds_of_it_at_one_moment() -> None:
    budget = Budget(TransferLimits(bytes_per_s=CHUNK), Today(), 0.0)
    assert fetch(budget, START) == 0
    assert budget.wait_s(CHUNK, START) == 1
    assert fetch(budget, later(0.9)) == 0
    assert fetch(budget, later(3)) == 3 * CHUNK
    assert fetch(budget, later(1e6)) == BURST_S * CHUNK, "what was not used is not saved up"


@pytest.mark.parametrize(
    ("rate", "most"), [(1, MAX_CHUNK_BYTES), (2_500, MAX_CHUNK_BYTES), (50_000, 200_000), (10**9, BURST_BYTES)]
)
def test_the_burst_follows_the_rate_between_a_chunk_and_a_window(rate: int, most: int) -> None:
    assert burst(rate) == most


def test_all_devices_of_a_site_together_stay_within_its_budget_but_for_a_chunk_each() -> None:
    site, devices = 250_000, 100
    share = TransferLimits(bytes_per_s=site // devices)
    budgets = [Budget(share, Today(), 0.0) for _ in range(devices)]
    asked = 0
    for now_s in range(600):
        asked += sum(fetch(budget, later(now_s)) for budget in budgets)
        assert asked <= site * now_s
    assert asked > site * 600 - 2 * devices * CHUNK, "and they use it"
    idle = 3600
    together = sum(fetch(budget, later(idle)) for budget in budgets)
    assert together <= devices * MAX_CHUNK_BYTES, "also when they all begin at one moment"


def test_restarts_bring_nothing() -> None:
    share = TransferLimits(bytes_per_s=2_500)
    asked = 0
    for start_s in range(0, 600, 20):
        budget = Budget(share, Today(), start_s)
        asked += sum(fetch(budget, later(start_s + second)) for second in range(20))
    assert 0 < asked <= 2_500 * 600


@given(
    rate=st.integers(1_000, 10_000_000),
    steps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=50),
    size=st.integers(8 * 1024, 60 * 1024),
)
@settings(deadline=None)
def test_over_any_time_the_rate_is_exceeded_by_one_burst_at_most(rate: int, steps: list[float], size: int) -> None:
    budget = Budget(TransferLimits(bytes_per_s=rate), Today(), 0.0)
    now_s, asked = 0.0, 0
    for step in steps:
        now_s += step
        for _ in range(200):
            if not budget.take(size, later(now_s)):
                break
            asked += size
        assert asked <= rate * now_s + burst(rate) + 1


def test_a_rate_that_is_set_later_does_not_punish_what_was_free() -> None:
    budget = Budget(TransferLimits(), Today(), 0.0)
    fetch(budget, START)
    budget.limit(TransferLimits(bytes_per_s=CHUNK))
    assert budget.wait_s(CHUNK, START) == 1


def test_a_rate_that_is_lowered_leaves_no_more_than_its_own_burst() -> None:
    budget = Budget(TransferLimits(bytes_per_s=CHUNK), Today(), 0.0)
    budget.turn(later(1e3))
    budget.limit(TransferLimits(bytes_per_s=2_500))
    assert fetch(budget, later(1e3)) <= MAX_CHUNK_BYTES


def test_the_days_allowance_ends_at_midnight_by_trusted_time() -> None:
    budget = Budget(TransferLimits(bytes_per_day=5_000_000), Today(), 0.0)
    assert 5_000_000 - CHUNK < fetch(budget, START) <= 5_000_000
    assert budget.wait_s(CHUNK, START) == 12 * 3600
    assert budget.explain(CHUNK, START) == "the day's 5 MB are fetched; goes on at 2026-03-02 00:00 UTC"
    assert fetch(budget, later(12 * 3600 - 1)) == 0
    assert 5_000_000 - CHUNK < fetch(budget, later(12 * 3600)) <= 5_000_000
    assert budget.explain(1, START) == ""


def test_a_clock_that_goes_back_lifts_nothing() -> None:
    budget = Budget(TransferLimits(bytes_per_day=CHUNK), Today(), 0.0)
    assert fetch(budget, START) == CHUNK
    assert fetch(budget, Moment(10, NOON - timedelta(days=300))) == 0
    assert fetch(budget, Moment(20, NOON)) == 0


def test_a_clock_that_is_known_to_be_wrong_neither_lifts_the_allowance_nor_blocks_for_ever() -> None:
    budget = Budget(TransferLimits(bytes_per_day=CHUNK), Today("2026-03-01", CHUNK), 0.0)
    assert fetch(budget, Moment(DAY_S - 1, None)) == 0
    assert "goes on within 1 h" in budget.explain(CHUNK, Moment(DAY_S - 1, None))
    assert fetch(budget, Moment(DAY_S, None)) == CHUNK
    assert fetch(budget, Moment(DAY_S + 1, None)) == 0, "and then for another day"


def test_a_clock_that_was_ahead_blocks_for_a_day_of_running_at_most() -> None:
    budget = Budget(TransferLimits(bytes_per_day=CHUNK), Today(), 0.0)
    assert fetch(budget, Moment(0, NOON + timedelta(days=900))) == CHUNK
    assert budget.wait_s(CHUNK, START) == DAY_S
    assert fetch(budget, later(DAY_S)) == CHUNK


def test_an_allowance_smaller_than_a_chunk_still_brings_one_a_day() -> None:
    budget = Budget(TransferLimits(bytes_per_day=1), Today(), 0.0)
    assert fetch(budget, START) == CHUNK
    assert fetch(budget, later(DAY_S)) == CHUNK


def test_chunks_that_are_asked_for_again_count() -> None:
    budget = Budget(TransferLimits(bytes_per_s=CHUNK), Today(), 0.0)
    budget.spend(5 * CHUNK, START)
    assert budget.wait_s(CHUNK, START) == 6


@pytest.mark.parametrize(("own", "told", "both"), [(0, 0, 0), (5, 0, 5), (0, 7, 7), (5, 7, 5), (7, 5, 5)])
def test_the_controller_can_lower_a_limit_and_not_lift_it(own: int, told: int, both: int) -> None:
    limits = lowest(TransferLimits(bytes_per_s=own, bytes_per_day=told), TransferLimits(bytes_per_s=told))
    assert limits == TransferLimits(bytes_per_s=both, bytes_per_day=told)


class Device:
    """A journal on disk, and a budget over it."""

    def __init__(self, folder: Path, **own: int) -> None:
        self.clock = ManualClock(NOON)
        self.path = folder / "journal.db"
        self.own = TransferLimits(**own)
        self.journal = Journal(self.path)
        self.restart()

    def restart(self) -> None:
        """As after a power cut: what was not committed is gone."""
        self.journal.close()
        self.journal = Journal(self.path)
        self.spending = Spending(self.own, self.journal, self.clock, self.clock.now)

    def fetch(self) -> int:
        asked = 0
        while asked < 100_000_000 and self.spending.take(CHUNK):
            asked += CHUNK
        return asked


def directive(**limits: int) -> Directive:
    return Directive(
        fleet="f", device="cam-1", seq=1, issued=NOON, expires=NOON, slots={}, transfer=TransferLimits(**limits)
    )


def test_what_was_fetched_today_survives_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path, bytes_per_day=1_000_000)
    for _ in range(10):
        assert device.spending.take(CHUNK)
    device.restart()
    left = device.fetch()
    assert 10 * CHUNK + left <= 1_000_000
    assert left >= 1_000_000 - 10 * CHUNK - 3 * 64 * 1024, "little is lost of what was noted ahead"
    for _ in range(20):
        device.restart()
        assert device.fetch() == 0
    device.clock.advance(12 * 3600)
    assert device.fetch() > 900_000


def test_many_restarts_never_give_more_than_a_days_allowance(tmp_path: Path) -> None:
    device = Device(tmp_path, bytes_per_day=1_000_000)
    asked = 0
    for _ in range(50):
        asked += CHUNK * device.spending.take(CHUNK)
        device.restart()
    assert asked <= 1_000_000


def test_what_the_directive_says_holds_after_a_restart_and_until_the_next_one(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.journal.accept(directive(bytes_per_s=CHUNK), "d1")
    device.spending.follow()
    assert (device.fetch(), device.spending.wait_s(CHUNK)) == (0, 1)
    device.clock.advance(60)
    assert device.fetch() == BURST_S * CHUNK
    device.clock.advance(60)
    device.restart()
    assert device.fetch() == 0
    assert device.spending.wait_s(CHUNK) == 1
    device.journal.accept(directive(), "d2")
    device.spending.follow()
    assert device.spending.wait_s(CHUNK) == 0


def test_without_a_daily_limit_nothing_is_written(tmp_path: Path) -> None:
    device = Device(tmp_path, bytes_per_s=1_000_000)
    device.fetch()
    device.spending.follow()
    assert device.journal.today() == Today()


def test_running_time_is_kept_so_that_a_wrong_clock_and_restarts_do_not_block_for_ever(tmp_path: Path) -> None:
    device = Device(tmp_path, bytes_per_day=CHUNK)
    device.fetch()
    frozen = device.clock.now()
    for _ in range(30):
        device.spending = Spending(device.own, device.journal, device.clock, lambda: frozen)
        device.clock.advance(3600)
        device.spending.follow()
    assert device.fetch() == CHUNK
