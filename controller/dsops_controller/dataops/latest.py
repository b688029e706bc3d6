"""The newest figures of each device, kept in the state database: one row for each model, one for the host."""

import json
import math
from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, bindparam, select

from dsops import strictjson
from dsops.api.v1.telemetry_pb2 import DriftReport, Event, Heartbeat, Histogram, HostInterval, ModelInterval
from dsops_controller.dataops.batches import Record
from dsops_controller.dataops.drift import standing
from dsops_controller.dataops.drift.device_drift import DriftState, Level, after_event, after_intervals
from dsops_controller.dataops.histograms import merged
from dsops_controller.dataops.strangers import UNKNOWN, crowded_models
from dsops_controller.db.tables import device_latest, drift_state
from dsops_controller.db.upsert import upsert

_FIND_DRIFT = select(drift_state).where(
    (drift_state.c.device == bindparam("of_device")) & (drift_state.c.model == bindparam("of_model"))
)

_OF_MODEL = (ModelInterval, Event, DriftReport)
HOST = ""
"""The model name under which a host's figures stand."""


def update(connection: Connection, device: str, records: list[Record], received_ms: int) -> None:
    """Fold the records of one batch into what is newest of the device, within the caller's transaction."""
    fold = _Fold(connection, device, received_ms)
    models = {record.model for record in records if isinstance(record, _OF_MODEL) and record.model}
    crowded = crowded_models(connection, device, models) if models else frozenset()
    for record in records:
        is_crowded = isinstance(record, _OF_MODEL) and record.model in crowded
        fold.take(_unknown(record) if is_crowded else record)
    fold.save()


def _unknown(record: Record) -> Record:
    """Return a copy under the name of models that have no row of their own."""
    assert isinstance(record, _OF_MODEL)
    copy = type(record).FromString(record.SerializeToString())
    copy.model = UNKNOWN
    return copy


@dataclass(slots=True)
class _Fold:
    """What a batch changes; of a thousand intervals of a model only the last is looked at, where nothing else is."""

    connection: Connection
    device: str
    received_ms: int
    newest: dict[str, ModelInterval | HostInterval] = field(default_factory=dict)
    touched: dict[str, DriftState | None] = field(default_factory=dict)
    waiting: dict[str, list[ModelInterval]] = field(default_factory=dict)
    reports: list[DriftReport] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)

    def take(self, record: Record) -> None:
        """Take the next record of the batch."""
        match record:
            case ModelInterval():
                self.waiting.setdefault(record.model, []).append(record)
            case HostInterval():
                self.newest[HOST] = record
            case Event() if record.model:
                self.touched[record.model] = after_event(self._settled(record.model), record)
            case DriftReport():
                self.reports.append(record)
            case Heartbeat():
                self.beats.append(record)
            case _:
                pass

    def save(self) -> None:
        """Write what is newest."""
        for model in list(self.waiting):
            self.touched[model] = self._settled(model)
        for model, newer in sorted(self.newest.items(), key=lambda item: item[0]):
            time_ms = newer.start_us // 1000 + newer.interval_ms
            figures = _text(_figures(newer, self.received_ms))
            row = {"device": self.device, "model": model, "time_ms": time_ms, "figures": figures}
            self.connection.execute(upsert(self.connection.dialect.name, device_latest), row)
        for model, state in sorted(self.touched.items(), key=lambda item: item[0]):
            if state is not None:
                _save_drift(self.connection, (self.device, model), state, self.received_ms)
        standing.save_reports(self.connection, self.device, self.reports, self.received_ms)
        for beat in self.beats[-1:]:
            standing.save_heartbeat(self.connection, self.device, beat, self.received_ms)

    def _settled(self, model: str) -> DriftState | None:
        """Return the drift state of a model after the intervals that wait."""
        known = model in self.touched
        state = self.touched[model] if known else load_drift(self.connection, self.device, model)
        intervals = self.waiting.pop(model, [])
        if intervals:
            self.newest[model] = intervals[-1]
        return after_intervals(state, intervals, self.received_ms)


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


def _save_drift(connection: Connection, of: tuple[str, str], state: DriftState, received_ms: int) -> None:
    values = asdict(state)
    row = {"device": of[0], "model": of[1], "figures": _text(values.pop("signals")), "heard_ms": received_ms, **values}
    connection.execute(upsert(connection.dialect.name, drift_state), row)


def _mean_confidence(histogram: Histogram) -> float | None:
    mean = _finite(histogram.sum / histogram.count) if histogram.count else None
    return None if mean is None else mean / 1e6


def _text(figures: dict[str, object]) -> str:
    return strictjson.dumps(figures).decode()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
