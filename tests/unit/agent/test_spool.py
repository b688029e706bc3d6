"""The spool: order, counters, drop policy, damage and full disks, on real SQLite files."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsops.api.v1.telemetry_pb2 import Event, HostInterval, Kpi, ModelInterval, TelemetryRecord
from dsops.clock import ManualClock
from dsops.errors import NoSpace, StateDamaged
from dsops_agent.install.budget import Today
from dsops_agent.telemetry.spool import Delivery, Spool
from dsops_agent.telemetry.spool_records import MAX_RECORD_BYTES, Loss
from dsops_agent.telemetry.worth import DAY_S, KINDS, WORTH, Kind

CAP = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", CAP)
    yield spool
    spool.close()


def reopen(spool: Spool, folder: Path) -> Spool:
    spool.close()
    return Spool(folder, CAP)


def drain(spool: Spool, kind: Kind) -> list[bytes]:
    found: list[bytes] = []
    while (batch := spool.batch(kind, 100_000, 7)) is not None:
        found.extend(batch.records)
        spool.ack(kind, batch.seqs[-1] if batch.seqs else 0, batch.dropped)
    return found


def adds_up(spool: Spool) -> bool:
    return all(c.produced == c.stored + c.dropped + c.pending for c in spool.counters().values())


def test_the_file_is_made_at_its_full_size_and_does_not_grow(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "spool/spool.db"
    size = path.stat().st_size
    assert size >= CAP
    for _ in range(60):
        spool.append("telemetry", [os.urandom(30_000)])
    assert path.stat().st_size == size
    assert adds_up(spool)


def test_records_come_out_in_order_and_survive_a_restart(tmp_path: Path, spool: Spool) -> None:
    records = [b"%d" % n for n in range(50)]
    spool.append("telemetry", records[:20])
    spool.append("telemetry", records[20:])
    first = spool.batch("telemetry", 100_000, 30)
    assert first is not None
    again = reopen(spool, tmp_path / "spool")
    assert again.batch("telemetry", 100_000, 30) == first
    assert drain(again, "telemetry") == records
    assert again.waiting_bytes == 0
    again.close()


def test_numbers_are_never_given_twice_even_after_everything_was_acknowledged(tmp_path: Path, spool: Spool) -> None:
    spool.append("samples", [b"a", b"b"])
    spool.ack("samples", 2)
    again = reopen(spool, tmp_path / "spool")
    again.append("samples", [b"c"])
    batch = again.batch("samples", 1000, 10)
    assert batch is not None
    assert batch.seqs == (3,)
    again.close()


def test_kinds_are_streams_of_their_own(spool: Spool) -> None:
    spool.append_all({"telemetry": [b"t"], "samples": [b"s"]})
    telemetry, samples = spool.batch("telemetry", 1000, 10), spool.batch("samples", 1000, 10)
    assert telemetry is not None
    assert samples is not None
    assert len(telemetry.stream) == len(samples.stream) == 16
    assert telemetry.stream != samples.stream
    assert telemetry.seqs == samples.seqs == (1,)


def test_a_batch_is_bounded_but_never_empty(spool: Spool) -> None:
    spool.append("samples", [bytes(5000)] * 4)
    one, two = spool.batch("samples", 10, 10), spool.batch("samples", 11_000, 10)
    assert one is not None
    assert two is not None
    assert (len(one.records), len(two.records)) == (1, 2)


def test_samples_are_dropped_before_telemetry(spool: Spool) -> None:
    spool.append("telemetry", [bytes(1000)] * 100)
    for _ in range(40):
        spool.append("samples", [bytes(50_000)])
    counters = spool.counters()
    assert counters["samples"].dropped > 0
    assert counters["telemetry"].dropped == 0
    for _ in range(40):
        spool.append("telemetry", [bytes(50_000)])
    counters = spool.counters()
    assert counters["samples"].pending == 0
    assert counters["telemetry"].dropped > 0
    assert adds_up(spool)


def test_a_spool_full_of_telemetry_takes_no_sample(spool: Spool) -> None:
    for _ in range(13):
        spool.append("telemetry", [bytes(50_000)])
    pending = spool.counters()["telemetry"].pending
    spool.append("samples", [bytes(300_000)])
    counters = spool.counters()
    assert counters["samples"].dropped == 1
    assert counters["telemetry"].pending == pending


def test_the_newest_records_are_kept(spool: Spool) -> None:
    for number in range(40):
        spool.append("telemetry", [b"%05d" % number + bytes(50_000)])
    kept = [int(record[:5]) for record in drain(spool, "telemetry")]
    assert kept == list(range(40 - len(kept), 40))


def test_a_record_that_no_batch_can_hold_is_dropped_and_counted(spool: Spool) -> None:
    spool.append("samples", [bytes(MAX_RECORD_BYTES + 1), b"small"])
    assert spool.counters()["samples"].dropped == 1
    assert drain(spool, "samples") == [b"small"]


def losses(spool: Spool, kind: Kind) -> set[tuple[str, str, int]]:
    batch = spool.batch(kind, 1, 1)
    return {(loss.what, loss.reason, loss.count) for loss in batch.losses} if batch else set()


def host(size: int = 0) -> bytes:
    return TelemetryRecord(host=HostInterval(start_us=1)).SerializeToString() + bytes_field(size)


def bytes_field(size: int) -> bytes:
    """Return a field that no version knows, so that a record is as long as it should be."""
    length = b""
    rest = size
    while True:
        length += bytes([rest & 0x7F | (0x80 if rest > 0x7F else 0)])
        rest >>= 7
        if not rest:
            return b"\xfa\x7f" + length + bytes(size)


def event(number: int, size: int = 0) -> bytes:
    return TelemetryRecord(event=Event(kind="install", time_us=number)).SerializeToString() + bytes_field(size)


def test_events_travel_in_a_stream_of_their_own(spool: Spool) -> None:
    spool.append("telemetry", [host(), event(1), host(), event(2)])
    assert drain(spool, "events") == [event(1), event(2)]
    assert drain(spool, "telemetry") == [host(), host()]
    assert adds_up(spool)


def test_what_is_worth_least_goes_first_and_is_told(spool: Spool) -> None:
    model = TelemetryRecord(model=ModelInterval(start_us=1)).SerializeToString()
    for number in range(20):
        spool.append_all({"telemetry": [host(10_000), model + bytes_field(10_000)], "samples": [bytes(10_000)]})
        spool.append("events", [event(number, 10_000)])
    assert losses(spool, "events") == set()
    assert {(what, reason) for what, reason, _ in losses(spool, "samples")} == {("sample", "full")}
    for number in range(45):
        spool.append("events", [event(number, 10_000)])
    assert {(what, reason) for what, reason, _ in losses(spool, "telemetry")} == {("host", "full"), ("model", "full")}
    assert spool.counters()["events"].dropped == 0
    assert adds_up(spool)


@pytest.mark.parametrize("size", [0, 150, 1100, 20_000])
def test_the_file_never_grows_whatever_is_dropped_from_between(tmp_path: Path, spool: Spool, size: int) -> None:
    path = tmp_path / "spool/spool.db"
    before = path.stat().st_size
    kpi = TelemetryRecord(kpi=Kpi(time_us=1, name="count")).SerializeToString() + bytes_field(size)
    for number in range(2 * CAP // (100 * (size + 100)) + 2):
        spool.append_all({"telemetry": [kpi, host(size)] * 50, "samples": [os.urandom(size)] * 3})
        spool.append("events", [event(number)])
    assert spool.counters()["telemetry"].dropped > 0
    assert path.stat().st_size == before
    assert spool.counters()["events"].dropped == 0
    assert adds_up(spool)


def test_losses_are_told_even_when_nothing_else_waits(spool: Spool) -> None:
    spool.take(Delivery({}, {"samples": {"lost": 7}}))
    batch = spool.batch("samples", 1000, 10)
    assert batch is not None
    assert (batch.seqs, batch.losses) == ((), (Loss("sample", "lost", 7),))
    spool.ack("samples", 0, batch.dropped)
    assert spool.batch("samples", 1000, 10) is None
    spool.take(Delivery({}, {"samples": {"lost": 1}}))
    assert spool.batch("samples", 1000, 10) is not None


def test_what_waits_too_long_expires_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    clock = ManualClock()
    spool = Spool(tmp_path / "spool", CAP, clock)
    spool.append_all({"telemetry": [host()], "events": [event(1)]})
    clock.jump(50 * 365 * DAY_S)
    spool.append("telemetry", [host()])
    assert spool.counters()["telemetry"].dropped == 0
    clock.advance(WORTH["host"].keep_s / 2)
    spool.append("telemetry", [host()])
    spool.close()

    clock = ManualClock()  # another start of the host: its monotonic time begins anew
    again = Spool(tmp_path / "spool", CAP, clock)
    clock.advance(WORTH["host"].keep_s / 2 + 1)
    again.append("telemetry", [host()])
    assert losses(again, "telemetry") == {("host", "expired", 2)}
    assert again.counters()["telemetry"].pending == 2
    assert drain(again, "events") == [event(1)]
    assert adds_up(again)
    again.close()


def test_a_days_allowance_survives_a_restart(tmp_path: Path, spool: Spool) -> None:
    assert spool.today() == Today()
    spool.keep_today(Today("2026-01-01", 5, 2.5))
    again = reopen(spool, tmp_path / "spool")
    assert again.today() == Today("2026-01-01", 5, 2.5)
    again.close()


def test_an_acknowledgement_of_unknown_numbers_begins_a_new_stream(spool: Spool) -> None:
    spool.append("telemetry", [b"a", b"b"])
    before = spool.batch("telemetry", 1000, 10)
    spool.ack("telemetry", 1000)
    after = spool.batch("telemetry", 1000, 10)
    assert before is not None
    assert after is not None
    assert after.stream != before.stream
    assert after.records == (b"a", b"b")
    assert adds_up(spool)


def test_a_delivery_that_comes_twice_is_taken_once(tmp_path: Path, spool: Spool) -> None:
    delivery = Delivery({"telemetry": [b"a"]}, {"samples": {"lost": 3}}, ("process-1", 7))
    spool.take(delivery)
    again = reopen(spool, tmp_path / "spool")
    again.take(delivery)
    again.take(Delivery({"telemetry": [b"b"]}, {}, ("process-2", 1)))
    assert drain(again, "telemetry") == [b"a", b"b"]
    assert again.counters()["samples"].dropped == 3
    again.close()


def test_a_record_that_is_dropped_by_name_is_counted(spool: Spool) -> None:
    spool.append("telemetry", [b"a", b"b", b"c"])
    spool.drop("telemetry", [2, 99], "refused")
    assert drain(spool, "telemetry") == [b"a", b"c"]
    assert spool.counters()["telemetry"].dropped == 1


def insert_for_ever(sql: sqlite3.Connection, size: int) -> None:
    while True:
        sql.execute("insert into hog values (zeroblob(?))", (size,))


def test_a_full_disk_is_an_error_that_is_counted_and_passes(tmp_path: Path) -> None:
    """SQLite is told that the file must not grow, which gives the error that a full disk gives."""
    spool = Spool(tmp_path / "spool", CAP)
    sql = spool._sql
    assert sql is not None
    sql.execute("create table hog (data blob)")
    (pages,) = sql.execute("pragma page_count").fetchone()
    sql.execute(f"pragma max_page_count = {pages}").fetchone()
    for size in (60_000, 3000, 100):
        with pytest.raises(sqlite3.OperationalError, match="full"):
            insert_for_ever(sql, size)
    with pytest.raises(NoSpace):
        spool.append("telemetry", [bytes(9000)])
    assert not (tmp_path / "spool/reserve").exists()
    sql.execute("delete from hog")
    spool.append("telemetry", [b"fits"])
    counters = spool.counters()["telemetry"]
    assert (counters.produced, counters.dropped, counters.pending) == (2, 1, 1)
    spool.close()


def test_a_damaged_file_is_put_aside_and_a_new_one_works(tmp_path: Path, spool: Spool) -> None:
    spool.append("telemetry", [b"lost"])
    spool.close()
    path = tmp_path / "spool/spool.db"
    path.write_bytes(b"this is no database" * 5000)
    again = Spool(tmp_path / "spool", CAP)
    again.append("telemetry", [b"kept"])
    assert drain(again, "telemetry") == [b"kept"]
    assert path.with_name("spool.db.damaged").exists()
    again.close()


def overwrite_pages(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(4, 250):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)


def test_damage_inside_the_file_is_found_at_the_start(tmp_path: Path, spool: Spool) -> None:
    spool.append("telemetry", [bytes(3000)] * 100)
    spool.close()
    overwrite_pages(tmp_path / "spool/spool.db")
    again = Spool(tmp_path / "spool", CAP)
    again.append("telemetry", [b"kept"])
    assert drain(again, "telemetry") == [b"kept"]
    again.close()


def test_damage_that_shows_later_is_an_error_once(tmp_path: Path, spool: Spool) -> None:
    spool.append("telemetry", [bytes(3000)] * 100)
    assert spool._sql is not None
    spool._sql.execute("pragma wal_checkpoint(truncate)").fetchall()
    spool._sql.execute("pragma cache_size = 1").fetchall()
    spool._sql.execute("pragma shrink_memory").fetchall()
    overwrite_pages(tmp_path / "spool/spool.db")
    with pytest.raises(StateDamaged):
        drain(spool, "telemetry")
    spool.append("telemetry", [b"kept"])
    assert drain(spool, "telemetry") == [b"kept"]


def test_a_folder_that_cannot_be_used_is_an_error_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDamaged):
        Spool(tmp_path / "file/spool", CAP)


WRITER = """
import sys
from pathlib import Path
from dsops_agent.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 20)
number = int(sys.argv[2])
while True:
    spool.append("telemetry", [b"%d" % number])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def test_nothing_that_was_appended_is_lost_by_a_kill(tmp_path: Path) -> None:
    number = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(15):
            number = int(writer.stdout.readline()) + 1
        writer.kill()
        rest = writer.stdout.read().split("\n")
        number = max([number, *(int(line) + 1 for line in rest[:-1])])
        writer.wait()
        number += 1  # one more may have been stored, unsaid
    spool = Spool(tmp_path, CAP)
    found = {int(record) for record in drain(spool, "telemetry")}
    missing = set(range(number)) - found
    assert len(missing) <= 3  # only the numbers that were skipped
    assert adds_up(spool)
    spool.close()


Step = tuple[str, Kind, int]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["append", "ack", "lost", "reopen"]), st.sampled_from(KINDS), st.integers(1, 400_000)
        ),
        max_size=12,
    )
)
def test_the_counters_always_add_up(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, CAP)
    for what, kind, size in steps:
        if what == "append":
            spool.append(kind, [bytes(size), b"x"])
        elif what == "lost":
            spool.take(Delivery({}, {kind: {"lost": size}}))
        elif what == "reopen":
            spool = reopen(spool, folder)
        elif (batch := spool.batch(kind, size, 3)) is not None:
            spool.ack(kind, batch.seqs[-1] if batch.seqs else 0, batch.dropped)
        assert adds_up(spool)
        assert spool.waiting_bytes <= CAP
    spool.close()
