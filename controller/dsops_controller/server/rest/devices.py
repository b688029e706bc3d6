"""Devices: what the register, their reports and the store know of them."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from pydantic import Field, computed_field

from dsops.ids import device_id
from dsops.manifest import Frozen, Sha256
from dsops.messages import Inventory, ModelState, Observed, Problem
from dsops.states import Device
from dsops_controller.dataops.drift.device_drift import DriftRow
from dsops_controller.db.times import to_ms
from dsops_controller.fleet.registry import DeviceRecord
from dsops_controller.fleet.tokens import MAX_TTL_S, MIN_TTL_S
from dsops_controller.listing import MAX_LINES, Line
from dsops_controller.server.rest.backend import OPERATOR, Backend
from dsops_controller.server.rest.data import DriftView


class DeviceView(Frozen):
    """One device. ``models``, ``seq``, ``refused`` and ``clock_suspect`` are what it reported last, signed by it.

    ``telemetry`` holds the newest figures by model; those of the host have the empty name. ``key_sha256`` is the
    fingerprint of its key; a pending device's is what ``accept`` binds, and ``origin`` is where it came from.
    """

    id: str
    state: Device
    online: bool
    created: datetime
    seen: datetime | None
    inventory: Inventory
    tags: dict[str, str]
    key_sha256: str | None
    serial: str | None
    certificate_ends: datetime | None
    origin: str
    asked: datetime | None
    models: dict[str, ModelState]
    seq: int
    refused: Problem | None
    clock_suspect: bool
    telemetry: dict[str, dict[str, Any]]
    drift: list[DriftView]

    @computed_field
    def seen_ms(self) -> int | None:
        """When it was last heard, epoch milliseconds."""
        return to_ms(self.seen) if self.seen else None


class TokenRequest(Frozen):
    """How long a token shall live, seconds."""

    ttl_s: float = Field(default=86_400.0, ge=MIN_TTL_S, le=MAX_TTL_S)


class AcceptRequest(Frozen):
    """The fingerprint that the operator has seen; a device that shows another key by now is not accepted."""

    key_sha256: Sha256 | None = None


class ListedDevice(Frozen):
    """A device that may join by the key of this fingerprint (SHA-256 of its DER SubjectPublicKeyInfo)."""

    device: str
    key_sha256: Sha256


class ListRequest(Frozen):
    """Devices to let in beforehand: all of them are taken, or none."""

    devices: tuple[ListedDevice, ...] = Field(min_length=1, max_length=MAX_LINES)


class ListView(Frozen):
    """How many devices were listed."""

    listed: int


class PardonRequest(Frozen):
    """``MODEL/RELEASE``, ``MODEL/RELEASE/VARIANT``, or a bundle's SHA-256 or the beginning of it."""

    bundle: str = Field(min_length=1, max_length=128)


class PardonView(Frozen):
    """The bundle that the device shall try again."""

    device: str
    sha256: Sha256


class TokenView(Frozen):
    """A one-time enrolment token; it is shown once."""

    token: str
    expires: datetime


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/devices", tags=["devices"])

    @routes.get("")
    def list_devices() -> list[DeviceView]:
        reports, figures = backend.overview.reports(), backend.overview.figures()
        drift: defaultdict[str, list[DriftRow]] = defaultdict(list)
        for row in backend.store.drift():
            drift[row.device].append(row)
        return [
            _view(record, reports.get(record.id), figures.get(record.id, {}), drift[record.id])
            for record in backend.registry.list()
        ]

    @routes.post("/preauthorised", status_code=201)
    def preauthorise(request: ListRequest) -> ListView:
        backend.registry.preauthorise([Line(device_id(d.device), d.key_sha256) for d in request.devices], OPERATOR)
        return ListView(listed=len(request.devices))

    @routes.get("/{device}")
    def get_device(device: str) -> DeviceView:
        return _one(backend, backend.registry.get(device))

    @routes.post("/{device}/token", status_code=201)
    def new_token(device: str, request: TokenRequest) -> TokenView:
        expires = backend.clock.now() + timedelta(seconds=request.ttl_s)
        return TokenView(token=backend.enrolment.new_token(device, request.ttl_s, OPERATOR), expires=expires)

    @routes.post("/{device}/suspend")
    def suspend(device: str) -> DeviceView:
        return _one(backend, backend.registry.suspend(device, OPERATOR))

    @routes.post("/{device}/accept")
    def accept(device: str, request: AcceptRequest | None = None) -> DeviceView:
        seen = request.key_sha256 if request else None
        return _one(backend, backend.registry.accept(device, OPERATOR, seen))

    @routes.post("/{device}/reject")
    def reject(device: str) -> DeviceView:
        return _one(backend, backend.registry.reject(device, OPERATOR))

    @routes.post("/{device}/decommission")
    def decommission(device: str) -> DeviceView:
        record = backend.registry.decommission(device, OPERATOR)
        backend.outbox.desired(record.id)  # deletes the directive that the broker holds
        return _one(backend, record)

    _add_pardon(routes, backend)
    return routes


def _add_pardon(routes: APIRouter, backend: Backend) -> None:
    @routes.post("/{device}/pardon")
    def pardon(device: str, request: PardonRequest) -> PardonView:
        made = backend.pardons.pardon(device_id(device), request.bundle, OPERATOR)
        backend.outbox.publish_desired(made.device, made.envelope)
        return PardonView(device=made.device, sha256=made.sha256)


def _one(backend: Backend, record: DeviceRecord) -> DeviceView:
    name = record.id
    figures = backend.overview.figures(name).get(name, {})
    return _view(record, backend.overview.reports(name).get(name), figures, backend.store.drift(device=name))


def _view(
    record: DeviceRecord, report: Observed | None, figures: Mapping[str, Mapping[str, Any]], drift: list[DriftRow]
) -> DeviceView:
    return DeviceView(
        id=record.id,
        state=record.state,
        online=record.online,
        created=record.created,
        seen=record.seen,
        inventory=record.inventory,
        tags=dict(record.tags),
        key_sha256=record.key_sha256,
        serial=record.serial,
        certificate_ends=record.certificate_ends,
        origin=record.origin,
        asked=record.asked,
        models=report.models if report else {},
        seq=report.seq if report else 0,
        refused=report.refused if report else None,
        clock_suspect=bool(report and report.clock_suspect),
        telemetry={model: dict(values) for model, values in figures.items()},
        drift=[DriftView.model_validate(row, from_attributes=True) for row in drift],
    )
