"""One state database with its inbox and lake, for tests of the store's ports on every place."""

from datetime import UTC, datetime

import pytest

from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.telemetry_pb2 import TelemetryBatch
from dsops.clock import ManualClock
from dsops_controller.dataops.history import History, LakeHistory
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.places import Place
from dsops_controller.dataops.lake.retention import RetentionRules
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.samples.sample_reading import SampleReader
from dsops_controller.dataops.store import LakeStore, Store
from dsops_controller.dataops.testing import received
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
_SLOW = [pytest.param(place, marks=[pytest.mark.integration, pytest.mark.slow]) for place in ("postgresql", "s3")]
EVERYWHERE = pytest.mark.parametrize("new_url", ["sqlite", *_SLOW], indirect=True, scope="module")
"""In a folder always; the others are marked slow."""
STAGES = pytest.mark.parametrize("stage", ["inbox", "lake", "both"])


def us(seconds: float = 0.0) -> int:
    return round((START.timestamp() + seconds) * 1_000_000)


class Site:
    """One controller's part of the store."""

    def __init__(self, url: str, place: Place) -> None:
        self.db = Database(url)
        with self.db.write() as connection:
            metadata.create_all(connection)
        self.clock = ManualClock(START)
        self.lake = Lake(self.db, place)
        self.lake.open()
        self.pins = Pins(self.lake, self.clock)
        self.inbox = Inbox(self.db, self.clock)
        self.inbox.start()
        lake_store = LakeStore(self.db, self.lake)
        self.store: Store = lake_store
        self.reader = SampleReader(self.db, lake_store)
        self.history: History = LakeHistory(self.db, self.lake)
        self.trail: list[tuple[str, str, str]] = []

    def upkeep(self, rules: RetentionRules | None = None) -> Upkeep:
        return Upkeep(self.lake, self.pins, self.clock, rules, record=lambda *row: self.trail.append(row))

    def close(self) -> None:
        self.inbox.stop()
        self.db.close()


def put(site: Site, stage: str, *messages: tuple[str, TelemetryBatch | SampleBatch]) -> None:
    """Put messages so that they are read from the inbox, from the lake, or the first of them from the lake."""
    for number, (device, message) in enumerate(messages):
        site.inbox.put(device, received(message))
        if stage == "lake" or (stage == "both" and number == 0):
            site.lake.flush()
