"""A flush that dies between any two steps loses nothing and doubles nothing, also when unsynced files are torn."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from sqlalchemy import func, select

from dsops.clock import ManualClock
from dsops.errors import StateDamaged
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.columns import COLUMNS, RECORDS, LakeTable
from dsops_controller.dataops.lake.delta_log import load_synced
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.rows import EARLY_MS, LATE_MS, partition_day
from dsops_controller.dataops.lake.upkeep import Rota, Upkeep
from dsops_controller.dataops.store import Counts, LakeStore
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
from dsops_controller.db.tables import inbox as inbox_table
from dsops_controller.db.tables import metadata

A, B = b"a" * 16, b"b" * 16
NOW_US = 1_767_225_600_000_000
OLD_US = 45 * 86_400 * 10**6
STEPS = [*(f"appended {table}" for table in LakeTable), "synced", "noted", "deleted"]

KILLED = """
import os, signal, sys
from pathlib import Path
from dsops.clock import ManualClock
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.db.database import Database

def watch(step: str) -> None:
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
lake = Lake(Database(f"sqlite:///{folder}/state.db"), folder / "lake", watch)
if sys.argv[3] == "flush":
    lake.flush()
else:
    upkeep = Upkeep(lake, Pins(lake, ManualClock()), ManualClock(), watch=watch)
    getattr(upkeep, sys.argv[3])(*map(int, sys.argv[4:]))
"""


def fill(box: Inbox, first: int) -> None:
    """Put four records of telemetry and two samples."""
    seqs = range(first, first + 4)
    records = [interval(NOW_US + first), host(NOW_US + first), drift_event(NOW_US + first), interval(NOW_US)]
    box.put("cam-1", received(telemetry_batch(A, seqs, records)))
    pair = [sample(NOW_US + first, [1.0, 2.0]), sample(NOW_US + first, [3.0, 4.0])]
    box.put("cam-1", received(sample_batch(B, [first, first + 1], pair)))


def waiting(db: Database) -> int:
    with db.read() as connection:
        return connection.execute(select(func.count()).select_from(inbox_table)).scalar_one()


def die(folder: Path, step: str, call: str = "flush") -> None:
    hours = ["0"] if call == "vacuum" else []
    command = [sys.executable, "-c", KILLED, str(folder), step, call, *hours]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def lose_files(folder: Path) -> None:
    """Do what a power cut may do: keep unsynced commits and the names of their files, lose the files' contents."""
    for name, tail in load_synced(folder).items():
        table = DeltaTable(folder / name)
        newest = set(table.file_uris())
        table.load_as_version(tail.version)
        for path in newest - set(table.file_uris()):
            Path(path).write_bytes(b"")


def tear_commits(folder: Path) -> None:
    """Do what a power cut may do: keep the first half of unsynced commits."""
    for name, tail in load_synced(folder).items():
        for version in range(tail.version + 1, DeltaTable(folder / name).version() + 1):
            log = folder / name / "_delta_log" / f"{version:020d}.json"
            log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


def leave_as_it_is(_folder: Path) -> None:
    """Do nothing: the process died, the machine went on."""


DAMAGES = (leave_as_it_is, lose_files, tear_commits)


@pytest.mark.parametrize(
    ("step", "damage"),
    [*((step, leave_as_it_is) for step in STEPS)]
    + [(step, damage) for step in ("appended events", "synced") for damage in (lose_files, tear_commits)],
)
def test_a_flush_may_die_anywhere(
    db: Database, inbox: Inbox, tmp_path: Path, step: str, damage: Callable[[Path], None]
) -> None:
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    fill(inbox, 1)
    assert lake.flush() == 2
    fill(inbox, 11)
    die(tmp_path, step)
    store = LakeStore(db, lake)
    assert store.counts() == Counts(12, 4, 0, 26, 0)
    damage(tmp_path / "lake")
    again = Lake(db, tmp_path / "lake")
    again.open()
    fill(inbox, 21)
    again.flush()
    assert waiting(db) == 0
    assert LakeStore(db, again).counts() == Counts(18, 6, 0, 46, 0)


def test_counts_that_no_sum_holds_stop_no_flush(db: Database, inbox: Inbox, tmp_path: Path) -> None:
    """A device may say anything; what it says must not keep the records of others out of the lake."""
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    records = [interval(NOW_US + second * 30_000_000) for second in range(4)]
    for record in records:
        record.model.count = record.model.latency_us.count = record.model.latency_us.zero = 2**63 - 1
        record.model.latency_us.counts[:] = [2**63 - 1]
        record.model.latency_us.sum = 1.7e308
    inbox.put("evil", received(telemetry_batch(A, [1, 2, 3, 4], records)))
    for number in range(2):
        fill(inbox, 1 + 10 * number)
        lake.flush()
    assert waiting(db) == 0
    minutes = lake.table(LakeTable.MINUTES).scan(["count"]).read_all()["count"].to_pylist()
    assert sorted(minutes)[-2:] == [2**63 - 1] * 2


SLOW = pytest.mark.slow
TENDING = [
    ("compact", "compacted telemetry", leave_as_it_is),
    ("retain", "dropped telemetry", lose_files),
    pytest.param("compact", "checkpointed minutes", tear_commits, marks=SLOW),
    pytest.param("vacuum", "vacuumed telemetry", tear_commits, marks=SLOW),
    *(pytest.param("compact", "compacted telemetry", damage, marks=SLOW) for damage in (lose_files, tear_commits)),
    *(pytest.param("compact", "checkpointed minutes", damage, marks=SLOW) for damage in (leave_as_it_is, lose_files)),
    *(pytest.param("retain", "dropped telemetry", damage, marks=SLOW) for damage in (leave_as_it_is, tear_commits)),
    *(pytest.param("vacuum", "vacuumed telemetry", damage, marks=SLOW) for damage in (leave_as_it_is, lose_files)),
    *(pytest.param(call, "synced", damage, marks=SLOW) for call in ("compact", "retain") for damage in DAMAGES),
    *(pytest.param(call, "noted", leave_as_it_is, marks=SLOW) for call in ("compact", "retain")),
]


