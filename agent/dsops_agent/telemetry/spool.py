"""The spool: records wait here, durably, until the store has acknowledged them.

One SQLite file in WAL mode with ``synchronous=FULL``, used by one connection. What does not fit drops the oldest
records, samples before telemetry. Every record is counted, in the transaction that stores or drops it:
``produced = stored + dropped + pending`` always holds.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

from dsops.errors import DeviceError, NoSpace, StateDamaged
from dsops_agent.claimed import immediate
from dsops_agent.telemetry.spool_file import (
    as_device_error,
    is_damaged,
    is_full,
    keep_reserve,
    open_file,
    put_aside,
)

logger = logging.getLogger(__name__)

Kind = Literal["telemetry", "samples"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_RECORD_BYTES = (1 << 20) - 4096
"""A longer record would not fit into a batch of 1 MiB; it is dropped and counted."""

_ROW_BYTES = 64
"""What SQLite needs for a row beside the record, roughly."""
_USABLE, _LOW_WATER = 0.7, 0.63
"""Shares of the file at which dropping begins and ends; the rest is for pages that are partly filled."""

T = TypeVar("T")


@dataclass(frozen=True)
class Counters:
    """What became of the records of one kind since their stream began; ``stored`` means acknowledged by the store."""

    produced: int = 0
    stored: int = 0
    dropped: int = 0
    pending: int = 0


@dataclass(frozen=True)
class Batch:
    """Records of one kind, oldest first; ``stream`` is 16 random bytes, ``seqs`` rise, gaps were dropped."""

    kind: Kind
    stream: bytes
    seqs: tuple[int, ...]
    records: tuple[bytes, ...]
    produced: int
    dropped: int


@dataclass(frozen=True)
class Delivery:
    """Records that another process hands over.

    Attributes:
        records: Serialized records by kind.
        lost: How many records of a kind were lost before they could be handed over.
        origin: A name that is new with each start of the process, and a number that rises; empty for no name.
    """

    records: Mapping[Kind, Sequence[bytes]]
    lost: Mapping[Kind, int] = field(default_factory=dict)
    origin: tuple[str, int] = ("", 0)


class Spool:
    """Keeps records in a folder. Thread-safe. A damaged file is put aside; a full disk is waited for.

    Args:
        folder: Made when it is absent.
        cap_bytes: Size of the file, taken at once.

    Raises:
        DeviceError: The folder cannot be used.
    """

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self._path = folder / "spool.db"
        self._reserve = folder / "reserve"
        self._cap_bytes = cap_bytes
        self._lock = threading.Lock()
        self._sql: sqlite3.Connection | None = None
        self._bytes: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._untold: dict[Kind, int] = dict.fromkeys(KINDS, 0)  # dropped, but not counted on disk yet
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateDamaged(f"cannot use {folder}", why=error.strerror or str(error)) from error
        with self._lock:
            self._open()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records that wait."""
        with self._lock:
            return sum(self._bytes.values())

    def append(self, kind: Kind, records: Sequence[bytes]) -> None:
        """Store records durably; older ones are dropped when the spool is full.

        Raises:
            NoSpace: The disk is full; the records are counted as dropped.
            DeviceError: The file failed in another way; the records are counted as dropped.
        """
        self.append_all({kind: records})

    def append_all(self, records: Mapping[Kind, Sequence[bytes]]) -> None:
        """Store records of several kinds in one commit; see :meth:`append`."""
        self.take(Delivery(records))

    def take(self, delivery: Delivery) -> None:
        """Store what another process hands over, in one commit; a delivery that was stored before changes nothing.

        Raises:
            DeviceError: The file failed; the records are counted as dropped.
        """
        with self._lock:
            try:
                self._write(lambda sql: self._take(sql, delivery))
            except DeviceError:
                for kind in KINDS:
                    self._untold[kind] += len(delivery.records.get(kind, ())) + delivery.lost.get(kind, 0)
                raise

    def batch(self, kind: Kind, max_bytes: int, max_records: int) -> Batch | None:
        """Return the oldest records that fit, at least one; None when none waits.

        Raises:
            DeviceError: The file cannot be read.
        """
        with self._lock:
            return self._read(lambda sql: _read_batch(sql, kind, max_bytes, max_records))

    def ack(self, kind: Kind, seq: int) -> None:
        """Delete what the store holds: everything up to ``seq``. A number that was never given starts a new stream.

        Raises:
            DeviceError: The file failed; the records are sent once more, and the store knows them.
        """
        with self._lock:
            self._write(lambda sql: self._acknowledge(sql, kind, seq))

    def drop(self, kind: Kind, seqs: Sequence[int]) -> None:
        """Drop records that can never be uploaded, and count them.

        Raises:
            DeviceError: The file failed.
        """
        with self._lock:
            self._write(lambda sql: self._delete(sql, kind, seqs))

    def counters(self) -> dict[Kind, Counters]:
        """Return the counters of both kinds.

        Raises:
            DeviceError: The file cannot be read.
        """
        with self._lock:
            told = dict.fromkeys(KINDS, Counters())
            if self._sql is not None:
                told = self._read(lambda sql: {kind: _counters(sql, kind) for kind in KINDS})
            return {
                kind: replace(c, produced=c.produced + self._untold[kind], dropped=c.dropped + self._untold[kind])
                for kind, c in told.items()
            }

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._sql is not None:
                self._sql.close()
                self._sql = None

    # What follows runs with the lock held.

    def _file(self) -> sqlite3.Connection:
        if self._sql is None:
            self._open()
        if self._sql is None:
            raise NoSpace("the spool cannot be made", why="the disk is full")
        return self._sql

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work``, which only reads."""
        try:
            return work(self._file())
        except sqlite3.Error as error:
            if is_damaged(error):
                self._replace(error)
            raise as_device_error(error) from error

    def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run ``work`` in one transaction; once more, with the reserve given back, when the disk is full."""
        sql = self._file()
        try:
            self._transaction(sql, work)
        except sqlite3.Error as error:
            if is_damaged(error):
                self._replace(error)
            if not is_full(error):
                raise as_device_error(error) from error
        else:
            keep_reserve(self._reserve)
            return
        self._reserve.unlink(missing_ok=True)
        try:
            self._transaction(sql, work)
        except sqlite3.Error as error:
            raise as_device_error(error) from error

    def _transaction(self, sql: sqlite3.Connection, work: Callable[[sqlite3.Connection], None]) -> None:
        before, untold = dict(self._bytes), dict(self._untold)
        try:
            with immediate(sql):
                self._tell_dropped(sql)
                work(sql)
        except sqlite3.Error:
            self._bytes, self._untold = before, untold
            raise

    def _tell_dropped(self, sql: sqlite3.Connection) -> None:
        for kind, count in self._untold.items():
            if count:
                _count(sql, kind, produced=count, dropped=count)
                self._untold[kind] = 0

    def _take(self, sql: sqlite3.Connection, delivery: Delivery) -> None:
        source, number = delivery.origin
        if source:
            row = sql.execute("select batch from origin where source = ?", (source,)).fetchone()
            if row is not None and number <= row[0]:
                return
            sql.execute("delete from origin where source != ?", (source,))
            sql.execute("insert or replace into origin (source, batch) values (?, ?)", (source, number))
        self._insert(sql, delivery.records)
        for kind, count in delivery.lost.items():
            _count(sql, kind, produced=count, dropped=count)

    def _insert(self, sql: sqlite3.Connection, records: Mapping[Kind, Sequence[bytes]]) -> None:
        for kind, items in records.items():
            fitting = [data for data in items if len(data) <= MAX_RECORD_BYTES]
            taken = fitting[self._make_room(sql, kind, [len(data) + _ROW_BYTES for data in fitting]) :]
            last = _last_seq(sql, kind)
            rows = [(kind, last + 1 + i, len(data) + _ROW_BYTES, data) for i, data in enumerate(taken)]
            sql.executemany("insert into record (kind, seq, size, data) values (?, ?, ?, ?)", rows)
            sql.execute("update stream set last = ? where kind = ?", (last + len(taken), kind))
            self._bytes[kind] += sum(size for _, _, size, _ in rows)
            _count(sql, kind, produced=len(items), dropped=len(items) - len(taken))

    def _make_room(self, sql: sqlite3.Connection, kind: Kind, sizes: Sequence[int]) -> int:
        """Drop older records for new ones; return how many of the new ones, from the first, must be dropped too."""
        needed = sum(sizes)
        waiting = sum(self._bytes.values())
        if waiting + needed <= _USABLE * self._cap_bytes:
            return 0
        victims: tuple[Kind, ...] = ("samples", "telemetry") if kind == "telemetry" else ("samples",)
        for victim in victims:
            self._drop_oldest(sql, victim, sum(self._bytes.values()) + needed - int(_LOW_WATER * self._cap_bytes))
        skipped = 0
        while skipped < len(sizes) and sum(self._bytes.values()) + needed > _USABLE * self._cap_bytes:
            needed -= sizes[skipped]
            skipped += 1
        return skipped

    def _drop_oldest(self, sql: sqlite3.Connection, kind: Kind, excess_bytes: int) -> None:
        last = 0
        for seq, size in sql.execute("select seq, size from record where kind = ? order by seq", (kind,)):
            if excess_bytes <= 0:
                break
            last, excess_bytes = seq, excess_bytes - size
        _count(sql, kind, dropped=self._delete_up_to(sql, kind, last))

    def _acknowledge(self, sql: sqlite3.Connection, kind: Kind, seq: int) -> None:
        if seq > _last_seq(sql, kind):
            logger.warning("the store knows %s up to %d, which was never given: a new stream begins", kind, seq)
            _renew_stream(sql, kind)
        else:
            _count(sql, kind, stored=self._delete_up_to(sql, kind, seq))

    def _delete_up_to(self, sql: sqlite3.Connection, kind: Kind, seq: int) -> int:
        """Delete records and return how many there were."""
        count, size = sql.execute(
            "select count(*), total(size) from record where kind = ? and seq <= ?", (kind, seq)
        ).fetchone()
        sql.execute("delete from record where kind = ? and seq <= ?", (kind, seq))
        self._bytes[kind] -= int(size)
        return int(count)

    def _delete(self, sql: sqlite3.Connection, kind: Kind, seqs: Sequence[int]) -> None:
        for seq in seqs:
            row = sql.execute("select size from record where kind = ? and seq = ?", (kind, seq)).fetchone()
            if row is not None:
                sql.execute("delete from record where kind = ? and seq = ?", (kind, seq))
                self._bytes[kind] -= row[0]
                _count(sql, kind, dropped=1)

    def _open(self) -> None:
        """Open the file, or make it; nothing is open afterwards while the disk is full."""
        try:
            self._sql = open_file(self._path, self._cap_bytes, KINDS)
            for kind in KINDS:
                (size,) = self._sql.execute("select total(size) from record where kind = ?", (kind,)).fetchone()
                self._bytes[kind] = int(size)
        except sqlite3.Error as error:
            if is_damaged(error):
                self._replace(error)
            elif is_full(error):
                logger.warning("the spool cannot be made, the disk is full; records are dropped and counted")
                return
            else:
                raise as_device_error(error) from error
        if not keep_reserve(self._reserve):
            logger.warning("the disk has no room for the spool's reserve")

    def _replace(self, error: sqlite3.Error) -> None:
        """Put a damaged file aside and begin a new one, with new streams."""
        logger.warning("the spool is damaged and is put aside as spool.db.damaged: %s", error)
        if self._sql is not None:
            self._sql.close()
        self._sql = None
        put_aside(self._path)
        self._bytes = dict.fromkeys(KINDS, 0)
        try:
            self._sql = open_file(self._path, self._cap_bytes, KINDS)
        except sqlite3.Error as second:
            raise as_device_error(second) from second


