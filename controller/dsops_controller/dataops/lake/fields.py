"""What the lake's tables hold of each kind of record, as columns. A number that is not finite becomes null.

A flush looks at a hundred thousand records for each second of a busy fleet, on the thread that also acknowledges. So
the values go from the messages into flat buffers, one column after the other, without a row of objects in between.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from arro3.core import Array, DataType, list_array

from dsops import strictjson
from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import (
    ComparisonInterval,
    DriftReport,
    Event,
    Heartbeat,
    Histogram,
    HostInterval,
    Kpi,
    ModelInterval,
)
from dsops_controller.dataops.batches import Record
from dsops_controller.dataops.lake.columns import (
    COMPARED,
    DRIFT_FLOATS,
    DRIFT_INTS,
    HOST_FLOATS,
    HOST_INTS,
    SAMPLE_FLOATS,
    SAMPLE_TEXTS,
    Column,
    LakeTable,
)

Columns: TypeAlias = "dict[str, Array]"
_FLAT = {"q": DataType.int64(), "d": DataType.float64(), "i": DataType.int32()}


def ints(values: list[int]) -> Array:
    """Return a column of whole numbers."""
    return _flat(array("q", values))


def floats(values: list[float]) -> Array:
    """Return a column of numbers, null where one is not finite."""
    if math.isfinite(sum(values)):
        return _flat(array("d", values))
    return Array([_finite(value) for value in values], type=DataType.float64())


def texts(values: list[str]) -> Array:
    """Return a column of texts."""
    return Array(values, type=DataType.string())


def blobs(values: list[bytes]) -> Array:
    """Return a column of bytes."""
    return Array(values, type=DataType.binary())


def times(values_us: list[int]) -> Array:
    """Return a column of moments."""
    return ints(values_us).cast(DataType.timestamp("us", tz="UTC"))


def days(values: list[int]) -> Array:
    """Return a column of days, counted from 1970."""
    return _flat(array("i", values)).cast(DataType.date32())


def lists(values: Iterable[list[int]]) -> Array:
    """Return a column of lists of whole numbers."""
    flat, ends = array("q"), array("i", [0])
    for value in values:
        flat.fromlist(value)
        ends.append(len(flat))
    return list_array(_flat(ends), _flat(flat))


def column(kind: Column, values: list[Any]) -> Array:
    """Return a column of a type of the lake's; moments are in microseconds, days counted from 1970."""
    return _BUILD[kind](values)


def _flat(values: "array[Any]") -> Array:
    """Return an array over the same memory; one without values has none."""
    return Array.from_buffer(values) if values else Array([], type=_FLAT[values.typecode])


def _interval(found: Sequence[ModelInterval]) -> Columns:
    return {
        **_bundle(found),
        **_ints(found, "interval_ms", "count", "errors", "drift_frames", "unobserved"),
        **_floats(found, "drift_score"),
        "labels": lists(one.labels[:] for one in found),
        **_histogram("latency", [one.latency_us for one in found]),
        **_histogram("confidence", [one.confidence_ppm for one in found]),
    }


def _host(found: Sequence[HostInterval]) -> Columns:
    return {**_ints(found, *HOST_INTS), **_floats(found, *HOST_FLOATS)}


def _comparison(found: Sequence[ComparisonInterval]) -> Columns:
    return {
        **_bundle(found),
        **_texts(found, "challenger_digest", "mode", "reason"),
        **_ints(found, *COMPARED),
        **_histogram("distance", [one.distance_ppm for one in found]),
        **_histogram("latency", [one.latency_us for one in found]),
        **_histogram("challenger_latency", [one.challenger_latency_us for one in found]),
        **_histogram("confidence", [one.confidence_ppm for one in found]),
        **_histogram("challenger_confidence", [one.challenger_confidence_ppm for one in found]),
    }


def _event(found: Sequence[Event]) -> Columns:
    figures = [{name: _finite(value) for name, value in one.figures.items()} for one in found]
    return {**_bundle(found), **_texts(found, "kind", "code", "message"), "figures": _json(figures)}


def _heartbeat(found: Sequence[Heartbeat]) -> Columns:
    parts = attrgetter("model", "release", "digest", "state")
    names = ("model", "release", "digest", "state")
    served = [[dict(zip(names, parts(one), strict=True)) for one in beat.served] for beat in found]
    waiting = [{one.kind: {"records": one.records, "bytes": one.bytes} for one in beat.waiting} for beat in found]
    return {
        **_ints(found, "interval_ms", "uptime_s"),
        **_texts(found, "agent_version"),
        "served": _json(served),
        "waiting": _json(waiting),
    }


