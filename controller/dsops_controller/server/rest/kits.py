"""What a device that has no network is brought by hand: its directive, and the files of bundles."""

import base64
from collections.abc import Iterable
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import FileResponse

from dsops import dsse
from dsops.directive import PAYLOAD_TYPE, DesiredSlot, Directive
from dsops.errors import NotFound
from dsops.ids import device_id
from dsops.manifest import Frozen
from dsops_controller.server.rest.backend import Backend
from dsops_controller.server.rest.bundles import BundleView


class DirectiveView(Frozen):
    """A device's newest directive, as it is signed (base64), until when it counts, and what it wants.

    ``bundles`` are those of its slots, ``challengers`` those that are compared with them.
    """

    envelope: str
    expires: datetime
    bundles: list[BundleView]
    challengers: list[BundleView]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["kits"])

    @routes.get("/devices/{device}/directive")
    def get_directive(device: str) -> DirectiveView:
        """Return what a device would be sent over the network; content keys in it are wrapped for it alone."""
        name = device_id(device)
        backend.registry.get(name)
        envelope = backend.overview.directive(name)
        if envelope is None:
            hint = f"deploy something to it, or see: dsops device show {name}"
            raise NotFound(f"there is no directive for {name}", why="nothing is to be installed there", hint=hint)
        directive = Directive.model_validate_json(dsse.decode(envelope, PAYLOAD_TYPE).content())
        return DirectiveView(
            envelope=base64.b64encode(envelope).decode(),
            expires=directive.expires,
            bundles=_views(backend, directive.slots.values()),
            challengers=_views(backend, (challenger.bundle for challenger in directive.challengers.values())),
        )

    @routes.get("/bundles/{model}/{release}/file", response_class=FileResponse)
    def get_file(model: str, release: int, variant: str | None = None) -> FileResponse:
        """Return a bundle's file, exactly as it was pushed."""
        record = backend.bundles.get(model, release, variant)
        return FileResponse(backend.bundles.open(record.sha256).path, media_type="application/octet-stream")

    return routes


def _views(backend: Backend, slots: Iterable[DesiredSlot]) -> list[BundleView]:
    found = (backend.bundles.by_digest(slot.sha256) for slot in slots)
    return [BundleView.model_validate(bundle, from_attributes=True) for bundle in found]
