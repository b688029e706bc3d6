"""Bundles: list, show, push."""

from datetime import datetime

from fastapi import APIRouter, Request
from pydantic import computed_field
from starlette.concurrency import run_in_threadpool

from dsops.errors import InvalidInput
from dsops.manifest import Frozen, Manifest
from dsops.sealing import ContentKey
from dsops_controller.bundles import BundleRecord
from dsops_controller.db.times import to_ms
from dsops_controller.server.rest import multipart
from dsops_controller.server.rest.backend import OPERATOR, Backend

_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["bundle", "role"],
            "properties": {
                "bundle": {"type": "string", "format": "binary"},
                "role": {"type": "string", "format": "binary"},
                "content_key": {"type": "string", "format": "binary"},
            },
        }
    }
}


class BundleView(Frozen):
    """One bundle; ``path`` is its name in the trust metadata."""

    sha256: str
    model: str
    release: int
    variant: str
    path: str
    length_bytes: int
    index_sha256: str
    pushed: datetime

    @computed_field
    def pushed_ms(self) -> int:
        """When it was pushed, epoch milliseconds."""
        return to_ms(self.pushed)


class BundleDetail(BundleView):
    """One bundle with its manifest."""

    manifest: Manifest


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/bundles", tags=["bundles"])

    @routes.get("")
    def list_bundles(model: str | None = None) -> list[BundleView]:
        return [BundleView.model_validate(record, from_attributes=True) for record in backend.bundles.list(model)]

    @routes.get("/{model}/{release}")
    def get_bundle(model: str, release: int, variant: str | None = None) -> BundleDetail:
        return _detail(backend.bundles.get(model, release, variant))

    @routes.post("", status_code=201, openapi_extra={"requestBody": {"required": True, "content": _FORM}})
    async def push(request: Request) -> BundleDetail:
        """Take a bundle and the role metadata that approves it, as the parts ``bundle`` and ``role`` of a form.

        The part ``content_key`` has the 32 bytes of a sealed bundle's key.
        """
        body = await request.body()
        content_type = request.headers.get("content-type", "")
        return _detail(await run_in_threadpool(_push, backend, content_type, body))

    return routes


def _push(backend: Backend, content_type: str, body: bytes) -> BundleRecord:
    parts = multipart.parse(content_type, body)
    given = parts.pop("content_key", None)
    if set(parts) != {"bundle", "role"}:
        raise InvalidInput("a push has the parts 'bundle' and 'role'", why=f"given: {', '.join(sorted(parts))}"[:200])
    key = None if given is None else ContentKey(given)
    record = backend.bundles.push(parts["bundle"], parts["role"], OPERATOR, key)
    backend.outbox.trust()
    return record


def _detail(record: BundleRecord) -> BundleDetail:
    return BundleDetail.model_validate(record, from_attributes=True)
