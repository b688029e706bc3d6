"""What happened over time: the port for charts and for those who pick samples, and its implementation.

Figures of all devices come from the table ``minutes``, those of one device from ``telemetry``. Both have the same
columns, so the statements are the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import pydantic_core
from sqlalchemy import ColumnElement, Text, cast, func, select

from dsops.errors import InvalidInput
from dsops_controller.dataops import queries
from dsops_controller.dataops.histograms import Merged
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.scope import EPOCH, Scope
from dsops_controller.dataops.lake.views import Views, Want
from dsops_controller.dataops.samples.samples import SampleFilter, SampleRow, sample_row
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device_latest
from dsops_controller.db.times import from_ms

MINUTE = timedelta(minutes=1)
MAX_BUCKETS = 50_000
QUANTILES = (0.5, 0.95, 0.99)


def _listed(column: ColumnElement[Any]) -> ColumnElement[str]:
    return func.aggregate_strings(column, ",")


_ROW = device_latest.c
_WHOLE = select(_listed(_ROW.device), _listed(_ROW.model), _listed(cast(_ROW.time_ms, Text)), _listed(_ROW.figures))
"""The whole table as one row of lists, which run in step: names have no comma, and figures are a list of JSON.

Row by row, the driver would give the interpreter up and wait for it again as often, among threads that are busy.
"""


class Quantity(StrEnum):
    """What is distributed."""

    LATENCY = "latency"
    """Time in the interpreter, microseconds."""
    CONFIDENCE = "confidence"
    """Largest score of an answer, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` until before ``until``, both rounded down to whole minutes.

    Raises:
        InvalidInput: It is empty, or a time has no zone.
    """

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise InvalidInput("a time has no zone", hint="say 2026-01-01T00:00:00Z")
        if self.scope().since == self.scope().until or self.since > self.until:
            raise InvalidInput("the time range is empty", why=f"from {self.since} until {self.until}")

    def scope(self, model: str | None = None, device: str | None = None) -> Scope:
        """Return it as bounds on rows."""
        return Scope(_minute(self.since), _minute(self.until), model, device)


class Latest(NamedTuple):
    """The newest figures of one model on one device, or of a host.

    Attributes:
        model: Empty for the host.
        time_ms: End of the interval, by the device's clock.
        figures: See :mod:`.latest`.
    """

    device: str
    model: str
    time_ms: int
    figures: dict[str, Any]

    @property
    def time(self) -> datetime:
        """End of the interval, by the device's clock."""
        return from_ms(self.time_ms)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a quantity of one bundle was distributed.

    Attributes:
        start: Start of the bucket of time; of the span when there is one bucket.
        count: Answered requests. Likewise ``errors``: those that failed.
        mean: None without a value; likewise each of ``quantiles``, in the order that was asked for.
    """

    start: datetime
    model: str
    release: int
    digest: str
    count: int
    errors: int
    mean: float | None
    quantiles: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class SampleData:
    """One sample with its tensors, as the device saw and answered them (little endian)."""

    row: SampleRow
    input: bytes
    output_datatype: str
    output_shape: tuple[int, ...]
    output: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Which distribution: of one model or all, on one device or added up over all, at which ranks."""

    of: Quantity = Quantity.LATENCY
    model: str | None = None
    device: str | None = None
    ranks: tuple[float, ...] = QUANTILES

    def __post_init__(self) -> None:
        if not all(0 <= rank <= 1 for rank in self.ranks):
            raise InvalidInput("a quantile is not between 0 and 1", why=str(self.ranks))


class History(Protocol):
    """Answers about times."""

    def latest(self, model: str | None = None, device: str | None = None) -> list[Latest]:
        """Return the newest figures by device and model; the model ``""`` is the host."""
        ...

    def distribution(self, span: Span, ask: Ask) -> list[Distribution]:
        """Return how a quantity was distributed over a span, by model, release and digest."""
        ...

    def series(self, span: Span, bucket: timedelta, ask: Ask) -> list[Distribution]:
        """Return the same for each bucket of the span that has data, by time, model, release and digest.

        Buckets are whole minutes and begin at multiples of their length since 1970.
        """
        ...

    def tensors(self, which: SampleFilter, limit: int = 500) -> list[SampleData]:
        """Return the newest samples with their tensors, newest first."""
        ...


class LakeHistory:
    """The port over one lake and one state database. Safe for use by several threads."""

    def __init__(self, db: Database, lake: Lake) -> None:
        self._db = db
        self._views = Views(db, lake)

    def latest(self, model: str | None = None, device: str | None = None) -> list[Latest]:
        """Return the newest figures of every device that this controller's database knows.

        Raises:
            StateDamaged: The database cannot be read.
        """
        query = _WHOLE
        if model is not None:
            query = query.where(device_latest.c.model == model)
        if device is not None:
            query = query.where(device_latest.c.device == device)
        with self._db.read() as connection:
            devices, models, times_ms, figures = connection.execute(query).one()
        if devices is None:
            return []
        found = pydantic_core.from_json(f"[{figures}]", cache_strings="keys")
        columns = (devices.split(","), models.split(","), map(int, times_ms.split(",")), found)
        return sorted(map(Latest, *columns))  # by device and model, of which no two are the same

    def distribution(self, span: Span, ask: Ask) -> list[Distribution]:
        """Return how a quantity was distributed over a span; quantiles come from exactly merged histograms.

        Raises:
            StateDamaged: The lake or the database cannot be read.
        """
        since = _minute(span.since)
        return self._distributions(span, _us(span.until) - _us(since) + 1, _us(since), ask)

    def series(self, span: Span, bucket: timedelta, ask: Ask) -> list[Distribution]:
        """Return the distribution in each bucket of the span.

        Raises:
            InvalidInput: The bucket is not whole minutes, or the span has too many of them.
            StateDamaged: The lake or the database cannot be read.
        """
        if bucket < MINUTE or bucket % MINUTE:
            raise InvalidInput("a bucket is not of whole minutes", why=f"{bucket.total_seconds():g} s were asked for")
        if (span.until - span.since) / bucket > MAX_BUCKETS:
            raise InvalidInput(
                "the time range has too many buckets", why=f"{MAX_BUCKETS} are allowed", hint="ask for longer buckets"
            )
        return self._distributions(span, bucket // timedelta(microseconds=1), 0, ask)

    def tensors(self, which: SampleFilter, limit: int = 500) -> list[SampleData]:
        """Return the newest samples with their tensors.

        Raises:
            InvalidInput: The limit is below 1.
            StateDamaged: The lake or the database cannot be read.
        """
        if limit < 1:
            raise InvalidInput("the limit of samples is below 1")
        with self._views.open(Want(LakeTable.SAMPLES, which.scope())) as duck:
            rows = duck.execute(queries.TENSORS, which.params() | {"limit": limit}).fetchall()
        return [SampleData(sample_row(row[:-4]), row[-4], row[-3], tuple(row[-2]), row[-1]) for row in rows]

    def _distributions(self, span: Span, bucket_us: int, origin_us: int, ask: Ask) -> list[Distribution]:
        table = LakeTable.MINUTES if ask.device is None else LakeTable.TELEMETRY
        scope = span.scope(ask.model, ask.device)
        params = scope.params() | {"bucket_us": bucket_us, "origin_us": origin_us}
        if ask.device is None:
            del params["device"]
        with self._views.open(Want(table, scope, _columns(ask))) as duck:
            duck.execute(_statement(queries.SERIES_ROWS, table, ask), params)
            sums, buckets = (duck.execute(text).fetchall() for text in (queries.SERIES_SUMS, queries.SERIES_BUCKETS))
        groups = {tuple(row[:4]): _Group(row) for row in sums}
        for *key, scale, indices, counts in buckets:
            groups[tuple(key)].merged.add(scale, dict(zip(indices, map(int, counts), strict=True)))
        unit = 1e6 if ask.of is Quantity.CONFIDENCE else 1.0
        return [group.distribution(ask.ranks, unit) for group in groups.values()]


@dataclass(slots=True)
class _Group:
    row: Sequence[Any]
    merged: Merged = field(init=False)

    def __post_init__(self) -> None:
        *_, zero, low, high = self.row
        self.merged = Merged(zero=zero, low=low or 0.0, high=high or 0.0)

    def distribution(self, ranks: Sequence[float], unit: float) -> Distribution:
        start_us, model, release, digest, count, errors, total, number, *_ = self.row
        is_known = total is not None and number and math.isfinite(total)
        found = [self.merged.quantile(rank) for rank in ranks]
        return Distribution(
            start=EPOCH + timedelta(microseconds=int(start_us)),
            model=model,
            release=release,
            digest=digest,
            count=int(count),
            errors=int(errors),
            mean=total / int(number) / unit if is_known else None,
            quantiles=tuple(None if value is None else value / unit for value in found),
        )


def _statement(text: str, table: LakeTable, ask: Ask) -> str:
    by_device = "" if ask.device is None else "and device = $device"
    return text.replace("TABLE", table.value).replace("OF_", f"{ask.of}_").replace("BY_DEVICE", by_device)


def _columns(ask: Ask) -> tuple[str, ...]:
    parts = ("scale", "offset", "zero", "count", "sum", "min", "max", "counts")
    device = () if ask.device is None else ("device",)
    named = ("time", "day", "model", "release", "digest", "count", "errors", *device)
    return (*named, *(f"{ask.of}_{part}" for part in parts))


def _minute(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def _us(time: datetime) -> int:
    return (_minute(time) - EPOCH) // timedelta(microseconds=1)