@pytest.mark.parametrize(("call", "step", "damage"), TENDING)
def test_tending_may_die_anywhere(
    db: Database, inbox: Inbox, tmp_path: Path, call: str, step: str, damage: Callable[[Path], None]
) -> None:
    """Whatever dies where: what is within its time is there once, and the next time everything is done."""
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    old = [interval(NOW_US - OLD_US), interval(NOW_US - OLD_US)]
    inbox.put("cam-1", received(telemetry_batch(A, [1, 2], old)))
    for first in (11, 21):
        fill(inbox, first)
        lake.flush()
    if call == "vacuum":  # so that there are files to remove
        tended(lake).compact()
    die(tmp_path, step, call)
    damage(tmp_path / "lake")
    again = Lake(db, tmp_path / "lake")
    again.open()
    assert recent(again) == (12, 0)
    getattr(tended(again), call)()
    assert recent(again) == (12, 0)
    fill(inbox, 31)
    again.flush()
    tended(again).tend()
    assert recent(again) == (18, 0)
    counts = LakeStore(db, again).counts()
    assert (counts.records_stored, counts.duplicates) == (18, 0)
    assert len(again.view(LakeTable.TELEMETRY).files) == 1


def tended(lake: Lake) -> Upkeep:
    return Upkeep(lake, Pins(lake, ManualClock()), ManualClock())


def recent(lake: Lake) -> tuple[int, int]:
    """Return how many records are within their time, and how many of them are there again."""
    found = []
    for table in RECORDS:
        rows = lake.table(table).scan(["device", "stream", "seq", "time"]).read_all()
        columns = [rows[name].to_pylist() for name in ("device", "stream", "seq", "time")]
        found += [row[:3] for row in zip(*columns, strict=True) if row[3].year == 2026]
    return len(found), len(found) - len(set(found))


def test_readers_see_every_record_once_while_flushes_run(db: Database, inbox: Inbox, tmp_path: Path) -> None:
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    store = LakeStore(db, lake)
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            lake.flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for round_ in range(6):
            fill(inbox, 1 + 10 * round_)
            counts = store.counts()
            assert (counts.records_stored, counts.duplicates) == (6 * (round_ + 1), 0)
    finally:
        done.set()
        flusher.join()


def test_a_new_database_never_reuses_ids_that_the_lake_has_seen(db: Database, inbox: Inbox, tmp_path: Path) -> None:
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    fill(inbox, 1)
    lake.flush()
    fresh = Database(f"sqlite:///{tmp_path}/new.db")
    with fresh.write() as connection:
        metadata.create_all(connection)
    again = Lake(fresh, tmp_path / "lake")
    again.open()
    box = Inbox(fresh, ManualClock())
    box.start()
    fill(box, 101)
    box.stop()
    again.flush()
    assert LakeStore(fresh, again).counts().records_stored == 12
    fresh.close()


def test_an_unreadable_table_is_named_as_damaged_state(db: Database, tmp_path: Path) -> None:
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    (tmp_path / "lake/hosts/_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(StateDamaged):
        lake.view(LakeTable.HOSTS)


def test_a_wrong_clock_makes_no_partition_of_its_own() -> None:
    received_ms = 1_767_225_600_000
    assert partition_day(received_ms * 1000, received_ms) == 20454
    assert partition_day((received_ms - LATE_MS) * 1000, received_ms) == 20454 - 60
    assert partition_day((received_ms - LATE_MS - 1) * 1000, received_ms) == 20454
    assert partition_day((received_ms + EARLY_MS + 1) * 1000, received_ms) == 20454
    assert partition_day(1, received_ms) == 20454


def test_a_log_is_checkpointed_before_it_is_long(
    db: Database, inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsops_controller.dataops.lake.lake.CHECKPOINT_COMMITS", 3)
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    for number in range(4):
        fill(inbox, 10 * number + 1)
        lake.flush()
    assert [path.name[:20] for path in (tmp_path / "lake/hosts/_delta_log").glob("*.checkpoint.parquet")] == [
        f"{3:020d}"
    ]
    assert load_synced(tmp_path / "lake")["hosts"].checkpoints == (3,)


def test_a_lake_is_tended_every_hour_and_when_the_day_has_closed() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 22, 30, tzinfo=UTC))
    rota = Rota(clock, 3600)
    due = []
    for _ in range(12):  # of ten minutes, until half past midnight
        clock.advance(600)
        due.append((f"{clock.now():%H:%M}", rota.is_due()))
    assert [moment for moment, is_due in due if is_due] == ["23:30", "00:00"]


def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(
    db: Database, inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(db, tmp_path / "lake")
    fewer = {name: kind for name, kind in COLUMNS[LakeTable.HOSTS].items() if name != "cpu_percent"}
    with monkeypatch.context() as before:
        before.setitem(COLUMNS, LakeTable.HOSTS, fewer)
        lake.open()
        fill(inbox, 1)
        lake.flush()
    lake.open()
    fill(inbox, 11)
    lake.flush()
    assert sorted(lake.table(LakeTable.HOSTS).scan(["cpu_percent"]).read_all()["cpu_percent"].to_pylist(), key=str) == [
        12.5,
        None,
    ]
    assert LakeStore(db, lake).counts().records_stored == 12
    tended(lake).compact()
    assert LakeStore(db, lake).counts().records_stored == 12
