"""Where what a device ran came from."""

from datetime import UTC, datetime

from fastapi import APIRouter

from dsops.manifest import Frozen
from dsops_controller.dataops.running import Proof
from dsops_controller.server.rest.backend import Backend


class RanView(Frozen):
    """A bundle that ran, and how that is known."""

    model: str
    release: int
    digest: str
    proof: Proof
    since: datetime
    until: datetime | None
    requests: int


class SignedView(Frozen):
    """A role of the trust metadata, and who signed it."""

    role: str
    version: int
    threshold: int
    signers: tuple[str, ...]


class AllowedView(Frozen):
    """A rollout that brought the bundle to the device."""

    rollout: str
    created: datetime
    wave: int
    state: str
    started: datetime | None
    ended: datetime | None


class DeedView(Frozen):
    """An entry of the audit trail."""

    time: datetime
    actor: str
    action: str
    detail: str


class TracedView(Frozen):
    """A bundle that ran, and where it came from; see :class:`dsops_controller.tracing.Traced`."""

    ran: RanView
    variant: str
    pushed: datetime | None
    source_sha256: str
    commit: str
    data: dict[str, str]
    datasets: dict[str, str]
    signed: SignedView | None
    policy: dict[str, object]
    policy_signed: SignedView | None
    rollouts: tuple[AllowedView, ...]
    deeds: tuple[DeedView, ...]
    unknown: tuple[str, ...]


class TraceView(Frozen):
    """What a device ran at a moment."""

    device: str
    at: datetime
    bundles: tuple[TracedView, ...]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/trace", tags=["trace"])

    @routes.get("/devices/{device}")
    def trace(device: str, at: datetime | None = None) -> TraceView:
        moment = at or backend.clock.now()
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        found = backend.tracer.device(device, moment)
        bundles = tuple(TracedView.model_validate(one, from_attributes=True) for one in found)
        return TraceView(device=device, at=moment, bundles=bundles)

    return routes
