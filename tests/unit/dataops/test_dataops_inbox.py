import json
import tempfile
from concurrent.futures import wait
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dsops.api.v1.telemetry_pb2 import HostInterval, Loss, ModelInterval
from dsops.clock import ManualClock
from dsops.errors import Conflict, Overloaded
from dsops_controller.dataops.batches import Record
from dsops_controller.dataops.inbox import Inbox, Limits
from dsops_controller.dataops.lake.lake import read_pending
from dsops_controller.dataops.testing import (
    drift_event,
    host,
    interval,
    received,
    sample,
    sample_batch,
    telemetry_batch,
)
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device_latest, drift_state, metadata, stream

A, B = b"a" * 16, b"b" * 16
NOW_US = 1_767_225_600_000_000


def stored(db: Database) -> list[tuple[str, str, int, int]]:
    """Return device, stream, seq and start of every record in the inbox; a record's start tells which one it is."""
    with db.read() as connection:
        batches = [(row.device, row.batch()) for row in read_pending(connection)]
    return [
        (device, batch.stream, seq, begin_us(record) - NOW_US)
        for device, batch in batches
        for seq, record in zip(batch.seqs, batch.records(), strict=True)
    ]


def begin_us(record: Record) -> int:
    return record.start_us if isinstance(record, ModelInterval | HostInterval) else int(getattr(record, "time_us", 0))


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[int]]:
    """One spool, uploaded by a device that loses acknowledgements: it goes back, splits and joins batches at will."""
    seqs = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=20)))
    acknowledged, sent = 0, []
    while acknowledged < len(seqs):
        start = draw(st.integers(0, acknowledged))
        end = draw(st.integers(start + 1, len(seqs)))
        sent.append(seqs[start:end])
        acknowledged = max(acknowledged, end)
    late = draw(st.lists(st.sampled_from(sent), max_size=4))
    for batch in late:  # a copy of a batch that was sent before arrives again, out of order
        sent.insert(draw(st.integers(sent.index(batch) + 1, len(sent))), batch)
    return sent


