"""Trust metadata: signed by people elsewhere, handed over and handed out here."""

from fastapi import APIRouter, Response

from dsops.manifest import Frozen
from dsops.messages import TrustPack
from dsops_controller.server.rest.backend import Backend
from dsops_controller.trust.published import Documents


class RoleView(Frozen):
    """A published role and its version."""

    role: str
    version: int


class KeyView(Frozen):
    """The public half (PEM) of a new key of the server."""

    role: str
    public: str


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/trust", tags=["trust"])

    @routes.get("")
    def get_published() -> Documents:
        """Return everything that is published: every root, every role, the small targets."""
        return backend.repository.published().documents()

    @routes.get("/{role}", response_class=Response, responses={200: {"content": {"application/json": {}}}})
    def get_role(role: str) -> Response:
        """Return a role's signed metadata, exactly as it was signed; ``root`` is the first root."""
        return Response(backend.repository.role(role), media_type="application/json")

    @routes.get("/{model}/pack")
    def get_pack(model: str) -> TrustPack:
        """Return everything that a device needs to decide about a model, as it is published."""
        return backend.repository.pack(model)

    @routes.post("", status_code=201)
    def publish(documents: Documents) -> list[RoleView]:
        """Publish what a signing event made, all of it or nothing: roles by name, small targets by path."""
        roles, targets = documents.decoded()
        published = backend.repository.submit(list(roles.values()), targets)
        backend.outbox.trust()
        return [RoleView(role=role.role, version=role.version) for role in published]

    @routes.post("/keys/{role}", status_code=201)
    def prepare_key(role: str) -> KeyView:
        """Make the server's next key for snapshot, timestamp or director; it counts once an event names it."""
        return KeyView(role=role, public=backend.repository.prepare_key(role))

    return routes
