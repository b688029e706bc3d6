"""What a killed process leaves of drift: at most a minute less than it counted, and nothing that was reported."""

from pathlib import Path

from runtime_bundles import frames, make_bundle

from dsops.api.v1.telemetry_pb2 import TelemetryRecord
from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops_agent.drift.report import ReportSettings
from dsops_agent.moment import Moments
from dsops_agent.runtime.answer import Exchange
from dsops_agent.runtime.drift_watch import KEEP_EVERY_S
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import Sampling
from dsops_agent.runtime.unreported import Unreported, left_behind
from dsops_agent.runtime.watch import ModelWatch


class Bench:
    """A watch that keeps what it has not reported in a folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "run"
        self.folder.mkdir()
        made = make_bundle(tmp_path, release=3)
        self.clock = ManualClock()
        self.records: list[bytes] = []
        self._served = load_bundle(Bundle.open(made.path), made.digest, 1)
        self.watch = ModelWatch(
            self._served,
            Sampling(SampleSettings(), lambda: 0.5, SampleBudgets(SampleSettings(), self.clock)),
            self._put,
            self.clock,
            drift_enabled=True,
            reports=ReportSettings(suppress_below=0),
        )
        self.watch.keep_in(Unreported(self.folder, Moments(self.clock)))

    def ask(self, count: int) -> None:
        rows = frames(count, noise=0.01)
        answer = self._served.infer({"image": rows})
        self.watch.answered(answer)
        self.watch.observe([Exchange({"image": rows}, answer, "")])

    def reported(self) -> list[int]:
        """Return how many frames each report counts."""
        found = [TelemetryRecord.FromString(record) for record in self.records]
        return [sum(one.drift.signals[0].counts) for one in found if one.HasField("drift")]

    def _put(self, kind: Kind, record: bytes, urgent: bool) -> None:
        if kind is Kind.TELEMETRY:
            self.records.append(record)


def test_a_process_that_is_killed_leaves_what_it_had_not_reported_a_minute_ago(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask(6)
    bench.watch.end_interval()
    assert bench.reported() == [6]
    bench.clock.advance(KEEP_EVERY_S)
    bench.ask(5)
    bench.watch.end_interval()
    bench.ask(3)
    bench.watch.end_interval()
    assert bench.reported() == [6], "none is due"
    assert {path.stat().st_mode & 0o777 for path in bench.folder.iterdir()} == {0o600}

    (record,) = map(TelemetryRecord.FromString, left_behind(bench.folder))
    assert sum(record.drift.signals[0].counts) == 5
    assert record.drift.interval_ms == KEEP_EVERY_S * 1000
    assert record.moment.monotonic_us == int(bench.clock.monotonic_s() * 1e6), "when it was kept, not when it was read"
    assert left_behind(bench.folder) == [], "it is handed over once"


def test_what_is_reported_is_not_left_behind(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask(6)
    bench.watch.end_interval()
    bench.clock.advance(KEEP_EVERY_S)
    bench.ask(5)
    bench.watch.end_interval()
    bench.ask(3)
    bench.watch.finish()
    assert bench.reported() == [6, 8]
    assert left_behind(bench.folder) == []


def test_what_was_not_written_whole_is_removed_and_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.folder / ".drift-0123").write_bytes(b"\x0a\xff")
    assert left_behind(bench.folder) == []
    assert list(bench.folder.iterdir()) == []
    bench.folder.rmdir()
    bench.ask(6)
    bench.watch.end_interval()
    bench.clock.advance(KEEP_EVERY_S)
    bench.ask(6)
    bench.watch.end_interval()
    bench.watch.finish()
    assert bench.reported() == [6, 6]
