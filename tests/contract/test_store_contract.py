"""What the store's ports promise: in a folder over SQLite, over PostgreSQL where its programs are, and on S3."""

import io
import threading
from datetime import timedelta

import numpy as np
import pytest
from lake_site import EVERYWHERE, STAGES, START, Site, put, us

from dsops.api.v1.telemetry_pb2 import Loss
from dsops.clock import ManualClock
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.inbox import Inbox, store
from dsops_controller.dataops.samples.exports import Form, export
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.store import Counts
from dsops_controller.dataops.testing import (
    DIGEST,
    RIVAL,
    comparison,
    drift_event,
    drift_report,
    heartbeat,
    host,
    interval,
    kpi,
    received,
    sample,
    sample_batch,
    telemetry_batch,
)
from dsops_controller.db.tables import inbox as inbox_table

A, B = b"a" * 16, b"b" * 16
LOST = [Loss(kind="host", reason="full", count=2)]


@EVERYWHERE
@STAGES
def test_telemetry_is_merged_by_device_and_bundle(site: Site, stage: str) -> None:
    many = telemetry_batch(A, [1, 2], [interval(us(), [100.0] * 90), interval(us(1), [100.0] * 5 + [9000.0] * 5)])
    other = telemetry_batch(B, [1], [interval(us(5), [50.0], release=2)])
    put(site, stage, ("cam-1", many), ("cam-2", other))
    first, second = site.store.telemetry()
    assert (first.device, first.model, first.release, first.digest) == ("cam-1", "digits", 1, DIGEST)
    assert (first.count, first.errors, first.last) == (100, 2, START + timedelta(seconds=2))
    assert first.p50_us == first.p95_us == pytest.approx(100.0, rel=0.03)
    assert first.p99_us == pytest.approx(9000.0, rel=0.03)
    assert first.confidence == pytest.approx(0.9)
    assert (second.device, second.release, second.count) == ("cam-2", 2, 1)


@EVERYWHERE
@STAGES
def test_telemetry_can_be_narrowed(site: Site, stage: str) -> None:
    messages = [
        ("cam-1", telemetry_batch(A, [1, 2], [interval(us()), interval(us(60))])),
        ("cam-2", telemetry_batch(A, [1], [interval(us(), model="007")])),
    ]
    put(site, stage, *messages)
    assert [row.model for row in site.store.telemetry(model="007")] == ["007"]
    assert [row.device for row in site.store.telemetry(device="cam-1")] == ["cam-1"]
    assert [row.count for row in site.store.telemetry(since=START + timedelta(seconds=30))] == [1]
    assert site.store.telemetry(model="none") == []


@EVERYWHERE
@STAGES
def test_comparisons_are_merged_by_device_bundles_and_mode(site: Site, stage: str) -> None:
    first = telemetry_batch(A, [1], [comparison(us(), [0.25] * 4, disagreed=1)])
    second = telemetry_batch(
        A, [2, 3], [comparison(us(60), [0.75] * 4, disagreed=2), comparison(us(61), [], mode="split", reason="gone")]
    )
    third = telemetry_batch(A, [4], [comparison(us(62), [], mode="split")])
    put(site, stage, ("cam-1", first), ("cam-1", second), ("cam-1", third))
    shadow, split = site.store.comparisons("digits")
    assert (shadow.device, shadow.release, shadow.challenger_release) == ("cam-1", 1, 2)
    assert (shadow.digest, shadow.challenger_digest, shadow.mode) == (DIGEST, RIVAL, "shadow")
    assert (shadow.compared, shadow.disagreed, shadow.skipped, shadow.failed) == (8, 3, 6, 2)
    assert shadow.distance == pytest.approx(0.5)
    assert (shadow.p50_us, shadow.challenger_p50_us) == pytest.approx((100.0, 200.0), rel=0.03)
    assert (shadow.confidence, shadow.challenger_confidence) == pytest.approx((0.9, 0.8))
    assert shadow.last == START + timedelta(seconds=61)
    assert (split.mode, split.answered, split.fallbacks, split.distance, split.p50_us) == ("split", 10, 4, None, None)
    assert (shadow.reason, split.reason) == ("", "gone")
    assert [row.compared for row in site.store.comparisons(since=START + timedelta(seconds=30))] == [4, 0]
    assert site.store.comparisons("words") == []
    assert site.store.comparisons(device="cam-2") == []


@EVERYWHERE
def test_drift_lists_the_worst_first(site: Site) -> None:
    for device, kind in (("cam-1", "drift_cleared"), ("cam-2", "drift_alarm"), ("cam-3", "drift_warning")):
        put(site, "inbox", (device, telemetry_batch(A, [1], [drift_event(us(), kind)])))
    assert [(row.device, row.level) for row in site.store.drift()] == [
        ("cam-2", Level.DRIFT),
        ("cam-3", Level.WARNING),
        ("cam-1", Level.OK),
    ]
    (row,) = site.store.drift(model="digits", device="cam-2")
    assert (row.release, row.score, row.frames, row.since, row.signals) == (1, 9.5, 700, START, {"entropy": 3.5})
    assert site.store.drift(model="none") == []


