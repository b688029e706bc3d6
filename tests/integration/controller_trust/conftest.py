from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops_controller.db.database import Database
from dsops_controller.db.migrate import upgrade
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.trust.testing import FoundedFleet, MakeBundle, bundle_maker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> Authority:
    return Authority.create(tmp_path / "ca", "lab", clock)


@pytest.fixture
def enrolment(authority: Authority, db: Database, clock: ManualClock) -> Enrolment:
    return Enrolment(db, authority, clock, ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1"))


@pytest.fixture
def fleet(tmp_path: Path, clock: ManualClock) -> FoundedFleet:
    founded = FoundedFleet.create(tmp_path, clock)
    founded.grant("digits")
    return founded


@pytest.fixture
def bundle(tmp_path: Path) -> MakeBundle:
    return bundle_maker(tmp_path)
