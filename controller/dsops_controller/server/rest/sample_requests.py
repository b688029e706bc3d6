"""Ask devices for samples."""

from datetime import datetime

from fastapi import APIRouter

from dsops.manifest import Frozen
from dsops_controller.rollout.sample_requests import Wanted
from dsops_controller.server.rest.backend import OPERATOR, Backend


class AskedView(Frozen):
    """A request for samples; those that are kept for it bear its ``id``."""

    id: str
    model: str
    count: int
    until: datetime
    devices: tuple[str, ...]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["samples"])

    @routes.post("/sample-requests", status_code=201)
    def request_samples(wanted: Wanted) -> AskedView:
        asked = backend.sample_requests.ask(wanted, OPERATOR)
        backend.wake()
        return AskedView.model_validate(asked, from_attributes=True)

    return routes