@EVERYWHERE
@STAGES
def test_events_are_listed_newest_first_by_device_and_kind(site: Site, stage: str) -> None:
    put(site, stage, ("cam-1", telemetry_batch(A, [1], [drift_event(us(), "refused")])))
    put(site, stage, ("cam-1", telemetry_batch(A, [2], [drift_event(us(1), "committed", release=2)])))
    put(site, stage, ("cam-2", telemetry_batch(B, [1], [drift_event(us(2), "refused", release=3)])))
    assert {(row.device, row.release) for row in site.store.events()} == {("cam-1", 1), ("cam-1", 2), ("cam-2", 3)}
    (row,) = site.store.events("cam-1", "refused")
    assert (row.kind, row.model, row.digest, row.time) == ("refused", "digits", DIGEST, START)
    assert [row.release for row in site.store.events("cam-1")] == [2, 1]
    assert len(site.store.events(limit=1)) == 1
    with pytest.raises(InvalidInput):
        site.store.events(limit=0)


@EVERYWHERE
@STAGES
def test_samples_are_listed_newest_first_and_exported_oldest_first(site: Site, stage: str) -> None:
    first = sample_batch(A, [1, 2], [sample(us(), [1.0, 2.0]), sample(us(1), [3.0, 4.0], reason="drift")])
    second = sample_batch(B, [1], [sample(us(2), [5.0, 6.0])])
    put(site, stage, ("cam-1", first), ("cam-2", second))
    rows = site.store.samples(SampleFilter(model="digits"))
    assert [row.time for row in rows] == [START + timedelta(seconds=s) for s in (2, 1, 0)]
    assert (rows[0].id, rows[0].shape, rows[0].input_bytes) == (f"cam-2/{B.hex()}/1", (1, 2), 8)
    assert [row.reason for row in site.store.samples(SampleFilter(reason="drift"))] == ["drift"]
    assert [row.device for row in site.store.samples(SampleFilter(device="cam-2"))] == ["cam-2"]
    assert len(site.store.samples(SampleFilter(), limit=2)) == 2
    archive = np.load(io.BytesIO(export(Form.NPZ, site.reader.matching(SampleFilter(device="cam-1")), {})))
    assert archive["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert archive["reason"].tolist() == ["random", "drift"]
    between = SampleFilter(since=START + timedelta(seconds=1), until=START + timedelta(seconds=2))
    assert [sample.row.reason for sample in site.reader.matching(between)] == ["drift"]
    with pytest.raises(NotFound):
        export(Form.NPZ, site.reader.matching(SampleFilter(model="none")), {})
    with pytest.raises(InvalidInput):
        site.store.samples(SampleFilter(), limit=0)


@EVERYWHERE
@STAGES
def test_figures_that_are_not_numbers_become_unknown(site: Site, stage: str) -> None:
    odd = interval(us(), [100.0])
    odd.model.drift_score = float("nan")
    odd.model.latency_us.max = float("inf")
    odd.model.confidence_ppm.sum = 1.7e308
    captured = sample(us(), [1.0], model="007")
    captured.score = float("-inf")
    put(
        site,
        stage,
        ("cam-1", telemetry_batch(A, [1, 2], [odd, odd])),
        ("cam-1", sample_batch(B, [1], [captured])),
    )
    (row,) = site.store.telemetry()
    assert (row.confidence, row.count) == (None, 2)
    assert row.p99_us == pytest.approx(100.0, rel=0.03)
    (listed,) = site.store.samples(SampleFilter(model="007"))
    assert (listed.model, listed.score) == ("007", None)


@EVERYWHERE
@STAGES
def test_counts_are_of_records_not_of_deliveries(site: Site, stage: str) -> None:
    batch = telemetry_batch(A, [1, 2, 5], [interval(us()), host(us()), drift_event(us())], produced=6, losses=LOST)
    samples = sample_batch(B, [1], [sample(us(), [1.0])])
    put(site, stage, ("cam-1", batch), ("cam-1", samples), ("cam-1", batch), ("cam-1", samples))
    assert site.store.counts() == Counts(records_stored=4, samples_stored=1, duplicates=0, produced=7, dropped=2)


@EVERYWHERE
@STAGES
def test_every_kind_of_record_has_its_row(site: Site, stage: str) -> None:
    records = [heartbeat(us()), kpi(us(), 3.0), kpi(us(), float("nan")), drift_report(us())]
    put(site, stage, ("cam-1", telemetry_batch(A, [1, 2, 3, 4], records)))

    assert site.store.counts().records_stored == 4


@EVERYWHERE
@STAGES
def test_figures_are_listed_newest_first_and_can_be_narrowed(site: Site, stage: str) -> None:
    first = telemetry_batch(A, [1, 2], [kpi(us(1), 3.0), kpi(us(2), float("nan"), name="shift")])
    put(site, stage, ("cam-1", first), ("cam-2", telemetry_batch(A, [1], [kpi(us(3), 5.0)])))
    found = site.store.kpis()
    assert [(row.device, row.name, row.value) for row in found] == [
        ("cam-2", "parts_rejected", 5.0),
        ("cam-1", "shift", None),
        ("cam-1", "parts_rejected", 3.0),
    ]
    assert (found[0].model, found[0].release, found[0].digest, found[0].unit) == ("digits", 1, DIGEST, "{part}")
    assert (found[0].tags, found[0].time) == ({"line": "4"}, START + timedelta(seconds=3))
    assert [row.value for row in site.store.kpis(name="parts_rejected", device="cam-1")] == [3.0]
    assert [row.device for row in site.store.kpis(since=START + timedelta(seconds=2), limit=1)] == ["cam-2"]
    assert site.store.kpis(model="other") == []


@EVERYWHERE
def test_losses_are_told_by_kind_and_reason_and_never_fall(site: Site) -> None:
    more = [Loss(kind="host", reason="full", count=3), Loss(kind="sample", reason="expired", count=1)]
    site.inbox.put("cam-1", received(telemetry_batch(A, [1], [host(us())], produced=9, losses=LOST)))
    site.inbox.put("cam-1", received(telemetry_batch(A, [2], [host(us())], produced=9, losses=more)))
    site.inbox.put("cam-1", received(telemetry_batch(A, [1], [host(us())], produced=9, losses=LOST)))
    site.inbox.put("cam-2", received(telemetry_batch(A, [1], [host(us())], produced=9, losses=LOST)))

    assert [(row.device, row.kind, row.reason, row.count) for row in site.store.losses()] == [
        ("cam-1", "host", "full", 3),
        ("cam-1", "sample", "expired", 1),
        ("cam-2", "host", "full", 2),
    ]
    assert len(site.store.losses("cam-2")) == 1


@EVERYWHERE
def test_a_record_that_is_there_twice_is_counted_as_a_duplicate(site: Site) -> None:
    put(site, "lake", ("cam-1", telemetry_batch(A, [1, 2], [interval(us()), host(us())])))
    put(site, "inbox", ("cam-1", telemetry_batch(A, [3], [host(us())])))
    with site.db.write() as connection:  # what a defect would do
        row = connection.execute(inbox_table.select()).mappings().one()
        again = {name: value for name, value in row.items() if name != "id"}
        connection.execute(inbox_table.insert().values(again))
    assert site.store.counts().duplicates == 1
    site.lake.flush()
    counts = site.store.counts()
    assert (counts.records_stored, counts.duplicates) == (4, 1)


@EVERYWHERE
def test_an_empty_store_answers(site: Site) -> None:
    assert site.store.telemetry() == []
    assert site.store.drift() == []
    assert site.store.samples(SampleFilter()) == []
    assert site.store.counts() == Counts(0, 0, 0, 0, 0)


@EVERYWHERE
def test_two_writers_store_each_record_once(site: Site) -> None:
    """Two controllers over one database: a device moves between them while its batches are sent again."""
    second = Inbox(site.db, ManualClock(START))
    second.start()
    batches = [received(telemetry_batch(A, [seq], [host(us(seq))])) for seq in range(1, 21)]

    def send(box: Inbox, device: str) -> None:
        for batch in batches:
            box.put(device, batch)

    pairs = [(box, device) for box in (site.inbox, second) for device in ("cam-1", "cam-2")]
    senders = [threading.Thread(target=send, args=pair) for pair in pairs]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    second.stop()
    assert (site.store.counts().records_stored, site.store.counts().duplicates) == (40, 0)


@pytest.mark.integration
@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True, scope="module")
def test_a_flush_waits_for_ids_that_are_not_committed_yet(site: Site) -> None:
    """An open transaction holds a small id; a flush that ran past it would lose its rows."""
    moved: list[int] = []
    flusher = threading.Thread(target=lambda: moved.append(site.lake.flush()))
    with site.db.write() as slow:
        results = store(slow, [("cam-1", received(telemetry_batch(A, [1], [host(us())])))], 0, set())
        site.inbox.put("cam-2", received(telemetry_batch(A, [1], [host(us())])))
        flusher.start()
        flusher.join(timeout=0.5)
    flusher.join()
    site.lake.flush()
    assert (results, site.store.counts().records_stored) == ([1], 2)


@EVERYWHERE
def test_a_stream_keeps_its_kind(site: Site) -> None:
    put(site, "inbox", ("cam-1", telemetry_batch(A, [1], [host(us())])))
    with pytest.raises(Conflict):
        put(site, "inbox", ("cam-1", sample_batch(A, [2], [sample(us(), [1.0])])))
