"""A state database with alerts and what watches them, and a receiver of notices: for tests over both databases."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hook_receiver import Receiver

from dsops.api.v1.telemetry_pb2 import DriftReport, Loss, SkewCheck, TelemetryRecord
from dsops.clock import ManualClock
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.alerts.deliveries import Deliveries
from dsops_controller.alerts.driver import Watch, Watched
from dsops_controller.alerts.settings import AlertSettings
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.dataops.testing import DIGEST, accept, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device, metadata
from dsops_controller.db.tables import heartbeat as heartbeats
from dsops_controller.db.times import to_ms
from dsops_controller.db.upsert import upsert
from dsops_controller.retraining.adapters import Adapters
from dsops_controller.retraining.settings import Webhook
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.repository import Repository

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOTH = pytest.mark.parametrize(
    "new_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.integration, pytest.mark.slow])],
    indirect=True,
    scope="module",
)


class Here(NamedTuple):
    """Where the files and the state database of a fleet are."""

    folder: Path
    url: str


class Site:
    """A store, and what watches it."""

    def __init__(self, here: Here, settings: AlertSettings, clock: ManualClock | None = None) -> None:
        folder = here.folder
        self.clock = clock or ManualClock(START)
        self.db = Database(here.url)
        with self.db.write() as connection:
            metadata.create_all(connection)
        self.inbox = Inbox(self.db, self.clock)
        self.inbox.start()
        keys = (
            OnlineKeys.create(folder / "keys") if not (folder / "keys").exists() else OnlineKeys.load(folder / "keys")
        )
        bundles = Bundles(self.db, folder / "bundles", Repository(folder / "trust", keys, self.clock), self.clock)
        watched = Watched(self.db, bundles, Labels(self.db, lambda _: {}, self.clock))
        self.alerts = Alerts("north", self.db, self.clock)
        self.deliveries = Deliveries("north", self.db, self.clock, lambda: 0.5)
        self.watch = Watch(
            watched, self.alerts, self.deliveries, settings, Adapters(folder, self.clock).deliver, self.clock
        )
        self._seqs: dict[str, int] = {}

    def put(self, name: str, *records: TelemetryRecord, dropped: int = 0) -> None:
        """Have an accepted device upload records."""
        self.accept(name)
        first = self._seqs.get(name, 0) + 1
        self._seqs[name] = first + len(records) - 1
        losses = [Loss(kind="sample", reason="full", count=dropped)] if dropped else []
        seqs = range(first, first + len(records))
        message = telemetry_batch(name.encode().ljust(16, b"-"), seqs, records, produced=1000, losses=losses)
        self.inbox.put(name, received(message))

    def accept(self, name: str) -> None:
        """Let a device take part."""
        with self.db.write() as connection:
            accept(connection, [name])

    def refuse(self, name: str) -> None:
        """Let a device take no part any more."""
        with self.db.write() as connection:
            connection.execute(device.update().where(device.c.id == name).values(state="rejected"))

    def report(self, state: str = "ok", log_e: float = 0.0, skew: str = "ok", model: str = "digits") -> TelemetryRecord:
        now_us = to_ms(self.clock.now()) * 1000
        found = SkewCheck(state=skew, frames=1000, p_value=1e-6, signals=["entropy"] if skew == "skew" else [])
        return TelemetryRecord(
            drift=DriftReport(
                start_us=now_us, interval_ms=1000, model=model, release=1, digest=DIGEST, state=state, frames=100,
                since_us=now_us, log_e=log_e, epoch_us=1, skew=found,
            )
        )  # fmt: skip

    def beat(self, first: int, last: int) -> None:
        """Have accepted devices, by their numbers, be heard of now."""
        now_ms = to_ms(self.clock.now())
        values = {"time_ms": now_ms, "received_ms": now_ms, "interval_ms": 1000, "uptime_s": 1, "agent_version": "1"}
        names = [f"cam-{number:05d}" for number in range(first, last)]
        with self.db.write() as connection:
            accept(connection, names)
            rows = [{"device": name, "waiting": "{}", **values} for name in names]
            connection.execute(upsert(connection.dialect.name, heartbeats), rows)

    def open_now(self) -> list[tuple[str, str, str]]:
        return sorted((one.kind.value, one.model, one.device) for one in self.alerts.list(only_open=True))

    def step(self) -> None:
        self.watch.look()
        self.watch.hand_over()

    def close(self) -> None:
        self.inbox.stop()
        self.db.close()


def settings(receiver: Receiver | None = None, **more: Any) -> AlertSettings:
    """Return settings that tell a receiver, if any."""
    hooks = {} if receiver is None else {"ops": Webhook(url=receiver.url, secret_file="hook.secret")}
    return AlertSettings(webhook=hooks, **more)
