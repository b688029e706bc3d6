"""The lake: Delta tables in a folder, filled from the inbox so that every record arrives exactly once.

A flush takes the inbox rows up to an id W and appends them to each table in a commit that carries the Delta
application transaction (``inbox``, W) [Delta protocol, "Transaction Identifiers"]. Repeating a flush therefore adds
nothing. The Delta writer never syncs a local table, so a flush then syncs the file system, notes the synced versions,
and only then deletes the inbox rows. Whatever moment a process or the machine dies, a record is in the inbox, in the
lake, or in both with an id at or below the table's watermark, which readers leave out.
"""

import ctypes
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, WriterProperties
from deltalake import write_deltalake as append_rows
from deltalake.exceptions import DeltaError
from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from dsops import ids
from dsops.errors import InvalidInput, NoSpace, StateDamaged
from dsops_controller.dataops import delta_log
from dsops_controller.dataops.columns import PARTITIONS, LakeTable
from dsops_controller.dataops.rows import Pending, arrow, split
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox

APP = "inbox"
CHUNK_BYTES = 8 << 20
VACUUM_HOURS = 24
_STREAM_DIGITS, _AT_ONCE = 32, 1000
_PG_LOCK = 0x64736F7073  # "dsops": the advisory lock of whoever writes the lake
LOG_RETENTION = "interval 7 days"
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_ZSTD = WriterProperties(compression="ZSTD", compression_level=1)
_OURS = CommitProperties(custom_metadata={delta_log.MARK: "true"})


@dataclass(frozen=True, slots=True)
class View:
    """One version of a table.

    Attributes:
        files: Paths of its Parquet files.
        watermark: Highest inbox id whose records it holds; -1 before the first.
    """

    files: tuple[str, ...]
    watermark: int


def _unwatched(_step: str) -> None:
    """Do nothing between steps."""


class Lake:
    """Delta tables, one for each :class:`LakeTable`, below one folder.

    Args:
        db: The state database with the inbox.
        folder: Where the tables are; made when absent.
        watch: Called with the name of each step of a flush after it was done; for progress and for fault injection.
    """

    def __init__(self, db: Database, folder: Path, watch: Callable[[str], None] = _unwatched) -> None:
        self._db = db
        self._folder = folder
        self._watch = watch
        self._writing = threading.Lock()

    def open(self) -> None:
        """Make absent tables, undo commits that a crash left unsynced, and lift inbox ids above every watermark.

        Must run before the inbox takes its first batch.

        Raises:
            StateDamaged: A table cannot be read.
            NoSpace: The disk is full.
        """
        with _translated(), self._alone():
            self._folder.mkdir(parents=True, exist_ok=True)
            synced = delta_log.load_synced(self._folder)
            for table in LakeTable:
                delta_log.undo_unsynced(self._path(table), synced.get(table))
                if not DeltaTable.is_deltatable(str(self._path(table))):
                    self._create(table)
            self._sync()
            top = max(self.view(table).watermark for table in LakeTable)
            with self._db.write() as connection:
                _lift_ids(connection, top)

    def flush(self) -> int:
        """Move the inbox into the tables; return how many inbox rows were moved.

        Raises:
            NoSpace: The disk is full; nothing is lost, the next flush goes on.
            StateDamaged: A table or the inbox cannot be read or written.
        """
        moved = 0
        with _translated(), self._alone():
            last_id = self._last_id()
            while chunk := self._chunk(last_id):
                self._move(chunk)
                moved += len(chunk)
        return moved

    def optimize(self) -> None:
        """Compact small files, write a checkpoint, and remove files that left the table a day ago.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: A table cannot be read or written.
        """
        with _translated(), self._alone():
            for table in LakeTable:
                delta = DeltaTable(self._path(table))
                delta.optimize.compact(
                    commit_properties=_OURS, post_commithook_properties=_NO_HOOKS, writer_properties=_ZSTD
                )
                delta.create_checkpoint()
            self._sync()
            for table in LakeTable:  # what is removed from here on is not needed by anything that is synced
                delta = DeltaTable(self._path(table))
                delta.vacuum(
                    retention_hours=VACUUM_HOURS,
                    dry_run=False,
                    enforce_retention_duration=False,
                    commit_properties=_OURS,
                    post_commithook_properties=_NO_HOOKS,
                )
                delta.cleanup_metadata()
            self._sync()

    def erase(self, samples: Iterable[tuple[str, str, int]]) -> None:
        """Delete samples, named by device, stream and number, from the table; once more is no fault.

        The files that held them are written anew without them, and removed with what left the table a day ago.

        Raises:
            NoSpace: The disk is full; what was deleted so far stays deleted.
            StateDamaged: The table cannot be read or written.
            InvalidInput: A device or a stream cannot be one.
        """
        predicates = list(_predicates(samples))
        self.flush()
        with _translated(), self._alone():
            for predicate in predicates:
                DeltaTable(self._path(LakeTable.SAMPLES)).delete(
                    predicate,
                    commit_properties=_OURS,
                    post_commithook_properties=_NO_HOOKS,
                    writer_properties=_ZSTD,
                )
            self._sync()

    def view(self, table: LakeTable) -> View:
        """Return the newest version of a table.

        Raises:
            StateDamaged: It cannot be read.
        """
        with _translated():
            delta = DeltaTable(self._path(table))
            return View(tuple(delta.file_uris()), _watermark(delta))

    def version(self, table: LakeTable) -> int:
        """Return the number of a table's newest version.

        Raises:
            StateDamaged: It cannot be read.
        """
        with _translated():
            return int(DeltaTable(self._path(table)).version())

    def _path(self, table: LakeTable) -> Path:
        return self._folder / table.value

    def _create(self, table: LakeTable) -> None:
        schema = arrow(table, []).schema
        DeltaTable.create(
            self._path(table),
            schema,
            partition_by=PARTITIONS[table],
            configuration={"delta.logRetentionDuration": LOG_RETENTION},
            post_commithook_properties=_NO_HOOKS,
        )

    def _move(self, chunk: list[Pending]) -> None:
        watermark = chunk[-1].id
        for table, rows in split(chunk).items():
            self._append(table, rows, watermark)
            self._watch(f"appended {table}")
        self._sync()
        with self._db.write() as connection:
            connection.execute(delete(inbox).where(inbox.c.id <= watermark))
        self._watch("deleted")

    def _append(self, table: LakeTable, rows: list[tuple[int, dict[str, object]]], watermark: int) -> None:
        delta = DeltaTable(self._path(table))
        done = _watermark(delta)
        new = [values for row_id, values in rows if row_id > done]
        if new:
            append_rows(
                delta,
                arrow(table, new),
                mode="append",
                commit_properties=CommitProperties(
                    custom_metadata=_OURS.custom_metadata, app_transactions=[Transaction(APP, watermark)]
                ),
                post_commithook_properties=_NO_HOOKS,
                writer_properties=_ZSTD,
            )

    def _sync(self) -> None:
        paths = {table: self._path(table) for table in LakeTable}
        tails = {t.value: delta_log.Tail(DeltaTable(p).version(), delta_log.checkpoint(p)) for t, p in paths.items()}
        _sync_file_system(self._folder)
        self._watch("synced")
        delta_log.save_synced(self._folder, tails)
        self._watch("noted")

    def _last_id(self) -> int:
        """Return the highest inbox id such that no smaller id can still appear."""
        with self._db.write() as connection:
            if connection.dialect.name == "postgresql":
                # Ids are given before their transactions commit: wait for those that hold one.
                connection.execute(text("LOCK TABLE inbox IN SHARE MODE"))
            return int(connection.execute(select(func.coalesce(func.max(inbox.c.id), 0))).scalar_one())

    def _chunk(self, last_id: int) -> list[Pending]:
        with self._db.read() as connection:
            sizes = select(inbox.c.id, func.length(inbox.c.payload)).where(inbox.c.id <= last_id).order_by(inbox.c.id)
            total, cut = 0, -1
            for row_id, size in connection.execute(sizes):
                total += size
                if cut >= 0 and total > CHUNK_BYTES:
                    break
                cut = row_id
            return read_pending(connection, cut)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the right to write the lake: within this process, on this host, and over one PostgreSQL."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._writing, (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._db.is_sqlite:
                yield
                return
            with self._db.writer.connect() as connection:
                connection.execute(select(func.pg_advisory_lock(_PG_LOCK)))
                try:
                    yield
                finally:
                    connection.execute(select(func.pg_advisory_unlock(_PG_LOCK)))


