"""Reads over the whole fleet: what every device reported, its newest figures, and the counts of the summary."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from dsops.messages import Observed
from dsops.states import Device, Rollout
from dsops_controller.db.database import Database
from dsops_controller.db.tables import desired, device, device_latest, observed, rollout
from dsops_controller.deltas.room import without_room
from dsops_controller.server.offers import offered_bytes

Figures = Mapping[str, Mapping[str, Any]]
"""Newest figures by model; the empty name is the host's row."""


@dataclass(frozen=True)
class FleetCounts:
    """Counts of the fleet.

    Attributes:
        devices: Those that take part.
        online: How many of them are connected.
        rollouts_running: Rollouts under way.
        retained_bytes: Length of the files that the broker is offered.
        deltas_without_room: Deltas that are not offered because that would exceed what it may be offered.
    """

    devices: int
    online: int
    rollouts_running: int
    retained_bytes: int
    deltas_without_room: int


class Overview:
    """Answers with one query each, however many devices there are."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def reports(self, name: str | None = None) -> dict[str, Observed]:
        """Return the newest report by device; of one device only, if it is named."""
        query = select(observed.c.device, observed.c.report)
        if name is not None:
            query = query.where(observed.c.device == name)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        return {row.device: Observed.model_validate_json(row.report) for row in rows}

    def figures(self, name: str | None = None) -> dict[str, Figures]:
        """Return the newest telemetry figures by device and model; of one device only, if it is named."""
        query = select(device_latest)
        if name is not None:
            query = query.where(device_latest.c.device == name)
        found: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        with self._db.read() as connection:
            for row in connection.execute(query):
                found[row.device][row.model] = json.loads(row.figures) | {"time_ms": row.time_ms}
        return dict(found)

    def directive(self, name: str) -> bytes | None:
        """Return the envelope of a device's newest directive; None when it has none, or does not take part."""
        query = select(desired.c.envelope).join(device, device.c.id == desired.c.device)
        with self._db.read() as connection:
            taking_part = (device.c.id == name) & (device.c.state == Device.ACCEPTED)
            return connection.execute(query.where(taking_part)).scalar()

    def counts(self) -> FleetCounts:
        """Count accepted devices, those of them that are online, running rollouts, and bytes that are offered."""
        accepted = device.c.state == Device.ACCEPTED
        with self._db.read() as connection:
            devices = connection.execute(select(func.count()).select_from(device).where(accepted)).scalar_one()
            here = select(func.count()).select_from(device).where(accepted & device.c.online)
            online = connection.execute(here).scalar_one()
            running = select(func.count()).select_from(rollout).where(rollout.c.state == Rollout.RUNNING)
            rollouts = connection.execute(running).scalar_one()
            return FleetCounts(devices, online, rollouts, offered_bytes(connection), without_room(connection))
