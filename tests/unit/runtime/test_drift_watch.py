"""What the runtime tells of drift: an event a change, a report an interval, with causes, times and samples."""

import math
from datetime import timedelta

import numpy as np

from dsops.api.v1.telemetry_pb2 import DriftReport, Event, TelemetryRecord
from dsops.clock import ManualClock
from dsops.profile import Profile, Signal
from dsops_agent.drift.monitor import Level, Verdict
from dsops_agent.drift.report import USUAL_REPORTS, ReportSettings
from dsops_agent.runtime.collect import Identity, micros
from dsops_agent.runtime.drift_watch import EPOCH_S, KEEP_EVERY_S, DriftWatch

LABELS = ("cat", "dog")
EACH = ReportSettings(report_every_s=0.0)
ALL_OF_EACH = ReportSettings(suppress_below=0, report_every_s=0.0)
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Bench:
    """A watch of one quantity and one class, a frame a second."""

    def __init__(self, reports: ReportSettings = EACH) -> None:
        self.clock = ManualClock()
        self.start_us = micros(self.clock.now())
        value = Signal(name="confidence", kind="ordinal", edges=EDGES, counts=(0, 250, 250, 250, 250, 0))
        kind = Signal(name="predicted_class", kind="categorical", counts=(500, 500))
        profile = Profile(n_ref=1000, signals=(value, kind))
        identity = Identity("pets", 2, "ab" * 32)
        self.watch = DriftWatch(profile, {"confidence", "predicted_class"}, LABELS, identity, self.clock, reports)
        self.verdict = Verdict(0.0, Level.OK, 0)
        self.events: list[Event] = []
        self._number = 0

    def usual(self, frames: int) -> None:
        for _ in range(frames):
            self._number += 1
            self.frame((self._number * 0.6180339887) % 1.0, float(int(self._number * 1.4142135623 * 2) % 2))

    def frame(self, value: float, kind: float, *, kept: bool = False) -> None:
        self.clock.advance(1.0)
        (verdict,) = self.watch.feed({"confidence": [value], "predicted_class": [kind]})
        if verdict.level is not self.verdict.level:
            self.events.append(TelemetryRecord.FromString(self.watch.event(verdict)).event)
        self.verdict = verdict
        if kept:
            self.watch.kept([verdict.frames])

    def report(self, *, is_last: bool = False) -> DriftReport | None:
        data = self.watch.report(self.verdict, is_last=is_last)
        return TelemetryRecord.FromString(data).drift if data is not None else None


def test_an_alarm_says_since_when_why_and_how_many_samples_there_are() -> None:
    bench = Bench()
    bench.usual(600)
    for number in range(400):
        bench.frame(0.9, 1.0, kept=number % 10 == 0)
    event = bench.events[-1]
    assert (event.kind, event.model, event.release) == ("drift_alarm", "pets", 2)
    onset_s = (event.figures["onset_us"] - bench.start_us) / 1e6
    assert abs(onset_s - 600) <= 15
    first_frames = event.figures["frames"] - 600
    assert abs(event.figures["samples"] - math.ceil(first_frames / 10)) <= 2
    assert {"signal.confidence", "signal.predicted_class"} <= event.figures.keys()
    assert "predicted_class (dog" in event.message or "confidence (0.75 to 1" in event.message
    assert " instead of " in event.message

    report = bench.report()
    assert report is not None
    assert (report.state, report.since_us) == ("drift", event.time_us)
    assert report.onset_us == event.figures["onset_us"]
    assert report.log_e > math.log(1000)


def test_an_event_tells_no_shares_when_counts_are_private() -> None:
    bench = Bench(ReportSettings(epsilon=1.0, report_every_s=0.0))
    bench.usual(300)
    for _ in range(200):
        bench.frame(0.9, 1.0)
    assert bench.events[-1].kind == "drift_alarm"
    assert "%" not in bench.events[-1].message


def test_a_report_covers_the_frames_since_the_one_before() -> None:
    bench = Bench(ALL_OF_EACH)
    assert bench.report() is None, "nothing was seen"
    bench.usual(30)
    first = bench.report()
    bench.usual(40)
    second = bench.report()
    assert first is not None
    assert second is not None
    assert (first.state, first.since_us, first.onset_us) == ("ok", 0, 0)
    assert [sum(signal.counts) for signal in first.signals] == [30, 30]
    assert [sum(signal.counts) for signal in second.signals] == [40, 40]
    assert (first.start_us, first.interval_ms) == (bench.start_us, 30_000)
    assert (second.start_us, second.interval_ms) == (bench.start_us + 30_000_000, 40_000)
    assert bench.report() is None


