"""The lake: Delta tables in a folder or an object store, filled from the inbox so that every record arrives once.

A flush takes the inbox rows up to an id W and appends them to each table in a commit that carries the Delta
application transaction (inbox's own name, W) [Delta protocol, "Transaction Identifiers"]. Repeating a flush therefore
adds nothing, and of two flushes of one inbox that run at once the table refuses one. Then the place makes durable what
was written (:mod:`.places`), and only then the inbox rows are deleted. Whatever moment a process or the machine dies, a
record is in the inbox, in the lake, or in both with an id at or below the table's watermark, which readers leave out.

Each inbox has a name of its own, so several controllers with inboxes of their own fill one lake.
"""

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arro3.core import Array, DataType, RecordBatchReader, Table
from deltalake import CommitProperties, DeltaTable, Field, Transaction
from deltalake import write_deltalake as append_rows
from deltalake.exceptions import DeltaError
from sqlalchemy import Connection, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from dsops.errors import NoSpace, StateDamaged
from dsops_controller.dataops.batches import Kind
from dsops_controller.dataops.lake import totals
from dsops_controller.dataops.lake.columns import PARTITIONS, LakeTable
from dsops_controller.dataops.lake.commits import MARKED, NO_HOOKS, OURS, open_or_create, properties
from dsops_controller.dataops.lake.minutes import as_table, roll_up
from dsops_controller.dataops.lake.places import Folder, Place, Watch, keep, unwatched
from dsops_controller.dataops.lake.rows import Pending, Rows, empty, split
from dsops_controller.dataops.lake.scope import EVERYTHING, Scope
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox, inbox_name

CHUNK_BYTES = 8 << 20
CHECKPOINT_COMMITS = 50
"""Readers read a table's newest checkpoint and the commits after it."""
_LOCK = 0x64736F7073  # "dsops": the lock of whoever writes the lake from this inbox
VACUUM_HOURS = 24
"""So long a file stays after it left its table."""
LOG_DAYS = 7
"""So long a commit stays in the log of its table."""
_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": f"interval {LOG_DAYS} days",
    "delta.deletedFileRetentionDuration": f"interval {VACUUM_HOURS} hours",
}
_READ_AT_ONCE = 4
_SQLITE_SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = 'inbox'"
PINS = "pins"
PINS_SCHEMA = {
    "lake_table": DataType.string(),
    "version": DataType.int64(),
    "owner": DataType.string(),
    "created_us": DataType.int64(),
}
"""The table of :mod:`.pins`."""
_TABLES = (*LakeTable, PINS)


@dataclass(frozen=True, slots=True)
class View:
    """One version of a table, as far as a scope asks for it.

    Attributes:
        delta: The version.
        files: Addresses of the Parquet files that may have rows of the scope.
        predicate: The scope as SQL; empty for everything.
        watermark: Highest inbox id whose records it holds; -1 before the first.
        is_local: Whether ``files`` are paths.
    """

    delta: DeltaTable
    files: tuple[str, ...]
    predicate: str
    watermark: int
    is_local: bool

    def scan(self, columns: tuple[str, ...]) -> RecordBatchReader:
        """Return the rows of the scope, of all columns when none are named; reads the needed byte ranges only."""
        return self.delta.scan(list(columns) or None, self.predicate or None)


