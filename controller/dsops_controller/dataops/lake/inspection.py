"""Looks a lake over: what each table holds, and whether everything that should be there is there and is whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from sqlalchemy import func, select

from dsops.errors import DsopsError, StateDamaged
from dsops_controller.dataops import queries
from dsops_controller.dataops.lake.columns import RECORDS, LakeTable
from dsops_controller.dataops.lake.duck import in_memory
from dsops_controller.dataops.lake.lake import Lake, newest_id, translated
from dsops_controller.dataops.lake.pins import Pin, Pins
from dsops_controller.dataops.lake.retention import FileStat
from dsops_controller.dataops.lake.upkeep import crowded_days, stats
from dsops_controller.dataops.lake.views import IDENTITY, Views, Want
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox

RESTORE = "restore the lake from a backup; what is not in it yet is in the inbox and comes again"
_FEW = 5


class Level(StrEnum):
    """How bad a finding is."""

    INFO = "info"
    """Worth knowing."""
    WARNING = "warning"
    """Something should be done; nothing is lost."""
    DAMAGED = "damaged"
    """Records are missing, doubled, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        where: A table, or ``inbox``.
        hint: What to do.
    """

    where: str
    level: Level
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a table holds, by its log.

    Attributes:
        first_day: Oldest partition; None in an empty table, likewise ``last_day``.
        pinned: Versions that something needs, as ``VERSION OWNER``.
    """

    table: LakeTable
    version: int
    rows: int
    files: int
    bytes: int
    first_day: date | None
    last_day: date | None
    pinned: tuple[str, ...]


class Inspector:
    """Answers about one lake. Safe for use by several threads."""

    def __init__(self, db: Database, lake: Lake, pins: Pins) -> None:
        self._db = db
        self._lake = lake
        self._pins = pins
        self._views = Views(db, lake)

    def tables(self) -> list[TableFacts]:
        """Return what each table holds.

        Raises:
            StateDamaged: A table cannot be read.
        """
        pins = self._pins.listed()
        with translated():
            return [_facts(table, self._lake.table(table), pins) for table in LakeTable]

    def check(self) -> list[Finding]:
        """Read every log, file footer and identity, and compare them; return what was found, the worst first.

        Reads nothing of a file but its footer and its identities. Raises nothing for damage: that is a finding.

        Raises:
            StateDamaged: The state database cannot be read.
        """
        found = [finding for table in LakeTable for finding in self._table(table)]
        found += [finding for pin in self._listed_pins() for finding in self._pin(pin)]
        if not any(finding.level is Level.DAMAGED for finding in found):
            found += self._identities()
        found += self._inbox()
        order = list(Level)
        return sorted(found, key=lambda finding: -order.index(finding.level))

    def _table(self, table: LakeTable) -> Iterator[Finding]:
        try:
            delta = self._lake.table(table)
            files = stats(delta)
        except (DeltaError, OSError) as error:
            yield Finding(table, Level.DAMAGED, f"its log cannot be read: {_short(error)}", RESTORE)
            return
        yield from self._files(table.value, delta, files)
        crowded = crowded_days(files)
        if len(crowded) > 1:  # the newest day always is
            text = f"{len(crowded)} days have small files, {crowded[0]} the oldest"
            yield Finding(table, Level.INFO, text, "they are joined every hour, or now: dsops store compact")

    def _files(self, where: str, delta: DeltaTable, files: Sequence[FileStat]) -> Iterator[Finding]:
        """Compare files with what the log says of them: that they are there, their length, their rows."""
        if self._lake.place.options is None:
            problems = [(file.path, problem) for file in files if (problem := _local_problem(delta, file))]
        else:
            problems = [("the files", problem) for problem in _remote_problem(delta, files)]
        for path, problem in problems[:_FEW]:
            yield Finding(where, Level.DAMAGED, f"{path}: {problem}", RESTORE)
        if len(problems) > _FEW:
            yield Finding(where, Level.DAMAGED, f"and {len(problems) - _FEW} more files", RESTORE)

    def _listed_pins(self) -> list[Pin]:
        try:
            return self._pins.listed()
        except StateDamaged:
            return []

    def _pin(self, pin: Pin) -> Iterator[Finding]:
        where = f"{pin.table} version {pin.version} of {pin.owner}"
        try:
            delta = self._lake.table(pin.table, pin.version)
            files = stats(delta)
        except (DeltaError, OSError) as error:
            yield Finding(where, Level.DAMAGED, f"cannot be read: {_short(error)}", RESTORE)
            return
        yield from self._files(where, delta, files)

    def _identities(self) -> Iterator[Finding]:
        for table in RECORDS:
            try:
                with self._views.open(Want(table, columns=IDENTITY)) as duck:
                    doubled = duck.execute(queries.DOUBLED.replace("TABLE", table.value)).fetchall()[0][0]
            except DsopsError as error:
                yield Finding(table, Level.DAMAGED, f"its records cannot be read: {error.why[:200]}", RESTORE)
                continue
            if doubled:
                text = f"{doubled} records are there more than once"
                hint = "did another program compact the table? restore its version before that: docs/how-to/store.md"
                yield Finding(table, Level.DAMAGED, text, hint)

    def _inbox(self) -> Iterator[Finding]:
        try:
            marks = [self._lake.view(table).watermark for table in LakeTable]
        except StateDamaged:
            return  # told already
        with self._db.read() as connection:
            passed = select(func.count(inbox.c.id)).where(inbox.c.id <= max(marks))
            left, newest = int(connection.execute(passed).scalar_one()), newest_id(connection)
        if newest < max(marks):
            text = f"the database gives numbers up to {newest}, the lake has seen {max(marks)}"
            hint = "the database is older than the lake: restart the server, which lifts the numbers at its start"
            yield Finding("inbox", Level.DAMAGED, text, hint)
        if left:
            text = f"{left} rows are in the lake already, in part at least"
            yield Finding("inbox", Level.INFO, text, "nothing: the next flush removes them")
        rows, size, _ = self._views.waiting()
        yield Finding("inbox", Level.INFO, f"{rows} batches of {size} bytes wait for the next flush", "")


