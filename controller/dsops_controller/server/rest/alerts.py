"""Alerts: list, show, hand over again."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from dsops.manifest import Frozen
from dsops_controller.alerts.notices import Alert, AlertState, Ending, Notice, NoticeState
from dsops_controller.alerts.settings import Kind
from dsops_controller.server.rest.backend import OPERATOR, Backend


class NoticeView(Frozen):
    """How far a notice is with one webhook; ``dead`` ones were given up."""

    notice: Notice
    hook: str
    state: NoticeState
    attempts: int
    next: datetime
    error: str


class AlertView(Frozen):
    """One alert; ``seen`` is when its cause was there last, ``ended`` why it is resolved."""

    id: str
    kind: Kind
    model: str
    device: str
    state: AlertState
    summary: str
    evidence: dict[str, Any]
    opened: datetime
    seen: datetime
    resolved: datetime | None
    ended: Ending | None
    notices: tuple[NoticeView, ...]


class RetriedView(Frozen):
    """How many notices are handed over again."""

    notices: int


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/alerts", tags=["alerts"])
    alerts = backend.watch.alerts

    @routes.get("")
    def list_alerts(
        kind: Kind | None = None, every: bool = False, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> list[AlertView]:
        return [_view(one) for one in alerts.list(only_open=not every, kind=kind, limit=limit)]

    @routes.get("/{alert}")
    def show(alert: str) -> AlertView:
        return _view(alerts.get(alert))

    @routes.post("/retry")
    def retry_all(webhook: Annotated[str | None, Query(max_length=63)] = None) -> RetriedView:
        retried = alerts.retry_all(webhook, OPERATOR)
        backend.watch.wake()
        return RetriedView(notices=retried)

    @routes.post("/{alert}/retry")
    def retry(alert: str) -> AlertView:
        found = alerts.retry(alert, OPERATOR)
        backend.watch.wake()
        return _view(found)

    return routes


def _view(found: Alert) -> AlertView:
    return AlertView.model_validate(found, from_attributes=True)
