"""Records and their counters in the spool's file: what is stored, sent, dropped. Every function runs in a transaction.

``produced = stored + dropped + pending`` holds for every stream; what was dropped is counted by kind and reason.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from dsops_agent.telemetry.worth import KINDS, WHATS, WORTH, Kind, no_more_than, what_is

MAX_RECORD_BYTES = (1 << 20) - 4096
"""A longer record would not fit into a batch of 1 MiB; it is dropped and counted."""

ROW_BYTES = 96
"""What SQLite needs for a row beside the record, roughly, and for its places in two indices."""

_SEQ_BITS = 48
"""More records than a stream can have."""


@dataclass(frozen=True)
class Loss:
    """Records of one kind that were dropped for one reason, since their stream began.

    Attributes:
        what: Kind of record, see :mod:`dsops_agent.telemetry.worth`.
        reason: ``full`` (no room for it), ``expired``, ``too_large``, ``unreadable``, ``refused`` (by the store),
            ``unwritten`` (the disk failed), ``lost`` (before it came here) or ``unredacted`` (so it must not leave).
    """

    what: str
    reason: str
    count: int


@dataclass(frozen=True)
class Counters:
    """What became of the records of one stream since it began.

    Attributes:
        stored: Acknowledged by the store.
        pending: Wait, and take ``waiting_bytes`` of the file.
    """

    produced: int = 0
    stored: int = 0
    dropped: int = 0
    pending: int = 0
    waiting_bytes: int = 0


@dataclass(frozen=True)
class Batch:
    """Records of one stream, oldest first; empty when only the counters have news.

    Attributes:
        stream: 16 random bytes.
        seqs: Number of each record; they rise, gaps were dropped.
        produced: Records that the stream was ever given.
        losses: What was dropped, and why.
    """

    kind: Kind
    stream: bytes
    seqs: tuple[int, ...]
    records: tuple[bytes, ...]
    produced: int
    losses: tuple[Loss, ...]

    @property
    def dropped(self) -> int:
        """Records that were dropped."""
        return sum(loss.count for loss in self.losses)

    @property
    def size_bytes(self) -> int:
        """Bytes of the records."""
        return sum(map(len, self.records))


@dataclass(frozen=True)
class Room:
    """How many bytes may wait: above ``usable``, dropping begins; it ends at ``low_water``."""

    usable: int
    low_water: int


def insert(sql: sqlite3.Connection, kind: Kind, items: Sequence[bytes], age_s: float, room: Room) -> None:
    """Store records, each in its stream; drop what is worth no more for them, and count everything."""
    for what, group in groupby(items, key=lambda data: what_is(kind, data)):
        stream = kind if what == "unknown" else WORTH[what].stream
        _insert_alike(sql, stream, what, list(group), age_s, room)


def count_lost(sql: sqlite3.Connection, kind: Kind, what: str, reason: str, count: int) -> None:
    """Count records that never were here."""
    sql.execute("update stream set produced = produced + ? where kind = ?", (count, kind))
    _count_dropped(sql, kind, what, reason, count)


def expire(sql: sqlite3.Connection, age_s: float) -> None:
    """Drop what has waited longer than its kind is kept."""
    for what, worth in WORTH.items():
        _drop_oldest(sql, what, "expired", partial(_is_older, age_s - worth.keep_s))


def _is_older(limit_s: float, _size: int, born_s: float) -> bool:
    return born_s < limit_s


def acknowledge(sql: sqlite3.Connection, kind: Kind, seq: int, told: int) -> None:
    """Delete what the store holds, up to ``seq``; it knows that ``told`` were dropped."""
    stored = sql.execute("delete from record where kind = ? and seq <= ?", (kind, seq)).rowcount
    sql.execute("update stream set stored = stored + ?, told = max(told, ?) where kind = ?", (stored, told, kind))


def drop(sql: sqlite3.Connection, kind: Kind, seqs: Sequence[int], reason: str) -> None:
    """Drop records by number; those that are not there are passed over."""
    for seq in seqs:
        for (what,) in sql.execute(
            "delete from record where kind = ? and seq = ? returning what", (kind, seq)
        ).fetchall():
            _count_dropped(sql, kind, what, reason, 1)


def renew_stream(sql: sqlite3.Connection, kind: Kind) -> None:
    """Begin a new stream: the file is older than what the store knows, as after a restore from a backup."""
    sql.execute(
        "update stream set id = ?, produced = pending, stored = 0, told = 0 where kind = ?", (os.urandom(16), kind)
    )
    sql.execute("delete from loss where kind = ?", (kind,))


def last_seq(sql: sqlite3.Connection, kind: Kind) -> int:
    """Return the highest number that the stream has given."""
    (last,) = sql.execute("select last from stream where kind = ?", (kind,)).fetchone()
    return int(last)


def read_batch(sql: sqlite3.Connection, kind: Kind, max_bytes: int, max_records: int) -> Batch | None:
    """Return the oldest records that fit, at least one; only counters, when they have news; else None."""
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
    stream, produced, told = sql.execute("select id, produced, told from stream where kind = ?", (kind,)).fetchone()
    batch = Batch(kind, stream, tuple(seqs), tuple(records), produced, losses(sql, kind))
    return batch if seqs or batch.dropped > told else None


def losses(sql: sqlite3.Connection, kind: Kind) -> tuple[Loss, ...]:
    """Return what a stream has dropped."""
    rows = sql.execute("select what, reason, count from loss where kind = ? order by what, reason", (kind,))
    return tuple(Loss(*row) for row in rows)


def counters(sql: sqlite3.Connection, kind: Kind) -> Counters:
    """Return what became of a stream's records."""
    row = sql.execute("select produced, stored, pending, bytes from stream where kind = ?", (kind,)).fetchone()
    produced, stored, pending, size = row
    return Counters(produced, stored, sum(loss.count for loss in losses(sql, kind)), pending, size)