def _count(sql: sqlite3.Connection, kind: Kind, *, produced: int = 0, stored: int = 0, dropped: int = 0) -> None:
    sql.execute(
        "update stream set produced = produced + ?, stored = stored + ?, dropped = dropped + ? where kind = ?",
        (produced, stored, dropped, kind),
    )


def _counters(sql: sqlite3.Connection, kind: Kind) -> Counters:
    produced, stored, dropped = sql.execute(
        "select produced, stored, dropped from stream where kind = ?", (kind,)
    ).fetchone()
    (pending,) = sql.execute("select count(*) from record where kind = ?", (kind,)).fetchone()
    return Counters(produced, stored, dropped, pending)


def _renew_stream(sql: sqlite3.Connection, kind: Kind) -> None:
    """Begin a new stream: the file is older than what the store knows, as after a restore from a backup."""
    sql.execute(
        "update stream set id = ?, produced = (select count(*) from record where record.kind = stream.kind),"
        " stored = 0, dropped = 0 where kind = ?",
        (os.urandom(16), kind),
    )


def _last_seq(sql: sqlite3.Connection, kind: Kind) -> int:
    (last,) = sql.execute("select last from stream where kind = ?", (kind,)).fetchone()
    return int(last)


def _read_batch(sql: sqlite3.Connection, kind: Kind, max_bytes: int, max_records: int) -> Batch | None:
    seqs: list[int] = []
    records: list[bytes] = []
    room = max_bytes
    rows = sql.execute("select seq, size, data from record where kind = ? order by seq limit ?", (kind, max_records))
    for seq, size, data in rows:
        room -= size
        if seqs and room < 0:
            break
        seqs.append(seq)
        records.append(data)
    if not seqs:
        return None
    stream, produced, dropped = sql.execute(
        "select id, produced, dropped from stream where kind = ?", (kind,)
    ).fetchone()
    return Batch(kind, stream, tuple(seqs), tuple(records), produced, dropped)
