"""The spool: records wait here, durably, until the store has acknowledged them.

One SQLite file in WAL mode with ``synchronous=FULL``, used by one connection. What does not fit drops the records that
are worth least, oldest first; what has waited too long is dropped too. Every record is counted, in the transaction that
stores or drops it, and the counters go to the store with each batch.

How long a record has waited is told by the time that the agent has run, not by the wall clock: a clock that jumps by
years drops nothing.
"""

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from dsops.clock import Clock, SystemClock
from dsops.errors import DeviceError, NoSpace, StateDamaged
from dsops_agent.claimed import immediate, is_damaged, is_full, put_aside
from dsops_agent.install.budget import Today
from dsops_agent.telemetry import spool_records
from dsops_agent.telemetry.spool_file import as_device_error, keep_reserve, open_file
from dsops_agent.telemetry.spool_records import Batch, Counters, Room
from dsops_agent.telemetry.worth import KINDS, Kind

logger = logging.getLogger(__name__)

_USABLE, _SLACK = 0.7, 0.07
"""Shares of the file: where dropping begins, and how much it frees. The rest is for pages that are partly filled."""
_MOST_SLACK_BYTES = 128 << 10
"""More in one transaction would not fit into the log."""
_EXPIRE_EVERY_S = 600.0

T = TypeVar("T")


@dataclass(frozen=True)
class Delivery:
    """Records that another process hands over.

    Attributes:
        records: Serialized records by kind.
        lost: How many records of a kind were lost, by reason, before they could be handed over.
        origin: A name that is new with each start of the process, and a number that rises; empty for no name.
    """

    records: Mapping[Kind, Sequence[bytes]]
    lost: Mapping[Kind, Mapping[str, int]] = field(default_factory=dict)

    def losses(self) -> Iterator[tuple[Kind, str, int]]:
        """Yield kind, reason and number of what was lost."""
        for kind, counts in self.lost.items():
            for reason, count in counts.items():
                if count:
                    yield kind, reason, count

    origin: tuple[str, int] = ("", 0)


