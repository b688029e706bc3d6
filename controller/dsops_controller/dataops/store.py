"""What the controller asks the DataOps store: the port, and its implementation over lake and inbox."""

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import duckdb
from sqlalchemy import Row, select

from dsops.errors import InvalidInput
from dsops_controller.dataops import kpis, queries
from dsops_controller.dataops.comparisons import ComparisonRow, comparison_rows
from dsops_controller.dataops.drift.device_drift import DriftRow, Level, moment
from dsops_controller.dataops.drift.standing import ACCEPTED
from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.kpis import KpiRow
from dsops_controller.dataops.lake.columns import RECORDS, LakeTable
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.scope import EPOCH, EVERYTHING, Scope
from dsops_controller.dataops.lake.views import IDENTITY, Views, Want, without_tensors
from dsops_controller.dataops.samples.samples import SampleFilter, SampleRow, sample_row
from dsops_controller.db.database import Database
from dsops_controller.db.sums import whole_sum
from dsops_controller.db.tables import drift_state, stream, stream_loss


@dataclass(frozen=True, slots=True)
class TelemetryRow:
    """What one bundle did on one device.

    Attributes:
        count: Answered requests.
        errors: Requests that failed.
        p50_us: Median time in the interpreter, microseconds; None without a request. Likewise p95 and p99.
        confidence: Mean of the largest score, 0 to 1; None when unknown.
        last: End of the newest interval, by the device's clock.
    """

    device: str
    model: str
    release: int
    digest: str
    count: int
    errors: int
    p50_us: float | None
    p95_us: float | None
    p99_us: float | None
    confidence: float | None
    last: datetime


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened on a device.

    Attributes:
        kind: ``refused``, ``committed``, ``rolled_back``, ``failed``, ``slot_damaged``, ``drift``, ...
        code: Code of the error behind it; empty when there is none.
        time: When, by the device's clock.
        received: When the store took it.
    """

    device: str
    kind: str
    model: str
    release: int
    digest: str
    code: str
    message: str
    time: datetime
    received: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """What the store holds, counted in the store, and what the devices say that they gave.

    Attributes:
        records_stored: Rows of all tables and of the inbox.
        samples_stored: Of those, samples.
        duplicates: Rows beyond the first of each identity (device, stream, seq).
        produced: Records that the devices' streams were ever given.
        dropped: Of those, how many the devices had to drop.
    """

    records_stored: int
    samples_stored: int
    duplicates: int
    produced: int
    dropped: int


@dataclass(frozen=True, slots=True)
class LossRow:
    """Records that a device says it dropped.

    Attributes:
        kind: What they were: ``event``, ``model``, ``sample``, ...
        reason: Why: ``full``, ``expired``, ``too_large``, ...
    """

    device: str
    kind: str
    reason: str
    count: int


class Store(Protocol):
    """Answers about telemetry, drift and samples."""

    def telemetry(
        self, model: str | None = None, device: str | None = None, since: datetime | None = None
    ) -> list[TelemetryRow]:
        """Return figures by device, model, release and digest, over intervals that began at or after ``since``."""
        ...

    def comparisons(
        self, model: str | None = None, device: str | None = None, since: datetime | None = None
    ) -> list[ComparisonRow]:
        """Return how champions and challengers compared, over intervals that began at or after ``since``."""
        ...

    def drift(
        self, model: str | None = None, device: str | None = None, *, only_accepted: bool = False
    ) -> list[DriftRow]:
        """Return the newest drift of each model on each device, the worst first."""
        ...

    def events(self, device: str | None = None, kind: str | None = None, limit: int = 100) -> list[EventRow]:
        """Return what happened on devices, newest first."""
        ...

    def kpis(
        self,
        name: str | None = None,
        model: str | None = None,
        device: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[KpiRow]:
        """Return figures that programs on devices reported at or after ``since``, newest first."""
        ...

    def samples(self, which: SampleFilter, limit: int = 100) -> list[SampleRow]:
        """Return samples without their tensors, newest first."""
        ...

    def counts(self) -> Counts:
        """Count what is stored; looks at every row's identity."""
        ...

    def losses(self, device: str | None = None) -> list[LossRow]:
        """Return what devices say that they dropped, by device, kind and reason."""
        ...


