"""Sites: how much devices that share a link may fetch together."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from dsops.directive import MAX_SEQ, TransferLimits
from dsops.errors import NotFound
from dsops.manifest import Frozen
from dsops_controller.fleet.sites import SiteRecord
from dsops_controller.server.rest.backend import OPERATOR, Backend


class SiteRequest(Frozen):
    """A budget; 0 sets no limit."""

    bytes_per_s: int = Field(default=0, ge=0, le=MAX_SEQ)
    bytes_per_day: int = Field(default=0, ge=0, le=MAX_SEQ)


class SiteView(Frozen):
    """One site: its budget, the accepted devices that share it, and what the directive of each of them says."""

    name: str
    bytes_per_s: int
    bytes_per_day: int
    devices: int
    each: TransferLimits
    updated: datetime


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sites", tags=["sites"])

    @routes.get("")
    def list_sites() -> list[SiteView]:
        return [_view(site) for site in backend.sites.list()]

    @routes.put("/{name}")
    def set_site(name: str, request: SiteRequest) -> SiteView:
        backend.sites.set(name, request.bytes_per_s, request.bytes_per_day, OPERATOR)
        backend.wake()
        found = next((site for site in backend.sites.list() if site.name == name), None)
        if found is None:
            raise NotFound(f"site {name} was cleared meanwhile")
        return _view(found)

    @routes.delete("/{name}", status_code=204)
    def clear_site(name: str) -> None:
        backend.sites.clear(name, OPERATOR)
        backend.wake()

    return routes


def _view(site: SiteRecord) -> SiteView:
    return SiteView.model_validate(site, from_attributes=True)
