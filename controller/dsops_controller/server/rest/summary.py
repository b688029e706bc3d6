"""Whether the controller works, and its figures."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter

from dsops.manifest import Frozen
from dsops_controller.server.broker import BrokerFigures
from dsops_controller.server.rest.backend import Backend


class Health(Frozen):
    """The controller answers and can read its database."""

    status: Literal["ok"] = "ok"
    broker_connected: bool
    trust_established: bool


class Mqtt(Frozen):
    """What went over MQTT. ``bytes_in`` and ``bytes_out`` are the broker's own counts since its start, if it has any.

    ``published`` were acknowledged by the broker; ``refused`` counts messages that either side refused, ``foreign``
    messages on topics that nobody should use, ``overwritten`` messages that gave way to newer ones of the same topic.
    """

    connected: bool
    connections: int
    published: int
    received: int
    refused: int
    foreign: int
    overwritten: int
    bytes_in: int | None
    bytes_out: int | None


class Summary(Frozen):
    """Figures of fleet and store. ``records_stored`` and ``duplicates`` are counted in the store itself."""

    devices: int
    online: int
    rollouts_running: int
    records_stored: int
    samples_stored: int
    duplicates: int
    produced: int
    dropped: int
    retained_bytes: int
    """Length of the bundles and deltas that the broker is offered."""
    retained_limit_bytes: int
    """What it may come to (``[broker] retained_bytes``); a rollout that would exceed it is refused."""
    deltas_without_room: int
    """Deltas that are not offered, for with them it would exceed that."""
    mqtt: Mqtt
    grpc_bytes: int
    trust_due: dict[str, datetime]
    """Roles that people should sign again, and when they expire; see ``dsops trust doctor``."""


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["summary"])

    @routes.get("/health")
    def health() -> Health:
        backend.overview.counts()
        return Health(broker_connected=backend.mqtt().connected, trust_established=backend.repository.is_established)

    @routes.get("/summary")
    def summary() -> Summary:
        fleet, stored = backend.overview.counts(), backend.store.counts()
        return Summary(
            devices=fleet.devices,
            online=fleet.online,
            rollouts_running=fleet.rollouts_running,
            records_stored=stored.records_stored,
            samples_stored=stored.samples_stored,
            duplicates=stored.duplicates,
            produced=stored.produced,
            dropped=stored.dropped,
            retained_bytes=fleet.retained_bytes,
            retained_limit_bytes=backend.rollouts.retained_bytes,
            deltas_without_room=fleet.deltas_without_room,
            mqtt=_mqtt(backend.mqtt()),
            grpc_bytes=backend.grpc_bytes(),
            trust_due=backend.repository.due() if backend.repository.is_established else {},
        )

    return routes


def _mqtt(figures: BrokerFigures) -> Mqtt:
    return Mqtt.model_validate(figures, from_attributes=True)
