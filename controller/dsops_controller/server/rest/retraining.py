"""Requests to train models anew: ask, list, show, close, try again."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from dsops import ids
from dsops.manifest import Frozen
from dsops_controller.retraining.requests import DeliveryState, RequestState, RetrainingRequest
from dsops_controller.retraining.settings import Cause
from dsops_controller.server.rest.backend import OPERATOR, Backend


class NewRequest(Frozen):
    """A model to be trained anew; ``dataset`` is ``NAME``, ``NAME/VERSION``, or empty for the model's newest."""

    model: str
    dataset: str = ""
    note: str = Field(default="", max_length=2000)


class DeliveryView(Frozen):
    """How far a request is with one adapter."""

    name: str
    state: DeliveryState
    attempts: int
    next: datetime
    error: str


class RequestView(Frozen):
    """One request; ``id`` is the idempotency key that whoever trains is told."""

    id: str
    cause: Cause
    state: RequestState
    model: str
    release: int
    bundle_sha256: str
    dataset: str
    dataset_digest: str
    evidence: dict[str, Any]
    note: str
    created: datetime
    updated: datetime
    deliveries: tuple[DeliveryView, ...]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/retraining", tags=["retraining"])
    requests = backend.retraining.requests

    @routes.get("")
    def list_requests(model: str | None = None) -> list[RequestView]:
        return [_view(one) for one in requests.list(model)]

    @routes.post("", status_code=201)
    def request(new: NewRequest) -> RequestView:
        return _view(backend.retraining.request(ids.model_name(new.model), new.dataset, new.note, OPERATOR))

    @routes.get("/{request_id}")
    def show(request_id: str) -> RequestView:
        return _view(requests.get(request_id))

    @routes.post("/{request_id}/close")
    def close(request_id: str) -> RequestView:
        return _view(requests.close(request_id, OPERATOR))

    @routes.post("/{request_id}/retry")
    def retry(request_id: str) -> RequestView:
        found = requests.retry(request_id, OPERATOR)
        backend.retraining.wake()
        return _view(found)

    return routes


def _view(found: RetrainingRequest) -> RequestView:
    subject = found.subject
    return RequestView(
        id=found.id,
        cause=found.cause,
        state=found.state,
        model=subject.model,
        release=subject.release,
        bundle_sha256=subject.bundle_sha256,
        dataset=subject.dataset,
        dataset_digest=subject.dataset_digest,
        evidence=dict(found.evidence),
        note=found.note,
        created=found.created,
        updated=found.updated,
        deliveries=tuple(
            DeliveryView(name=one.adapter, state=one.state, attempts=one.attempts, next=one.next, error=one.error)
            for one in found.deliveries
        ),
    )
