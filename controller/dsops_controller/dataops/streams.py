"""What streams counted: losses by kind and reason, and the counters of streams that a device has left behind.

A device begins a new stream when it lost its spool. One that begins streams without end keeps the newest
:data:`MAX_STREAMS`; what the others counted is added up in a row for each kind, so that no counter of the fleet falls.
"""

from collections import Counter

from sqlalchemy import Connection, delete, select

from dsops_controller.dataops.batches import MAX_COUNT, Batch
from dsops_controller.db.tables import stream, stream_loss
from dsops_controller.db.upsert import upsert

MAX_STREAMS = 64
"""Streams of a device whose watermarks are kept: an agent has three, and three more whenever its spool is lost."""
FORGOTTEN = "forgotten-"
"""Followed by the kind of records: no device's stream has such a name."""
_OTHER = "other"
_KINDS = frozenset({"event", "heartbeat", "model", "host", "kpi", "comparison", "drift", "sample", "unknown"})
_REASONS = frozenset({"full", "expired", "too_large", "unreadable", "refused", "unwritten", "lost", "unredacted"})


def note_losses(connection: Connection, device: str, batch: Batch) -> None:
    """Store what a batch says of losses in the place of what its stream said before; the stream's row is locked.

    They are losses since the stream began, so that together they are never more than the stream can have dropped.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for loss in batch.message.losses:
        kind = loss.kind if loss.kind in _KINDS else _OTHER
        counts[kind, loss.reason if loss.reason in _REASONS else _OTHER] += loss.count
    ours = (stream_loss.c.device == device) & (stream_loss.c.stream == batch.stream)
    connection.execute(delete(stream_loss).where(ours))
    _save_losses(connection, device, batch.stream, counts)


def forget_oldest(connection: Connection, device: str, now_ms: int) -> None:
    """Keep the device's newest streams, and only the counters of the others, within the caller's transaction.

    Rows are locked in the order of their keys, as the inbox locks them.
    """
    column = stream.c
    is_live = (column.device == device) & ~column.stream.startswith(FORGOTTEN)
    rows = connection.execute(select(stream).where(is_live).order_by(column.stream).with_for_update()).all()
    old = sorted(rows, key=lambda row: (row.updated_ms, row.stream))[: max(len(rows) - MAX_STREAMS, 0)]
    for kind in sorted({row.kind for row in old}):
        gone = [row for row in old if row.kind == kind]
        names = [row.stream for row in gone]
        _add_losses(connection, device, names, FORGOTTEN + kind)
        present = connection.execute(
            select(stream).where((column.device == device) & (column.stream == FORGOTTEN + kind))
        ).one_or_none()
        every = gone if present is None else [present, *gone]
        sums = {
            name: min(sum(getattr(row, name) for row in every), MAX_COUNT) for name in ("stored", "produced", "dropped")
        }
        values = {"device": device, "stream": FORGOTTEN + kind, "kind": kind, "seq": 0, "updated_ms": now_ms, **sums}
        connection.execute(upsert(connection.dialect.name, stream), values)
        connection.execute(delete(stream).where((column.device == device) & column.stream.in_(names)))


def _add_losses(connection: Connection, device: str, names: list[str], to: str) -> None:
    column = stream_loss.c
    gone = (column.device == device) & column.stream.in_(names)
    counts: Counter[tuple[str, str]] = Counter()
    which = (column.device == device) & column.stream.in_([*names, to])
    for kind, reason, count in connection.execute(select(column.kind, column.reason, column.count).where(which)):
        counts[kind, reason] += count
    connection.execute(delete(stream_loss).where(gone))
    _save_losses(connection, device, to, counts)


def _save_losses(connection: Connection, device: str, name: str, counts: Counter[tuple[str, str]]) -> None:
    rows = [
        {"device": device, "stream": name, "kind": kind, "reason": reason, "count": min(count, MAX_COUNT)}
        for (kind, reason), count in sorted(counts.items())
    ]
    if rows:
        connection.execute(upsert(connection.dialect.name, stream_loss), rows)
