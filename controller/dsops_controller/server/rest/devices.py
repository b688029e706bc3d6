"""Devices: what the register, their reports and the store know of them."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter
from pydantic import Field, computed_field

from dsops.ids import model_name
from dsops.manifest import Frozen
from dsops.messages import Inventory, ModelState, Observed, Problem
from dsops.states import Device
from dsops_controller.dataops.drift import DriftRow
from dsops_controller.db.times import to_ms
from dsops_controller.fleet.enrolment import MAX_TTL_S, MIN_TTL_S
from dsops_controller.fleet.registry import DeviceRecord
from dsops_controller.fleet.why import judge
from dsops_controller.server.rest.backend import OPERATOR, Backend
from dsops_controller.server.rest.data import DriftView


class DeviceView(Frozen):
    """One device. ``models``, ``seq``, ``refused`` and ``clock_suspect`` are what it reported last, signed by it.

    ``telemetry`` holds the newest figures by model; those of the host have the empty name.
    """

    id: str
    state: Device
    online: bool
    created: datetime
    seen: datetime | None
    inventory: Inventory
    tags: dict[str, str]
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


class RuleView(Frozen):
    """What becomes of one rule of the device; ``ok`` is null when a rule before leaves it open."""

    rule: str
    ok: bool | None
    text: str
    code: str


class WhyView(Frozen):
    """Whether a device would accept one signed bundle, and by which rules."""

    model: str
    release: int
    variant: str
    path: str
    accepted: bool
    active: bool
    rules: list[RuleView]


class TokenRequest(Frozen):
    """How long a token shall live, seconds."""

    ttl_s: float = Field(default=86_400.0, ge=MIN_TTL_S, le=MAX_TTL_S)


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

    @routes.get("/{device}")
    def get_device(device: str) -> DeviceView:
        return _one(backend, backend.registry.get(device))

    @routes.get("/{device}/why")
    def get_why(device: str, model: str | None = None) -> list[WhyView]:
        """Say of every signed bundle, of every model or of one, whether the device would accept it, and why."""
        record = backend.registry.get(device)
        report = backend.overview.reports(device).get(device)
        models = backend.repository.models() if model is None else (model_name(model),)
        return [view for name in models for view in _why(backend, record, report, name)]

    @routes.post("/{device}/token", status_code=201)
    def new_token(device: str, request: TokenRequest) -> TokenView:
        expires = backend.clock.now() + timedelta(seconds=request.ttl_s)
        return TokenView(token=backend.enrolment.new_token(device, request.ttl_s, OPERATOR), expires=expires)

    @routes.post("/{device}/suspend")
    def suspend(device: str) -> DeviceView:
        return _one(backend, backend.registry.suspend(device, OPERATOR))

    @routes.post("/{device}/accept")
    def accept(device: str) -> DeviceView:
        return _one(backend, backend.registry.accept(device, OPERATOR))

    return routes


def _why(backend: Backend, record: DeviceRecord, report: Observed | None, model: str) -> list[WhyView]:
    """Return what a device says of a model's bundles."""
    signed = backend.repository.signed_bundles(model)
    policy = backend.repository.policy(model)
    active = report.models[model].active if report and model in report.models else None
    digests = {target.path: target.sha256 for target in signed}
    answers = judge(model, signed, policy, device=record.id, hardware=record.inventory.hardware)
    return [
        WhyView(
            model=answer.model,
            release=answer.release,
            variant=answer.variant,
            path=answer.path,
            accepted=answer.accepted,
            active=digests[answer.path] == active,
            rules=[RuleView.model_validate(rule, from_attributes=True) for rule in answer.rules],
        )
        for answer in answers
    ]


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
        models=report.models if report else {},
        seq=report.seq if report else 0,
        refused=report.refused if report else None,
        clock_suspect=bool(report and report.clock_suspect),
        telemetry={model: dict(values) for model, values in figures.items()},
        drift=[DriftView.model_validate(row, from_attributes=True) for row in drift],
    )
