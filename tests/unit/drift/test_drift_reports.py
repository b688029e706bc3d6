"""What a device tells of drift: small, mergeable, private, and in words."""

import logging
import math
import random
import secrets
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from drift_streams import make_profile, one, shifted, stream
from pydantic import ValidationError

from dsops.profile import Profile, Signal
from dsops_agent.drift.explain import because
from dsops_agent.drift.monitor import DriftMonitor, Level, Watched
from dsops_agent.drift.privacy import discrete_laplace, noisy, suppressed
from dsops_agent.drift.report import MAX_BYTES, Interval, ReportSettings, Standing, make_report
from dsops_agent.drift.skew import FRAMES, Skew, SkewCheck, State

INTERVAL = Interval(1_767_225_600_000_000, 60_000, "digits", 7, "ab" * 32)
NAMES = ("confidence", "margin", "entropy", "predicted_class", "input_mean", "input_std", "input_gradient", "input_row")


def fed(profile: Profile, frames: list[dict[str, float]]) -> DriftMonitor:
    monitor = DriftMonitor(profile)
    for frame in frames:
        one(monitor, frame)
    return monitor


def standing(monitor: DriftMonitor, level: Level = Level.OK) -> Standing:
    skew = Skew(State.OK, FRAMES, 0.4)
    since = (1_767_225_600_000_000,) * 2 if level else (0, 0)
    return Standing(level, -0.5, monitor.frames, *since, -0.3, 3, 4, monitor.window_frames, monitor.stand(), skew)


