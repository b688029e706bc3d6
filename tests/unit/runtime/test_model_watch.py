"""What is recorded of a served bundle: intervals, events, samples."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import LABELS, SHAPE, frames, make_bundle

from dsops.api.v1 import samples_pb2, telemetry_pb2
from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops_agent.runtime.answer import Answer, Exchange
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import MAX_SAMPLE_BYTES, Sampling
from dsops_agent.runtime.watch import ModelWatch


class Bench:
    """A watch whose records are kept, under a clock that is moved by hand."""

    def __init__(
        self, folder: Path, *, drift: bool = True, chance: float = 0.9, labels: tuple[str, ...] = LABELS
    ) -> None:
        bundle = make_bundle(folder, release=3, labels=labels)
        self.served: ServedModel = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
        self.clock = ManualClock()
        self.records: list[tuple[Kind, bytes, bool]] = []
        settings = SampleSettings(inputs=True, uncertain_below=0.6, min_gap_s=0.0, period_s=0.0)
        sampling = Sampling(settings, lambda: chance, SampleBudgets(settings, self.clock))
        self.watch = ModelWatch(self.served, sampling, self.put, self.clock, drift_enabled=drift)

    def put(self, kind: Kind, record: bytes, urgent: bool) -> None:
        self.records.append((kind, record, urgent))

    def ask(self, rows: Array, request_id: str = "") -> None:
        self.show({"image": rows}, self.served.infer({"image": rows}), request_id)

    def show(self, inputs: Mapping[str, Array], answer: Answer, request_id: str = "") -> None:
        self.watch.answered(answer)
        self.watch.observe([Exchange(inputs, answer, request_id)])

    def telemetry(self) -> list[telemetry_pb2.TelemetryRecord]:
        """All but the drift reports, which accompany intervals."""
        return [record for record in self._telemetry() if not record.HasField("drift")]

    def reports(self) -> list[telemetry_pb2.DriftReport]:
        return [record.drift for record in self._telemetry() if record.HasField("drift")]

    def _telemetry(self) -> list[telemetry_pb2.TelemetryRecord]:
        return [telemetry_pb2.TelemetryRecord.FromString(r) for kind, r, _ in self.records if kind is Kind.TELEMETRY]

    def samples(self) -> list[samples_pb2.SampleRecord]:
        return [samples_pb2.SampleRecord.FromString(r) for kind, r, _ in self.records if kind is Kind.SAMPLES]


def test_an_interval_adds_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.clock.advance(2.5)
    bench.ask(frames(6, noise=0.01))
    bench.watch.failed()
    bench.clock.advance(7.5)
    assert bench.watch.end_interval()
    (record,) = bench.telemetry()
    interval = record.model
    assert (interval.start_us, interval.interval_ms) == (1767225600_000_000, 10_000)
    assert (interval.model, interval.release, interval.digest) == ("compass", 3, bench.served.digest)
    assert (interval.count, interval.errors, list(interval.labels)) == (6, 1, [2, 2, 1, 1])
    assert interval.latency_us.count == 6
    assert 900_000 < interval.confidence_ppm.min <= interval.confidence_ppm.max <= 1_000_000
    assert interval.drift_frames == 6


def test_a_quiet_interval_gives_no_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert not bench.watch.end_interval()
    bench.ask(frames(1))
    assert bench.watch.end_interval()
    assert not bench.watch.end_interval()
    assert len(bench.telemetry()) == 1


def test_totals_go_on_over_intervals(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask(frames(3))
    bench.watch.end_interval()
    bench.ask(frames(2))
    bench.watch.failed()
    assert (bench.watch.totals.requests, bench.watch.totals.errors, bench.watch.totals.drift_level) == (5, 1, "ok")


def test_an_uncertain_frame_is_kept_as_it_was_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    north, east = frames(2, noise=0.01)
    rows = np.stack([north, (north + east) / 2])
    bench.ask(rows, "r-9")
    (sample,) = bench.samples()
    assert (sample.reason, sample.request_id, sample.model, sample.release) == ("uncertain", "r-9", "compass", 3)
    assert (sample.input.datatype, list(sample.input.shape)) == ("FP32", [1, *SHAPE])
    assert sample.input.data == rows[1:].tobytes()
    scores = np.frombuffer(sample.output.data, "<f4")
    assert sample.score == pytest.approx(1 - scores.max())
    assert sample.predicted == LABELS[int(scores.argmax())]
    assert list(sample.output.shape) == [1, 4]


def test_stored_input_is_kept_as_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, chance=0.0)
    stored = np.arange(16, dtype=np.int8).reshape(1, *SHAPE)
    bench.ask(stored)
    sample = bench.samples()[0]
    assert (sample.reason, sample.inclusion) == ("random", 0.01)
    assert (sample.input.datatype, sample.input.data) == ("INT8", stored.tobytes())


def test_drift_gives_one_urgent_event_a_transition(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask(frames(200, seed=1))
    strange = np.clip(frames(600, seed=2) * 0.5 + 0.4, 0, 1).astype(np.float32)
    for start in range(0, 600, 20):
        bench.ask(strange[start : start + 20])
    events = [record.event for record in bench.telemetry()]
    assert [event.kind for event in events] in (["drift_alarm"], ["drift_warning", "drift_alarm"])
    alarm = events[-1]
    assert (alarm.model, alarm.release, alarm.digest) == ("compass", 3, bench.served.digest)
    signals = {name: value for name, value in alarm.figures.items() if name.startswith("signal.")}
    assert len(signals) == 10
    assert max(signals, key=lambda name: signals[name]).removeprefix("signal.") in alarm.message
    assert alarm.figures["score"] > 13.8
    assert all(urgent for kind, _, urgent in bench.records if kind is Kind.TELEMETRY)
    assert "drift" in {sample.reason for sample in bench.samples()}
    assert bench.watch.totals.drift_level == "drift"


def test_without_drift_monitor_nothing_of_it_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, drift=False)
    bench.ask(np.ones((300, *SHAPE), np.float32))
    bench.watch.end_interval()
    (record,) = bench.telemetry()
    assert (record.model.drift_frames, record.model.drift_score) == (0, 0.0)


def test_a_huge_frame_is_never_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, chance=0.0)
    answer = bench.served.infer({"image": frames(1)})
    huge = np.zeros((1, MAX_SAMPLE_BYTES // 4 + 1), np.float32)
    bench.show({"image": huge[:, :, None, None]}, answer)
    assert bench.samples() == []
