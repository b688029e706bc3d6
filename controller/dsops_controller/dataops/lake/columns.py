"""The tables of the lake and their columns. Every record carries its identity: device, stream, seq.

Columns named ``*_us`` hold microseconds as numbers; ``time`` and ``received`` are timestamps (microseconds, UTC).
``boot``, ``monotonic_us`` and ``clock`` say when a record was made by a clock that never jumps, and what ``time`` is
worth. ``day`` is the partition. ``figures``, ``tags``, ``scores``, ``served``, ``waiting``, ``signals`` and ``skew``
hold JSON.
"""

from enum import StrEnum


class LakeTable(StrEnum):
    """The tables of the lake."""

    TELEMETRY = "telemetry"
    HOSTS = "hosts"
    EVENTS = "events"
    SAMPLES = "samples"
    COMPARISONS = "comparisons"
    HEARTBEATS = "heartbeats"
    KPIS = "kpis"
    DRIFT = "drift_reports"
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
    "boot": Column.TEXT,
    "monotonic_us": Column.INT,
    "clock": Column.TEXT,
}
_MODEL = {"model": Column.TEXT, "release": Column.INT, "digest": Column.TEXT}


def _histogram_columns(name: str) -> dict[str, Column]:
    ints = {f"{name}_{part}": Column.INT for part in ("scale", "offset", "zero", "count")}
    floats = {f"{name}_{part}": Column.FLOAT for part in ("sum", "min", "max")}
    return ints | floats | {f"{name}_counts": Column.INTS}


HOST_INTS = (
    "interval_ms",
    "memory_used_bytes",
    "memory_total_bytes",
    "disk_free_bytes",
    "agent_rss_bytes",
    "runtime_rss_bytes",
    "spool_bytes",
)
COMPARED = ("interval_ms", "compared", "disagreed", "skipped", "failed", "answered", "fallbacks", "challenger_release")
HOST_FLOATS = ("cpu_percent", "load_1m", "temperature_c")
SAMPLE_TEXTS = ("reason", "request_id", "predicted", "redaction", "schema", "requested_by")
SAMPLE_FLOATS = ("score", "inclusion", "weight")
DRIFT_INTS = ("interval_ms", "frames", "since_us", "onset_us", "epoch_us", "epoch_frames", "suppressed_below")
DRIFT_FLOATS = ("score", "log_e", "epsilon")

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
        **dict.fromkeys(HOST_INTS, Column.INT),
        **dict.fromkeys(HOST_FLOATS, Column.FLOAT),
    },
    LakeTable.EVENTS: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(("kind", "code", "message", "figures"), Column.TEXT),
    },
    LakeTable.SAMPLES: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys((*SAMPLE_TEXTS, "scores", "sealed_for"), Column.TEXT),
        **dict.fromkeys(SAMPLE_FLOATS, Column.FLOAT),
        **dict.fromkeys(("repeats", "input_bytes"), Column.INT),
        **dict.fromkeys(("input_datatype", "output_datatype"), Column.TEXT),
        **dict.fromkeys(("input_shape", "output_shape"), Column.INTS),
        **dict.fromkeys(("input", "output", "sealed"), Column.BYTES),
    },
    LakeTable.COMPARISONS: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(COMPARED, Column.INT),
        **dict.fromkeys(("challenger_digest", "mode", "reason"), Column.TEXT),
        **_histogram_columns("distance"),
        **_histogram_columns("latency"),
        **_histogram_columns("challenger_latency"),
        **_histogram_columns("confidence"),
        **_histogram_columns("challenger_confidence"),
    },
    LakeTable.HEARTBEATS: {
        **_IDENTITY,
        **dict.fromkeys(("interval_ms", "uptime_s"), Column.INT),
        **dict.fromkeys(("agent_version", "served", "waiting"), Column.TEXT),
    },
    LakeTable.KPIS: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(("name", "unit", "tags"), Column.TEXT),
        "value": Column.FLOAT,
    },
    LakeTable.DRIFT: {
        **_IDENTITY,
        **_MODEL,
        **dict.fromkeys(DRIFT_INTS, Column.INT),
        **dict.fromkeys(DRIFT_FLOATS, Column.FLOAT),
        **dict.fromkeys(("state", "signals", "skew"), Column.TEXT),
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
    table: ["model", "day"] if table is LakeTable.SAMPLES else ["day"] for table in LakeTable
}
