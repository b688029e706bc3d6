"""Challengers in the database and in directives: who may have one, what a directive says, how one ends."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from dsops.clock import ManualClock
from dsops.directive import Challenger, Directive, Recipient, check_directive
from dsops.dsse import key_id
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops.messages import ChallengerState, ModelState, Observed, Problem
from dsops.modes import Mode
from dsops.states import Install
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout import desired
from dsops_controller.rollout.challengers import Challenge, Challengers, Promotion
from dsops_controller.rollout.rollouts import Rollouts, slot_for
from dsops_controller.rollout.wanted import wanted_files

ONE, TWO, THREE = ("11" * 32, "12" * 32, "13" * 32)
DEVICES = ("cam-1", "cam-2", "cam-3")
WANTED = Challenge(model="digits", release=2, mode=Mode.SHADOW, share=0.2)


class Fleet:
    """Three devices, of which the first two run release 1 of a model of three releases."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        tables.metadata.create_all(self.db.writer)
        self.key = Ed25519PrivateKey.generate()
        self.director = desired.Director("fleet", lambda: (self.key,))
        self.rollouts = Rollouts(self.db, self.director, self.clock)
        self.challengers = Challengers(self.db, self.rollouts, self.clock)
        with self.db.write() as connection:
            for device in DEVICES:
                upsert(connection, tables.device, id=device, state="accepted", created_ms=0)
            for sha, release in ((ONE, 1), (TWO, 2), (THREE, 3)):
                connection.execute(
                    tables.bundle.insert().values(
                        sha256=sha, model="digits", release=release, variant="int8", length_bytes=9,
                        path=f"digits/{release}.int8.bundle", index_sha256=ONE, manifest="{}", pushed_ms=0,
                    )
                )  # fmt: skip
        for device in DEVICES[:2]:
            self.run(device, ONE)

    def run(self, device: str, sha256: str) -> Directive:
        """Have a device run a bundle; return the directive that says so."""
        with self.db.write() as connection:
            bundle = connection.execute(select(tables.bundle).where(tables.bundle.c.sha256 == sha256)).one()
            slots = {"digits": slot_for(bundle, "de-1")}
            return self.read(device, desired.write(connection, self.director, device, slots, self.clock.now()))

    def write(self, device: str) -> Directive:
        """Return a device's next directive, that wants what the one before did."""
        with self.db.write() as connection:
            slots = desired.slots_of(connection, device)
            return self.read(device, desired.write(connection, self.director, device, slots, self.clock.now()))

    def read(self, device: str, envelope: bytes) -> Directive:
        keys = {key_id(self.key.public_key()): self.key.public_key()}
        return check_directive(envelope, Recipient("fleet", device, keys), last_seq=0, now=self.clock.now())

    def challenger(self, device: str) -> Challenger | None:
        return self.write(device).challengers.get("digits")

    def due(self) -> set[str]:
        """Return the devices whose directive is to be written anew."""
        with self.db.read() as connection:
            of = tables.desired.c
            return set(connection.execute(select(of.device).where(of.updated_ms == 0)).scalars())

    def wanted(self) -> set[str]:
        with self.db.read() as connection:
            return set(wanted_files(connection))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_challenger_is_in_the_directives_of_devices_that_have_a_champion(fleet: Fleet) -> None:
    assert fleet.challengers.set(WANTED, "operator") == TWO
    assert fleet.due() == {"cam-1", "cam-2"}
    assert fleet.wanted() == {ONE, TWO}, "devices cannot fetch it"
    told = fleet.challenger("cam-1")
    assert told is not None
    assert (told.bundle.sha256, told.bundle.release, told.mode, told.share) == (TWO, 2, Mode.SHADOW, 0.2)
    other = fleet.challenger("cam-2")
    assert other is not None
    assert other.bundle.deployment == told.bundle.deployment, "a key would be split differently on each device"
    (entry,) = Audit(fleet.db, fleet.clock).list()
    assert (entry.actor, entry.action, entry.subject) == ("operator", "challenger.set", "digits")
    assert "digits/2.int8.bundle shadow 0.2 on 2 devices" in entry.detail


