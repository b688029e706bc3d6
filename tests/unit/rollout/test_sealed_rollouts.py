"""Rollouts of sealed bundles: who is sent the key, in which form, and who is not."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select, update
from test_driver import SHA, Fleet

from dsops.errors import ContentSealed
from dsops.sealing import ContentKey, new_secret, unwrap
from dsops.states import Install
from dsops_controller.db import tables
from dsops_controller.rollout import desired


class SealedFleet(Fleet):
    """A fleet whose devices a and b have keys of their own, c has none; releases 1 and 2 are sealed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own = {name: X25519PrivateKey.generate() for name in ("a", "b")}
        self.content = {release: ContentKey(new_secret()) for release in (1, 2)}
        with self.db.write() as connection:
            for name, key in self.own.items():
                change = {"content_public_key": key.public_key().public_bytes_raw()}
                connection.execute(update(tables.device).where(tables.device.c.id == name).values(change))
            for release, held in self.content.items():
                values = {"bundle_sha256": SHA[release], "key": held.data, "created_ms": 0}
                connection.execute(tables.content_key.insert().values(values))

    def set(self, device: str, **values: object) -> None:
        with self.db.write() as connection:
            connection.execute(update(tables.device).where(tables.device.c.id == device).values(values))

    def deployments(self, rollout: str) -> dict[str, dict[str, object]]:
        waves = self.rollouts.get(rollout)["waves"]
        return {part["device"]: part for wave in waves for part in wave}

    def key_for(self, device: str, release: int) -> ContentKey:
        slot = self.wanted(device).slots["digits"]
        assert slot.sha256 == SHA[release]
        assert slot.content_key is not None
        return unwrap(slot.content_key, self.own[device], slot.sha256, device)


@pytest.fixture
def fleet(tmp_path: Path) -> SealedFleet:
    return SealedFleet(tmp_path)


def test_each_device_gets_the_key_wrapped_for_itself(fleet: SealedFleet) -> None:
    fleet.start(1)
    assert fleet.key_for("b", 1) == fleet.content[1]
    fleet.commit("b")
    assert fleet.key_for("a", 1) == fleet.content[1]
    stolen = fleet.wanted("a").slots["digits"].content_key
    assert stolen is not None
    with pytest.raises(ContentSealed):
        unwrap(stolen, fleet.own["b"], SHA[1], "a")


def test_a_directive_with_a_wrapped_key_is_short_and_the_database_keeps_no_wrap(fleet: SealedFleet) -> None:
    fleet.start(1)
    envelope = fleet.courier.desired["b"]
    assert len(envelope) < 1500
    assert fleet.content[1].data not in envelope
    with fleet.db.read() as connection:
        stored = json.loads(connection.execute(select(tables.desired.c.slots)).scalar_one())
    assert stored["digits"]["content_key"] is None


def test_a_clear_bundle_has_no_key(fleet: SealedFleet) -> None:
    fleet.start(3)
    assert fleet.wanted("b").slots["digits"].content_key is None


def test_a_device_without_a_key_is_refused_before_anything_is_sent(fleet: SealedFleet) -> None:
    rollout = fleet.start(1, max_failures=5)
    fleet.commit("b")
    assert "a" in fleet.courier.desired
    assert "c" not in fleet.courier.desired
    part = fleet.deployments(rollout)["c"]
    assert (part["state"], part["code"]) == ("rejected", "bundle.sealed")
    assert "c cannot be sent its key" in str(part["message"])
    fleet.commit("a")
    fleet.driver.turn()
    assert fleet.state(rollout) == "succeeded"


@pytest.mark.parametrize("raw", [bytes(32), bytes(5)], ids=["low order", "short"])
def test_a_key_that_keeps_nothing_secret_counts_as_none(fleet: SealedFleet, raw: bytes) -> None:
    fleet.set("b", content_public_key=raw)
    rollout = fleet.start(1)
    assert fleet.deployments(rollout)["b"]["code"] == "bundle.sealed"
    assert fleet.courier.desired == {}


@pytest.mark.parametrize("state", ["suspended", "rejected", "decommissioned", "pending"])
def test_who_does_not_take_part_gets_no_key_any_more(fleet: SealedFleet, state: str) -> None:
    fleet.start(1)
    before = fleet.wanted("b").seq
    fleet.set("b", state=state)
    with fleet.db.write() as connection:
        slots = desired.slots_of(connection, "b")
        fleet.courier.desired["b"] = desired.write(connection, fleet.driver._director, "b", slots, fleet.clock.now())
        with pytest.raises(ContentSealed):
            desired.check_key(connection, "b", SHA[1])
        desired.check_key(connection, "b", SHA[3])
    directive = fleet.wanted("b")
    assert directive.seq > before
    assert directive.slots["digits"].content_key is None


def test_a_suspended_device_is_sent_no_renewal(fleet: SealedFleet) -> None:
    fleet.start(1)
    fleet.set("b", state="suspended")
    envelope = fleet.courier.desired["b"]
    fleet.clock.advance(desired.LIFE.total_seconds())
    fleet.driver.turn()
    assert fleet.courier.desired["b"] == envelope
    fleet.set("b", state="accepted")
    fleet.driver.turn()
    assert fleet.courier.desired["b"] != envelope
    assert fleet.key_for("b", 1) == fleet.content[1]


def test_a_device_with_a_new_key_gets_its_directive_anew(fleet: SealedFleet) -> None:
    fleet.start(1)
    fleet.commit("b")
    fleet.own["b"] = X25519PrivateKey.generate()
    with fleet.db.write() as connection:
        raw = fleet.own["b"].public_key().public_bytes_raw()
        connection.execute(update(tables.device).where(tables.device.c.id == "b").values(content_public_key=raw))
        desired.outdate(connection, "b")
    fleet.driver.turn()
    assert fleet.key_for("b", 1) == fleet.content[1]


def test_an_aborted_rollout_leads_back_to_the_sealed_bundle_before_with_its_key(fleet: SealedFleet) -> None:
    first = fleet.start(1, max_failures=5)
    fleet.commit("b")
    fleet.commit("a")
    assert fleet.state(first) == "succeeded"
    second = fleet.start(2)
    assert fleet.key_for("b", 2) == fleet.content[2]
    fleet.report("b", Install.PROBATION, active=SHA[1])
    for device, envelope in fleet.rollouts.abort(second):
        fleet.courier.publish_desired(device, envelope)
    assert fleet.key_for("b", 1) == fleet.content[1]
