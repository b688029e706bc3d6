"""The newest figures of each device, kept in the state database: one row for each model, one for the host."""

import json
import math
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, select

from dsops import strictjson
from dsops.api.v1.telemetry_pb2 import DriftReport, Event, Heartbeat, Histogram, HostInterval, ModelInterval
from dsops_controller.dataops.batches import Record
from dsops_controller.dataops.drift import standing
from dsops_controller.dataops.drift.device_drift import DriftState, Level, after_event, after_interval
from dsops_controller.dataops.histograms import merged
from dsops_controller.db.tables import device_latest, drift_state
from dsops_controller.db.upsert import upsert

_FIND_DRIFT = select(drift_state).where(
    (drift_state.c.device == bindparam("of_device")) & (drift_state.c.model == bindparam("of_model"))
)

HOST = ""
"""The model name under which a host's figures stand."""


def update(connection: Connection, device: str, records: list[Record], received_ms: int) -> None:
    """Fold the records of one batch into what is newest of the device, within the caller's transaction."""
    newest: dict[str, ModelInterval | HostInterval] = {}
    touched: dict[str, DriftState | None] = {}
    for record in records:
        match record:
            case ModelInterval():
                newest[record.model] = record
                state = _drift(connection, device, record.model, touched)
                touched[record.model] = after_interval(state, record, received_ms)
            case HostInterval():
                newest[HOST] = record
            case Event() if record.model:
                touched[record.model] = after_event(_drift(connection, device, record.model, touched), record)
            case _:
                pass
    for model, newer in sorted(newest.items(), key=lambda item: item[0]):
        time_ms = newer.start_us // 1000 + newer.interval_ms
        figures = _figures(newer, received_ms)
        row = {"device": device, "model": model, "time_ms": time_ms, "figures": _text(figures)}
        connection.execute(upsert(connection.dialect.name, device_latest), row)
    for model, state in sorted(touched.items(), key=lambda item: item[0]):
        if state is not None:
            _save_drift(connection, device, model, state)
    standing.save_reports(connection, device, [one for one in records if isinstance(one, DriftReport)])
    for beat in [one for one in records if isinstance(one, Heartbeat)][-1:]:
        standing.save_heartbeat(connection, device, beat, received_ms)


def _figures(record: ModelInterval | HostInterval, received_ms: int) -> dict[str, object]:
    if isinstance(record, ModelInterval):
        return model_figures(record, received_ms)
    return host_figures(record, received_ms)


def model_figures(interval: ModelInterval, received_ms: int) -> dict[str, object]:
    """Return what operators see of a model's newest interval. Times in microseconds, confidence from 0 to 1."""
    latency = merged([interval.latency_us])
    return {
        "release": interval.release,
        "digest": interval.digest,
        "interval_ms": interval.interval_ms,
        "count": interval.count,
        "errors": interval.errors,
        "p50_us": latency.quantile(0.50),
        "p95_us": latency.quantile(0.95),
        "p99_us": latency.quantile(0.99),
        "confidence": _mean_confidence(interval.confidence_ppm),
        "drift_score": _finite(interval.drift_score),
        "drift_frames": interval.drift_frames,
        "unobserved": interval.unobserved,
        "received_ms": received_ms,
    }


def host_figures(host: HostInterval, received_ms: int) -> dict[str, object]:
    """Return what operators see of a host's newest interval."""
    return {
        "interval_ms": host.interval_ms,
        "cpu_percent": _finite(host.cpu_percent),
        "load_1m": _finite(host.load_1m),
        "memory_used_bytes": host.memory_used_bytes,
        "memory_total_bytes": host.memory_total_bytes,
        "disk_free_bytes": host.disk_free_bytes,
        "agent_rss_bytes": host.agent_rss_bytes,
        "runtime_rss_bytes": host.runtime_rss_bytes,
        "temperature_c": _finite(host.temperature_c) or None,
        "spool_bytes": host.spool_bytes,
        "received_ms": received_ms,
    }


def load_drift(connection: Connection, device: str, model: str) -> DriftState | None:
    """Return the stored drift state of one model on one device."""
    row = connection.execute(_FIND_DRIFT, {"of_device": device, "of_model": model}).one_or_none()
    if row is None:
        return None
    return DriftState(row.release, Level(row.level), row.score, row.frames, row.since_ms, json.loads(row.figures))


def _drift(connection: Connection, device: str, model: str, touched: dict[str, DriftState | None]) -> DriftState | None:
    return touched[model] if model in touched else load_drift(connection, device, model)


def _save_drift(connection: Connection, device: str, model: str, state: DriftState) -> None:
    values = asdict(state)
    row = {"device": device, "model": model, "figures": _text(values.pop("signals")), **values}
    connection.execute(upsert(connection.dialect.name, drift_state), row)


def _mean_confidence(histogram: Histogram) -> float | None:
    mean = _finite(histogram.sum / histogram.count) if histogram.count else None
    return None if mean is None else mean / 1e6


def _text(figures: dict[str, object]) -> str:
    return strictjson.dumps(figures).decode()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
