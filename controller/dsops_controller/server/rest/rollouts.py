"""Rollouts: create, look at, end, let go on."""

from fastapi import APIRouter

from dsops.manifest import Frozen
from dsops.states import Deployment, Rollout
from dsops_controller.rollout.plan import Plan
from dsops_controller.server.rest.backend import Backend


class DeploymentView(Frozen):
    """One bundle to one device; ``step`` is the device's own word for where it is, ``waiting`` for what it waits."""

    id: str
    device: str
    state: Deployment
    step: str
    progress: float
    code: str
    message: str
    waiting: str
    started_ms: int | None
    ended_ms: int | None


class RolloutView(Frozen):
    """A rollout; ``wave`` is the index of the running one, ``bundle`` the bundle's digest."""

    id: str
    model: str
    release: int
    bundle: str
    state: Rollout
    reason: str
    wave: int
    created_ms: int
    updated_ms: int
    plan: Plan


class RolloutDetail(RolloutView):
    """A rollout with its deployments by wave."""

    waves: list[list[DeploymentView]]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/rollouts", tags=["rollouts"])

    def detail(rollout: str) -> RolloutDetail:
        return RolloutDetail.model_validate(backend.rollouts.get(rollout))

    @routes.get("")
    def list_rollouts() -> list[RolloutView]:
        return [RolloutView.model_validate(row) for row in backend.rollouts.every()]

    @routes.post("", status_code=201)
    def create(plan: Plan) -> RolloutDetail:
        rollout = backend.rollouts.create(plan)
        backend.wake()
        return detail(rollout)

    @routes.get("/{rollout}")
    def get_rollout(rollout: str) -> RolloutDetail:
        return detail(rollout)

    @routes.post("/{rollout}/abort")
    def abort(rollout: str) -> RolloutDetail:
        for device, envelope in backend.rollouts.abort(rollout):
            backend.outbox.publish_desired(device, envelope)
        backend.wake()
        return detail(rollout)

    @routes.post("/{rollout}/resume")
    def resume(rollout: str) -> RolloutDetail:
        backend.rollouts.resume(rollout)
        backend.wake()
        return detail(rollout)

    return routes