def waiting_bytes(sql: sqlite3.Connection) -> Mapping[Kind, int]:
    """Return the bytes that wait in each stream."""
    return {kind: int(size) for kind, size in sql.execute("select kind, bytes from stream")}


def _insert_alike(
    sql: sqlite3.Connection, kind: Kind, what: str, items: Sequence[bytes], age_s: float, room: Room
) -> None:
    fitting = [data for data in items if len(data) <= MAX_RECORD_BYTES]
    skipped = _make_room(sql, what, [len(data) + ROW_BYTES for data in fitting], room)
    taken = fitting[skipped:]
    last = last_seq(sql, kind)
    rows = [
        (_place(what, kind, seq), kind, seq, what, int(age_s), len(data) + ROW_BYTES, data)
        for seq, data in enumerate(taken, start=last + 1)
    ]
    sql.executemany("insert into record values (?, ?, ?, ?, ?, ?, ?)", rows)
    sql.execute(
        "update stream set last = ?, produced = produced + ? where kind = ?", (last + len(taken), len(items), kind)
    )
    _count_dropped(sql, kind, what, "too_large", len(items) - len(fitting))
    _count_dropped(sql, kind, what, "full", skipped)


def _place(what: str, kind: Kind, seq: int) -> int:
    """Return where a record lies: by what it is, then by stream, then by number."""
    return (WHATS.index(what) * len(KINDS) + KINDS.index(kind) << _SEQ_BITS) + seq


def _make_room(sql: sqlite3.Connection, what: str, sizes: Sequence[int], room: Room) -> int:
    """Drop older records for new ones; return how many of the new ones, from the first, must be dropped too."""
    needed = sum(sizes)
    waiting = sum(waiting_bytes(sql).values())
    if waiting + needed > room.usable:
        for victim in no_more_than(what):
            waiting -= _drop_bytes(sql, victim, waiting + needed - room.low_water)
    skipped = 0
    while skipped < len(sizes) and waiting + needed > room.usable:
        needed -= sizes[skipped]
        skipped += 1
    return skipped


def _drop_bytes(sql: sqlite3.Connection, what: str, excess_bytes: int) -> int:
    """Drop the oldest of a kind until so many bytes are free or none is left; return the bytes."""
    freed = 0

    def is_needed(size: int, _born_s: float) -> bool:
        nonlocal freed
        if freed >= excess_bytes:
            return False
        freed += size
        return True

    _drop_oldest(sql, what, "full", is_needed)
    return freed


def _drop_oldest(sql: sqlite3.Connection, what: str, reason: str, is_doomed: Callable[[int, float], bool]) -> None:
    """Drop the records of one kind, oldest first, while they are doomed. Only unknown ones stand in several streams."""
    doomed: list[tuple[Kind, int]] = []
    for kind, seq, size, born_s in sql.execute(
        "select kind, seq, size, born_s from record where place >= ? and place < ? order by place",
        (_place(what, KINDS[0], 0), _place(what, KINDS[0], 0) + (len(KINDS) << _SEQ_BITS)),
    ):
        if not is_doomed(size, born_s):
            break
        doomed.append((kind, seq))
    sql.executemany("delete from record where kind = ? and seq = ?", doomed)
    for kind in {kind for kind, _ in doomed}:
        _count_dropped(sql, kind, what, reason, sum(of == kind for of, _ in doomed))


def _count_dropped(sql: sqlite3.Connection, kind: Kind, what: str, reason: str, count: int) -> None:
    if count:
        sql.execute(
            "insert into loss (kind, what, reason, count) values (?, ?, ?, ?)"
            " on conflict (kind, what, reason) do update set count = count + excluded.count",
            (kind, what, reason, count),
        )
