"""What the DataOps store knows: drift, events, telemetry."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import computed_field

from dsops.manifest import Frozen
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.db.times import to_ms
from dsops_controller.server.rest.backend import Backend

MAX_MINUTES = 10 * 366 * 24 * 60


class DriftView(Frozen):
    """Drift of one model on one device, heard of last at ``heard``; ``signals`` are scores at the newest event."""

    device: str
    model: str
    release: int
    level: Level
    score: float
    frames: int
    since: datetime
    heard: datetime
    signals: dict[str, float]

    @computed_field
    def since_ms(self) -> int:
        """When the level was reached, epoch milliseconds."""
        return to_ms(self.since)


class EventView(Frozen):
    """Something that happened on a device; ``code`` names the error behind it, if there is one."""

    device: str
    kind: str
    model: str
    release: int
    digest: str
    code: str
    message: str
    time: datetime
    received: datetime


class KpiView(Frozen):
    """A figure that a program on a device reported; ``release`` and ``digest`` are what served ``model`` then."""

    device: str
    name: str
    value: float | None
    unit: str
    model: str
    release: int
    digest: str
    tags: dict[str, str]
    time: datetime
    clock: str
    received: datetime


class TelemetryView(Frozen):
    """What one bundle did on one device; times in microseconds, ``confidence`` the mean from 0 to 1."""

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


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["data"])

    @routes.get("/drift")
    def drift(model: str | None = None, device: str | None = None) -> list[DriftView]:
        rows = backend.store.drift(model, device, only_accepted=device is None)
        return [DriftView.model_validate(row, from_attributes=True) for row in rows]

    @routes.get("/events")
    def events(
        device: str | None = None, kind: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> list[EventView]:
        rows = backend.store.events(device, kind, limit)
        return [EventView.model_validate(row, from_attributes=True) for row in rows]

    @routes.get("/kpis")
    def kpis(
        name: str | None = None,
        model: str | None = None,
        device: str | None = None,
        minutes: Annotated[int | None, Query(ge=1, le=MAX_MINUTES)] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> list[KpiView]:
        since = backend.clock.now() - timedelta(minutes=minutes) if minutes else None
        rows = backend.store.kpis(name, model, device, since, limit)
        return [KpiView.model_validate(row, from_attributes=True) for row in rows]

    @routes.get("/telemetry")
    def telemetry(
        model: str | None = None,
        device: str | None = None,
        minutes: Annotated[int | None, Query(ge=1, le=MAX_MINUTES)] = None,
    ) -> list[TelemetryView]:
        since = backend.clock.now() - timedelta(minutes=minutes) if minutes else None
        rows = backend.store.telemetry(model, device, since)
        return [TelemetryView.model_validate(row, from_attributes=True) for row in rows]

    return routes