class Spool:
    """Keeps records in a folder. Thread-safe. A damaged file is put aside; a full disk is waited for.

    Args:
        folder: Made when it is absent.
        cap_bytes: Size of the file, taken at once.
        clock: Its monotonic time tells how long records wait.

    Raises:
        DeviceError: The folder cannot be used.
    """

    def __init__(self, folder: Path, cap_bytes: int, clock: Clock | None = None) -> None:
        self._path = folder / "spool.db"
        self._reserve = folder / "reserve"
        self._cap_bytes = cap_bytes
        usable = int(_USABLE * cap_bytes)
        self._room = Room(usable, usable - min(int(_SLACK * cap_bytes), _MOST_SLACK_BYTES))
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._sql: sqlite3.Connection | None = None
        self._unwritten: Counter[tuple[Kind, str]] = Counter()  # (stream, reason): dropped, but not counted on disk yet
        self._opened_s = 0.0
        self._age_then_s = 0.0
        self._expired_s = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateDamaged(f"cannot use {folder}", why=error.strerror or str(error)) from error
        with self._lock:
            self._open()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records that wait."""
        return sum(self.waiting().values())

    def waiting(self) -> Mapping[Kind, int]:
        """Return the bytes that wait in each stream; nothing while the file cannot be read."""
        with self._lock:
            try:
                return self._read(spool_records.waiting_bytes)
            except DeviceError:
                return {}

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
                self._unwritten.update({(kind, "unwritten"): len(items) for kind, items in delivery.records.items()})
                self._unwritten.update({(kind, reason): count for kind, reason, count in delivery.losses()})
                raise

    def batch(self, kind: Kind, max_bytes: int, max_records: int) -> Batch | None:
        """Return the oldest records that fit, at least one; only counters when they have news; None when nothing waits.

        Raises:
            DeviceError: The file cannot be read.
        """
        with self._lock:
            return self._read(lambda sql: spool_records.read_batch(sql, kind, max_bytes, max_records))

    def ack(self, kind: Kind, seq: int, told: int = 0) -> None:
        """Delete what the store holds: everything up to ``seq``. A number that was never given starts a new stream.

        Args:
            kind: Which stream.
            seq: What the store has committed.
            told: How many dropped records the store was told of.

        Raises:
            DeviceError: The file failed; the records are sent once more, and the store knows them.
        """
        with self._lock:
            self._write(lambda sql: _acknowledge(sql, kind, seq, told))

    def drop(self, kind: Kind, seqs: Sequence[int], reason: str) -> None:
        """Drop records that can never be uploaded, and count them.

        Raises:
            DeviceError: The file failed.
        """
        with self._lock:
            self._write(lambda sql: spool_records.drop(sql, kind, seqs, reason))

    def today(self) -> Today:
        """Return what was sent on the newest day, as it was kept last.

        Raises:
            DeviceError: The file cannot be read.
        """
        with self._lock:
            row = self._read(lambda sql: sql.execute("select day, bytes, ran_s from today").fetchone())
            return Today(*row)

    def keep_today(self, today: Today) -> None:
        """Keep what was sent on a day.

        Raises:
            DeviceError: The file failed.
        """
        values = (today.day, today.fetched_bytes, today.ran_s)
        with self._lock:
            self._write(lambda sql: sql.execute("update today set day = ?, bytes = ?, ran_s = ?", values))

    def counters(self) -> dict[Kind, Counters]:
        """Return the counters of all streams.

        Raises:
            DeviceError: The file cannot be read.
        """
        with self._lock:
            told = dict.fromkeys(KINDS, Counters())
            if self._sql is not None:
                told = self._read(lambda sql: {kind: spool_records.counters(sql, kind) for kind in KINDS})
            more: Counter[Kind] = Counter()
            for (kind, _), count in self._unwritten.items():
                more[kind] += count
            return {
                kind: replace(c, produced=c.produced + more[kind], dropped=c.dropped + more[kind])
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

    def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
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

    def _transaction(self, sql: sqlite3.Connection, work: Callable[[sqlite3.Connection], object]) -> None:
        age_s = self._age_s()
        with immediate(sql):
            sql.execute("update age set s = ?", (age_s,))
            for (kind, reason), count in self._unwritten.items():
                spool_records.count_lost(sql, kind, "sample" if kind == "samples" else "unknown", reason, count)
            if age_s - self._expired_s >= _EXPIRE_EVERY_S:
                spool_records.expire(sql, age_s)
            work(sql)
        self._unwritten.clear()
        if age_s - self._expired_s >= _EXPIRE_EVERY_S:
            self._expired_s = age_s

    def _age_s(self) -> float:
        """Return for how long agents have run over this file."""
        return self._age_then_s + self._clock.monotonic_s() - self._opened_s

    def _take(self, sql: sqlite3.Connection, delivery: Delivery) -> None:
        source, number = delivery.origin
        if source:
            row = sql.execute("select batch from origin where source = ?", (source,)).fetchone()
            if row is not None and number <= row[0]:
                return
            sql.execute("delete from origin where source != ?", (source,))
            sql.execute("insert or replace into origin (source, batch) values (?, ?)", (source, number))
        for kind, items in delivery.records.items():
            spool_records.insert(sql, kind, items, self._age_s(), self._room)
        for kind, reason, count in delivery.losses():
            spool_records.count_lost(sql, kind, "sample" if kind == "samples" else "unknown", reason, count)

    def _open(self) -> None:
        """Open the file, or make it; nothing is open afterwards while the disk is full."""
        try:
            self._use(self._opened())
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

    def _opened(self) -> sqlite3.Connection:
        """Open the file; with the reserve given back when the disk is full."""
        try:
            return open_file(self._path, self._cap_bytes, KINDS)
        except sqlite3.Error as error:
            if not is_full(error) or not self._reserve.exists():
                raise
        self._reserve.unlink(missing_ok=True)
        return open_file(self._path, self._cap_bytes, KINDS)

    def _replace(self, error: sqlite3.Error) -> None:
        """Put a damaged file aside and begin a new one, with new streams."""
        logger.warning("the spool is damaged and is put aside as spool.db.damaged: %s", error)
        if self._sql is not None:
            self._sql.close()
        self._sql = None
        put_aside(self._path)
        try:
            self._use(open_file(self._path, self._cap_bytes, KINDS))
        except sqlite3.Error as second:
            raise as_device_error(second) from second

    def _use(self, sql: sqlite3.Connection) -> None:
        (self._age_then_s,) = sql.execute("select s from age").fetchone()
        self._opened_s = self._clock.monotonic_s()
        self._expired_s = self._age_then_s - _EXPIRE_EVERY_S
        sql.execute("select total(size) from record").fetchone()  # damage shows now rather than in the first batch
        self._sql = sql


def _acknowledge(sql: sqlite3.Connection, kind: Kind, seq: int, told: int) -> None:
    if seq > spool_records.last_seq(sql, kind):
        logger.warning("the store knows %s up to %d, which was never given: a new stream begins", kind, seq)
        spool_records.renew_stream(sql, kind)
    else:
        spool_records.acknowledge(sql, kind, seq, told)
