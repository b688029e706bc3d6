"""Puts the REST interface together."""

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

import dsops
from dsops_controller.server.rest import (
    alerts,
    broker,
    bundles,
    challengers,
    data,
    datasets,
    devices,
    drift,
    figures,
    kits,
    labels,
    metrics,
    problems,
    retraining,
    rollouts,
    sample_requests,
    samples,
    sites,
    store,
    summary,
    tracing,
    trust,
    why,
)
from dsops_controller.server.rest.backend import Backend
from dsops_controller.server.rest.guard import Guard

PREFIX = "/api/v1"


def create_app(backend: Backend) -> FastAPI:
    """Return the application with every route, without the guard."""
    app = FastAPI(
        title="dsops controller",
        version=dsops.__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
    )
    problems.install(app)
    api = APIRouter(prefix=PREFIX)
    for noun in (
        summary,
        broker,
        devices,
        why,
        kits,
        trust,
        bundles,
        rollouts,
        challengers,
        sites,
        sample_requests,
        data,
        store,
        drift,
        figures,
        alerts,
        datasets,
        samples,
        labels,
        retraining,
        tracing,
    ):
        api.include_router(noun.router(backend))
    app.include_router(api)
    app.include_router(metrics.router(backend))
    return app


def guarded(backend: Backend, token_sha256: str, metrics_token_sha256: str = "") -> ASGIApp:
    """Return the application behind the tokens and the limit on lengths; one token opens ``/metrics`` only."""
    readers = {metrics.PATH: metrics_token_sha256} if metrics_token_sha256 else {}
    return Guard(create_app(backend), token_sha256, readers)
