"""Drift of a fleet over real reports: the newest of each device, the fleet's judgement, and a period added up."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport, SkewCheck, TelemetryRecord
from dsops.clock import ManualClock
from dsops.errors import InvalidInput
from dsops.profile import Profile, Signal
from dsops_controller.dataops.drift import fleet_view
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.drift.fleet_drift import noise_variance
from dsops_controller.dataops.drift.fleet_view import FleetView, by_model
from dsops_controller.dataops.drift.standing import joined
from dsops_controller.dataops.history import Span
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.testing import DIGEST, accept, drift_event, heartbeat, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROFILE = Profile(
    n_ref=1000,
    signals=(
        Signal(name="predicted_class", kind="categorical", counts=(500, 300, 200)),
        Signal(name="entropy", kind="ordinal", edges=(1.0,), counts=(900, 100)),
    ),
)
USUAL = {"predicted_class": (50, 30, 20), "entropy": (90, 10)}
CHANGED = {"predicted_class": (10, 30, 60), "entropy": (90, 10)}


class Known:
    """The one bundle that this controller has."""

    def profile(self, digest: str) -> Profile | None:
        return PROFILE if digest == DIGEST else None

    def labels(self, digest: str) -> Sequence[str]:
        return ("cat", "dog", "fox") if digest == DIGEST else ()


class Site:
    """A store with devices that report."""

    def __init__(self, folder: Path) -> None:
        self.db = Database(f"sqlite:///{folder}/state.db")
        with self.db.write() as connection:
            metadata.create_all(connection)
        self.clock = ManualClock(START)
        self.lake = Lake(self.db, folder / "lake")
        self.lake.open()
        self.inbox = Inbox(self.db, self.clock)
        self.inbox.start()
        self.view = FleetView(self.db, self.lake, Known())
        self._seqs: dict[str, int] = {}

    def put(self, device: str, *records: TelemetryRecord) -> None:
        first = self._seqs.get(device, 0) + 1
        self._seqs[device] = first + len(records) - 1
        stream = device.encode().ljust(16, b"-")
        with self.db.write() as connection:
            accept(connection, [device])
        self.inbox.put(device, received(telemetry_batch(stream, range(first, first + len(records)), records)))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.inbox.stop()
    made.db.close()


def us(minutes: float = 0.0) -> int:
    return round((START + timedelta(minutes=minutes)).timestamp() * 1_000_000)


def report(
    minutes: float,
    counts: dict[str, tuple[int, ...]] = USUAL,
    *,
    state: str = "ok",
    log_e: float = 0.0,
    epoch: float = 0.0,
    epsilon: float = 0.0,
    digest: str = DIGEST,
    onset: float | None = None,
    skew: SkewCheck | None = None,
) -> TelemetryRecord:
    signals = [SignalReport(name=name, cusum=1.5, counts=each, thinning=0) for name, each in counts.items()]
    return TelemetryRecord(
        drift=DriftReport(
            start_us=us(minutes), interval_ms=60_000, model="digits", release=1, digest=digest, state=state, score=2.0,
            frames=100, since_us=us(minutes), onset_us=0 if onset is None else us(onset), signals=signals, log_e=log_e,
            epoch_us=us(epoch), epoch_frames=100, epsilon=epsilon, skew=skew,
        )
    )  # fmt: skip


def test_the_newest_report_says_how_a_device_stands(site: Site) -> None:
    skew = SkewCheck(state="skew", frames=1000, p_value=1e-5, signals=["entropy"])
    site.put("cam-1", report(0), report(1, CHANGED, state="drift", log_e=9.0, onset=0.5, skew=skew))
    site.put("cam-2", report(0))
    worst, other = site.view.standings.newest()
    assert (worst.device, worst.level, worst.since) == ("cam-1", Level.DRIFT, START + timedelta(minutes=1))
    assert worst.onset == START + timedelta(seconds=30)
    assert worst.reported == START + timedelta(minutes=2)
    assert worst.log_e == pytest.approx(math.log((math.exp(9.0) + 1) / 2))
    assert worst.p_value == pytest.approx(2 / (math.exp(9.0) + 1))
    assert (worst.skew.state, worst.skew.signals) == ("skew", ("entropy",))
    assert (other.device, other.level, other.p_value) == ("cam-2", Level.OK, 1.0)
    assert [row.device for row in site.view.standings.newest(device="cam-2")] == ["cam-2"]
    assert site.view.standings.newest("none") == []


def test_the_evidence_of_the_epoch_before_counts_half(site: Site) -> None:
    site.put("cam-1", report(0, log_e=12.0), report(61, log_e=0.5, epoch=60.0))
    (row,) = site.view.standings.newest()
    assert row.log_e == pytest.approx(joined(0.5, 12.0)) == pytest.approx(12.0 - math.log(2), abs=1e-3)
    site.put("cam-1", report(62, log_e=0.7, epoch=60.0), report(121, log_e=0.1, epoch=120.0))
    (row,) = site.view.standings.newest()
    assert row.log_e == pytest.approx(joined(0.1, 0.7))
    site.put("cam-1", report(122, epoch=120.0, digest="cd" * 32, log_e=0.2))  # another bundle begins at nothing
    (row,) = site.view.standings.newest()
    assert row.log_e == pytest.approx(joined(0.2, 0.0))


def test_an_event_tells_sooner_than_the_report(site: Site) -> None:
    site.put("cam-1", report(0), drift_event(us(1.5)))
    assert site.view.standings.newest()[0].level is Level.DRIFT
    site.put("cam-1", report(2, state="ok"))  # the event of the return was lost
    assert site.view.standings.newest()[0].level is Level.OK
    site.put("cam-9", drift_event(us(1)))
    (only,) = site.view.standings.newest(device="cam-9")
    assert (only.level, only.reported, list(only.signals)) == (Level.DRIFT, None, ["entropy"])


def test_numbers_that_are_none_do_no_harm(site: Site) -> None:
    bad = SkewCheck(state="pending", p_value=math.nan)
    site.put("cam-1", report(0, log_e=math.nan), report(1, log_e=math.inf, skew=bad))
    (row,) = site.view.standings.newest()
    assert (row.level, row.skew.state, row.skew.p_value) == (Level.OK, "pending", 1.0)
    assert math.isfinite(row.log_e)


def test_of_many_devices_those_are_named_whose_evidence_stands_the_correction(site: Site) -> None:
    for number in range(40):
        site.put(f"cam-{number}", report(0, state="drift" if number < 4 else "ok", log_e=8.0 if number < 4 else 0.2))
    site.put("cam-40", report(0, log_e=3.0))  # 20 to 1, and not enough among 41
    (model,) = site.view.models(site.clock.now())
    assert sorted(model.drifted) == ["cam-0", "cam-1", "cam-2", "cam-3"]
    assert (model.devices, model.states) == (41, {"ok": 37, "warning": 0, "drift": 4})
    assert model.share == pytest.approx(4 / 41)
    (strict,) = by_model(site.view.standings.newest(), site.clock.now(), fdr=0.001)
    assert strict.drifted == ()


def test_a_device_that_was_not_heard_of_for_a_week_stays_in_the_list_and_counts_no_more(site: Site) -> None:
    """By the controller's clock: what a device that was away sends late is news, whatever time it tells."""
    site.put("cam-1", report(0, state="drift", log_e=20.0))
    site.put("cam-2", drift_event(us(0)))
    site.clock.advance(6.5 * 86_400)
    site.put("cam-3", report(1))
    site.clock.advance(86_400)
    (model,) = site.view.models(site.clock.now())
    assert (model.devices, model.stale, model.drifted, model.share) == (1, 2, (), 0.0)
    assert model.states == {"ok": 1, "warning": 0, "drift": 0}
    found = {one.device: one for one in site.view.standings.newest()}
    assert set(found) == {"cam-1", "cam-2", "cam-3"}
    assert found["cam-1"].heard == found["cam-2"].heard == START
    assert found["cam-3"].heard == START + timedelta(days=6.5)
    site.put("cam-1", report(2, state="drift", log_e=20.0))
    (model,) = site.view.models(site.clock.now())
    assert (model.devices, model.stale, model.drifted) == (2, 1, ("cam-1",))