@settings(max_examples=40, deadline=None)
@given(deliveries(), deliveries())
def test_every_record_is_stored_once(first: list[list[int]], second: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{folder}/state.db")
        with db.write() as connection:
            metadata.create_all(connection)
        box = Inbox(db, ManualClock())
        box.start()
        futures = []
        for name, sent in ((A, first), (B, second)):
            for seqs in sent:
                batch = received(telemetry_batch(name, seqs, [interval(NOW_US + seq) for seq in seqs]))
                futures.append((seqs[-1], box.submit("cam-1", batch)))
        box.stop()
        assert all(future.result() >= last for last, future in futures)
        wanted = [("cam-1", name.hex(), s, s) for name, sent in ((A, first), (B, second)) for s in {*chain(*sent)}]
        assert sorted(stored(db)) == sorted(wanted)
        db.close()


def test_the_watermark_row_counts_what_was_stored(db: Database, inbox: Inbox) -> None:
    inbox.put(
        "cam-1",
        received(
            telemetry_batch(
                A, [1, 2], [host(NOW_US), host(NOW_US)], produced=5, losses=[Loss(kind="host", reason="full", count=2)]
            )
        ),
    )
    assert inbox.put("cam-1", received(telemetry_batch(A, [2, 7], [host(NOW_US), host(NOW_US)], produced=4))) == 7
    with db.read() as connection:
        row = connection.execute(select(stream)).one()
    assert (row.seq, row.stored, row.produced, row.dropped) == (7, 3, 5, 2)


def test_an_empty_batch_reports_counters_and_returns_the_watermark(db: Database, inbox: Inbox) -> None:
    inbox.put("cam-1", received(telemetry_batch(A, [4], [host(NOW_US)])))
    assert (
        inbox.put(
            "cam-1",
            received(telemetry_batch(A, [], [], produced=9, losses=[Loss(kind="host", reason="full", count=5)])),
        )
        == 4
    )
    with db.read() as connection:
        assert connection.execute(select(stream.c.dropped)).scalar_one() == 5


def test_devices_do_not_share_streams(db: Database, inbox: Inbox) -> None:
    batch = received(telemetry_batch(A, [1], [host(NOW_US)]))
    assert inbox.put("cam-1", batch) == inbox.put("cam-2", batch) == 1
    assert {row[0] for row in stored(db)} == {"cam-1", "cam-2"}


def test_a_stream_keeps_its_kind_and_a_refusal_fails_nobody_else(db: Database, inbox: Inbox) -> None:
    inbox.put("cam-1", received(telemetry_batch(A, [1], [host(NOW_US)])))
    wrong = inbox.submit("cam-1", received(sample_batch(A, [2], [sample(NOW_US, [1.0])])))
    right = inbox.submit("cam-1", received(telemetry_batch(A, [2], [host(NOW_US)])))
    assert right.result() == 2
    with pytest.raises(Conflict):
        wrong.result()
    assert len(stored(db)) == 2


def test_latest_figures_and_drift_follow_the_records(db: Database, inbox: Inbox) -> None:
    records = [interval(NOW_US, [100.0, 200.0, 400.0]), host(NOW_US), drift_event(NOW_US + 5_000_000)]
    inbox.put("cam-1", received(telemetry_batch(A, [1, 2, 3], records)))
    with db.read() as connection:
        latest = {row.model: json.loads(row.figures) for row in connection.execute(select(device_latest))}
        drift = connection.execute(select(drift_state)).one()
    assert latest["digits"]["count"] == 3
    assert latest["digits"]["p50_us"] == pytest.approx(200.0, rel=0.05)
    assert latest["digits"]["confidence"] == pytest.approx(0.9)
    assert latest[""]["cpu_percent"] == 12.5
    assert (drift.level, drift.score, drift.frames, drift.since_ms) == ("drift", 9.5, 700, NOW_US // 1000 + 5000)
    assert json.loads(drift.figures) == {"entropy": 3.5}


def test_a_resent_batch_does_not_bring_back_old_figures(db: Database, inbox: Inbox) -> None:
    old = received(telemetry_batch(A, [1], [drift_event(NOW_US)]))
    inbox.put("cam-1", old)
    inbox.put("cam-1", received(telemetry_batch(A, [2], [drift_event(NOW_US + 1_000_000, "drift_cleared")])))
    inbox.put("cam-1", old)
    with db.read() as connection:
        assert connection.execute(select(drift_state.c.level)).scalar_one() == "ok"


def test_what_does_not_fit_is_refused_and_told_before(db: Database) -> None:
    box = Inbox(db, ManualClock(), Limits(batches=4))
    batches = [received(telemetry_batch(A, [seq], [host(NOW_US)])) for seq in (1, 2, 3, 4, 5)]
    assert box.pause_ms() == 0
    waiting = [box.submit("cam-1", batch) for batch in batches[:4]]
    assert box.pause_ms() > 0
    with pytest.raises(Overloaded):
        box.submit("cam-1", batches[4])
    box.start()
    wait(waiting)
    assert [future.result() for future in waiting] == [1, 2, 3, 4]
    assert box.put("cam-1", batches[4]) == 5
    box.stop()
    with pytest.raises(Overloaded):
        box.submit("cam-1", batches[4])


def test_bytes_that_wait_are_limited(db: Database) -> None:
    box = Inbox(db, ManualClock(), Limits(bytes=2000))
    big = received(sample_batch(A, [1], [sample(NOW_US, [0.0] * 1000)]))
    box.submit("cam-1", big)  # one is always taken, whatever its size
    with pytest.raises(Overloaded):
        box.submit("cam-2", big)
    box.start()
    box.stop()
    assert len(stored(db)) == 1


def test_a_batch_that_the_database_refuses_fails_alone(db: Database, tmp_path: Path) -> None:
    with db.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER odd BEFORE INSERT ON inbox WHEN NEW.device = 'odd' BEGIN SELECT RAISE(ABORT, 'odd'); END"
        )
    box = Inbox(db, ManualClock())
    batch = received(telemetry_batch(A, [1], [host(NOW_US)]))
    futures = {name: box.submit(name, batch) for name in ("cam-1", "odd", "cam-2")}
    box.start()
    box.stop()
    assert (futures["cam-1"].result(), futures["cam-2"].result()) == (1, 1)
    assert "odd" in str(futures["odd"].exception())
    assert {row[0] for row in stored(db)} == {"cam-1", "cam-2"}
