"""Telemetry over time and over the fleet: series, quantiles, newest figures, losses, heartbeats; JSON or Arrow."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from arro3.core import Array, DataType, Table
from fastapi import APIRouter, Query, Response
from pydantic import Field

from dsops.errors import InvalidInput
from dsops.manifest import Frozen
from dsops_controller.dataops.history import QUANTILES, Ask, Distribution, Quantity, Span
from dsops_controller.dataops.samples.exports import arrow_file
from dsops_controller.db.times import to_ms
from dsops_controller.server.rest.backend import Backend

MAX_QUANTILES = 16
ARROW = "application/vnd.apache.arrow.file"


class Form(StrEnum):
    """How rows are given."""

    JSON = "json"
    ARROW = "arrow"


class Asked(Frozen):
    """What of telemetry is asked for; times are of the devices' clocks, rounded down to minutes."""

    model: str | None = None
    release: int | None = None
    device: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    of: Quantity = Quantity.LATENCY
    quantile: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=QUANTILES, max_length=MAX_QUANTILES)
    bucket_s: int = Field(default=300, ge=60)
    form: Form = Field(default=Form.JSON, alias="format")


Row = dict[str, Any]
Rows = list[Row]
AskedFor = Annotated[Asked, Query()]


def router(backend: Backend) -> APIRouter:
    """Return the routes. Each answers rows of plain values, the same ones in both forms."""
    routes = APIRouter(prefix="/telemetry", tags=["telemetry"])

    def add(path: str, rows: Callable[[Asked], Rows]) -> None:
        def answer(asked: AskedFor) -> Rows | Response:
            found = rows(asked)
            return found if asked.form is Form.JSON else _arrow(found)

        routes.get(path, response_model=list[Row], name=path.strip("/"))(answer)

    add("/series", lambda asked: _series(backend, asked))
    add("/quantiles", lambda asked: _quantiles(backend, asked))
    add("/latest", lambda asked: _latest(backend, asked))
    add("/losses", lambda asked: _losses(backend, asked))
    add("/heartbeats", lambda asked: _heartbeats(backend, asked))
    return routes


def _series(backend: Backend, asked: Asked) -> Rows:
    found = backend.history.series(_span(backend, asked), timedelta(seconds=asked.bucket_s), _ask(asked))
    return [_distribution(one, asked) for one in found if asked.release in (None, one.release)]


def _quantiles(backend: Backend, asked: Asked) -> Rows:
    found = backend.history.distribution(_span(backend, asked), _ask(asked))
    return [_distribution(one, asked) for one in found if asked.release in (None, one.release)]


def _latest(backend: Backend, asked: Asked) -> Rows:
    found = backend.history.latest(asked.model, asked.device)
    rows = [{"device": one.device, "model": one.model, "time": one.time, **one.figures} for one in found]
    return [row for row in rows if asked.release in (None, row.get("release"))]


def _losses(backend: Backend, asked: Asked) -> Rows:
    found = backend.store.losses(asked.device)
    return [{"device": one.device, "kind": one.kind, "reason": one.reason, "count": one.count} for one in found]


def _heartbeats(backend: Backend, asked: Asked) -> Rows:
    now = backend.clock.now()
    return [
        {
            "device": one.device,
            "received": one.received,
            "silent_s": round((now - one.received).total_seconds()),
            "interval_s": one.interval_s,
            "time": one.time,
            "uptime_s": one.uptime_s,
            "agent_version": one.agent_version,
            "waiting_records": sum(int(kind["records"]) for kind in one.waiting.values()),
            "waiting_bytes": sum(int(kind["bytes"]) for kind in one.waiting.values()),
        }
        for one in backend.fleet.standings.beats(asked.device)
    ]


def _span(backend: Backend, asked: Asked) -> Span:
    until = asked.until or backend.clock.now() + timedelta(minutes=1)
    return Span(asked.since or until - timedelta(hours=1), until)


def _ask(asked: Asked) -> Ask:
    return Ask(asked.of, asked.model, asked.device, asked.quantile)


def _distribution(one: Distribution, asked: Asked) -> Row:
    unit = "_us" if asked.of is Quantity.LATENCY else ""
    named = {f"p{100 * rank:g}{unit}": value for rank, value in zip(asked.quantile, one.quantiles, strict=True)}
    facts = {"start": one.start, "model": one.model, "release": one.release, "digest": one.digest}
    return {**facts, "count": one.count, "errors": one.errors, f"mean{unit}": one.mean, **named}


def _arrow(rows: Rows) -> Response:
    if not rows:
        raise InvalidInput("nothing matches, and an Arrow file without rows would have no columns")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table.from_pydict({name: _column([row.get(name) for row in rows]) for name in names})
    return Response(arrow_file(table), media_type=ARROW)


def _column(values: Sequence[Any]) -> Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {datetime}:
        times = [None if value is None else to_ms(value) for value in values]
        return Array(times, type=DataType.int64()).cast(DataType.timestamp("ms", tz="UTC"))
    if kinds <= {int} and kinds:
        return Array(list(values), type=DataType.int64())
    if kinds <= {int, float} and kinds:
        return Array([None if value is None else float(value) for value in values], type=DataType.float64())
    return Array([None if value is None else _text(value) for value in values], type=DataType.string())


def _text(value: object) -> str:
    return str(dict(value)) if isinstance(value, Mapping) else str(value)
