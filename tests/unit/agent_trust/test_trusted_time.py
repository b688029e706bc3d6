"""Clocks that are wrong: what a device still believes, what it keeps, and what it says of its clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trust_stage import DAY, START

from dsops.clock import ManualClock
from dsops.errors import ExpiredMetadata, StateDamaged
from dsops_agent.trust.floors import Keys
from dsops_agent.trust.trusted_time import ClockState, TimeRecord, clock_state, merged, record, trusted_time

NOW = START + timedelta(days=40)
BUILT = START - timedelta(days=9)
CLOCKS = {
    "1970": datetime(1970, 1, 1, tzinfo=UTC),
    "2019": datetime(2019, 6, 1, tzinfo=UTC),
    "right": NOW,
    "2045": datetime(2045, 1, 1, tzinfo=UTC),
}
MOMENTS = st.datetimes(*(CLOCKS[name].replace(tzinfo=None) for name in ("1970", "2045")), timezones=st.just(UTC))


def republish(bench: Any, issued: datetime) -> None:
    """Sign a timestamp that holds for three days."""
    bench.repository.timestamp_expires = issued + timedelta(days=3)
    bench.repository.retime(issued=issued)


def known_until(bench: Any, moment: datetime) -> None:
    """Let the device take in what was fresh at a moment."""
    bench.clock.advance((moment - bench.clock.now()).total_seconds())
    republish(bench, moment)
    bench.accept()


@pytest.mark.parametrize(
    ("clock", "fresh", "state"),
    [
        ("1970", "taken", ClockState.BEHIND),
        ("2019", "taken", ClockState.BEHIND),
        ("right", "taken", ClockState.PLAUSIBLE),
        ("2045", "refused", ClockState.AHEAD),
    ],
)
def test_a_fresh_timestamp_is_taken_but_by_a_clock_that_runs_ahead(
    bench: Any, clock: str, fresh: str, state: ClockState
) -> None:
    known_until(bench, NOW - timedelta(days=1))
    bench.reopen(ManualClock(CLOCKS[clock]))
    assert bench.store.clock_state() is state
    republish(bench, NOW)
    if fresh == "refused":
        with pytest.raises(ExpiredMetadata):
            bench.accept()
        return
    bench.accept()
    assert bench.store.now() == NOW
    assert bench.store.clock_state() is state


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_timestamp_that_expired_thirty_days_ago_is_refused_by_every_clock(bench: Any, clock: str) -> None:
    known_until(bench, NOW)
    bench.reopen(ManualClock(CLOCKS[clock]))
    republish(bench, NOW - timedelta(days=33))
    with pytest.raises(ExpiredMetadata):
        bench.accept()


@pytest.mark.parametrize("clock", ["1970", "2019"])
def test_a_new_device_knows_that_its_program_was_built(bench: Any, clock: str) -> None:
    republish(bench, START - timedelta(days=33))
    bench.reopen(ManualClock(CLOCKS[clock]), BUILT)
    assert bench.store.clock_state() is ClockState.BEHIND
    assert bench.store.now() == BUILT
    with pytest.raises(ExpiredMetadata):
        bench.accept()


def test_a_new_device_suspects_a_clock_beyond_its_first_root(bench: Any) -> None:
    bench.reopen(ManualClock(CLOCKS["2045"]))
    assert bench.store.clock_state() is ClockState.AHEAD
    bench.reopen(ManualClock(START))
    assert bench.store.clock_state() is ClockState.PLAUSIBLE


def test_a_clock_that_ran_ahead_is_never_kept(bench: Any) -> None:
    known_until(bench, NOW)
    bench.clock.advance((CLOCKS["2045"] - NOW).total_seconds())
    bench.store.keep_time(at_once=True)
    assert bench.store.now() == CLOCKS["2045"], "while it runs ahead it is believed"
    bench.reopen(ManualClock(NOW + timedelta(hours=1)))
    assert bench.store.now() == NOW + timedelta(hours=1)
    assert bench.store.clock_state() is ClockState.PLAUSIBLE
    bench.accept()


def test_time_is_kept_hourly_and_at_the_end(bench: Any) -> None:
    known_until(bench, NOW)
    bench.clock.advance(1800)
    bench.store.keep_time()
    bench.reopen(ManualClock(CLOCKS["1970"]))
    assert bench.store.now() == NOW
    bench.reopen(ManualClock(NOW + timedelta(hours=2)))
    bench.store.keep_time()
    bench.reopen(ManualClock(NOW + timedelta(hours=2.5)))
    bench.store.keep_time(at_once=True)
    bench.reopen(ManualClock(CLOCKS["1970"]))
    assert bench.store.now() == NOW + timedelta(hours=2.5)


def test_keeping_time_writes_nothing_when_nothing_is_due(bench: Any) -> None:
    known_until(bench, NOW)
    path = bench.folder / "floors.json"
    before = path.stat().st_mtime_ns
    for _ in range(3):
        bench.store.keep_time()
        bench.accept()
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damaged", [b"", b"{}x", b'{"roles":{"root":{"version":0,"keys":[]}}}'])
def test_without_its_floors_a_device_believes_nothing_and_keeps_running(bench: Any, damaged: bytes) -> None:
    bench.accept()
    (bench.folder / "floors.json").write_bytes(damaged)
    bench.reopen()
    for action in (bench.accept, bench.store.director, lambda: bench.store.policy("digits")):
        with pytest.raises(StateDamaged, match=r"floors\.json"):
            action()
    assert bench.store.now() == bench.clock.now()
    bench.store.keep_time(at_once=True)
    assert (bench.folder / "floors.json").read_bytes() == damaged


def test_a_timestamp_that_does_not_say_when_it_was_signed_moves_nothing(bench: Any) -> None:
    republish(bench, CLOCKS["1970"])
    bench.repository.timestamp_expires = START + timedelta(days=3)
    bench.repository.retime(issued=CLOCKS["1970"])
    bench.accept()
    bench.reopen(ManualClock(CLOCKS["1970"]), CLOCKS["1970"])
    assert bench.store.now() >= START, "the host's clock was within what the timestamp bore out"


KEYS = Keys(frozenset({"a", "b"}), 1)


@given(MOMENTS, MOMENTS, MOMENTS, MOMENTS)
def test_trusted_time_is_never_before_what_is_certain_and_never_moved_beyond_the_root(
    system: datetime, issued: datetime, timestamp: datetime, root: datetime
) -> None:
    known = record(issued, (timestamp, root), max(timestamp, root), KEYS).seen(system)
    assert known.floor <= min(timestamp, root)
    assert trusted_time(system, BUILT, known) >= max(system, BUILT, known.floor)
    assert known.seen(system) == known


@given(MOMENTS, MOMENTS, st.sets(st.sampled_from("abc"), min_size=1))
def test_what_another_key_contributed_is_forgotten(old: datetime, new: datetime, keys: set[str]) -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    before = record(old, (until,), until, KEYS)
    after = merged(before, record(new, (until,), until, Keys(frozenset(keys), 1)), threshold=1)
    assert after.floor == (new if keys == {"c"} else max(old, new))


def test_small_differences_of_clocks_are_no_suspicion() -> None:
    known = TimeRecord(
        issued=NOW, until=NOW + timedelta(days=3), latest=NOW + timedelta(days=300), good=NOW, keys=("a",)
    )
    for seconds, state in ((-59, ClockState.PLAUSIBLE), (-61, ClockState.BEHIND), (300 * DAY, ClockState.AHEAD)):
        assert clock_state(NOW + timedelta(seconds=seconds), BUILT, known, NOW) is state
