"""From uploaded records to the rows of the lake's tables, as columns.

The rows of a table are in the order of the inbox, so those above a watermark are its tail. What was parsed is sealed
into columns every :data:`SEAL_ROWS` rows or :data:`SEAL_BYTES`: messages take several times the memory of columns.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from arro3.core import RecordBatch, Table
from google.protobuf.message import DecodeError

from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.telemetry_pb2 import ClockTrust, Moment, TelemetryBatch
from dsops.errors import StateDamaged
from dsops_controller.dataops.batches import Batch, Kind, Record
from dsops_controller.dataops.lake.columns import COLUMNS, RECORDS, LakeTable
from dsops_controller.dataops.lake.fields import FIELDS, TABLE_OF, Columns, column, days, ints, texts, times

SEAL_ROWS = 1024
SEAL_BYTES = 1 << 20
_DAY_MS = 86_400_000
LATE_MS = 60 * _DAY_MS
EARLY_MS = _DAY_MS
_CLOCK = {
    ClockTrust.CLOCK_UNKNOWN: "unknown",
    ClockTrust.CLOCK_SYNCHRONISED: "synchronised",
    ClockTrust.CLOCK_CHECKED: "checked",
    ClockTrust.CLOCK_FREE: "free",
}
_TIME = dict.fromkeys(RECORDS, attrgetter("time_us")) | dict.fromkeys(
    (LakeTable.TELEMETRY, LakeTable.HOSTS, LakeTable.COMPARISONS, LakeTable.DRIFT), attrgetter("start_us")
)


@dataclass(frozen=True, slots=True)
class Pending:
    """One row of the inbox."""

    id: int
    device: str
    stream: str
    kind: str
    seqs: bytes
    payload: bytes
    received_ms: int

    def batch(self) -> Batch:
        """Return what was uploaded.

        Raises:
            StateDamaged: The payload is not what was stored.
        """
        cls = SampleBatch if self.kind == Kind.SAMPLES else TelemetryBatch
        try:
            message = cls.FromString(self.payload)
        except DecodeError as error:
            raise StateDamaged(f"row {self.id} of the inbox cannot be read", why=str(error)) from error
        seqs = struct.unpack(f"<{len(self.seqs) // 8}Q", self.seqs)
        return Batch(Kind(self.kind), self.stream, seqs, message, len(self.payload))


def partition_day(time_us: int, received_ms: int) -> int:
    """Return the day (days since 1970) under which a record is filed: its own, or that of its arrival.

    A device's clock is believed within 60 days before and 1 day after the arrival, so that a wrong clock cannot make
    partitions without end.
    """
    time_ms = time_us // 1000
    is_plausible = received_ms - LATE_MS <= time_ms <= received_ms + EARLY_MS
    return (time_ms if is_plausible else received_ms) // _DAY_MS


class Rows:
    """The rows of every table that inbox rows bring."""

    def __init__(self) -> None:
        self.batches = 0
        self.first_id = self.last_id = -1
        self.received_ms = 0
        self._ids: dict[LakeTable, list[int]] = {table: [] for table in RECORDS}
        self._sealed: dict[LakeTable, list[RecordBatch]] = {table: [] for table in RECORDS}
        self._open: dict[LakeTable, _Unsealed] = {table: _Unsealed() for table in RECORDS}

    def add(self, item: Pending) -> None:
        """Add what one inbox row brings.

        Raises:
            StateDamaged: Its payload is not what was stored.
        """
        batch = item.batch()
        moments = batch.moments()
        for table, places in _by_table(batch.records()).items():
            self._ids[table] += [item.id] * len(places)
            unsealed = self._open[table]
            unsealed.add(item, batch.seqs, moments, places)
            unsealed.bytes += batch.size_bytes
            if len(unsealed.records) >= SEAL_ROWS or unsealed.bytes >= SEAL_BYTES:
                self._seal(table)
        self.batches += 1
        self.first_id = item.id if self.first_id < 0 else self.first_id
        self.last_id = item.id
        self.received_ms = max(self.received_ms, item.received_ms)

    def has(self, table: LakeTable) -> bool:
        """Return whether there are rows of a table; those of ``minutes`` come from telemetry."""
        return bool(self._ids[LakeTable.TELEMETRY if table is LakeTable.MINUTES else table])

    def above(self, table: LakeTable, watermark: int) -> Table:
        """Return the rows of a table of records that came from inbox rows with an id above ``watermark``."""
        if self._open[table].records:
            self._seal(table)
        if not self._sealed[table]:
            return empty(table)
        rows = Table.from_batches(self._sealed[table])
        first = bisect_right(self._ids[table], watermark)
        return rows.slice(first) if first else rows

    def _seal(self, table: LakeTable) -> None:
        columns = self._open[table].columns(table)
        self._open[table] = _Unsealed()
        self._sealed[table].append(RecordBatch.from_pydict({name: columns[name] for name in COLUMNS[table]}))


def split(pending: Iterable[Pending]) -> Rows:
    """Return the rows that inbox rows bring; they are in the order of their ids.

    Raises:
        StateDamaged: A payload is not what was stored.
    """
    rows = Rows()
    for item in pending:
        rows.add(item)
    return rows


def empty(table: LakeTable) -> Table:
    """Return a table without rows."""
    return Table.from_pydict({name: column(kind, []) for name, kind in COLUMNS[table].items()})


@dataclass(slots=True)
class _Unsealed:
    devices: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    received_ms: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    bytes: int = 0

    def add(self, item: Pending, seqs: Sequence[int], moments: Sequence[Moment], found: dict[int, Record]) -> None:
        """Add records of an inbox row by their places in it."""
        self.devices += [item.device] * len(found)
        self.streams += [item.stream] * len(found)
        self.received_ms += [item.received_ms] * len(found)
        self.seqs += [seqs[place] for place in found]
        self.moments += [moments[place] for place in found]
        self.records += found.values()

    def columns(self, table: LakeTable) -> Columns:
        times_us = list(map(_TIME[table], self.records))
        return {
            "device": texts(self.devices),
            "stream": texts(self.streams),
            "seq": ints(self.seqs),
            "time": times(times_us),
            "received": times([1000 * received for received in self.received_ms]),
            "day": days(list(map(partition_day, times_us, self.received_ms))),
            **_moments(self.moments),
            **FIELDS[table](self.records),
        }


def _by_table(records: Iterable[Record]) -> dict[LakeTable, dict[int, Record]]:
    """Return the records of each table by their places."""
    found: dict[type[Record], dict[int, Record]] = {}
    for place, record in enumerate(records):
        found.setdefault(type(record), {})[place] = record
    return {TABLE_OF[kind]: records for kind, records in found.items()}


def _moments(moments: Sequence[Moment]) -> Columns:
    return {
        "boot": texts([one.boot.hex() for one in moments]),
        "monotonic_us": ints([one.monotonic_us for one in moments]),
        "clock": texts([_CLOCK[one.clock] for one in moments]),
    }
