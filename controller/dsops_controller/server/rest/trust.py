"""Trust metadata: signed by people elsewhere, handed over and handed out here."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from dsops.manifest import Frozen
from dsops.messages import TrustPack
from dsops_controller.server.rest.backend import Backend

_SIGNED = {"application/json": {"schema": {"type": "object"}}}


class RoleView(Frozen):
    """A published role and its version."""

    role: str
    version: int


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/trust", tags=["trust"])

    @routes.get("/{role}", response_class=Response, responses={200: {"content": {"application/json": {}}}})
    def get_role(role: str) -> Response:
        """Return a role's signed metadata, exactly as it was signed; ``root`` is the first root."""
        return Response(backend.repository.role(role), media_type="application/json")

    @routes.get("/{model}/pack")
    def get_pack(model: str) -> TrustPack:
        """Return everything that a device needs to decide about a model, as it is published."""
        return backend.repository.pack(model)

    @routes.post("/roles", status_code=201, openapi_extra={"requestBody": {"required": True, "content": _SIGNED}})
    async def publish_role(request: Request) -> RoleView:
        """Publish a new version of a role: the body is the signed document, byte for byte."""
        published = await run_in_threadpool(backend.repository.publish_role, await request.body())
        backend.outbox.trust()
        return RoleView(role=published.role, version=published.version)

    return routes