def _kpi(found: Sequence[Kpi]) -> Columns:
    tags = _json([dict(one.tags) for one in found])
    return {**_bundle(found), **_texts(found, "name", "unit"), "tags": tags, **_floats(found, "value")}


def _drift(found: Sequence[DriftReport]) -> Columns:
    return {
        **_bundle(found),
        **_texts(found, "state"),
        **_ints(found, *DRIFT_INTS),
        **_floats(found, *DRIFT_FLOATS),
        "signals": _json([_signals(one) for one in found]),
        "skew": _json([_skew(one) for one in found]),
    }


def _signals(report: DriftReport) -> dict[str, object]:
    return {
        signal.name: {"cusum": _finite(signal.cusum), "counts": list(signal.counts), "thinning": signal.thinning}
        for signal in report.signals
    }


def _skew(report: DriftReport) -> dict[str, object]:
    skew = report.skew
    return {
        "state": skew.state,
        "frames": skew.frames,
        "p_value": _finite(skew.p_value),
        "signals": list(skew.signals),
    }


def _sample(found: Sequence[SampleRecord]) -> Columns:
    scores = [{name: _finite(value) for name, value in one.scores.items()} for one in found]
    return {
        **_bundle(found),
        **_ints(found, "repeats"),
        **_texts(found, *SAMPLE_TEXTS),
        **_floats(found, *SAMPLE_FLOATS),
        "scores": _json(scores),
        "sealed_for": texts([one.sealed.key_id.hex() for one in found]),
        "sealed": blobs([one.sealed.ciphertext for one in found]),
        **_tensor("input", [one.input for one in found]),
        **_tensor("output", [one.output for one in found]),
        "input_bytes": ints([len(one.input.data) for one in found]),
    }


def _tensor(name: str, found: Sequence[Tensor]) -> Columns:
    return {
        f"{name}_datatype": texts([one.datatype for one in found]),
        f"{name}_shape": lists(one.shape[:] for one in found),
        name: blobs([one.data for one in found]),
    }


def _histogram(name: str, found: Sequence[Histogram]) -> Columns:
    columns = {
        **_ints(found, "scale", "offset", "zero", "count"),
        **_floats(found, "sum", "min", "max"),
        "counts": lists(one.counts[:] for one in found),
    }
    return {f"{name}_{part}": column for part, column in columns.items()}


def _bundle(found: Sequence[Any]) -> Columns:
    return {**_texts(found, "model", "digest"), **_ints(found, "release")}


def _ints(found: Sequence[Any], *names: str) -> Columns:
    return {name: ints(list(map(attrgetter(name), found))) for name in names}


def _floats(found: Sequence[Any], *names: str) -> Columns:
    return {name: floats(list(map(attrgetter(name), found))) for name in names}


def _texts(found: Sequence[Any], *names: str) -> Columns:
    return {name: texts(list(map(attrgetter(name), found))) for name in names}


def _json(values: Iterable[object]) -> Array:
    return texts([strictjson.dumps(value).decode() for value in values])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


TABLE_OF: dict[type[Record], LakeTable] = {
    ModelInterval: LakeTable.TELEMETRY,
    HostInterval: LakeTable.HOSTS,
    Event: LakeTable.EVENTS,
    ComparisonInterval: LakeTable.COMPARISONS,
    Heartbeat: LakeTable.HEARTBEATS,
    Kpi: LakeTable.KPIS,
    DriftReport: LakeTable.DRIFT,
    SampleRecord: LakeTable.SAMPLES,
}
FIELDS: dict[LakeTable, Callable[[Sequence[Any]], Columns]] = {
    LakeTable.TELEMETRY: _interval,
    LakeTable.HOSTS: _host,
    LakeTable.EVENTS: _event,
    LakeTable.COMPARISONS: _comparison,
    LakeTable.HEARTBEATS: _heartbeat,
    LakeTable.KPIS: _kpi,
    LakeTable.DRIFT: _drift,
    LakeTable.SAMPLES: _sample,
}
"""From the records of a table to its columns, those of :mod:`.rows` aside."""
_BUILD: dict[Column, Callable[[list[Any]], Array]] = {
    Column.TEXT: texts,
    Column.INT: ints,
    Column.FLOAT: floats,
    Column.TIME: times,
    Column.DAY: days,
    Column.INTS: lists,
    Column.BYTES: blobs,
}