@pytest.mark.parametrize("flushed", [False, True])
def test_a_period_adds_the_devices_histograms_up_against_the_profile(site: Site, flushed: bool) -> None:
    for number in range(3):
        changed = CHANGED if number < 2 else USUAL
        state = "drift" if number == 0 else "ok"
        site.put(f"cam-{number}", report(0, changed, state=state), report(1, changed), report(500))
    if flushed:
        site.lake.flush()
    (bundle,) = site.view.report("digits", Span(START, START + timedelta(minutes=10)))
    assert (bundle.devices, bundle.reports, bundle.counted, bundle.frames) == (3, 6, 6, 600)
    assert (bundle.states, bundle.alarmed) == ({"ok": 3, "warning": 0, "drift": 0}, 1)
    first, second = bundle.signals
    assert (first.signal, first.is_different, second.is_different) == ("predicted_class", True, False)
    assert first.seen == pytest.approx((140 / 600, 180 / 600, 280 / 600))
    assert sorted((one.bin, one.expected, one.seen) for one in first.changes) == [
        ("cat", 0.5, pytest.approx(140 / 600)),
        ("fox", 0.2, pytest.approx(280 / 600)),
    ]
    assert bundle.p_value is not None
    assert bundle.p_value < 1e-9
    (one,) = site.view.report("digits", Span(START, START + timedelta(minutes=10)), "cam-2")
    assert (one.devices, one.frames, one.signals[0].changes) == (1, 200, ())


def test_noise_that_devices_add_stands_in_the_variance(site: Site) -> None:
    site.put("cam-1", report(0, epsilon=0.5), report(1, epsilon=0.5))
    (bundle,) = site.view.report("digits", Span(START, START + timedelta(minutes=10)))
    assert bundle.signals[0].noise_variance == pytest.approx(2 * noise_variance(0.25))


def test_what_cannot_be_tested_is_said(site: Site) -> None:
    site.put("cam-1", report(0, digest="cd" * 32))
    site.put("cam-2", report(0, {"entropy": ()}))
    found = {one.digest: one for one in site.view.report("digits", Span(START, START + timedelta(minutes=10)))}
    assert "does not have" in found["cd" * 32].why_no_test
    assert "no report had counts" in found[DIGEST].why_no_test
    assert all(one.p_value is None for one in found.values())


def test_a_period_of_too_many_reports_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_view, "MAX_REPORTS", 1)
    site.put("cam-1", report(0), report(1))
    with pytest.raises(InvalidInput, match="2 reports"):
        site.view.report("digits", Span(START, START + timedelta(minutes=10)))


def test_the_longest_silent_device_comes_first(site: Site) -> None:
    site.put("cam-2", heartbeat(us()))
    site.clock.advance(60)
    site.put("cam-1", heartbeat(us(1)), heartbeat(us(1.5)))
    first, second = site.view.standings.beats()
    assert (first.device, first.received, second.device) == ("cam-2", START, "cam-1")
    assert (second.time, second.interval_s) == (START + timedelta(seconds=90), 30.0)
    assert second.waiting == {"samples": {"records": 3, "bytes": 4096}}
