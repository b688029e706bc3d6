"""The inbox: what devices upload, committed in order, each record once.

The watermark of a (device, stream) is the highest sequence number that was committed. It moves in the transaction that
inserts the records, so a batch that is sent again, whole or in part, adds nothing. That needs one batch in flight for
each stream; gaps are legal (a device may drop records under its byte budget, and counts them).

One thread writes. It takes whatever is queued, commits it as one transaction (group commit) and only then resolves the
futures: who holds a result holds a durable record.
"""

import logging
import struct
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dsops.clock import Clock
from dsops.errors import Conflict, DsopsError, Overloaded
from dsops_controller.dataops import latest, streams
from dsops_controller.dataops.batches import Batch, Kind
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox, stream

logger = logging.getLogger(__name__)

GROUP_BATCHES = 512
GROUP_BYTES = 16 << 20
MAX_PAUSE_MS = 2000

# Statements are built once: building them costs more than running them.
_KEY = (stream.c.device == bindparam("of_device")) & (stream.c.stream == bindparam("of_stream"))
_FIND = select(stream).where(_KEY).with_for_update()
_MOVE = update(stream).where(_KEY)
_INSERT = insert(inbox)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait for its commit, in memory; beyond it, batches are refused."""

    batches: int = 2000
    bytes: int = 32 << 20


@dataclass(slots=True)
class _Waiting:
    device: str
    batch: Batch
    result: Future[int] = field(default_factory=Future)


class Inbox:
    """Commits batches in the order of their arrival."""

    def __init__(self, db: Database, clock: Clock, limits: Limits = Limits()) -> None:
        self._db = db
        self._clock = clock
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        """Start the writer."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits, then end the writer; later batches are refused."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, device: str, batch: Batch) -> Future[int]:
        """Queue a batch; the future gives the committed sequence number of its stream, after the commit.

        The future's error is ``Conflict`` when the stream holds records of another kind, ``NoSpace`` or
        ``StateDamaged`` when the database cannot be written.

        Raises:
            Overloaded: Too much waits already, or the store is stopping.
        """
        item = _Waiting(device, batch)
        with self._changed:
            self._check_room(batch)
            self._waiting.append(item)
            self._waiting_bytes += batch.memory_bytes
            self._changed.notify()
        return item.result

    def put(self, device: str, batch: Batch) -> int:
        """Commit one batch and return the committed sequence number of its stream; see :meth:`submit`."""
        return self.submit(device, batch).result()

    def pause_ms(self) -> int:
        """Return how long a device should wait before its next batch: 0 while less than half of the room is taken."""
        with self._changed:
            share = max(len(self._waiting) / self._limits.batches, self._waiting_bytes / self._limits.bytes)
        return max(0, int((share - 0.5) * 2 * MAX_PAUSE_MS))

    def check_room(self) -> None:
        """Return if a new stream may begin: while less than three quarters of the room are taken.

        Raises:
            Overloaded: So much waits that streams that are open shall have the rest.
        """
        if self.pause_ms() * 2 >= MAX_PAUSE_MS:
            raise Overloaded("the store has much to write", why="it takes no new streams for a moment")

    def _check_room(self, batch: Batch) -> None:
        if self._stopping:
            raise Overloaded("the store is stopping")
        is_full = len(self._waiting) >= self._limits.batches
        if is_full or (self._waiting_bytes and self._waiting_bytes + batch.memory_bytes > self._limits.bytes):
            raise Overloaded("the store has more to write than it can", why=f"{len(self._waiting)} batches wait")

    def _run(self) -> None:
        while group := self._take():
            self._commit(group)
            with self._changed:
                self._waiting_bytes -= sum(item.batch.memory_bytes for item in group)

    def _take(self) -> list[_Waiting]:
        """Return the next group, not empty; empty only when the inbox has stopped."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            group: list[_Waiting] = []
            size = 0
            while self._waiting and len(group) < GROUP_BATCHES and size < GROUP_BYTES:
                item = self._waiting.popleft()
                size += item.batch.size_bytes
                group.append(item)
            return group

    def _commit(self, group: Sequence[_Waiting]) -> None:
        wanted = [item for item in group if item.result.running() or item.result.set_running_or_notify_cancel()]
        begun: set[str] = set()
        try:
            with self._db.write() as connection:
                results = store(connection, [(i.device, i.batch) for i in wanted], self._now_ms(), begun)
        except DsopsError as error:
            _fail(wanted, error)
        except Exception as error:
            logger.exception("a group of %d batches could not be stored", len(wanted))
            self._commit_one_by_one(wanted, error)
        else:
            self._forget_streams(begun)
            for item, result in zip(wanted, results, strict=True):
                _resolve(item, result)

    def _commit_one_by_one(self, group: Sequence[_Waiting], error: Exception) -> None:
        """Keep one batch that the database refuses from failing those of other devices."""
        if len(group) == 1:
            _fail(group, error)
            return
        for item in group:
            self._commit([item])

    def _forget_streams(self, devices: set[str]) -> None:
        """Bound the streams of devices that began some; what fails is done when they begin the next."""
        for device in sorted(devices):
            try:
                with self._db.write() as connection:
                    streams.forget_oldest(connection, device, self._now_ms())
            except Exception:  # the batches are stored already, and are told so
                logger.exception("the streams of %s could not be counted", device)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def store(
    connection: Connection, batches: Sequence[tuple[str, Batch]], now_ms: int, begun: set[str]
) -> list[int | Conflict]:
    """Store batches within the caller's transaction; return each one's committed sequence number or refusal.

    Devices that began a stream are added to ``begun``. Rows are locked in the order of their keys, so that two
    controllers over one PostgreSQL cannot block each other.
    """
    results: dict[int, int | Conflict] = {}
    order = sorted(range(len(batches)), key=lambda i: (batches[i][0], batches[i][1].stream))
    for index in order:
        device, batch = batches[index]
        results[index] = _store_one(connection, device, batch, now_ms, begun)
    return [results[index] for index in range(len(batches))]


def _store_one(connection: Connection, device: str, batch: Batch, now_ms: int, begun: set[str]) -> int | Conflict:
    row = _stream_row(connection, device, batch, now_ms, begun)
    if row.kind != batch.kind:
        return Conflict(f"stream {batch.stream} holds {row.kind}", why=f"a batch of {batch.kind} names it")
    fresh = batch.newer(row.seq)
    if fresh.seqs:
        connection.execute(_INSERT, {"device": device, "received_ms": now_ms, **_columns(fresh)})
        if fresh.kind is Kind.TELEMETRY:
            latest.update(connection, device, fresh.records(), now_ms)
    seq = fresh.seqs[-1] if fresh.seqs else int(row.seq)
    changed = {
        **_key(device, batch),
        "seq": seq,
        "stored": row.stored + len(fresh.seqs),
        "produced": max(row.produced, batch.message.produced),
        "dropped": max(row.dropped, batch.message.dropped),
        "updated_ms": now_ms,
    }
    connection.execute(_MOVE, changed)
    if batch.message.dropped > row.dropped:  # counters only rise: a batch that is sent again changes nothing
        streams.note_losses(connection, device, batch)
    return seq


def _columns(batch: Batch) -> dict[str, object]:
    return {
        "stream": batch.stream,
        "kind": batch.kind.value,
        "seqs": struct.pack(f"<{len(batch.seqs)}Q", *batch.seqs),
        "payload": batch.message.SerializeToString(),
    }


def _stream_row(connection: Connection, device: str, batch: Batch, now_ms: int, begun: set[str]) -> Row[Any]:
    """Return the stream's row, made when it is new, and locked until the transaction ends."""
    row = connection.execute(_FIND, _key(device, batch)).one_or_none()
    if row is not None:
        return row
    begun.add(device)
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    values = {"device": device, "stream": batch.stream, "kind": batch.kind.value, "updated_ms": now_ms}
    blank = dialect.insert(stream).values(seq=0, stored=0, produced=0, dropped=0, **values)
    connection.execute(blank.on_conflict_do_nothing())
    return connection.execute(_FIND, _key(device, batch)).one()


def _key(device: str, batch: Batch) -> dict[str, object]:
    return {"of_device": device, "of_stream": batch.stream}


def _resolve(item: _Waiting, result: int | Conflict) -> None:
    if isinstance(result, Conflict):
        item.result.set_exception(result)
    else:
        item.result.set_result(result)


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for item in group:
        item.result.set_exception(error)
