"""What the controller found out about the broker."""

from datetime import datetime

from fastapi import APIRouter

from dsops.manifest import Frozen
from dsops_controller.server.checkup import Check
from dsops_controller.server.limits import Level
from dsops_controller.server.rest.backend import Backend


class FindingView(Frozen):
    """One thing that was looked at, how bad it is, and what to do."""

    name: str
    level: Level
    text: str
    advice: str


class LimitsView(Frozen):
    """What the broker says of itself. ``max_packet_bytes`` 0 is no limit, ``keepalive_s`` 0 takes the client's."""

    max_packet_bytes: int
    receive_maximum: int
    retain: bool
    max_qos: int
    topic_aliases: int
    wildcards: bool
    shared: bool
    session_s: int
    keepalive_s: int


class BrokerView(Frozen):
    """The newest check of the broker; ``level`` is that of the worst finding. Before the first check there is none."""

    checked: datetime | None
    level: Level | None
    round_trip_ms: float | None
    limits: LimitsView | None
    findings: list[FindingView]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/broker", tags=["broker"])

    @routes.get("")
    def get_check() -> BrokerView:
        return _view(backend.checkup.last)

    @routes.post("/check")
    def check() -> BrokerView:
        return _view(backend.checkup.check())

    return routes


def _view(check: Check | None) -> BrokerView:
    if check is None:
        return BrokerView(checked=None, level=None, round_trip_ms=None, limits=None, findings=[])
    levels = [finding.level for finding in check.findings]
    trip_s = check.measured.round_trip_s
    return BrokerView(
        checked=check.checked,
        level=max(levels, key=list(Level).index),
        round_trip_ms=None if trip_s is None else round(trip_s * 1000, 3),
        limits=LimitsView.model_validate(check.limits, from_attributes=True) if check.limits else None,
        findings=[FindingView.model_validate(finding, from_attributes=True) for finding in check.findings],
    )