class Lake:
    """Delta tables, one for each :class:`LakeTable`.

    Args:
        db: The state database with the inbox.
        where: A folder, or another place.
        watch: Called with the name of each step of a flush after it was done.
    """

    def __init__(self, db: Database, where: Path | Place, watch: Watch = unwatched) -> None:
        self._db = db
        self._place: Place = Folder(where) if isinstance(where, Path) else where
        self._watch = watch
        self._writing = threading.Lock()
        self._app = ""

    @property
    def place(self) -> Place:
        """Where the tables are."""
        return self._place

    @property
    def inbox(self) -> str:
        """Name of the inbox that fills it here; controllers with a database each have one each."""
        return self._application()

    def open(self) -> None:
        """Make absent tables and columns, undo commits that a crash left unsynced, lift inbox ids above the watermarks.

        Must run before the inbox takes its first batch.

        Raises:
            StateDamaged: A table cannot be read.
            NoSpace: The disk is full.
        """
        with translated(), self.appending():
            self._place.recover(_TABLES)
            for table in LakeTable:
                self._complete(table)
            pins = Table.from_pydict({name: Array([], type=kind) for name, kind in PINS_SCHEMA.items()})
            open_or_create(self._place.uri(PINS), self._place.options, pins.schema)
            self.settle()
            top = max(_watermark(self.table(table), self._application()) for table in LakeTable)
            with self._db.write() as connection:
                _lift_ids(connection, top)

    def flush(self) -> int:
        """Move the inbox into the tables; return how many inbox rows were moved.

        Raises:
            NoSpace: The disk is full; nothing is lost, the next flush goes on.
            StateDamaged: A table or the inbox cannot be read or written.
        """
        moved = 0
        with translated(), self.appending():
            last_id = self._last_id()
            while (rows := self._chunk(last_id)).batches:
                self._move(rows)
                moved += rows.batches
        return moved

    def view(self, table: LakeTable, scope: Scope = EVERYTHING, version: int | None = None) -> View:
        """Return the newest or the given version of a table, as far as ``scope`` asks for it.

        Raises:
            StateDamaged: It cannot be read.
        """
        predicate = scope.predicate()
        with translated():
            delta = self.table(table, version)
            files = delta.file_uris(file_pruning_predicate=predicate or None)
            is_local = self._place.options is None
            return View(delta, tuple(files), predicate, _watermark(delta, self._application()), is_local)

    def version(self, table: LakeTable) -> int:
        """Return the number of a table's newest version.

        Raises:
            StateDamaged: It cannot be read.
        """
        with translated():
            return int(self.table(table).version())

    def table(self, table: LakeTable, version: int | None = None) -> DeltaTable:
        """Return a table as the Delta library gives it, of its newest or the given version.

        Raises:
            DeltaError: It cannot be read.
        """
        return self.named(table.value, version)

    def named(self, name: str, version: int | None = None) -> DeltaTable:
        """Return any table of the lake; see :meth:`table`."""
        return DeltaTable(self._place.uri(name), version=version, storage_options=self._place.options)

    @contextmanager
    def tending(self) -> Iterator[Callable[[], None]]:
        """Hold the right to rewrite and remove files; call what it gives between steps.

        Raises:
            Conflict: Another controller has it.
        """
        if self._place.options is not None:
            with self._place.tending() as renew:  # appends go on meanwhile
                yield renew
            return
        with self.appending():
            yield keep

    def settle(self) -> None:
        """Make durable what was written."""
        self._place.settle(_TABLES, self._watch)

    def _complete(self, table: LakeTable) -> None:
        """Make the table, or the columns that it lacks."""
        schema = empty(table).schema
        delta = open_or_create(
            self._place.uri(table.value),
            self._place.options,
            schema,
            partition_by=PARTITIONS[table],
            configuration=_CONFIGURATION,
        )
        present = {field.name for field in delta.schema().fields}
        lacking = [Field.from_arrow(schema.field(name)) for name in schema.names if name not in present]
        if lacking:
            delta.alter.add_columns(lacking, commit_properties=OURS, post_commithook_properties=NO_HOOKS)

    def _move(self, rows: Rows) -> None:
        telemetry = rows.above(LakeTable.TELEMETRY, -1)
        minutes = roll_up(telemetry)
        for table in LakeTable:
            if rows.has(table):
                self._append(table, rows, minutes)
            self._watch(f"appended {table}")
        self.settle()
        bundles = totals.by_bundle(minutes)
        with self._db.write() as connection:
            totals.add(connection, bundles, totals.namers_of(telemetry), rows.received_ms)
            connection.execute(delete(inbox).where(inbox.c.id <= rows.last_id))
        self._watch("deleted")

    def _append(self, table: LakeTable, rows: Rows, minutes: list[dict[str, Any]]) -> None:
        """Append what the table lacks of the rows; ``minutes`` are all of them added up."""
        delta = self.table(table)
        watermark = _watermark(delta, self._application())
        if table is not LakeTable.MINUTES:
            new = rows.above(table, watermark)
        elif watermark < rows.first_id:
            new = as_table(minutes)
        else:  # an earlier flush of some of them died
            new = as_table(roll_up(rows.above(LakeTable.TELEMETRY, watermark)))
        if new.num_rows:
            append_rows(
                delta,
                new,
                mode="append",
                commit_properties=CommitProperties(
                    custom_metadata=MARKED, app_transactions=[Transaction(self._application(), rows.last_id)]
                ),
                post_commithook_properties=NO_HOOKS,
                writer_properties=properties(table),
            )
            if delta.version() % CHECKPOINT_COMMITS == 0:
                delta.create_checkpoint()

    def _application(self) -> str:
        """Return the inbox's name for itself in the tables; given to it once, at the first need."""
        if not self._app:
            with self._db.write() as connection:
                name = connection.execute(select(inbox_name.c.name)).scalar_one_or_none()
                if name is None:
                    name = f"inbox-{secrets.token_hex(8)}"
                    connection.execute(insert(inbox_name).values(name=name))
            self._app = name
        return self._app

    def _last_id(self) -> int:
        """Return the highest inbox id such that no smaller id can still appear."""
        with self._db.write() as connection:
            if connection.dialect.name == "postgresql":
                # Ids are given before their transactions commit: wait for those that hold one.
                connection.execute(text("LOCK TABLE inbox IN SHARE MODE"))
            return int(connection.execute(select(func.coalesce(func.max(inbox.c.id), 0))).scalar_one())

    def _chunk(self, last_id: int) -> Rows:
        """Return what the oldest inbox rows bring, up to a number of bytes."""
        with self._db.read() as connection:
            sizes = select(inbox.c.id, func.length(inbox.c.payload)).where(inbox.c.id <= last_id).order_by(inbox.c.id)
            total, cut = 0, -1
            for row_id, size in connection.execute(sizes):
                total += size
                if cut >= 0 and total > CHUNK_BYTES:
                    break
                cut = row_id
            return split(read_pending(connection, cut))

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Hold the right to flush this inbox: within this process, at this place, and over one PostgreSQL."""
        with self._writing, self._place.appending(), self._db.alone(_LOCK):
            yield


def read_pending(
    connection: Connection, last_id: int | None = None, kinds: Collection[Kind] = tuple(Kind)
) -> Iterator[Pending]:
    """Yield inbox rows of some kinds in the order of ids, up to ``last_id`` when given; few are in memory at once."""
    names = ("id", "device", "stream", "kind", "seqs", "payload", "received_ms")
    query = (
        select(*(inbox.c[name] for name in names))
        .where(inbox.c.kind.in_([kind.value for kind in kinds]))
        .order_by(inbox.c.id)
    )
    if last_id is not None:
        query = query.where(inbox.c.id <= last_id)
    for row in connection.execute(query.execution_options(yield_per=_READ_AT_ONCE)):
        yield Pending(*row)


def newest_id(connection: Connection) -> int:
    """Return the highest inbox id that the database has given or will not give."""
    if connection.dialect.name == "postgresql":
        found = connection.execute(text("SELECT last_value FROM pg_sequences WHERE sequencename = 'inbox_id_seq'"))
    else:
        found = connection.execute(text(_SQLITE_SEQUENCE))
    return int(found.scalar_one_or_none() or 0)


def _watermark(delta: DeltaTable, application: str) -> int:
    version: int | None = delta.transaction_version(application)
    return -1 if version is None else version


def _lift_ids(connection: Connection, top: int) -> None:
    """Make the next inbox id greater than ``top``: a restored database must not reuse what the lake has seen."""
    if connection.dialect.name == "postgresql":
        name = "pg_get_serial_sequence('inbox', 'id')"
        lift = f"SELECT setval({name}, greatest(:top, nextval({name})))"
        connection.execute(text(lift), {"top": max(top, 1)})
        return
    present = connection.execute(text(_SQLITE_SEQUENCE)).scalar_one_or_none()
    if present is None:
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('inbox', :top)"), {"top": max(top, 0)})
    elif present < top:
        connection.execute(text("UPDATE sqlite_sequence SET seq = :top WHERE name = 'inbox'"), {"top": top})


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the Delta library, the database and the system as ours: NoSpace, else StateDamaged."""
    try:
        yield
    except (DeltaError, OSError, SQLAlchemyError) as error:
        if "No space left" in str(error) or "quota exceeded" in str(error):
            raise NoSpace("the lake cannot be written", why=str(error)[:500]) from error
        raise StateDamaged("the lake cannot be read or written", why=str(error)[:500]) from error
