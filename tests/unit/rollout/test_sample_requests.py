"""Requests for samples: signed into each device's directive until their time is over, and kept by the device."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from dsops.clock import ManualClock
from dsops.directive import MAX_SAMPLE_REQUESTS, DesiredSlot, Directive, Recipient, check_directive
from dsops.dsse import key_id
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops_agent.install.journal import Journal
from dsops_agent.runtime.wishes import SampleWish
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout import desired
from dsops_controller.rollout.sample_requests import SampleRequests, Wanted

SLOT = DesiredSlot(path="digits/1.int8.bundle", sha256="11" * 32, length_bytes=9, release=1, deployment="d-1")


class Fleet:
    """A database with two devices that have the model, and one that has none."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        self.key = Ed25519PrivateKey.generate()
        self.director = desired.Director("fleet", lambda: (self.key,))
        self.requests = SampleRequests(self.db, self.clock)
        with self.db.write() as connection:
            for name in ("cam-1", "cam-2", "cam-3"):
                upsert(connection, tables.device, id=name, state="accepted", created_ms=0)
        for name in ("cam-1", "cam-2"):
            self.directive(name, {"digits": SLOT})

    def ask(
        self, *cohort: str, sites: tuple[str, ...] = (), count: int = 5, hours: float = 24.0, model: str = "digits"
    ) -> str:
        wanted = Wanted(model=model, cohort=cohort, sites=sites, count=count, hours=hours, reason="a new lamp")
        return self.requests.ask(wanted, "operator").id

    def move(self, device: str, site: str, state: str = "accepted") -> None:
        with self.db.write() as connection:
            inventory = json.dumps({"site": site})
            upsert(connection, tables.device, id=device, state=state, created_ms=0, inventory=inventory)

    def asked(self, name: str) -> set[str]:
        """Return the devices that a request is for."""
        column = tables.sample_request.c
        with self.db.read() as connection:
            return set(connection.execute(select(column.device).where(column.id == name)).scalars())

    def directive(self, device: str, slots: dict[str, DesiredSlot] | None = None) -> Directive:
        with self.db.write() as connection:
            wanted = slots or desired.slots_of(connection, device)
            envelope = desired.write(connection, self.director, device, wanted, self.clock.now())
        keys = {key_id(self.key.public_key()): self.key.public_key()}
        return check_directive(envelope, Recipient("fleet", device, keys), last_seq=0, now=self.clock.now())

    def due(self) -> set[str]:
        """Return the devices whose directive is to be written anew at once."""
        with self.db.read() as connection:
            query = select(tables.desired.c.device).where(tables.desired.c.updated_ms == 0)
            return set(connection.execute(query).scalars())


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_request_is_in_the_directive_of_each_device_until_its_time_is_over(fleet: Fleet) -> None:
    name = fleet.ask(count=7, hours=2.0)
    assert fleet.due() == {"cam-1", "cam-2"}
    (request,) = fleet.directive("cam-1").samples
    assert (request.id, request.model, request.count) == (name, "digits", 7)
    assert request.until == fleet.clock.now() + timedelta(hours=2)
    fleet.clock.advance(3600)
    assert [one.id for one in fleet.directive("cam-2").samples] == [name]
    fleet.clock.advance(3601)
    assert fleet.directive("cam-1").samples == ()


def test_only_the_named_devices_are_asked_and_it_is_in_the_audit_trail(fleet: Fleet) -> None:
    name = fleet.ask("cam-2")
    assert fleet.directive("cam-1").samples == ()
    assert [one.id for one in fleet.directive("cam-2").samples] == [name]
    entries = [entry for entry in Audit(fleet.db, fleet.clock).list() if entry.action == "sample.requested"]
    assert [(entry.actor, entry.detail) for entry in entries] == [
        ("operator", f"{name}: 5 of each of 1 devices: a new lamp")
    ]


def test_a_site_is_asked_with_one_command(fleet: Fleet) -> None:
    fleet.move("cam-1", "hall-1")
    fleet.move("cam-2", "hall-2")
    fleet.move("cam-3", "hall-1")  # has not the model
    fleet.move("cam-4", "hall-1", state="suspended")
    assert fleet.asked(fleet.ask(sites=("hall-1",))) == {"cam-1"}
    assert fleet.asked(fleet.ask(sites=("hall-1", "hall-2"))) == {"cam-1", "cam-2"}
    assert fleet.asked(fleet.ask("cam-2", sites=("hall-1",))) == {"cam-1", "cam-2"}
    assert fleet.asked(fleet.ask()) == {"cam-1", "cam-2"}
    with pytest.raises(Conflict, match="cam-3 does not have the model"):
        fleet.ask("cam-3", sites=("hall-1",))
    with pytest.raises(NotFound, match="no device there has a model faces"):
        fleet.ask(sites=("hall-1",), model="faces")
    for wrong in ("hall-9", ""):
        with pytest.raises(InvalidInput, match="at a site") as caught:
            fleet.ask(sites=(wrong,))
        assert caught.value.why == "devices are at hall-1, hall-2"


def test_who_cannot_be_asked_is_told(fleet: Fleet) -> None:
    with pytest.raises(Conflict, match="cam-3 does not have the model"):
        fleet.ask("cam-1", "cam-3")
    with pytest.raises(NotFound, match="no device has a model"):
        fleet.ask(model="faces")
    with pytest.raises(InvalidInput, match="cam-9"):
        fleet.ask("cam-9")
    for _ in range(MAX_SAMPLE_REQUESTS):
        fleet.ask("cam-1")
    with pytest.raises(Conflict, match="too much at a time"):
        fleet.ask("cam-1")
    assert len(fleet.directive("cam-1").samples) == MAX_SAMPLE_REQUESTS
    fleet.clock.advance(25 * 3600)
    fleet.ask("cam-1")
    assert len(fleet.directive("cam-1").samples) == 1


def test_a_device_keeps_what_the_newest_directive_asks_for(fleet: Fleet, tmp_path: Path) -> None:
    name = fleet.ask("cam-1", count=3)
    journal = Journal(tmp_path / "journal.db")
    journal.accept(fleet.directive("cam-1"), "aa" * 32)
    (wish,) = [SampleWish.model_validate_json(json.dumps(one)) for one in journal.sample_requests()]
    assert (wish.id, wish.model, wish.count) == (name, "digits", 3)
    fleet.clock.advance(25 * 3600)
    journal.accept(fleet.directive("cam-1"), "bb" * 32)
    assert journal.sample_requests() == []
