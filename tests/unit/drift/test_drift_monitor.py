"""The drift monitor on streams whose truth is known."""

import logging
import math

import numpy as np
import pytest
from drift_streams import make_profile, one, shifted, stream
from numpy.typing import NDArray

from dsops.profile import Profile, Signal
from dsops_agent.drift.correlation import correlation_time, thinnings
from dsops_agent.drift.monitor import DriftMonitor, Level, slack


def first_alarm(monitor: DriftMonitor, frames: list[dict[str, float]]) -> int | None:
    for number, frame in enumerate(frames):
        if one(monitor, frame).level is Level.DRIFT:
            return number
    return None


def test_one_step_by_hand() -> None:
    # Two equal bins and one horizon of 3 frames: the memory's rate is 2 / (3 + 1) = 0.5, the bet is 0.5.
    signal = Signal(name="confidence", kind="ordinal", edges=(0.5,), counts=(100, 100))
    monitor = DriftMonitor(Profile(n_ref=200, signals=(signal,), horizons=(3,), bet=0.5))
    kappa = slack(2, 200, 0.5)
    assert one(monitor, {"confidence": 0.9}).score == pytest.approx(math.log(1.0) - kappa)
    # The upper bin now has 0.5 * 0.5 + 0.5 = 0.75 of the recent histogram, against 0.5 of the reference.
    second = math.log(0.5 + 0.5 * 0.75 / 0.5) - kappa
    assert one(monitor, {"confidence": 0.9}).score == pytest.approx(second)
    third = second + math.log(0.5 + 0.5 * 0.875 / 0.5) - kappa
    assert one(monitor, {"confidence": 0.9}).score == pytest.approx(third)
    below = math.log(0.5 + 0.5 * 0.0625 / 0.5) - kappa
    assert one(monitor, {"confidence": 0.1}).score == pytest.approx(third + below)
    assert monitor.contributions() == {"confidence": pytest.approx(third + below)}


def test_the_slack_is_what_the_reference_error_can_earn() -> None:
    # 0.375 times the 99 % quantile of chi-square with 11 degrees of freedom, 24.725, over 500 frames.
    assert slack(12, 500, 0.5) == pytest.approx(0.375 * 24.725 / 500, rel=0.01)


def test_no_false_alarm_on_streams_like_the_reference() -> None:
    alarms = [first_alarm(DriftMonitor(make_profile(seed)), stream(seed, 2500)) for seed in range(6)]
    assert alarms == [None] * 6


def test_no_false_alarm_when_every_frame_comes_five_times() -> None:
    monitors = [DriftMonitor(make_profile(seed)) for seed in range(6)]
    alarms = [first_alarm(monitor, stream(seed, 2500, hold=5)) for seed, monitor in enumerate(monitors)]
    assert alarms == [None] * 6
    assert all(5 <= thin <= 11 for monitor in monitors for thin in monitor.thin)


def test_independent_frames_are_all_used() -> None:
    monitor = DriftMonitor(make_profile(1))
    for frame in stream(1, 600):
        one(monitor, frame)
    assert monitor.thin == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("start", [0, 150, 400, 800])
def test_a_shift_is_found_fast_wherever_it_begins(start: int) -> None:
    monitor = DriftMonitor(make_profile(2))
    assert first_alarm(monitor, stream(2, start)) is None
    alarm = first_alarm(monitor, shifted(stream(3, 400), 1.0))
    assert alarm is not None
    assert alarm <= 150


def test_a_shift_in_a_stream_of_repeated_frames_is_found() -> None:
    monitor = DriftMonitor(make_profile(3))
    assert first_alarm(monitor, stream(4, 1000, hold=5)) is None
    alarm = first_alarm(monitor, shifted(stream(5, 1500, hold=5), 1.0))
    assert alarm is not None
    assert alarm <= 600


def test_the_shifted_signal_leads_the_contributions() -> None:
    monitor = DriftMonitor(make_profile(4))
    verdict = None
    for frame in stream(6, 600):
        verdict = one(monitor, {**frame, "margin": frame["margin"] + 2.0})
    assert verdict is not None
    assert verdict.level is Level.DRIFT
    assert next(iter(verdict.signals)) == "margin"
    assert verdict.signals["margin"] > 10 * max(v for n, v in verdict.signals.items() if n != "margin")
    assert verdict.frames == 600