def eight_signals(n_ref: int = 2000) -> Profile:
    counts = (0, *[n_ref // 10] * 10, 0)
    edges = tuple(float(number) for number in range(11))
    signals = [Signal(name=name, kind="ordinal", edges=edges, counts=counts) for name in NAMES]
    return Profile(n_ref=n_ref, signals=tuple(signals))


def test_the_window_counts_every_frame_in_its_bin_and_begins_anew() -> None:
    profile = make_profile(0)
    monitor = fed(profile, frames := stream(0, 700))
    for watched in monitor.stand():
        wanted = Counter(watched.signal.bin(frame[watched.signal.name]) for frame in frames)
        assert list(watched.counts) == [wanted[at] for at in range(len(watched.counts))]
    monitor.begin_window()
    assert monitor.window_frames == 0
    one(monitor, frames[0])
    assert {sum(watched.counts) for watched in monitor.stand()} == {1}


def test_a_report_of_eight_signals_takes_400_bytes() -> None:
    rng = random.Random(0)
    frames = [{name: rng.uniform(0.0, 10.0) for name in NAMES} for _ in range(500)]
    report = make_report(INTERVAL, standing(fed(eight_signals(), frames)), ReportSettings())
    assert [signal.name for signal in report.signals] == list(NAMES)
    assert all(sum(signal.counts) == 500 for signal in report.signals)
    assert report.ByteSize() <= 400


def test_a_report_of_whatever_profile_takes_two_kilobytes() -> None:
    rng = random.Random(0)
    names = [f"a_rather_long_name_of_a_signal_{number}" for number in range(64)]
    edges = tuple(float(number) for number in range(99))
    signals = [Signal(name=name, kind="ordinal", edges=edges, counts=(20,) * 100) for name in names]
    monitor = DriftMonitor(Profile(n_ref=2000, signals=tuple(signals)))
    drifting = set(names[40:45])
    columns = {n: [rng.uniform(-1, 20 if n in drifting else 99) for _ in range(600)] for n in names}
    monitor.feed(columns)
    report = make_report(INTERVAL, standing(monitor, Level.DRIFT), ReportSettings(suppress_below=0))
    assert MAX_BYTES - 300 < report.ByteSize() <= MAX_BYTES
    assert drifting <= {signal.name for signal in report.signals}, "those that differ most come first"


def test_counts_wait_until_there_are_enough_for_the_privacy_settings() -> None:
    few, many = fed(make_profile(0), stream(0, 499)), fed(make_profile(0), stream(0, 500))
    assert not any(signal.counts for signal in make_report(INTERVAL, standing(few), ReportSettings()).signals)
    told = make_report(INTERVAL, standing(many), ReportSettings())
    assert all(signal.counts for signal in told.signals)
    assert told.suppressed_below == 5
    assert all(count == 0 or count >= 5 for signal in told.signals for count in signal.counts)
    private = ReportSettings(epsilon=1.0)
    assert not any(signal.counts for signal in make_report(INTERVAL, standing(many), private).signals)
    enough = fed(make_profile(0), stream(0, 1000))
    told = make_report(INTERVAL, standing(enough), private)
    assert (told.epsilon, told.suppressed_below) == (1.0, 0)
    true = {watched.signal.name: list(watched.counts) for watched in enough.stand()}
    assert any(list(signal.counts) != true[signal.name] for signal in told.signals)
    assert all(abs(sum(signal.counts) - 1000) < 200 for signal in told.signals)
    names = [signal.name for signal in told.signals]
    assert names == ["entropy", "input_mean", "predicted_class"], "what entropy tells as well costs no epsilon"
    without = ReportSettings(suppress_below=0)
    assert all(signal.counts for signal in make_report(INTERVAL, standing(few), without).signals)


def test_noise_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing but noise"):
        ReportSettings(epsilon=0.001)


def test_small_counts_are_suppressed() -> None:
    assert suppressed([0, 1, 4, 5, 6], 5) == [0, 0, 0, 5, 6]
    assert suppressed([0, 1, 4], 0) == [0, 1, 4]


@pytest.mark.parametrize("epsilon", [Fraction(1, 8), Fraction(1), Fraction(5, 2)])
def test_the_noise_is_discrete_laplace(epsilon: Fraction) -> None:
    draws = 20_000
    chance = random.Random(1)
    found = Counter(discrete_laplace(epsilon, chance.randrange) for _ in range(draws))
    a = math.exp(-float(epsilon))
    statistic, bins = 0.0, 0
    for value in range(-60, 61):
        expected = draws * (1 - a) / (1 + a) * a ** abs(value)
        if expected >= 10:
            statistic += (found[value] - expected) ** 2 / expected
            bins += 1
    assert bins >= 3
    assert statistic < bins + 4 * math.sqrt(2 * bins)
    variance = sum(value * value * count for value, count in found.items()) / draws
    assert variance == pytest.approx(2 * a / (1 - a) ** 2, rel=0.08)


def test_the_noise_comes_from_the_systems_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noisy.__defaults__ == (secrets.randbelow,)
    assert discrete_laplace.__defaults__ == (secrets.randbelow,)


def test_the_onset_is_about_when_the_change_began() -> None:
    found = []
    for seed in range(5):
        monitor = fed(make_profile(seed), stream(seed, 900))
        assert monitor.onset is None
        for frame in shifted(stream(seed + 50, 400), 0.8):
            if one(monitor, frame).level is Level.DRIFT:
                break
        assert monitor.onset is not None
        found.append(monitor.onset)
    assert sorted(abs(onset - 900) for onset in found)[3] <= 40, found
    assert all(abs(onset - 900) <= 300 for onset in found), found


def test_the_e_process_of_an_epoch_grows_under_drift_only_and_begins_anew() -> None:
    calm = [fed(make_profile(seed), stream(seed, 1000)).log_e for seed in range(6)]
    assert max(calm) < math.log(20)
    monitor = fed(make_profile(1), stream(1, 700))
    monitor.begin_epoch()
    assert (monitor.log_e, monitor.epoch_frames) == (0.0, 0)
    for frame in shifted(stream(60, 300), 0.8):
        one(monitor, frame)
    assert monitor.log_e > math.log(1000)
    assert monitor.epoch_frames == 300


def test_one_step_of_the_e_process_by_hand() -> None:
    signal = Signal(name="confidence", kind="ordinal", edges=(0.5,), counts=(100_000, 100_000))
    monitor = DriftMonitor(Profile(n_ref=200_000, signals=(signal,), horizons=(3,), bet=0.5))
    for value in (0.9, 0.9, 0.1):
        one(monitor, {"confidence": value})
    # Ratios of 1, then 0.5 + 0.5 * 0.75 / 0.5, then of the lower bin 0.5 + 0.5 * 0.125 / 0.5; never set to zero.
    assert monitor.log_e == pytest.approx(math.log(1.25) + math.log(0.625), abs=1e-3)


def test_words_say_which_class_comes_more_often() -> None:
    profile = make_profile(2)
    frames = [{**frame, "predicted_class": 3.0} for frame in stream(9, 200)]
    by_name = {watched.signal.name: watched for watched in fed(profile, frames).stand()}
    labels = [f"digit {number}" for number in range(10)]
    assert because(by_name["predicted_class"], labels).startswith("digit 3 ")
    assert " instead of " in because(by_name["predicted_class"])
    assert "class 3" in because(by_name["predicted_class"])
    high = {watched.signal.name: watched for watched in fed(profile, shifted(stream(9, 200), 9.0)).stand()}
    assert because(high["margin"]).startswith("from ")


def test_words_name_marks_and_what_is_missing() -> None:
    counts = (0, 300, 200, 0, 0, 0)
    signal = Signal(name="input_1", kind="ordinal", edges=(0.0, 1.0, 2.0), marks=(0.0,), missing=True, counts=counts)
    usual = (0.0, 0.6, 0.4, 0.0, 0.0, 0.0)
    some = Watched(signal, 9.0, 1, usual, (0.0, 0.4, 0.3, 0.0, 0.0, 0.3), counts)
    assert because(some) == "missing 30% instead of 0%, 0 to 1 40% instead of 60%"
    assert because(replace(some, recent=(0.0, 0.3, 0.4, 0.0, 0.3, 0.0))).startswith("exactly 0 30% instead of 0%")
    assert because(replace(some, recent=(0.2, 0.4, 0.4, 0.0, 0.0, 0.0))).startswith("below 0 20% instead of 0%")
    assert because(replace(some, recent=usual)) == ""


def checked(profile: Profile, frames: list[dict[str, float]]) -> Skew:
    monitor, check = DriftMonitor(profile), SkewCheck()
    for start in range(0, len(frames), 500):
        part = frames[start : start + 500]
        monitor.feed({name: [frame[name] for frame in part] for name in part[0]})
        check.add(monitor.window_frames, monitor.stand())
        monitor.begin_window()
    return check.found


def test_frames_like_the_profiles_are_no_skew() -> None:
    found = [checked(make_profile(seed), stream(seed + 300, FRAMES)) for seed in range(20)]
    found += [checked(make_profile(seed), stream(seed + 300, FRAMES, hold=5)) for seed in range(15)]
    assert {one.frames for one in found} == {FRAMES}
    assert sum(one.state is State.SKEW for one in found) <= 1


def test_a_device_that_was_always_different_is_skewed_in_the_signals_that_differ() -> None:
    wrong = [{**frame, "margin": frame["margin"] * 1.5} for frame in stream(3, FRAMES)]
    found = checked(make_profile(3), wrong)
    assert (found.state, found.signals) == (State.SKEW, ("margin",))
    assert found.p_value < 1e-6


def test_skew_is_pending_before_there_are_enough_frames_and_final_after() -> None:
    profile, check = make_profile(4), SkewCheck()
    monitor = fed(profile, stream(4, FRAMES - 1))
    assert check.add(monitor.window_frames, monitor.stand()) == Skew(State.PENDING, FRAMES - 1)
    monitor.begin_window()
    one(monitor, stream(5, 1)[0])
    assert check.add(monitor.window_frames, monitor.stand()).state is State.OK
    before = check.found
    drifted = fed(profile, shifted(stream(6, 2000), 2.0))
    assert check.add(drifted.window_frames, drifted.stand()) is before


def test_the_report_tells_of_the_skew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    monitor = fed(make_profile(0), stream(0, 10))
    skewed = replace(standing(monitor), skew=Skew(State.SKEW, 1000, 1e-9, ("margin",)))
    told = make_report(INTERVAL, skewed, ReportSettings()).skew
    assert (told.state, told.frames, told.p_value, list(told.signals)) == ("skew", 1000, 1e-9, ["margin"])
    waiting = replace(standing(monitor), skew=Skew(State.PENDING, 10))
    assert make_report(INTERVAL, waiting, ReportSettings()).skew.state == "pending"