def worst(findings: Sequence[Finding]) -> Level:
    """Return the level of the worst finding."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.INFO)


def _facts(table: LakeTable, delta: DeltaTable, pins: Sequence[Pin]) -> TableFacts:
    files = stats(delta)
    days = sorted(file.day for file in files)
    return TableFacts(
        table=table,
        version=delta.version(),
        rows=sum(file.rows for file in files),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
        pinned=tuple(f"{pin.version} {pin.owner}" for pin in pins if pin.table is table),
    )


def _local_problem(delta: DeltaTable, file: FileStat) -> str:
    """Return what is wrong with a file in a folder, or nothing."""
    path = Path(delta.table_uri.removeprefix("file://")) / unquote(file.path)
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"is not there ({error.strerror})"
    if size != file.bytes:
        return f"has {size} bytes; the log says {file.bytes}"
    try:
        with in_memory() as duck:
            rows = duck.execute(queries.FOOTER, {"path": str(path)}).fetchall()[0][0]
    except duckdb.Error as error:
        return f"is not a whole Parquet file: {_short(error)}"
    return "" if rows == file.rows else f"has {rows} rows; the log says {file.rows}"


def _remote_problem(delta: DeltaTable, files: Sequence[FileStat]) -> Iterator[str]:
    """Yield what is wrong with files in an object store: each footer is read where the log says that it is."""
    if not files:
        return
    try:
        rows = sum(batch.num_rows for batch in delta.scan(["time"]))
    except Exception as error:  # noqa: BLE001 - of the Arrow stream, of the store, of Parquet: all are the finding
        yield f"cannot be read: {_short(error)}"
        return
    if rows != sum(file.rows for file in files):
        yield f"have {rows} rows; the log says {sum(file.rows for file in files)}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
