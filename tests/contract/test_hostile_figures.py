"""What one device says, however large, silences nobody: figures of the fleet are read, and others' alerts opened."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alert_site import START, Here, Site, settings
from hook_receiver import SECRET, receiving
from sqlalchemy import func, select

from dsops.api.v1.telemetry_pb2 import DriftReport, Event, Loss, ModelInterval, TelemetryBatch, TelemetryRecord
from dsops.errors import InvalidInput
from dsops_controller.alerts.rules import Cause, Findings
from dsops_controller.alerts.settings import Kind
from dsops_controller.dataops.batches import MAX_COUNT
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.totals import totals
from dsops_controller.dataops.strangers import MAX_BUNDLES, MAX_BUNDLES_OF_DEVICE, MAX_MODELS, UNKNOWN
from dsops_controller.dataops.streams import MAX_STREAMS
from dsops_controller.dataops.testing import DIGEST, accept, interval, received
from dsops_controller.db.sums import whole_sum
from dsops_controller.db.tables import bundle, device_latest, drift_newest, drift_state, stream, stream_loss
from dsops_controller.monitoring.figures import FleetFigures, Monitoring
from dsops_controller.monitoring.metrics import metrics
from dsops_controller.monitoring.prometheus import exposition
from dsops_controller.server.broker import BrokerFigures

NEVER = timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(Here(tmp_path, f"sqlite:///{tmp_path}/state.db"), settings())
    yield made
    made.close()


def figures(site: Site) -> FleetFigures:
    quiet = BrokerFigures(True, 1, 0, 0, 0, 0, 0, None, None)
    return Monitoring(site.db, site.alerts, site.clock, lambda: quiet, lambda: 0, 0.05).figures()


def lossy(number: int, *losses: Loss) -> TelemetryBatch:
    dropped = sum(loss.count for loss in losses)
    return TelemetryBatch(stream=number.to_bytes(16, "big"), produced=MAX_COUNT, dropped=dropped, losses=losses)


def test_losses_must_be_those_that_were_dropped() -> None:
    for dropped, counts in ((1, [MAX_COUNT] * 128), (5, []), (5, [4]), (0, [1])):
        losses = [Loss(kind="host", reason="full", count=count) for count in counts]
        message = TelemetryBatch(stream=b"s" * 16, produced=9, dropped=dropped, losses=losses)
        with pytest.raises(InvalidInput, match="batch from a device"):
            received(message)


def test_kinds_and_reasons_that_nobody_knows_are_counted_as_others(site: Site) -> None:
    invented = [Loss(kind=f"k{number}", reason=f"r{number}", count=1) for number in range(100)]
    site.inbox.put("evil", received(lossy(1, *invented, Loss(kind="host", reason="full", count=2))))
    assert figures(site).lost == {("other", "other"): 100, ("host", "full"): 2}
    for number in range(3, 60):  # more each time, of another kind: what was said before is said no more
        site.inbox.put("evil", received(lossy(1, Loss(kind="host", reason=f"r{number}", count=100 + number))))
    assert figures(site).lost == {("host", "other"): 159}


def test_streams_without_end_are_forgotten_and_their_counters_are_not(site: Site) -> None:
    for number in range(MAX_STREAMS + 10):
        site.inbox.put("evil", received(lossy(number, Loss(kind="host", reason="full", count=1))))
        site.clock.advance(1)
    with site.db.read() as connection:
        names = list(connection.execute(select(stream.c.stream)).scalars())
        assert connection.execute(select(func.count()).select_from(stream_loss)).scalar_one() == MAX_STREAMS + 1
    assert sorted(names)[:2] == [(10).to_bytes(16, "big").hex(), (11).to_bytes(16, "big").hex()]
    assert len(names) == MAX_STREAMS + 1
    assert figures(site).lost == {("host", "full"): MAX_STREAMS + 10}
    assert figures(site).produced == (MAX_STREAMS + 1) * MAX_COUNT  # the row of the forgotten ones is bounded


def test_sums_above_64_bits_are_read(site: Site) -> None:
    values = {"kind": "telemetry", "seq": 0, "stored": 2**62, "produced": 2**62, "dropped": 0, "updated_ms": 0}
    with site.db.write() as connection:
        accept(connection, ["evil"])
        for name in ("a", "b", "c"):
            connection.execute(stream.insert().values(device="evil", stream=name, **values))
            loss = {"device": "evil", "stream": name, "kind": "host", "reason": "full", "count": 2**62}
            connection.execute(stream_loss.insert().values(**loss))
        assert connection.execute(select(whole_sum(stream.c.stored))).scalar_one() == 3 * 2**62
        assert connection.execute(select(whole_sum(stream.c.stored)).where(stream.c.device == "x")).scalar_one() == 0
    assert figures(site).produced == 3 * 2**62
    assert figures(site).lost == {("host", "full"): 3 * 2**62}
    site.put("cam-1", site.report("drift", 9.0))
    site.watch.look()
    assert site.open_now() == [("drift", "digits", "cam-1"), ("losses", "", "evil")]


def test_a_kind_that_cannot_be_looked_at_leaves_the_others_and_its_own_alerts_alone(site: Site) -> None:
    site.put("cam-1", site.report("ok"), dropped=5)
    site.watch.look()
    with site.db.write() as connection:
        connection.exec_driver_sql("alter table stream_loss rename to gone")
    site.put("cam-2", site.report("drift", 9.0))
    site.clock.advance(100_000)
    site.watch.look()
    assert site.open_now() == [("drift", "digits", "cam-2"), ("losses", "", "cam-1")]


def push(site: Site, model: str, release: int = 1) -> None:
    with site.db.write() as connection:
        row = {"sha256": DIGEST, "model": model, "release": release, "variant": "int8", "path": f"{model}/{release}"}
        text = {"index_sha256": DIGEST, "manifest": "{}"}
        connection.execute(bundle.insert().values(length_bytes=1, pushed_ms=0, **row, **text))


def invented(number: int) -> list[TelemetryRecord]:
    report = DriftReport(start_us=us(), interval_ms=1, model=f"m{number}", release=1, digest=DIGEST, state="drift")
    report.log_e, report.skew.state = 50.0, "skew"
    answers = ModelInterval(start_us=us(), interval_ms=1, model=f"m{number}", digest=f"{number:064x}", count=1)
    event = Event(time_us=us(), kind="drift_alarm", model=f"e{number}", release=1)
    return [TelemetryRecord(drift=report), TelemetryRecord(model=answers), TelemetryRecord(event=event)]


def us() -> int:
    return round(START.timestamp() * 1_000_000)


def test_models_that_a_device_invents_share_rows_alerts_and_series(site: Site, tmp_path: Path) -> None:
    push(site, "digits")
    lake = Lake(site.db, tmp_path / "lake")
    lake.open()
    for first in range(0, 300, 100):
        site.put("evil", *(record for number in range(first, first + 100) for record in invented(number)))
        lake.flush()
    site.put("evil", site.report("drift", 9.0))
    site.put("cam-1", site.report("drift", 9.0), interval(us(), [100.0]))
    lake.flush()
    site.watch.look()
    opened = site.open_now()
    assert ("drift", "digits", "cam-1") in opened
    assert (
        "drift",
        "digits",
        "evil",
    ) in opened  # what is registered has a row of its own, however many others there are
    assert ("drift", UNKNOWN, "evil") in opened
    assert len({model for _, model, device in opened if device == "evil"}) <= MAX_MODELS + 2
    with site.db.read() as connection:
        for table in (device_latest, drift_newest, drift_state):
            of_device = select(func.count()).select_from(table).where(table.c.device == "evil")
            assert connection.execute(of_device).scalar_one() <= MAX_MODELS + 2
    every = totals(site.db)
    assert len(every) == MAX_BUNDLES_OF_DEVICE + 2
    assert [one.answers for one in every if one.model == "digits"] == [1]
    assert sum(one.answers for one in every) == 301
    assert exposition(metrics(figures(site))).count("\n") < 6000


def test_who_invents_bundles_leaves_places_for_those_that_others_run(site: Site, tmp_path: Path) -> None:
    """Bundles that nobody pushed here have totals of their own, however many names one device makes up."""
    lake = Lake(site.db, tmp_path / "lake")
    lake.open()
    for number in range(40):
        site.put("evil", *invented(number))
    lake.flush()
    ours = interval(us(), [100.0], model="aside")
    site.put("evil", ours)  # what others run too takes no place in its share, which is full
    site.put("cam-1", ours)
    lake.flush()
    for name in ("evil-2", "evil-3"):
        for number in range(100, 140):
            site.put(name, *invented(number))
    lake.flush()
    site.put("cam-2", interval(us(), [100.0], model="apart"))
    lake.flush()
    found = {one.model: one.answers for one in totals(site.db)}
    assert (found["aside"], found["apart"]) == (2, 1)
    assert len(found) == 3 * MAX_BUNDLES_OF_DEVICE + 3
    assert found[UNKNOWN] == 40 - MAX_BUNDLES_OF_DEVICE + 2 * (40 - 2 * MAX_BUNDLES_OF_DEVICE)


def test_places_for_bundles_that_nobody_pushed_come_to_an_end(site: Site, tmp_path: Path) -> None:
    lake = Lake(site.db, tmp_path / "lake")
    lake.open()
    for device in range(MAX_BUNDLES // MAX_BUNDLES_OF_DEVICE + 3):
        for number in range(MAX_BUNDLES_OF_DEVICE):
            site.put(f"evil-{device}", *invented(100 * device + number))
    lake.flush()
    assert len(totals(site.db)) == MAX_BUNDLES + 1


def test_what_was_registered_once_goes_on_with_its_own_rows(site: Site, tmp_path: Path) -> None:
    lake = Lake(site.db, tmp_path / "lake")
    lake.open()
    push(site, "digits")
    site.put("cam-1", site.report("ok"), interval(us(), [100.0]))
    lake.flush()
    with site.db.write() as connection:
        connection.execute(bundle.delete())
    for number in range(MAX_BUNDLES + 5):
        site.put("evil", *invented(number))
    site.put("cam-1", site.report("drift", 9.0), interval(us(), [100.0]))
    site.put("cam-2", site.report("drift", 9.0), interval(us(), [100.0]))  # its first words come after the removal
    lake.flush()
    site.watch.look()
    assert {("drift", "digits", "cam-1"), ("drift", "digits", "cam-2")} < set(site.open_now())
    assert [one.answers for one in totals(site.db) if one.model == "digits"] == [3]


def test_all_rules_of_a_webhook_share_a_pace_and_none_is_passed_over(tmp_path: Path) -> None:
    with receiving() as receiver:
        (tmp_path / "hook.secret").write_text(SECRET)
        limits = settings(receiver, notices=10, notices_every_s=60.0, notices_in_all=20)
        site = Site(Here(tmp_path, f"sqlite:///{tmp_path}/state.db"), limits)
        names = [f"m{number}" for number in range(100)]
        drifts = [Cause(Kind.DRIFT, name, "evil", f"{name} drifts", {}) for name in names]
        site.alerts.note(Findings(drifts), ["ops"], NEVER)
        site.watch.hand_over()
        assert len(receiver.bodies) == 20
        site.clock.advance(1)
        later = [Cause(Kind.DRIFT, name, "evil", f"{name} drifts", {}) for name in names]
        site.alerts.note(Findings([*later, Cause(Kind.SILENT, "", "cam-1", "is silent", {})]), ["ops"], NEVER)
        for _ in range(10):
            site.clock.advance(300)  # ten more
            site.watch.hand_over()
        subjects = [one["subject"] for one in receiver.told()]
        assert len(subjects) == 101
        assert len(receiver.bodies) == len({one["id"] for one in receiver.told()})
        assert subjects[-1] == "cam-1"
        site.close()