def test_another_one_takes_its_place(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    changed = WANTED.model_copy(update={"release": 3, "mode": Mode.SPLIT, "cohort": ("cam-1",)})
    fleet.challengers.set(changed, "operator")
    told = [fleet.challenger(device) for device in DEVICES[:2]]
    assert [one and (one.bundle.sha256, one.mode) for one in told] == [(THREE, Mode.SPLIT), (TWO, Mode.SHADOW)]


def test_a_larger_share_of_the_same_bundle_keeps_the_keys_that_it_has(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    before = fleet.challenger("cam-1")
    fleet.challengers.set(WANTED.model_copy(update={"share": 0.9, "mode": Mode.SPLIT}), "operator")
    after = fleet.challenger("cam-1")
    assert before is not None
    assert after is not None
    assert (after.bundle, after.share) == (before.bundle, 0.9), "the device would install it again, and draw anew"
    fleet.challengers.set(WANTED.model_copy(update={"release": 3}), "operator")
    other = fleet.challenger("cam-1")
    assert other is not None
    assert other.bundle.deployment != before.bundle.deployment


@pytest.mark.parametrize(
    ("update", "error", "text"),
    [
        ({"release": 9}, NotFound, "no bundle digits 9"),
        ({"model": "words"}, NotFound, "no bundle words 2"),
        ({"cohort": ("cam-9",)}, InvalidInput, "cam-9 is not an accepted device"),
        ({"cohort": ("cam-1", "cam-3")}, Conflict, "cam-3 has no champion of digits"),
        ({"release": 1}, Conflict, "digits 1 is the champion of cam-1 itself"),
    ],
)
def test_who_cannot_have_one_is_refused(
    fleet: Fleet, update: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        fleet.challengers.set(WANTED.model_copy(update=update), "operator")
    assert fleet.challengers.list() == []


def test_without_any_champion_there_is_no_challenger(fleet: Fleet) -> None:
    with fleet.db.write() as connection:
        connection.execute(tables.desired.delete())
    with pytest.raises(Conflict, match="has no champion"):
        fleet.challengers.set(WANTED, "operator")


def test_one_that_is_cleared_is_in_no_directive(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    assert fleet.challengers.clear("digits", ("cam-2",), "operator") == 1
    assert fleet.challenger("cam-1") is not None
    assert fleet.challenger("cam-2") is None
    assert fleet.challengers.clear("digits", (), "operator") == 1
    assert fleet.challenger("cam-1") is None
    assert fleet.wanted() == {ONE}
    with pytest.raises(NotFound, match="no challenger of digits"):
        fleet.challengers.clear("digits", (), "operator")


def test_a_promotion_is_a_rollout_and_a_champion_is_no_challenger(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    rollout = fleet.rollouts.get(fleet.challengers.promote("digits", Promotion(), "operator"))
    assert (rollout["model"], rollout["release"], rollout["state"]) == ("digits", 2, "running")
    assert {part["device"] for wave in rollout["waves"] for part in wave} == {"cam-1", "cam-2"}
    assert fleet.run("cam-1", TWO).challengers == {}
    assert [row.device for row in fleet.challengers.list()] == ["cam-2"], "it would come back with the next release"
    assert fleet.run("cam-1", THREE).challengers == {}


def test_different_challengers_cannot_be_promoted_together(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    fleet.challengers.set(WANTED.model_copy(update={"release": 3, "cohort": ("cam-1",)}), "operator")
    with pytest.raises(Conflict, match="different challengers of digits"):
        fleet.challengers.promote("digits", Promotion(), "operator")
    with pytest.raises(NotFound):
        fleet.challengers.promote("words", Promotion(), "operator")


def test_what_devices_say_of_it_is_shown(fleet: Fleet) -> None:
    fleet.challengers.set(WANTED, "operator")
    problem = Problem(code="bundle.golden_mismatch", message="it answers something else")
    said = {
        "cam-1": ChallengerState(active=TWO, release=2, install=Install.COMMITTED, target=TWO),
        "cam-2": ChallengerState(install=Install.REJECTED, target=TWO, problem=problem),
    }
    with fleet.db.write() as connection:
        for device, challenger in said.items():
            models = {"digits": ModelState(active=ONE, active_release=1, challenger=challenger)}
            report = Observed(device=device, counter=1, time=fleet.clock.now(), seq=1, models=models)
            values = {"counter": 1, "seq": 1, "report": report.model_dump_json(), "received_ms": 0}
            upsert(connection, tables.observed, device=device, **values)
    one, two = fleet.challengers.list("digits")
    assert (one.champion_release, one.release, one.active, one.install) == (1, 2, True, Install.COMMITTED)
    assert (two.active, two.install, two.code) == (False, Install.REJECTED, "bundle.golden_mismatch")
    assert fleet.challengers.list("words") == []


@pytest.mark.parametrize(
    "wrong", [{"share": 0}, {"share": 1.1}, {"cpu_share": 0}, {"mode": "canary"}, {"surprise": 1}, {"release": 0}]
)
def test_a_challenge_is_strict(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Challenge.model_validate(WANTED.model_dump() | wrong)
