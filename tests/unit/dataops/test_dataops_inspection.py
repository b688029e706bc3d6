"""Whatever is damaged on purpose is found, with its place, and nothing is found in a whole lake."""

from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from sqlalchemy import text

from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.inspection import Finding, Inspector, Level, worst
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.testing import host, interval, received, telemetry_batch
from dsops_controller.db.database import Database

NOW_US = 1_767_225_600_000_000


@pytest.fixture
def lake(db: Database, inbox: Inbox, tmp_path: Path) -> Lake:
    """Three files of telemetry and of hosts, and two records that wait."""
    made = Lake(db, tmp_path / "lake")
    made.open()
    for number in (1, 3, 5, 7):
        if number > 1:
            made.flush()
        records = [interval(NOW_US), host(NOW_US)]
        inbox.put("cam-1", received(telemetry_batch(b"a" * 16, [number, number + 1], records)))
    return made


def check(db: Database, lake: Lake) -> list[Finding]:
    return Inspector(db, lake, Pins(lake, ManualClock())).check()


def file_of(lake: Lake, table: LakeTable = LakeTable.TELEMETRY) -> Path:
    return Path(min(lake.table(table).file_uris()))


def test_a_whole_lake_has_nothing_to_find(db: Database, lake: Lake) -> None:
    found = check(db, lake)
    assert worst(found) is Level.INFO
    assert [finding.text[:9] for finding in found if finding.where == "inbox"] == ["1 batches"]
    facts = {row.table: row for row in Inspector(db, lake, Pins(lake, ManualClock())).tables()}
    assert (facts[LakeTable.TELEMETRY].rows, facts[LakeTable.TELEMETRY].files) == (3, 3)
    assert f"{facts[LakeTable.TELEMETRY].last_day}" == "2026-01-01"
    assert (facts[LakeTable.SAMPLES].rows, facts[LakeTable.SAMPLES].first_day) == (0, None)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def garble(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"x" * 196 + data[-4:])


@pytest.mark.parametrize(
    ("damage", "says"),
    [(Path.unlink, "is not there"), (cut, "the log says"), (garble, "is not a whole Parquet file")],
)
def test_a_damaged_file_is_named(db: Database, lake: Lake, damage: Callable[[Path], None], says: str) -> None:
    path = file_of(lake)
    damage(path)
    found = check(db, lake)
    assert (found[0].where, found[0].level) == ("telemetry", Level.DAMAGED)
    assert path.name in found[0].text
    assert says in found[0].text
    assert found[0].hint


def test_another_file_under_the_same_name_is_told_by_its_rows(db: Database, lake: Lake, tmp_path: Path) -> None:
    path = file_of(lake)
    one = path.read_bytes()
    Upkeep(lake, Pins(lake, ManualClock()), ManualClock()).compact()
    joined = file_of(lake)
    log = max((tmp_path / "lake/telemetry/_delta_log").glob("*.json"))
    size = joined.stat().st_size
    log.write_text(log.read_text().replace(f'"size":{size}', f'"size":{len(one)}'))
    for checkpoint in log.parent.glob("*checkpoint*"):
        checkpoint.unlink()
    joined.write_bytes(one)
    assert "has 1 rows; the log says 3" in check(db, lake)[0].text


def test_a_torn_log_is_found_and_the_others_are_looked_at(db: Database, lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "lake/hosts/_delta_log" / f"{1:020d}.json").write_text("{")
    file_of(lake).unlink()
    found = [finding.where for finding in check(db, lake) if finding.level is Level.DAMAGED]
    assert found == ["telemetry", "hosts"]


def test_records_that_two_compactions_doubled_are_found(db: Database, lake: Lake, tmp_path: Path) -> None:
    """What the lease keeps from happening: the Delta library lets both stand."""
    first, second = (DeltaTable(tmp_path / "lake/telemetry") for _ in range(2))
    first.optimize.compact()
    second.optimize.compact()
    found = check(db, lake)
    assert (found[0].where, found[0].text) == ("telemetry", "3 records are there more than once")


def test_a_database_older_than_the_lake_is_found_until_the_next_start(db: Database, lake: Lake) -> None:
    with db.write() as connection:
        connection.execute(text("DELETE FROM inbox"))
        connection.execute(text("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'inbox'"))
    first = check(db, lake)[0]
    assert (first.where, first.level) == ("inbox", Level.DAMAGED)
    lake.open()
    assert worst(check(db, lake)) is Level.INFO


def test_a_pinned_version_that_lost_a_file_is_found(db: Database, lake: Lake) -> None:
    pins = Pins(lake, ManualClock())
    pins.pin(LakeTable.TELEMETRY, "dataset/one")
    lost = file_of(lake)
    Upkeep(lake, pins, ManualClock()).compact()
    lost.unlink()
    (damaged,) = [finding for finding in check(db, lake) if finding.level is Level.DAMAGED]
    assert (damaged.where, lost.name in damaged.text) == ("telemetry version 3 of dataset/one", True)
