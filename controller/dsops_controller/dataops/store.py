"""What the controller asks the DataOps store: the port, and its implementation over lake and inbox with DuckDB.

Every answer covers lake and inbox together. The inbox is read first, then the newest version of each table; inbox rows
at or below the table's watermark are left out. So a record is counted once however a flush runs meanwhile: had it left
the inbox before it was read, the table read later has it.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import duckdb
from sqlalchemy import Row, func, select

from dsops.errors import InvalidInput, StateDamaged
from dsops_controller.dataops import queries
from dsops_controller.dataops.columns import LakeTable
from dsops_controller.dataops.comparisons import ComparisonRow, comparison_rows
from dsops_controller.dataops.drift import DriftRow, Level, moment
from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.lake import Lake, read_pending
from dsops_controller.dataops.rows import arrow, split
from dsops_controller.dataops.samples import MAX_EXPORT_BYTES, SampleFilter, SampleRow, npz
from dsops_controller.db.database import Database
from dsops_controller.db.tables import drift_state, stream, stream_loss

MAX_EXPORT_SAMPLES = 200_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    # Nothing is fetched at run time, and no query reaches beyond the files that it is given.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "temp_directory": tempfile.gettempdir(),
    "threads": "2",
}


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

    def drift(self, model: str | None = None, device: str | None = None) -> list[DriftRow]:
        """Return the newest drift of each model on each device, the worst first."""
        ...

    def events(self, device: str | None = None, kind: str | None = None, limit: int = 100) -> list[EventRow]:
        """Return what happened on devices, newest first."""
        ...

    def samples(self, which: SampleFilter, limit: int = 100) -> list[SampleRow]:
        """Return samples without their tensors, newest first."""
        ...

    def export(self, which: SampleFilter) -> bytes:
        """Return samples as a NumPy archive, oldest first; see :func:`dsops_controller.dataops.samples.npz`."""
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
        self._lake = lake

    def telemetry(
        self, model: str | None = None, device: str | None = None, since: datetime | None = None
    ) -> list[TelemetryRow]:
        """Return figures by device, model, release and digest; quantiles come from exactly merged histograms.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        params = {"model": model, "device": device, "since": since or _EPOCH}
        with self._tables(LakeTable.TELEMETRY) as duck:
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
        params = {"model": model, "device": device, "since": since or _EPOCH}
        with self._tables(LakeTable.COMPARISONS) as duck:
            sums = duck.execute(queries.COMPARISON_SUMS, params).fetchall()
            latency = [
                duck.execute(queries.COMPARISON_LATENCY.replace("WHO", who), params).fetchall()
                for who in ("latency", "challenger_latency")
            ]
        return comparison_rows(sums, *latency)

    def drift(self, model: str | None = None, device: str | None = None) -> list[DriftRow]:
        """Return the newest drift of each model on each device, the worst first.

        Raises:
            StateDamaged: The database cannot be read.
        """
        query = select(drift_state)
        if model is not None:
            query = query.where(drift_state.c.model == model)
        if device is not None:
            query = query.where(drift_state.c.device == device)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        found = [
            DriftRow(r.device, r.model, r.release, Level(r.level), r.score, r.frames, moment(r.since_ms), _figures(r))
            for r in rows
        ]
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
        with self._tables(LakeTable.EVENTS) as duck:
            rows = duck.execute(queries.EVENTS, params).fetchall()
        return [_event_row(row) for row in rows]

    def samples(self, which: SampleFilter, limit: int = 100) -> list[SampleRow]:
        """Return samples without their tensors, newest first.

        Raises:
            InvalidInput: The limit is below 1.
            StateDamaged: The lake or the database cannot be read.
        """
        if limit < 1:
            raise InvalidInput("the limit of samples is below 1")
        with self._tables(LakeTable.SAMPLES) as duck:
            rows = duck.execute(queries.SAMPLES, _sample_params(which) | {"limit": limit}).fetchall()
        return [_sample_row(row) for row in rows]

    def export(self, which: SampleFilter) -> bytes:
        """Return samples as a NumPy archive, oldest first; see :func:`dsops_controller.dataops.samples.npz`.

        Raises:
            InvalidInput: They are too many or too large for one archive, or differ in shape.
            NotFound: There are none.
            MissingExtra: NumPy is not installed.
            StateDamaged: The lake or the database cannot be read.
        """
        params = _sample_params(which)
        with self._tables(LakeTable.SAMPLES) as duck:
            count, size = duck.execute(queries.EXPORT_SIZE, params).fetchall()[0]
            if count > MAX_EXPORT_SAMPLES or size > MAX_EXPORT_BYTES:
                raise InvalidInput(
                    "the samples are too many for one archive",
                    why=f"{count} samples of {size} bytes; {MAX_EXPORT_SAMPLES} and {MAX_EXPORT_BYTES} are allowed",
                    hint="choose one release, device, reason, or a later time",
                )
            rows = duck.execute(queries.EXPORT, params).fetchall()
        return npz([(_sample_row(row[:-1]), row[-1]) for row in rows])

    def counts(self) -> Counts:
        """Count rows and identities in all tables and the inbox.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        with self._tables(*LakeTable) as duck:
            identities = " union all ".join(queries.IDENTITY.replace("TABLE", table) for table in LakeTable)
            counted = queries.COUNTS.replace("IDENTITIES", identities)
            rows, distinct, samples = duck.execute(counted).fetchall()[0]
        with self._db.read() as connection:
            sums = select(func.coalesce(func.sum(stream.c.produced), 0), func.coalesce(func.sum(stream.c.dropped), 0))
            produced, dropped = connection.execute(sums).one()
        return Counts(rows, samples, rows - distinct, int(produced), int(dropped))

    def losses(self, device: str | None = None) -> list[LossRow]:
        """Return what devices say that they dropped, over all their streams.

        Raises:
            StateDamaged: The database cannot be read.
        """
        by = stream_loss.c.device, stream_loss.c.kind, stream_loss.c.reason
        query = select(*by, func.sum(stream_loss.c.count)).group_by(*by).order_by(*by)
        if device is not None:
            query = query.where(stream_loss.c.device == device)
        with self._db.read() as connection:
            return [LossRow(r[0], r[1], r[2], int(r[3])) for r in connection.execute(query)]

    @contextmanager
    def _tables(self, *tables: LakeTable) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection with a view named after each table, over lake and inbox."""
        with self._db.read() as connection:
            pending = split(read_pending(connection))
        duck = duckdb.connect(":memory:", config=_DUCKDB)
        try:
            duck.execute("set TimeZone = 'UTC'")
            for table in tables:
                self._attach(duck, table, pending[table])
            yield duck
        except duckdb.Error as error:
            raise StateDamaged("the lake cannot be read", why=str(error)[:500]) from error
        finally:
            duck.close()

    def _attach(
        self, duck: duckdb.DuckDBPyConnection, table: LakeTable, pending: Sequence[tuple[int, dict[str, object]]]
    ) -> None:
        view = self._lake.view(table)
        rows = [values for row_id, values in pending if row_id > view.watermark]
        duck.register(f"{table}_inbox", arrow(table, rows))
        if view.files:
            duck.execute(queries.SET_FILES.replace("TABLE", table.value), {"files": list(view.files)})
        definition = queries.LAKE_AND_INBOX if view.files else queries.INBOX_ONLY
        duck.execute(definition.replace("TABLE", table.value))


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


def _sample_row(row: Sequence[Any]) -> SampleRow:
    device, stream_id, seq, model, release, digest, time_us, *rest, shape, input_bytes = row
    reason, score, inclusion, request_id, predicted, datatype = rest
    return SampleRow(
        id=f"{device}/{stream_id}/{seq}",
        device=device,
        model=model,
        release=release,
        digest=digest,
        time=_time(time_us),
        reason=reason,
        score=score,
        inclusion=inclusion,
        request_id=request_id,
        predicted=predicted,
        datatype=datatype,
        shape=tuple(shape),
        input_bytes=input_bytes,
    )


def _sample_params(which: SampleFilter) -> dict[str, Any]:
    return {
        "model": which.model,
        "device": which.device,
        "reason": which.reason,
        "release": which.release,
        "since": which.since or _EPOCH,
    }


def _figures(row: Row[Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in json.loads(row.figures).items()}


def _time(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
