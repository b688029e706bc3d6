"""A pardon goes with the next directive until the device's own report shows that it accepted one."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsops.clock import ManualClock
from dsops.directive import Directive, Recipient, check_directive
from dsops.dsse import key_id
from dsops.errors import Conflict, NotFound
from dsops.messages import ModelState, Observed
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout import desired
from dsops_controller.rollout.pardons import Pardons

ONE, TWO, OTHER = ("11" * 32, "12" * 32, "a" * 64)


class Fleet:
    """A database with one device that reports what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        self.key = Ed25519PrivateKey.generate()
        self.director = desired.Director("fleet", lambda: (self.key,))
        self.pardons = Pardons(self.db, self.director, self.clock)
        with self.db.write() as connection:
            upsert(connection, tables.device, id="cam-1", state="accepted", created_ms=0)
            for sha, release, variant in ((ONE, 1, "int8"), (TWO, 2, "int8"), (OTHER, 2, "float32")):
                connection.execute(
                    tables.bundle.insert().values(
                        sha256=sha, model="digits", release=release, variant=variant, length_bytes=9,
                        path=f"digits/{release}.{variant}.bundle", index_sha256=ONE, manifest="{}", pushed_ms=0,
                    )
                )  # fmt: skip

    def report(self, *quarantined: str, seq: int = 0) -> None:
        state = ModelState(quarantined=quarantined)
        said = Observed(device="cam-1", counter=1, time=self.clock.now(), seq=seq, models={"digits": state})
        with self.db.write() as connection:
            upsert(
                connection, tables.observed, device="cam-1", counter=1, seq=seq, report=said.model_dump_json(),
                received_ms=0,
            )  # fmt: skip
            desired.accepted(connection, "cam-1", seq)

    def pardon(self, what: str) -> Directive:
        envelope = self.pardons.pardon("cam-1", what, "operator").envelope
        return self.read(envelope)

    def read(self, envelope: bytes) -> Directive:
        keys = {key_id(self.key.public_key()): self.key.public_key()}
        return check_directive(envelope, Recipient("fleet", "cam-1", keys), last_seq=0, now=self.clock.now())

    def write(self) -> Directive:
        with self.db.write() as connection:
            return self.read(desired.write(connection, self.director, "cam-1", {}, self.clock.now()))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.mark.parametrize("what", ["digits/2", "digits/2/int8", TWO, TWO[:8], TWO[:10].upper()])
def test_a_bundle_is_named_in_several_ways(fleet: Fleet, what: str) -> None:
    fleet.report(ONE, TWO)
    assert fleet.pardon(what).pardoned == (TWO,)


def test_it_goes_with_every_directive_until_the_device_accepted_one(fleet: Fleet) -> None:
    fleet.report(ONE, TWO)
    first = fleet.pardon("digits/1")
    second = fleet.write()
    assert (second.seq, second.pardoned) == (first.seq + 1, (ONE,))
    fleet.report(ONE, TWO, seq=first.seq)
    assert fleet.write().pardoned == (ONE,), "it was the newest one that the device did not report"
    fleet.report(TWO, seq=second.seq + 1)
    assert fleet.write().pardoned == ()


def test_a_bundle_that_fails_again_stays_condemned(fleet: Fleet) -> None:
    fleet.report(ONE)
    seq = fleet.pardon("digits/1").seq
    fleet.report(ONE, seq=seq)
    assert fleet.write().pardoned == ()


def test_the_audit_trail_names_who_pardoned_what(fleet: Fleet) -> None:
    fleet.report(ONE)
    fleet.pardon("digits/1")
    (entry,) = Audit(fleet.db, fleet.clock).list()
    assert (entry.actor, entry.action, entry.subject) == ("operator", "device.pardon", "cam-1")
    assert ONE in entry.detail


@pytest.mark.parametrize("what", ["digits/1", "digits/9", "digits/x", "words/1", ONE, "1", "", "../x", OTHER])
def test_what_the_device_did_not_condemn_cannot_be_pardoned(fleet: Fleet, what: str) -> None:
    fleet.report(TWO)
    with pytest.raises(NotFound, match="has no quarantined bundle"):
        fleet.pardon(what)
    with fleet.db.read() as connection:
        assert connection.execute(tables.pardon.select()).all() == []


def test_what_means_several_bundles_is_refused(fleet: Fleet) -> None:
    fleet.report(TWO, OTHER)
    with pytest.raises(Conflict, match="means several bundles"):
        fleet.pardon("digits/2")


def test_a_device_that_takes_no_part_is_refused(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="no device cam-2"):
        fleet.pardons.pardon("cam-2", "digits/1", "operator")
    with fleet.db.write() as connection:
        connection.execute(tables.device.update().values(state="suspended"))
    with pytest.raises(Conflict, match="does not take part"):
        fleet.pardon("digits/1")


def test_a_directive_carries_no_more_than_it_may(fleet: Fleet) -> None:
    digests = [f"{number:064x}" for number in range(17)]
    made: Any = None
    for start in (0, 8):
        fleet.report(*digests[start : start + 16])
        for digest in digests[start : start + 8]:
            made = fleet.pardon(digest)
    assert len(made.pardoned) == 16
    fleet.report(digests[16])
    with pytest.raises(Conflict, match="too many pardons"):
        fleet.pardon(digests[16])
