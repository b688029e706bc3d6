"""Challengers: set, look at, clear, promote; and how they compared with their champions."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from dsops.manifest import Frozen
from dsops.modes import Mode
from dsops.states import Install
from dsops_controller.rollout.challengers import Challenge, Promotion
from dsops_controller.server.rest.backend import OPERATOR, Backend
from dsops_controller.server.rest.data import MAX_MINUTES
from dsops_controller.server.rest.rollouts import RolloutDetail


class ChallengerView(Frozen):
    """A challenger of one device; ``active`` when it is compared, ``code`` names what stands in its way."""

    device: str
    model: str
    release: int
    digest: str
    deployment: str
    mode: Mode
    share: float
    cpu_share: float
    champion_release: int
    active: bool
    install: Install
    code: str
    message: str


class ComparisonView(Frozen):
    """How a champion and its challenger compared on one device.

    Times in microseconds; ``distance`` and the confidences are means from 0 to 1.
    """

    device: str
    model: str
    release: int
    challenger_release: int
    mode: str
    compared: int
    disagreed: int
    skipped: int
    failed: int
    answered: int
    fallbacks: int
    reason: str
    distance: float | None
    p50_us: float | None
    p95_us: float | None
    challenger_p50_us: float | None
    challenger_p95_us: float | None
    confidence: float | None
    challenger_confidence: float | None
    last: datetime


class Cleared(Frozen):
    """From how many devices a challenger was taken."""

    model: str
    devices: int


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["challengers"])

    @routes.get("/challengers")
    def list_challengers(model: str | None = None) -> list[ChallengerView]:
        return [ChallengerView.model_validate(row, from_attributes=True) for row in backend.challengers.list(model)]

    @routes.post("/challengers", status_code=201)
    def set_challenger(challenge: Challenge) -> list[ChallengerView]:
        sha256 = backend.challengers.set(challenge, OPERATOR)
        backend.outbox.seed(sha256, challenge.model)
        backend.wake()
        return list_challengers(challenge.model)

    @routes.delete("/challengers/{model}")
    def clear_challenger(model: str, device: Annotated[list[str] | None, Query()] = None) -> Cleared:
        count = backend.challengers.clear(model, tuple(device or ()), OPERATOR)
        backend.wake()
        return Cleared(model=model, devices=count)

    @routes.post("/challengers/{model}/promote", status_code=201)
    def promote(model: str, promotion: Promotion) -> RolloutDetail:
        rollout = backend.challengers.promote(model, promotion, OPERATOR)
        backend.wake()
        return RolloutDetail.model_validate(backend.rollouts.get(rollout))

    @routes.get("/comparisons")
    def comparisons(
        model: str | None = None,
        device: str | None = None,
        minutes: Annotated[int | None, Query(ge=1, le=MAX_MINUTES)] = None,
    ) -> list[ComparisonView]:
        since = backend.clock.now() - timedelta(minutes=minutes) if minutes else None
        rows = backend.store.comparisons(model, device, since)
        return [ComparisonView.model_validate(row, from_attributes=True) for row in rows]

    return routes
