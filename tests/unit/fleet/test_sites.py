"""Budgets of sites: how they are divided, and that directives follow. A real database, the driver, simulated time."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsops import dsse
from dsops.clock import ManualClock
from dsops.directive import PAYLOAD_TYPE, Directive, TransferLimits
from dsops.errors import InvalidInput, NotFound
from dsops.messages import Inventory
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.fleet.registry import encode_inventory
from dsops_controller.fleet.sites import Sites, _divided
from dsops_controller.rollout import desired
from dsops_controller.rollout.desired import Director
from dsops_controller.rollout.driver import Driver


class Courier:
    """Keeps each device's newest directive."""

    def __init__(self) -> None:
        self.envelopes: dict[str, bytes] = {}

    def publish_desired(self, device: str, envelope: bytes) -> None:
        self.envelopes[device] = envelope

    def seed(self, bundle_sha256: str, model: str) -> None:
        raise AssertionError("no rollout runs")


class Fleet:
    """Three devices in plant-7, one elsewhere, one without a site; each has a directive."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        key = Ed25519PrivateKey.generate()
        self.director = Director("fleet", lambda: (key,))
        self.courier = Courier()
        self.sites = Sites(self.db, self.clock)
        self.driver = Driver(self.db, self.courier, self.director, self.clock)
        for name, site in (("a", "plant-7"), ("b", "plant-7"), ("c", "plant-7"), ("d", "plant-8"), ("e", "")):
            self.join(name, site)
        self.turn()

    def join(self, name: str, site: str) -> None:
        with self.db.write() as connection:
            text = encode_inventory(Inventory(site=site))
            upsert(connection, tables.device, id=name, state="accepted", created_ms=0, online=True, inventory=text)
            self.courier.envelopes[name] = desired.write(connection, self.director, name, {}, self.clock.now())

    def turn(self, after_s: float = 1) -> set[str]:
        """Turn the driver; return who got a directive with another share."""
        before = self.shares()
        self.clock.advance(after_s)
        self.driver.turn()
        return {name for name, share in self.shares().items() if share != before[name]}

    def shares(self) -> dict[str, TransferLimits]:
        contents = {n: dsse.decode(e, PAYLOAD_TYPE).content() for n, e in self.courier.envelopes.items()}
        return {name: Directive.model_validate(json.loads(text)).transfer for name, text in contents.items()}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_share_is_a_part_of_the_whole_and_never_nothing() -> None:
    assert _divided(100, 0, 3) == TransferLimits(bytes_per_s=33)
    assert _divided(2, 1000, 3) == TransferLimits(bytes_per_s=1, bytes_per_day=333)
    assert _divided(100, 0, 0) == TransferLimits(bytes_per_s=100)


def test_the_devices_of_a_site_get_equal_shares_and_others_none(fleet: Fleet) -> None:
    fleet.sites.set("plant-7", 300, 9000, "operator")
    assert fleet.turn() == {"a", "b", "c"}
    assert fleet.shares()["a"] == TransferLimits(bytes_per_s=100, bytes_per_day=3000)
    assert fleet.shares()["d"] == fleet.shares()["e"] == TransferLimits()
    (site,) = fleet.sites.list()
    assert (site.devices, site.each.bytes_per_s) == (3, 100)
    fleet.sites.clear("plant-7", "operator")
    assert fleet.turn() == {"a", "b", "c"}
    assert set(fleet.shares().values()) == {TransferLimits()}
    told = [(row.action, row.subject, row.actor) for row in Audit(fleet.db, fleet.clock).list()]
    assert told == [("site.cleared", "plant-7", "operator"), ("site.set", "plant-7", "operator")]


def test_who_comes_later_has_the_share_of_the_others_which_is_divided_anew_after_a_while(fleet: Fleet) -> None:
    fleet.sites.set("plant-7", 300, 0)
    fleet.turn()
    fleet.join("f", "plant-7")
    assert fleet.shares()["f"] == TransferLimits(bytes_per_s=100)
    assert fleet.turn(after_s=120) == set(), "not at every device that joins"
    assert fleet.turn(after_s=600) == {"a", "b", "c", "f"}
    assert fleet.shares()["f"] == TransferLimits(bytes_per_s=75)
    assert fleet.turn(after_s=3600) == set()


@pytest.mark.parametrize(("name", "per_s", "per_day"), [("a/b", 1, 0), ("", 1, 0), ("a", 0, 0), ("a", -1, 0)])
def test_what_is_no_site_or_no_budget_is_refused(fleet: Fleet, name: str, per_s: int, per_day: int) -> None:
    with pytest.raises(InvalidInput):
        fleet.sites.set(name, per_s, per_day)
    with pytest.raises(NotFound):
        fleet.sites.clear(name)
