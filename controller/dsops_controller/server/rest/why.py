"""Why a device would accept or refuse each signed bundle."""

from fastapi import APIRouter

from dsops.errors import DeviceBarred, NotFound
from dsops.ids import model_name
from dsops.manifest import Frozen
from dsops.messages import Observed
from dsops.needs import Needs
from dsops.states import Device
from dsops_controller.fleet.registry import DeviceRecord
from dsops_controller.fleet.why import Preflight, judge, said
from dsops_controller.server.rest.backend import Backend


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


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/devices", tags=["devices"])

    @routes.get("/{device}/why")
    def get_why(device: str, model: str | None = None) -> list[WhyView]:
        """Say of every signed bundle, of every model or of one, whether the device would accept it, and why."""
        record = backend.registry.get(device)
        report = backend.overview.reports(device).get(device)
        models = backend.repository.models() if model is None else (model_name(model),)
        return [view for name in models for view in _why(backend, record, report, name)]

    return routes


def _why(backend: Backend, record: DeviceRecord, report: Observed | None, model: str) -> list[WhyView]:
    """Return what a device says of a model's bundles."""
    signed = backend.repository.signed_bundles(model)
    policy = backend.repository.policy(model)
    state = report.models.get(model) if report else None
    is_member = record.state is Device.ACCEPTED
    member = RuleView(rule="member", ok=is_member, text=f"the device is {record.state}", code=DeviceBarred.code)
    digests = {target.path: target.sha256 for target in signed}
    answers = judge(model, signed, policy, device=record.id, hardware=record.inventory.hardware)
    serves = _needs(backend, state.active) if state and state.active else None
    contract, views = serves.contract if serves else None, []
    for answer in answers:
        digest = digests[answer.path]
        known = Preflight(_needs(backend, digest), contract, record.inventory)
        found = [*answer.rules, *said(state, digest, known)]
        rules = [member, *(RuleView.model_validate(rule, from_attributes=True) for rule in found)]
        views.append(
            WhyView(
                model=answer.model,
                release=answer.release,
                variant=answer.variant,
                path=answer.path,
                accepted=answer.accepted and not any(rule.ok is False for rule in rules),
                active=state is not None and digest == state.active,
                rules=rules,
            )
        )
    return views


def _needs(backend: Backend, sha256: str) -> Needs | None:
    try:
        return backend.bundles.needs(sha256)
    except NotFound:  # signed, and not pushed
        return None
