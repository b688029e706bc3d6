"""What the controller believes of a device's drift is what its monitor says, though reports are seldom."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from dsops.api.v1.telemetry_pb2 import TelemetryRecord
from dsops.clock import ManualClock
from dsops.profile import Profile, Signal
from dsops_agent.drift.monitor import Level, Verdict
from dsops_agent.drift.report import USUAL_REPORTS
from dsops_agent.runtime.collect import Identity
from dsops_agent.runtime.drift_watch import DriftWatch
from dsops_controller.dataops.drift.fleet_view import by_model
from dsops_controller.dataops.drift.standing import Standing, Standings
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.testing import accept, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

LATE_S = 900.0
EDGES = tuple(np.linspace(0, 1, 11).tolist())
PROFILE = Profile(n_ref=2000, signals=(Signal(name="mean", kind="ordinal", edges=EDGES, counts=(0, *[200] * 10, 0)),))


class Device:
    """A watch whose records reach the store as they are made, an interval of ten seconds and frames at a time."""

    def __init__(self, name: str, inbox: Inbox, clock: ManualClock, rng: np.random.Generator) -> None:
        self.name, self._inbox, self._clock, self._rng = name, inbox, clock, rng
        self.watch = DriftWatch(PROFILE, {"mean"}, (), Identity("pets", 2, "ab" * 32), clock, USUAL_REPORTS)
        self.verdict = Verdict(0.0, Level.OK, 0)
        self.records = 0
        self.told: set[Level] = set()

    def interval(self, shift: float) -> None:
        for verdict in self.watch.feed({"mean": np.clip(self._rng.random(10) + shift, 0, 1).tolist()}):
            if verdict.level is not self.verdict.level:
                self._send(self.watch.event(verdict))
            self.verdict = verdict
        if (report := self.watch.report(self.verdict)) is not None:
            self._send(report)
        self.told.add(self.verdict.level)

    def _send(self, record: bytes) -> None:
        self.records += 1
        found = TelemetryRecord.FromString(record)
        self._inbox.put(self.name, received(telemetry_batch(b"t" * 16, [self.records], [found])))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/state.db")
    with made.write() as connection:
        metadata.create_all(connection)
        accept(connection, ["cam-1"])
    yield made
    made.close()


def test_the_controller_is_never_behind_a_change_and_never_by_more_than_the_cadence(db: Database) -> None:
    clock, rng = ManualClock(), np.random.default_rng(4)
    inbox = Inbox(db, clock)
    inbox.start()
    try:
        device, standings = Device("cam-1", inbox, clock, rng), Standings(db)
        for interval in range(800):
            clock.advance(10.0)
            device.interval(0.0 if interval < 700 else 0.3)
            (standing,) = standings.newest()
            assert standing.level.value == device.verdict.level.name.lower()
            assert standing.reported is not None
            assert (clock.now() - standing.reported).total_seconds() <= LATE_S
        assert device.told >= {Level.OK, Level.DRIFT}
        assert device.records < 100, "of 800 intervals"
        _check_fleet(standing, clock.now())
    finally:
        inbox.stop()


def _check_fleet(standing: Standing, now: datetime) -> None:
    """The one of forty devices that has drifted is named by its newest report."""
    quiet = [_named(standing, f"cam-{number}", 0.0) for number in range(2, 41)]
    (model,) = by_model([standing, *quiet], now)
    assert model.drifted == ("cam-1",)


def _named(standing: Standing, device: str, log_e: float) -> Standing:
    return replace(standing, device=device, log_e=log_e)