def test_the_window_grows_until_privacy_allows_its_counts() -> None:
    bench = Bench()
    found = []
    for _ in range(4):
        bench.usual(200)
        report = bench.report()
        assert report is not None
        found.append((report.interval_ms // 1000, [sum(signal.counts) for signal in report.signals]))
    assert found == [(200, [0, 0]), (400, [0, 0]), (600, [600, 600]), (200, [0, 0])]


def test_an_epoch_ends_after_an_hour() -> None:
    bench = Bench(ALL_OF_EACH)
    bench.usual(100)
    bench.clock.advance(EPOCH_S)
    last = bench.report()
    bench.usual(10)
    first = bench.report()
    assert last is not None
    assert first is not None
    assert (last.epoch_us, last.epoch_frames) == (bench.start_us, 100)
    assert (first.epoch_us, first.epoch_frames) == (micros(bench.clock.now() - timedelta(seconds=10)), 10)


def test_nothing_new_is_reported_now_and_then_and_what_is_left_at_the_end() -> None:
    bench = Bench(ReportSettings(suppress_below=0))
    bench.usual(1000)
    assert bench.report() is not None, "the first, and the check of the first frames"
    at_s = []
    for interval in range(1, 201):
        bench.usual(10)
        if bench.report() is not None:
            at_s.append(10 * interval)
    assert at_s == [900, 1800]
    bench.clock.advance(1000.0)
    late = bench.report()
    assert late is not None, "frames of before a pause are told although none comes"
    assert [sum(signal.counts) for signal in late.signals] == [200, 200]
    bench.usual(7)
    assert bench.report() is None
    last = bench.report(is_last=True)
    assert last is not None
    assert [sum(signal.counts) for signal in last.signals] == [7, 7]
    assert bench.report(is_last=True) is None, "nothing came since"


def test_a_change_is_reported_with_the_interval_that_it_came_in() -> None:
    bench = Bench(USUAL_REPORTS)
    bench.usual(1000)
    assert bench.report() is not None
    told = Level.OK
    for _interval in range(60):
        for _frame in range(10):
            bench.frame(0.9, 1.0)
        report = bench.report()
        if bench.verdict.level is not told:
            assert report is not None
            assert report.state == bench.verdict.level.name.lower()
            told = bench.verdict.level
    assert told is Level.DRIFT
    for _interval in range(20):
        for _frame in range(10):
            bench.frame(0.9, 1.0)
        assert bench.report() is None, "drift stays until another release runs, and is no news"


def test_a_pending_check_of_skew_is_judged_with_its_thousandth_frame() -> None:
    bench = Bench(ReportSettings(report_every_s=5000.0))
    found: list[tuple[int, str]] = []
    for interval in range(1, 21):
        bench.usual(50)
        if (report := bench.report()) is not None:
            found.append((50 * interval, report.skew.state))
    assert found == [(50, "pending"), (1000, "ok")]


def test_frames_that_are_too_few_to_be_told_do_not_bring_the_check_of_skew_nearer() -> None:
    bench = Bench(ReportSettings(report_every_s=700.0))
    found: list[int] = []
    for interval in range(1, 26):
        bench.usual(50)
        if bench.report() is not None:
            found.append(50 * interval)
    assert found == [50, 750, 1250], "the first, 700 s later, and 500 frames after that"


def test_a_device_whose_frames_are_as_usual_costs_less_than_100_kilobytes_a_day() -> None:
    """A quarter of a day, a frame a second, ten signals."""
    rng = np.random.default_rng(3)
    names = [f"a_signal_{number}" for number in range(10)]
    edges = tuple(np.linspace(0, 1, 11).tolist())
    signals = [Signal(name=name, kind="ordinal", edges=edges, counts=(0, *[200] * 10, 0)) for name in names]
    clock = ManualClock()
    identity = Identity("pets", 2, "ab" * 32)
    profile = Profile(n_ref=2000, signals=tuple(signals))
    watch = DriftWatch(profile, set(names), LABELS, identity, clock, USUAL_REPORTS)
    spent, made, levels = 0, 0, set[Level]()
    for _interval in range(6 * 360):
        verdicts = watch.feed({name: rng.random(10).tolist() for name in names})
        clock.advance(10.0)
        levels.add(verdicts[-1].level)
        if (report := watch.report(verdicts[-1])) is not None:
            spent, made = spent + len(report), made + 1
    assert levels == {Level.OK}
    assert 24 <= made <= 40
    assert spent <= 25_000


def test_the_first_frames_are_checked_for_skew_once() -> None:
    bench = Bench()
    bench.usual(600)
    pending = bench.report()
    bench.usual(600)
    judged = bench.report()
    assert pending is not None
    assert judged is not None
    assert (pending.skew.state, pending.skew.frames) == ("pending", 600)
    assert (judged.skew.state, judged.skew.frames) == ("ok", 1200)
    upside_down = Bench()
    for number in range(1100):
        upside_down.frame(number % 10 / 10, 1.0)
    skewed = upside_down.report()
    assert skewed is not None
    assert skewed.skew.state == "skew"
    assert "predicted_class" in skewed.skew.signals


def test_counts_that_are_not_reported_are_told_once_a_minute_and_change_nothing() -> None:
    seldom = ReportSettings(suppress_below=0, report_every_s=3600.0)
    bench, other = Bench(seldom), Bench(seldom)
    for one in (bench, other):
        one.usual(10)
        assert one.report() is not None, "the first is due at once"
        one.usual(50)
    assert bench.watch.unreported(bench.verdict) is None, "not a minute yet"
    bench.usual(10)
    other.usual(10)
    data = bench.watch.unreported(bench.verdict)
    assert data is not None
    left = TelemetryRecord.FromString(data).drift
    assert [sum(signal.counts) for signal in left.signals] == [60, 60]
    assert (left.start_us, left.interval_ms) == (bench.start_us + 10_000_000, 60_000)
    assert bench.watch.unreported(bench.verdict) is None
    for one in (bench, other):
        one.usual(100)
    assert bench.report(is_last=True) == other.report(is_last=True)
    bench.clock.advance(KEEP_EVERY_S)
    assert bench.watch.unreported(bench.verdict) is None, "all is reported"


def test_counts_that_privacy_holds_back_are_not_kept_either() -> None:
    bench = Bench(ReportSettings(report_every_s=3600.0))
    bench.usual(10)
    assert bench.report() is not None
    bench.usual(480)
    assert bench.watch.unreported(bench.verdict) is None
    bench.usual(10)
    assert bench.watch.unreported(bench.verdict) is not None
