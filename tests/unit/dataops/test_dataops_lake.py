"""A flush that dies between any two steps loses nothing and doubles nothing, also when unsynced files are torn."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from sqlalchemy import func, select

from dsops.clock import ManualClock
from dsops.errors import StateDamaged
from dsops_controller.dataops.columns import LakeTable
from dsops_controller.dataops.delta_log import load_synced
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake import Lake
from dsops_controller.dataops.rows import EARLY_MS, LATE_MS, partition_day
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
STEPS = [*(f"appended {table}" for table in LakeTable), "synced", "noted", "deleted"]

KILLED = """
import os, signal, sys
from pathlib import Path
from dsops_controller.dataops.lake import Lake
from dsops_controller.db.database import Database

def watch(step: str) -> None:
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
lake = Lake(Database(f"sqlite:///{folder}/state.db"), folder / "lake", watch)
getattr(lake, sys.argv[3])()
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
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), step, call], check=False, capture_output=True)
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


@pytest.mark.parametrize("step", ["synced", "noted"])
@pytest.mark.parametrize("damage", [leave_as_it_is, lose_files, tear_commits])
def test_a_compaction_may_die(
    db: Database, inbox: Inbox, tmp_path: Path, step: str, damage: Callable[[Path], None]
) -> None:
    lake = Lake(db, tmp_path / "lake")
    lake.open()
    for first in (1, 11):
        fill(inbox, first)
        lake.flush()
    die(tmp_path, step, "optimize")
    damage(tmp_path / "lake")
    lake.open()
    assert LakeStore(db, lake).counts() == Counts(12, 4, 0, 26, 0)
    lake.optimize()
    assert LakeStore(db, lake).counts() == Counts(12, 4, 0, 26, 0)
    assert len(lake.view(LakeTable.TELEMETRY).files) == 1


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
