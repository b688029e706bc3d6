"""What the runtime tells of drift: an event a change, a report an interval, with causes, times and samples."""

import math
from datetime import timedelta

from dsops.api.v1.telemetry_pb2 import DriftReport, Event, TelemetryRecord
from dsops.clock import ManualClock
from dsops.profile import Profile, Signal
from dsops_agent.drift.monitor import Level, Verdict
from dsops_agent.drift.report import USUAL_PRIVACY, PrivacySettings
from dsops_agent.runtime.collect import Identity, micros
from dsops_agent.runtime.drift_watch import EPOCH_S, DriftWatch

LABELS = ("cat", "dog")
EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Bench:
    """A watch of one quantity and one class, a frame a second."""

    def __init__(self, privacy: PrivacySettings = USUAL_PRIVACY) -> None:
        self.clock = ManualClock()
        self.start_us = micros(self.clock.now())
        value = Signal(name="confidence", kind="ordinal", edges=EDGES, counts=(0, 250, 250, 250, 250, 0))
        kind = Signal(name="predicted_class", kind="categorical", counts=(500, 500))
        profile = Profile(n_ref=1000, signals=(value, kind))
        identity = Identity("pets", 2, "ab" * 32)
        self.watch = DriftWatch(profile, {"confidence", "predicted_class"}, LABELS, identity, self.clock, privacy)
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

    def report(self) -> DriftReport | None:
        data = self.watch.report(self.verdict)
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
    bench = Bench(PrivacySettings(epsilon=1.0))
    bench.usual(300)
    for _ in range(200):
        bench.frame(0.9, 1.0)
    assert bench.events[-1].kind == "drift_alarm"
    assert "%" not in bench.events[-1].message


def test_a_report_covers_the_frames_since_the_one_before() -> None:
    bench = Bench(PrivacySettings(suppress_below=0))
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
    bench = Bench(PrivacySettings(suppress_below=0))
    bench.usual(100)
    bench.clock.advance(EPOCH_S)
    last = bench.report()
    bench.usual(10)
    first = bench.report()
    assert last is not None
    assert first is not None
    assert (last.epoch_us, last.epoch_frames) == (bench.start_us, 100)
    assert (first.epoch_us, first.epoch_frames) == (micros(bench.clock.now() - timedelta(seconds=10)), 10)


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