def read_pending(connection: Connection, last_id: int | None = None) -> list[Pending]:
    """Return the inbox in the order of ids, up to ``last_id`` when it is given."""
    names = ("id", "device", "stream", "kind", "seqs", "payload", "received_ms")
    query = select(*(inbox.c[name] for name in names)).order_by(inbox.c.id)
    if last_id is not None:
        query = query.where(inbox.c.id <= last_id)
    return [Pending(*row) for row in connection.execute(query)]


def _predicates(samples: Iterable[tuple[str, str, int]]) -> Iterator[str]:
    """Yield a condition for some samples of each stream; what it is made of is checked, for it is SQL."""
    by_stream: dict[tuple[str, str], list[int]] = {}
    for device, stream, seq in samples:
        by_stream.setdefault((ids.device_id(device), stream), []).append(seq)
    for (device, stream), seqs in by_stream.items():
        if not (len(stream) == _STREAM_DIGITS and stream.isalnum() and stream.isascii()):
            raise InvalidInput(f"{stream[:80]!r} is not a stream", hint="see: dsops sample list")
        for start in range(0, len(seqs), _AT_ONCE):
            some = ", ".join(map(str, seqs[start : start + _AT_ONCE]))
            yield f"device = '{device}' and stream = '{stream}' and seq in ({some})"


def _watermark(delta: DeltaTable) -> int:
    version: int | None = delta.transaction_version(APP)
    return -1 if version is None else version


def _lift_ids(connection: Connection, top: int) -> None:
    """Make the next inbox id greater than ``top``: a restored or new database must not reuse what the lake has seen."""
    if connection.dialect.name == "postgresql":
        name = "pg_get_serial_sequence('inbox', 'id')"
        lift = f"SELECT setval({name}, greatest(:top, nextval({name})))"
        connection.execute(text(lift), {"top": max(top, 1)})
        return
    present = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'")).scalar_one_or_none()
    if present is None:
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('inbox', :top)"), {"top": max(top, 0)})
    elif present < top:
        connection.execute(text("UPDATE sqlite_sequence SET seq = :top WHERE name = 'inbox'"), {"top": top})


def _sync_file_system(folder: Path) -> None:
    """Make everything that was written to the file system of ``folder`` durable: syncfs(2), elsewhere sync(2)."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError, SQLAlchemyError) as error:
        if "No space left" in str(error) or "quota exceeded" in str(error):
            raise NoSpace("the lake cannot be written", why=str(error)[:500]) from error
        raise StateDamaged("the lake cannot be read or written", why=str(error)[:500]) from error