class LakeStore:
    """The port over one lake and one state database. Safe for use by several threads."""

    def __init__(self, db: Database, lake: Lake) -> None:
        self._db = db
        self._views = Views(db, lake)

    def telemetry(
        self, model: str | None = None, device: str | None = None, since: datetime | None = None
    ) -> list[TelemetryRow]:
        """Return figures by device, model, release and digest; quantiles come from exactly merged histograms.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        scope = Scope(since=since, model=model, device=device)
        params = _without_end(scope)
        with self._views.open(Want(LakeTable.TELEMETRY, scope)) as duck:
            sums = duck.execute(queries.TELEMETRY_SUMS, params).fetchall()
            buckets = duck.execute(queries.TELEMETRY_BUCKETS, params).fetchall()
        latency = {tuple(row[:4]): Merged(zero=row[6], low=row[7] or 0.0, high=row[8] or 0.0) for row in sums}
        for *key, scale, indices, counts in buckets:
            latency[tuple(key)].add(scale, dict(zip(indices, map(int, counts), strict=True)))
        return [_telemetry_row(row, latency[tuple(row[:4])]) for row in sums]

    def comparisons(
        self, model: str | None = None, device: str | None = None, since: datetime | None = None
    ) -> list[ComparisonRow]:
        """Return how champions and challengers compared, by device, bundles and mode.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        scope = Scope(since=since, model=model, device=device)
        params = _without_end(scope)
        with self._views.open(Want(LakeTable.COMPARISONS, scope)) as duck:
            sums = duck.execute(queries.COMPARISON_SUMS, params).fetchall()
            latency = [
                duck.execute(queries.COMPARISON_LATENCY.replace("WHO", who), params).fetchall()
                for who in ("latency", "challenger_latency")
            ]
        return comparison_rows(sums, *latency)

    def drift(
        self, model: str | None = None, device: str | None = None, *, only_accepted: bool = False
    ) -> list[DriftRow]:
        """Return the newest drift of each model on each device, or on those that take part, the worst first.

        Raises:
            StateDamaged: The database cannot be read.
        """
        query = select(drift_state)
        if only_accepted:
            query = query.where(drift_state.c.device.in_(ACCEPTED))
        if model is not None:
            query = query.where(drift_state.c.model == model)
        if device is not None:
            query = query.where(drift_state.c.device == device)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        found = [
            DriftRow(
                r.device, r.model, r.release, Level(r.level), r.score, r.frames,
                moment(r.since_ms), moment(r.heard_ms), _figures(r),
            )
            for r in rows
        ]  # fmt: skip
        return sorted(found, key=lambda row: (-_SEVERITY[row.level], -row.score, row.device, row.model))

    def events(self, device: str | None = None, kind: str | None = None, limit: int = 100) -> list[EventRow]:
        """Return what happened on devices, newest first.

        Raises:
            InvalidInput: The limit is below 1.
            StateDamaged: The lake or the database cannot be read.
        """
        if limit < 1:
            raise InvalidInput("the limit of events is below 1")
        params = {"device": device, "kind": kind, "limit": limit}
        with self._views.open(Want(LakeTable.EVENTS, Scope(device=device))) as duck:
            rows = duck.execute(queries.EVENTS, params).fetchall()
        return [_event_row(row) for row in rows]

    def kpis(
        self,
        name: str | None = None,
        model: str | None = None,
        device: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[KpiRow]:
        """Return figures that programs on devices reported at or after ``since``, newest first.

        Raises:
            InvalidInput: The limit is below 1.
            StateDamaged: The lake or the database cannot be read.
        """
        if limit < 1:
            raise InvalidInput("the limit of figures is below 1")
        params = {"name": name, "model": model, "device": device, "since": since or EPOCH, "limit": limit}
        with self._views.open(Want(LakeTable.KPIS, Scope(model=model, device=device, since=since))) as duck:
            return [kpis.row(found) for found in duck.execute(kpis.KPIS, params).fetchall()]

    def samples(self, which: SampleFilter, limit: int = 100) -> list[SampleRow]:
        """Return samples without their tensors, newest first.

        Raises:
            InvalidInput: The limit is below 1.
            StateDamaged: The lake or the database cannot be read.
        """
        if limit < 1:
            raise InvalidInput("the limit of samples is below 1")
        with self._views.open(Want(LakeTable.SAMPLES, which.scope(), without_tensors(LakeTable.SAMPLES))) as duck:
            rows = duck.execute(queries.SAMPLES, which.params() | {"limit": limit}).fetchall()
        return [sample_row(row) for row in rows]

    def counts(self) -> Counts:
        """Count rows and identities in all tables and the inbox.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        with self._views.open(*(Want(table, columns=IDENTITY) for table in RECORDS)) as duck:
            identities = " union all ".join(queries.IDENTITY.replace("TABLE", table) for table in RECORDS)
            counted = queries.COUNTS.replace("IDENTITIES", identities)
            rows, distinct, samples = duck.execute(counted).fetchall()[0]
        with self._db.read() as connection:
            sums = select(whole_sum(stream.c.produced), whole_sum(stream.c.dropped))
            produced, dropped = connection.execute(sums).one()
        return Counts(rows, samples, rows - distinct, int(produced), int(dropped))

    def opened(
        self, *tables: LakeTable, scope: Scope = EVERYTHING, version: int | None = None
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open a connection with a view named after each table, for questions that only one part of dsops has.

        Files that have nothing of ``scope`` are not read; the question states it once more. With ``version``, a view
        has that version of its table and nothing that came later.
        """
        return self._views.open(*(Want(table, scope, version=version) for table in tables))

    def losses(self, device: str | None = None) -> list[LossRow]:
        """Return what devices say that they dropped, over all their streams.

        Raises:
            StateDamaged: The database cannot be read.
        """
        by = stream_loss.c.device, stream_loss.c.kind, stream_loss.c.reason
        query = select(*by, whole_sum(stream_loss.c.count)).group_by(*by).order_by(*by)
        if device is not None:
            query = query.where(stream_loss.c.device == device)
        with self._db.read() as connection:
            return [LossRow(r[0], r[1], r[2], int(r[3])) for r in connection.execute(query)]


_SEVERITY = {Level.OK: 0, Level.WARNING: 1, Level.DRIFT: 2}


def _telemetry_row(row: Sequence[Any], latency: Merged) -> TelemetryRow:
    device, model, release, digest, count, errors, _, _, _, confidence_sum, confidence_count, last_us = row
    is_known = confidence_sum is not None and confidence_count and math.isfinite(confidence_sum)
    return TelemetryRow(
        device=device,
        model=model,
        release=release,
        digest=digest,
        count=int(count),
        errors=int(errors),
        p50_us=latency.quantile(0.50),
        p95_us=latency.quantile(0.95),
        p99_us=latency.quantile(0.99),
        confidence=confidence_sum / int(confidence_count) / 1e6 if is_known else None,
        last=_time(last_us),
    )


def _event_row(row: Sequence[Any]) -> EventRow:
    device, kind, model, release, digest, code, message, time_us, received_us = row
    when, received = _time(time_us), _time(received_us)
    return EventRow(device, kind, model, release, digest, code, message, when, received)


def _without_end(scope: Scope) -> dict[str, Any]:
    """Return the parameters of statements that have no ``$until``."""
    return {name: value for name, value in scope.params().items() if name != "until"}


def _figures(row: Row[Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in json.loads(row.figures).items()}


def _time(time_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_us)
