"""The fleet's figures for Prometheus: ``GET /metrics``, outside of the interface for operators."""

from fastapi import APIRouter, Response

from dsops_controller.monitoring.metrics import metrics
from dsops_controller.monitoring.prometheus import CONTENT_TYPE, exposition
from dsops_controller.server.rest.backend import Backend

PATH = "/metrics"


def router(backend: Backend) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["metrics"])

    @routes.get(PATH, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def read() -> Response:
        return Response(exposition(metrics(backend.monitoring.figures())), headers={"Content-Type": CONTENT_TYPE})

    return routes
