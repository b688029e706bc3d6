"""From uploaded records to rows of the lake's tables. Every row carries its identity: device, stream, seq.

Columns named ``*_us`` hold microseconds as numbers; ``time`` and ``received`` are timestamps (microseconds, UTC). A
number that is not finite becomes null. ``day`` is the partition.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from arro3.core import Array, DataType, Table, list_array
from google.protobuf.message import DecodeError

from dsops import strictjson
from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import (
    ComparisonInterval,
    Event,
    Histogram,
    HostInterval,
    ModelInterval,
    TelemetryBatch,
)
from dsops.errors import StateDamaged
from dsops_controller.dataops.batches import Batch, Kind, Record
from dsops_controller.dataops.minutes import roll_up

_DAY_MS = 86_400_000
LATE_MS = 60 * _DAY_MS
EARLY_MS = _DAY_MS


class LakeTable(StrEnum):
    """The tables of the lake."""

    TELEMETRY = "telemetry"
    HOSTS = "hosts"
    EVENTS = "events"
    SAMPLES = "samples"
    COMPARISONS = "comparisons"
    MINUTES = "minutes"
    """Telemetry added up over devices; made from records, not of records. See :mod:`.minutes`."""


RECORDS = tuple(table for table in LakeTable if table is not LakeTable.MINUTES)
"""The tables whose rows are records, each with its identity."""


class Column(StrEnum):
    """Types of columns."""

    TEXT = "text"
    INT = "int"
    FLOAT = "float"
    TIME = "time"
    DAY = "day"
    INTS = "ints"
    BYTES = "bytes"


_IDENTITY = {
    "device": Column.TEXT,
    "stream": Column.TEXT,
    "seq": Column.INT,
    "time": Column.TIME,
    "received": Column.TIME,
    "day": Column.DAY,
}
_MODEL = {"model": Column.TEXT, "release": Column.INT, "digest": Column.TEXT}


def _histogram_columns(name: str) -> dict[str, Column]:
    ints = {f"{name}_{part}": Column.INT for part in ("scale", "offset", "zero", "count")}
    floats = {f"{name}_{part}": Column.FLOAT for part in ("sum", "min", "max")}
    return ints | floats | {f"{name}_counts": Column.INTS}


_HOST_INTS = (
    "interval_ms",
    "memory_used_bytes",
    "memory_total_bytes",
    "disk_free_bytes",
    "agent_rss_bytes",
    "runtime_rss_bytes",
    "spool_bytes",
)
_COMPARED = ("interval_ms", "compared", "disagreed", "skipped", "failed", "answered", "fallbacks", "challenger_release")
_HOST_FLOATS = ("cpu_percent", "load_1m", "temperature_c")

COLUMNS: dict[LakeTable, dict[str, Column]] = {
    LakeTable.TELEMETRY: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(("interval_ms", "count", "errors", "drift_frames", "unobserved"), Column.INT),
        "drift_score": Column.FLOAT,
        "labels": Column.INTS,
        **_histogram_columns("latency"),
        **_histogram_columns("confidence"),
    },
    LakeTable.HOSTS: {
        **_IDENTITY,
        **dict.fromkeys(_HOST_INTS, Column.INT),
        **dict.fromkeys(_HOST_FLOATS, Column.FLOAT),
    },
    LakeTable.EVENTS: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(("kind", "code", "message", "figures"), Column.TEXT),
    },
    LakeTable.SAMPLES: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(("reason", "request_id", "predicted"), Column.TEXT),
        **dict.fromkeys(("score", "inclusion"), Column.FLOAT),
        **dict.fromkeys(("input_datatype", "output_datatype"), Column.TEXT),
        **dict.fromkeys(("input_shape", "output_shape"), Column.INTS),
        "input_bytes": Column.INT,
        **dict.fromkeys(("input", "output"), Column.BYTES),
    },
    LakeTable.COMPARISONS: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(_COMPARED, Column.INT),
        **dict.fromkeys(("challenger_digest", "mode", "reason"), Column.TEXT),
        **_histogram_columns("distance"),
        **_histogram_columns("latency"),
        **_histogram_columns("challenger_latency"),
        **_histogram_columns("confidence"),
        **_histogram_columns("challenger_confidence"),
    },
    LakeTable.MINUTES: {
        **{name: column for name, column in _IDENTITY.items() if name in {"time", "received", "day"}},
        **_MODEL,
        **dict.fromkeys(("intervals", "count", "errors", "unobserved"), Column.INT),
        **_histogram_columns("latency"),
        **_histogram_columns("confidence"),
    },
}
PARTITIONS: dict[LakeTable, list[str]] = {
    LakeTable.TELEMETRY: ["day"],
    LakeTable.HOSTS: ["day"],
    LakeTable.EVENTS: ["day"],
    LakeTable.SAMPLES: ["model", "day"],
    LakeTable.COMPARISONS: ["day"],
    LakeTable.MINUTES: ["day"],
}


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

    def rows(self) -> Iterator[tuple[LakeTable, dict[str, object]]]:
        """Yield the table and the values of each record.

        Raises:
            StateDamaged: The payload is not what was stored.
        """
        seqs = tuple(int.from_bytes(self.seqs[i : i + 8], "little") for i in range(0, len(self.seqs), 8))
        cls = SampleBatch if self.kind == Kind.SAMPLES else TelemetryBatch
        try:
            batch = Batch(Kind(self.kind), self.stream, seqs, cls.FromString(self.payload), len(self.payload))
        except DecodeError as error:
            raise StateDamaged(f"row {self.id} of the inbox cannot be read", why=str(error)) from error
        for seq, record in zip(seqs, batch.records(), strict=True):
            table, time_us, values = _row(record)
            identity = {"device": self.device, "stream": self.stream, "seq": seq, "time": time_us}
            days = {"received": self.received_ms * 1000, "day": partition_day(time_us, self.received_ms)}
            yield table, identity | days | values


def partition_day(time_us: int, received_ms: int) -> int:
    """Return the day (days since 1970) under which a record is filed: its own, or that of its arrival.

    A device's clock is believed within 60 days before and 1 day after the arrival, so that a wrong clock cannot make
    partitions without end.
    """
    time_ms = time_us // 1000
    is_plausible = received_ms - LATE_MS <= time_ms <= received_ms + EARLY_MS
    return (time_ms if is_plausible else received_ms) // _DAY_MS


Split: TypeAlias = "dict[LakeTable, list[tuple[int, dict[str, object]]]]"


def split(pending: Iterable[Pending]) -> Split:
    """Return the rows of each table of records, each with the id of its inbox row."""
    rows: Split = {table: [] for table in RECORDS}
    for item in pending:
        for table, values in item.rows():
            rows[table].append((item.id, values))
    return rows


def rows_above(table: LakeTable, pending: Split, watermark: int) -> list[dict[str, object]]:
    """Return the rows of one table that came from inbox rows with an id above ``watermark``."""
    source = LakeTable.TELEMETRY if table is LakeTable.MINUTES else table
    rows = [values for row_id, values in pending[source] if row_id > watermark]
    return roll_up(rows) if table is LakeTable.MINUTES else rows


def arrow(table: LakeTable, rows: Sequence[dict[str, object]]) -> Table:
    """Return rows as an Arrow table with the columns of ``table``."""
    columns = COLUMNS[table].items()
    return Table.from_pydict({name: _BUILD[column]([row[name] for row in rows]) for name, column in columns})


def _row(record: Record) -> tuple[LakeTable, int, dict[str, object]]:
    match record:
        case ModelInterval():
            return LakeTable.TELEMETRY, record.start_us, _interval(record)
        case HostInterval():
            ints: dict[str, object] = {name: getattr(record, name) for name in _HOST_INTS}
            floats = {name: _finite(getattr(record, name)) for name in _HOST_FLOATS}
            return LakeTable.HOSTS, record.start_us, ints | floats
        case Event():
            return LakeTable.EVENTS, record.time_us, _event(record)
        case ComparisonInterval():
            return LakeTable.COMPARISONS, record.start_us, _comparison(record)
        case SampleRecord():
            return LakeTable.SAMPLES, record.time_us, _sample(record)


def _interval(interval: ModelInterval) -> dict[str, object]:
    return {
        "model": interval.model,
        "release": interval.release,
        "digest": interval.digest,
        "interval_ms": interval.interval_ms,
        "count": interval.count,
        "errors": interval.errors,
        "drift_frames": interval.drift_frames,
        "unobserved": interval.unobserved,
        "drift_score": _finite(interval.drift_score),
        "labels": list(interval.labels),
        **_histogram("latency", interval.latency_us),
        **_histogram("confidence", interval.confidence_ppm),
    }


def _comparison(found: ComparisonInterval) -> dict[str, object]:
    texts = ("model", "digest", "challenger_digest", "mode", "reason")
    return {
        **{name: getattr(found, name) for name in (*texts, "release", *_COMPARED)},
        **_histogram("distance", found.distance_ppm),
        **_histogram("latency", found.latency_us),
        **_histogram("challenger_latency", found.challenger_latency_us),
        **_histogram("confidence", found.confidence_ppm),
        **_histogram("challenger_confidence", found.challenger_confidence_ppm),
    }


def _histogram(name: str, histogram: Histogram) -> dict[str, object]:
    return {
        f"{name}_scale": histogram.scale,
        f"{name}_offset": histogram.offset,
        f"{name}_zero": histogram.zero,
        f"{name}_count": histogram.count,
        f"{name}_sum": _finite(histogram.sum),
        f"{name}_min": _finite(histogram.min),
        f"{name}_max": _finite(histogram.max),
        f"{name}_counts": list(histogram.counts),
    }


def _event(event: Event) -> dict[str, object]:
    figures = {name: _finite(value) for name, value in event.figures.items()}
    return {
        "model": event.model,
        "release": event.release,
        "digest": event.digest,
        "kind": event.kind,
        "code": event.code,
        "message": event.message,
        "figures": strictjson.dumps(figures).decode(),
    }


def _sample(sample: SampleRecord) -> dict[str, object]:
    return {
        "model": sample.model,
        "release": sample.release,
        "digest": sample.digest,
        "reason": sample.reason,
        "request_id": sample.request_id,
        "predicted": sample.predicted,
        "score": _finite(sample.score),
        "inclusion": _finite(sample.inclusion),
        **_tensor("input", sample.input),
        **_tensor("output", sample.output),
        "input_bytes": len(sample.input.data),
    }


def _tensor(name: str, tensor: Tensor) -> dict[str, object]:
    return {f"{name}_datatype": tensor.datatype, f"{name}_shape": list(tensor.shape), name: tensor.data}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _typed(kind: DataType, cast: DataType | None = None) -> Callable[[list[Any]], Array]:
    def build(values: list[Any]) -> Array:
        array = Array(values, type=kind)
        return array if cast is None else array.cast(cast)

    return build


def _lists(values: list[Any]) -> Array:
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    flat = [number for value in values for number in value]
    return list_array(Array(offsets, type=DataType.int32()), Array(flat, type=DataType.int64()))


_BUILD: dict[Column, Callable[[list[Any]], Array]] = {
    Column.TEXT: _typed(DataType.string()),
    Column.INT: _typed(DataType.int64()),
    Column.FLOAT: _typed(DataType.float64()),
    Column.TIME: _typed(DataType.int64(), DataType.timestamp("us", tz="UTC")),
    Column.DAY: _typed(DataType.int32(), DataType.date32()),
    Column.INTS: _lists,
    Column.BYTES: _typed(DataType.binary()),
}
