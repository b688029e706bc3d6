"""The log of a table stays short, also while versions of it are pinned, and these are read all the same."""

import os
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.commits import NO_HOOKS
from dsops_controller.dataops.lake.delta_log import checkpoints, superfluous
from dsops_controller.dataops.lake.inspection import Inspector, Level, worst
from dsops_controller.dataops.lake.lake import LOG_DAYS, Lake
from dsops_controller.dataops.lake.log_cutting import LogCutter
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.testing import interval, received, telemetry_batch
from dsops_controller.db.database import Database

NOW_US = 1_767_225_600_000_000
DAY_S = 86_400
TABLE = LakeTable.TELEMETRY


class Place:
    """A lake with a table that gets commits, and a clock."""

    def __init__(self, db: Database, inbox: Inbox, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder / "lake"
        self.lake, self._inbox, self._seq = Lake(db, self.folder), inbox, 0
        self.lake.open()
        self.pins = Pins(self.lake, self.clock)
        self.cutter = LogCutter(self.lake, self.clock)
        self.inspector = Inspector(db, self.lake, self.pins)

    def put(self) -> None:
        """Store one record more."""
        self._seq += 1
        self._inbox.put("cam-1", received(telemetry_batch(b"a" * 16, [self._seq], [interval(NOW_US)])))
        self.lake.flush()

    def commit(self, times: int) -> None:
        """Make commits that change no rows."""
        for number in range(times):
            delta = self.lake.table(TABLE)
            delta.alter.set_table_properties(
                {"dsops.count": str(number)}, raise_if_not_exists=False, post_commithook_properties=NO_HOOKS
            )

    def cut(self) -> None:
        with self.lake.tending():
            self.cutter.cut(TABLE, self.pins.versions(TABLE))

    def age(self, days: float) -> None:
        """Let files be so old, by the clock."""
        self.clock.advance(DAY_S)
        then = self.clock.now().timestamp() - days * DAY_S
        for path in self.log():
            os.utime(path, (then, then))

    def log(self) -> list[Path]:
        return sorted(path for path in (self.folder / TABLE / "_delta_log").iterdir() if path.name[0] != "_")

    def rows(self, version: int | None = None) -> int:
        return int(self.lake.table(TABLE, version).scan(["seq"]).read_all().num_rows)


@pytest.fixture
def place(db: Database, inbox: Inbox, tmp_path: Path) -> Place:
    return Place(db, inbox, tmp_path)


def test_the_commits_around_a_pinned_version_go_and_it_is_read(place: Place) -> None:
    place.put()
    pinned = place.pins.pin(TABLE, "dataset/one")
    place.commit(20)
    place.put()
    place.cut()
    assert pinned in checkpoints(place.folder / TABLE)
    for _ in range(2):
        place.age(LOG_DAYS + 1)
        place.commit(1)
        place.cut()
    newest = place.lake.version(TABLE)
    assert [path.name for path in place.log() if int(path.name[:20]) < newest - 2] == [
        f"{pinned:020}.checkpoint.parquet"
    ]
    assert (place.rows(pinned), place.rows()) == (1, 2)
    assert worst(place.inspector.check()) is Level.INFO
    place.pins.release("dataset/one")
    place.age(LOG_DAYS + 1)
    place.cut()
    assert pinned not in checkpoints(place.folder / TABLE)
    assert place.rows() == 2


def test_every_version_of_the_last_week_is_still_read(place: Place) -> None:
    place.put()
    place.pins.pin(TABLE, "dataset/one")
    place.commit(3)
    place.cut()  # leaves a checkpoint
    place.age(LOG_DAYS + 1)
    week = place.lake.version(TABLE)
    place.commit(3)
    place.clock.advance(DAY_S)
    place.cut()
    assert [place.rows(version) for version in range(week, place.lake.version(TABLE) + 1)] == [1] * 4


def test_young_commits_stay_and_a_table_is_cut_once_a_day(place: Place) -> None:
    place.put()
    place.pins.pin(TABLE, "dataset/one")
    place.commit(5)
    place.cut()
    place.age(LOG_DAYS - 1)
    before = place.log()
    place.cut()
    assert place.log() == [*before, *(path for path in place.log() if path not in before)], "something young went"
    place.age(LOG_DAYS + 1)
    place.clock.advance(-DAY_S)
    before = place.log()
    place.cut()
    assert place.log() == before, "less than a day after the last time"


def test_without_an_old_checkpoint_nothing_goes(tmp_path: Path) -> None:
    log = tmp_path / "_delta_log"
    log.mkdir()
    for version in range(5):
        (log / f"{version:020}.json").write_text("{}")
    for name in ("_last_checkpoint", ".part", "notes.json"):  # nobody knows what else is there
        (log / name).write_text("{}")
    for path in superfluous(tmp_path, (), 1e12):
        path.unlink()
    assert len(list(log.iterdir())) == 8
    (log / f"{3:020}.checkpoint.parquet").write_bytes(b"")
    for path in superfluous(tmp_path, (), 1e12):
        path.unlink()
    assert sorted(path.name[18:] for path in log.iterdir() if path.name[0] == "0") == [
        "03.checkpoint.parquet", "03.json", "04.json",
    ]  # fmt: skip
    assert len(list(log.iterdir())) == 6
