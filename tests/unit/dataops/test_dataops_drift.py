import random

import pytest

from dsops.api.v1.telemetry_pb2 import Event, ModelInterval
from dsops_controller.dataops.drift.device_drift import (
    DriftState,
    Level,
    after_event,
    after_interval,
    after_intervals,
)


def interval(start_ms: int, release: int = 1, frames: int = 10, score: float = 0.5) -> ModelInterval:
    return ModelInterval(
        start_us=start_ms * 1000, model="digits", release=release, drift_score=score, drift_frames=frames
    )


def event(time_ms: int, kind: str, release: int = 1) -> Event:
    figures = {"score": 9.0, "frames": 500.0, "onset_us": 4e6, "signal.entropy": 4.0}
    return Event(time_us=time_ms * 1000, kind=kind, model="digits", release=release, figures=figures)


def test_a_model_without_a_monitor_has_no_state() -> None:
    assert after_interval(None, interval(1000, frames=0), 2000) is None


def test_an_alarm_stays_until_it_is_cleared() -> None:
    state = after_event(after_interval(None, interval(1000), 2000), event(5000, "drift_alarm"))
    assert state == DriftState(1, Level.DRIFT, 9.0, 500, 5000, {"entropy": 4.0})
    state = after_interval(state, interval(6000, score=7.0, frames=600), 7000)
    assert state == DriftState(1, Level.DRIFT, 7.0, 500, 5000, {"entropy": 4.0})
    state = after_event(state, event(8000, "drift_cleared"))
    assert state is not None
    assert (state.level, state.since_ms) == (Level.OK, 8000)


def test_a_repeated_alarm_keeps_its_beginning() -> None:
    first = after_event(None, event(5000, "drift_alarm"))
    again = after_event(first, event(9000, "drift_alarm"))
    assert again is not None
    assert again.since_ms == 5000


def test_another_release_starts_afresh() -> None:
    state = after_interval(after_event(None, event(5000, "drift_alarm")), interval(6000, release=2, frames=0), 7000)
    assert state == DriftState(2, Level.OK, 0.5, 0, 6000)


def test_the_rest_of_the_old_release_does_not_hide_an_alarm_of_the_new_one() -> None:
    alarm = after_event(None, event(5000, "drift_alarm", release=2))
    assert after_interval(alarm, interval(4000, release=1), 7000) == alarm


def test_a_clock_that_was_set_back_does_not_freeze_the_state() -> None:
    ahead = after_event(None, event(9_000_000, "drift_alarm", release=1))
    state = after_interval(ahead, interval(4000, release=2), 7000)
    assert state is not None
    assert state.release == 2


def test_other_events_and_odd_figures_change_nothing_wrongly() -> None:
    state = after_event(None, event(5000, "drift_warning"))
    assert after_event(state, Event(kind="install", model="digits")) == state
    odd = Event(time_us=1, kind="drift_alarm", model="digits", figures={"score": float("inf"), "frames": float("nan")})
    after = after_event(state, odd)
    assert after is not None
    assert (after.score, after.frames) == (0.0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_many_intervals_are_one_after_the_other(seed: int) -> None:
    draw = random.Random(seed)
    found = [
        interval(draw.randrange(9000), release=1 + (draw.random() < 0.2), frames=draw.randrange(3), score=draw.random())
        for _ in range(30)
    ]
    for begin in (None, DriftState(1, Level.DRIFT, 9.0, 500, draw.randrange(9000), {"entropy": 4.0})):
        state = begin
        for one in found:
            state = after_interval(state, one, 5000)
        assert after_intervals(begin, found, 5000) == state