def test_an_alarm_stays_until_a_reset_and_scoring_goes_on() -> None:
    monitor = DriftMonitor(make_profile(5))
    for frame in shifted(stream(7, 300), 2.0):
        high = one(monitor, frame)
    assert high.level is Level.DRIFT
    for frame in stream(8, 1500):
        calm = one(monitor, frame)
    assert calm.level is Level.DRIFT
    assert calm.score < high.score / 2
    monitor.reset()
    after = one(monitor, stream(9, 1)[0])
    assert (after.level, after.frames, after.signals) == (Level.OK, 1, {})


def test_the_warning_comes_before_the_alarm() -> None:
    monitor = DriftMonitor(make_profile(6))
    levels = [one(monitor, frame).level for frame in stream(10, 300) + shifted(stream(11, 300), 0.7)]
    assert levels.index(Level.WARNING) < levels.index(Level.DRIFT)


def test_values_that_are_no_numbers_fall_outside_the_reference() -> None:
    monitor = DriftMonitor(make_profile(7))
    assert first_alarm(monitor, stream(12, 700)) is None
    broken = [{**frame, "entropy": math.nan, "predicted_class": math.inf} for frame in stream(13, 100)]
    alarm = first_alarm(monitor, broken)
    assert alarm is not None
    assert next(iter(monitor.contributions())) == "entropy"


def test_a_signal_that_is_stuck_from_the_start_is_found_though_it_counts_rarely() -> None:
    monitor = DriftMonitor(make_profile(7))
    alarm = first_alarm(monitor, [{**frame, "margin": 50.0} for frame in stream(12, 1000)])
    assert alarm is not None
    assert monitor.thin[1] == 100


def test_an_unknown_signal_is_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    known = Signal(name="confidence", kind="ordinal", edges=(0.5,), counts=(100, 100))
    strange = Signal(name="humidity", kind="ordinal", edges=(0.5,), counts=(100, 100))
    with caplog.at_level(logging.WARNING):
        monitor = DriftMonitor(Profile(n_ref=200, signals=(known, strange)), {"confidence", "margin"})
        one(monitor, {"confidence": 0.2})
        one(monitor, {"confidence": 0.7})
    assert monitor.watched == ("confidence",)
    assert [record.getMessage() for record in caplog.records if "humidity" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_a_profile_without_a_known_signal_gives_no_verdict() -> None:
    strange = Signal(name="humidity", kind="ordinal", edges=(0.5,), counts=(100, 100))
    verdict = one(DriftMonitor(Profile(n_ref=200, signals=(strange,)), {"confidence"}), {"confidence": 0.1})
    assert (verdict.score, verdict.level, verdict.frames) == (0.0, Level.OK, 0)


def test_the_state_is_small() -> None:
    monitor = DriftMonitor(make_profile(8))
    assert monitor.state_bytes <= 16 * 1024
    for frame in stream(13, 600):
        one(monitor, frame)
    assert monitor.state_bytes <= 4 * 1024


def as_series(values: NDArray[np.int64]) -> NDArray[np.int16]:
    return values.astype(np.int16)


@pytest.mark.parametrize("categorical", [False, True])
def test_correlation_time_of_repeated_values(categorical: bool) -> None:
    values = np.random.default_rng(3).integers(0, 10, 400)
    # Held h times, lag k agrees in (h - k) / h of the cases: 1 + 2 * sum((h - k) / h) = h.
    for hold in (1, 3, 8):
        time = correlation_time(as_series(np.repeat(values, hold)), categorical=categorical)
        assert time == pytest.approx(hold, rel=0.25, abs=0.2)


def test_thinning_of_streams_too_short_or_without_change() -> None:
    assert thinnings(as_series(np.arange(19) % 2)[:, None], [False]) == [1]
    assert thinnings(as_series(np.zeros(300, np.int64))[:, None], [False]) == [100]


def test_a_weak_correlation_is_summed_as_far_as_the_strongest() -> None:
    alone, beside = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scenes = np.repeat(rng.integers(0, 10, 60), rng.geometric(1 / 20, 60))[:600]
        weak = np.digitize(scenes / 10 + rng.normal(0.0, 0.6, len(scenes)), np.linspace(-1, 2, 9))
        both = np.stack([scenes, weak], axis=1)
        alone += thinnings(both[:, 1:], [False])
        beside.append(thinnings(both, [True, False])[1])
    # Scenes last 20 frames, and explain a fifth of the weak signal's variance: about 1 + 0.2 * 38 frames are one.
    assert np.mean(beside) >= 6
    assert np.mean(alone) < 0.75 * np.mean(beside)
