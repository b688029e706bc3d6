"""From uploaded records to rows of the lake's tables. A number that is not finite becomes null."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from arro3.core import Array, DataType, Table, list_array
from google.protobuf.message import DecodeError

from dsops import strictjson
from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import (
    ClockTrust,
    ComparisonInterval,
    DriftReport,
    Event,
    Heartbeat,
    Histogram,
    HostInterval,
    Kpi,
    ModelInterval,
    Moment,
    TelemetryBatch,
)
from dsops.errors import StateDamaged
from dsops_controller.dataops.batches import Batch, Kind, Record
from dsops_controller.dataops.lake.columns import (
    COLUMNS,
    COMPARED,
    DRIFT_FLOATS,
    DRIFT_INTS,
    HOST_FLOATS,
    HOST_INTS,
    RECORDS,
    SAMPLE_FLOATS,
    SAMPLE_TEXTS,
    Column,
    LakeTable,
)
from dsops_controller.dataops.lake.minutes import roll_up

_DAY_MS = 86_400_000
LATE_MS = 60 * _DAY_MS
EARLY_MS = _DAY_MS
_CLOCK = {
    ClockTrust.CLOCK_UNKNOWN: "unknown",
    ClockTrust.CLOCK_SYNCHRONISED: "synchronised",
    ClockTrust.CLOCK_CHECKED: "checked",
    ClockTrust.CLOCK_FREE: "free",
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
        for seq, record, moment in zip(seqs, batch.records(), batch.moments(), strict=True):
            table, time_us, values = _row(record)
            identity = {"device": self.device, "stream": self.stream, "seq": seq, "time": time_us}
            days = {"received": self.received_ms * 1000, "day": partition_day(time_us, self.received_ms)}
            yield table, identity | days | _moment(moment) | values


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
    table, values = _ROW_OF[type(record)]
    time_us = record.start_us if isinstance(record, _Interval) else record.time_us
    return table, time_us, values(record)


def _moment(moment: Moment) -> dict[str, object]:
    return {"boot": moment.boot.hex(), "monotonic_us": moment.monotonic_us, "clock": _CLOCK[moment.clock]}


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


def _host(host: HostInterval) -> dict[str, object]:
    ints: dict[str, object] = {name: getattr(host, name) for name in HOST_INTS}
    return ints | {name: _finite(getattr(host, name)) for name in HOST_FLOATS}


def _comparison(found: ComparisonInterval) -> dict[str, object]:
    texts = ("model", "digest", "challenger_digest", "mode", "reason")
    return {
        **{name: getattr(found, name) for name in (*texts, "release", *COMPARED)},
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
        "figures": _json(figures),
    }


def _heartbeat(beat: Heartbeat) -> dict[str, object]:
    served = [
        {"model": one.model, "release": one.release, "digest": one.digest, "state": one.state} for one in beat.served
    ]
    waiting = {one.kind: {"records": one.records, "bytes": one.bytes} for one in beat.waiting}
    return {
        "interval_ms": beat.interval_ms,
        "uptime_s": beat.uptime_s,
        "agent_version": beat.agent_version,
        "served": _json(served),
        "waiting": _json(waiting),
    }


def _kpi(kpi: Kpi) -> dict[str, object]:
    texts = {name: getattr(kpi, name) for name in ("model", "release", "digest", "name", "unit")}
    return {**texts, "tags": _json(dict(kpi.tags)), "value": _finite(kpi.value)}


def _drift(report: DriftReport) -> dict[str, object]:
    signals = {
        signal.name: {"cusum": _finite(signal.cusum), "counts": list(signal.counts), "thinning": signal.thinning}
        for signal in report.signals
    }
    skew = report.skew
    checked = {
        "state": skew.state,
        "frames": skew.frames,
        "p_value": _finite(skew.p_value),
        "signals": list(skew.signals),
    }
    return {
        **{name: getattr(report, name) for name in ("model", "release", "digest", "state", *DRIFT_INTS)},
        **{name: _finite(getattr(report, name)) for name in DRIFT_FLOATS},
        "signals": _json(signals),
        "skew": _json(checked),
    }


def _sample(sample: SampleRecord) -> dict[str, object]:
    return {
        **{name: getattr(sample, name) for name in ("model", "release", "digest", "repeats", *SAMPLE_TEXTS)},
        **{name: _finite(getattr(sample, name)) for name in SAMPLE_FLOATS},
        "scores": _json({name: _finite(value) for name, value in sample.scores.items()}),
        "sealed_for": sample.sealed.key_id.hex(),
        "sealed": sample.sealed.ciphertext,
        **_tensor("input", sample.input),
        **_tensor("output", sample.output),
        "input_bytes": len(sample.input.data),
    }


def _tensor(name: str, tensor: Tensor) -> dict[str, object]:
    return {f"{name}_datatype": tensor.datatype, f"{name}_shape": list(tensor.shape), name: tensor.data}


def _json(value: object) -> str:
    return strictjson.dumps(value).decode()


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


_Interval = ModelInterval | HostInterval | ComparisonInterval | DriftReport
_ROW_OF: dict[type[Record], tuple[LakeTable, Callable[[Any], dict[str, object]]]] = {
    ModelInterval: (LakeTable.TELEMETRY, _interval),
    HostInterval: (LakeTable.HOSTS, _host),
    Event: (LakeTable.EVENTS, _event),
    ComparisonInterval: (LakeTable.COMPARISONS, _comparison),
    Heartbeat: (LakeTable.HEARTBEATS, _heartbeat),
    Kpi: (LakeTable.KPIS, _kpi),
    DriftReport: (LakeTable.DRIFT, _drift),
    SampleRecord: (LakeTable.SAMPLES, _sample),
}
_BUILD: dict[Column, Callable[[list[Any]], Array]] = {
    Column.TEXT: _typed(DataType.string()),
    Column.INT: _typed(DataType.int64()),
    Column.FLOAT: _typed(DataType.float64()),
    Column.TIME: _typed(DataType.int64(), DataType.timestamp("us", tz="UTC")),
    Column.DAY: _typed(DataType.int32(), DataType.date32()),
    Column.INTS: _lists,
    Column.BYTES: _typed(DataType.binary()),
}
