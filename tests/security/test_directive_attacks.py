"""What a hostile broker and a thief of every online key can do to a device, against the real installer and trust store.

The broker chooses what a device gets to see. The thief holds the director's key and those of snapshot and timestamp,
which are all that the controller has; what owners of models, release managers and holders of ``targets`` sign stays
with them. Each attack is refused by a rule of its own, is told once with its code, and changes nothing that runs.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from device_stage import Made, Stage, make_bundle

from dsops import dsse
from dsops.directive import PAYLOAD_TYPE, DesiredSlot
from dsops.errors import OutsideRing
from dsops.messages import STATE_TYPE
from dsops.states import Install
from dsops.trust import Policy, Ring, approve

ONE, TWO = make_bundle(1), make_bundle(2)
OTHER_BYTES = make_bundle(2, b"other bytes" * 500)


@pytest.fixture
def running(stage: Stage) -> Stage:
    """A device that runs release 1, by directive 5; release 2 is signed."""
    stage.sign(ONE)
    stage.order(5, ONE)
    assert stage.state().active == ONE.sha256
    stage.sign(TWO)
    return stage


def assert_nothing_changed(stage: Stage, seq: int = 5) -> None:
    assert stage.around.serving == {"digits": ONE.sha256}
    assert stage.state().active == ONE.sha256
    assert stage.installer.seq() == seq


def test_an_order_that_is_overruled_at_once_leaves_its_refusal_behind(running: Stage) -> None:
    """The controller takes back within a second what a thief of its key ordered; what was ordered must be known."""
    running.allow(Policy(model="digits", floor=3))
    running.metadata()
    running.pass_time(15)
    running.installer.on_directive(running.directive(6, TWO.slot()).sign(running.key))
    running.installer.work(0)
    assert running.refusals() == []
    running.installer.on_directive(running.directive(7, ONE.slot()).sign(running.key))
    running.installer.work(0)
    assert running.refusals() == ["trust.below_floor"]
    assert_nothing_changed(running, seq=7)


# A hostile broker.

Attack = Callable[[Stage], bytes]


def forged(stage: Stage) -> bytes:
    return stage.directive(6, TWO.slot()).sign(Ed25519PrivateKey.generate())


def renumbered(stage: Stage) -> bytes:
    """The directive that was accepted, with another number under the old signature."""
    old = dsse.decode(stage.directive(5, ONE.slot()).sign(stage.key), PAYLOAD_TYPE)
    new = dsse.decode(stage.directive(6, TWO.slot()).sign(Ed25519PrivateKey.generate()), PAYLOAD_TYPE)
    return new.model_copy(update={"signatures": old.signatures}).encode()


def replayed(stage: Stage) -> bytes:
    return stage.directive(4, TWO.slot()).sign(stage.key)


def numbered_alike(stage: Stage) -> bytes:
    return stage.directive(5, TWO.slot()).sign(stage.key)


def misrouted(stage: Stage) -> bytes:
    return stage.directive(6, TWO.slot(), device="cam-2").sign(stage.key)


def of_another_fleet(stage: Stage) -> bytes:
    return stage.directive(6, TWO.slot(), fleet="south").sign(stage.key)


def held_back(stage: Stage) -> bytes:
    data = stage.directive(6, TWO.slot()).sign(stage.key)
    stage.bench.clock.advance(timedelta(days=1).total_seconds())
    return data


def by_a_director_who_was_replaced(stage: Stage) -> bytes:
    stage.appoint(Ed25519PrivateKey.generate())
    return stage.directive(6, TWO.slot()).sign(stage.key)


def by_one_director_of_two(stage: Stage) -> bytes:
    stage.appoint(stage.key, Ed25519PrivateKey.generate(), threshold=2)
    return stage.directive(6, TWO.slot()).sign(stage.key, stage.key)


def of_another_type(stage: Stage) -> bytes:
    payload = dsse.decode(stage.directive(6, TWO.slot()).sign(stage.key), PAYLOAD_TYPE).content()
    return dsse.sign(STATE_TYPE, payload, stage.key).encode()


def too_long(stage: Stage) -> bytes:
    data = stage.directive(6, TWO.slot()).sign(stage.key)
    return data + b" " * (65_537 - len(data))


def junk(_stage: Stage) -> bytes:
    return b"\x00" * 100


def leaping(stage: Stage) -> bytes:
    return stage.directive(2**40, TWO.slot()).sign(stage.key)


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (forged, "trust.directive_unsigned"),
        (renumbered, "trust.directive_unsigned"),
        (by_a_director_who_was_replaced, "trust.directive_unsigned"),
        (by_one_director_of_two, "trust.directive_unsigned"),
        (replayed, "trust.directive_replayed"),
        (numbered_alike, "trust.directive_replayed"),
        (misrouted, "trust.wrong_device"),
        (of_another_fleet, "trust.wrong_fleet"),
        (held_back, "trust.directive_expired"),
        (leaping, "trust.directive_leaps"),
        (of_another_type, "trust.directive_malformed"),
        (too_long, "trust.directive_malformed"),
        (junk, "trust.directive_malformed"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_directive_that_is_not_for_this_device_now_is_refused(running: Stage, attack: Attack, code: str) -> None:
    data = attack(running)
    for _ in range(3):
        running.send(data)
    running.restart()
    running.send(data)
    assert running.refused() == code
    assert running.refusals() == [code]
    assert_nothing_changed(running)


def test_trust_metadata_of_another_fleet_is_refused(running: Stage) -> None:
    running.appoint(running.key, fleet="south")
    running.send(running.directive(6, TWO.slot()).sign(running.key))
    assert running.refusals() == ["trust.wrong_fleet"]
    assert_nothing_changed(running)


def test_whoever_withholds_newer_metadata_gets_no_replaced_director_believed(running: Stage) -> None:
    """The new head came, the documents that it leads to do not: what is stored is known to be old."""
    replaced = running.key
    running.key = Ed25519PrivateKey.generate()
    running.appoint(running.key)
    running.lost = True
    running.send(running.directive(6, TWO.slot()).sign(replaced), 120.0)
    assert running.refusals() == [], "it waits"
    assert_nothing_changed(running)
    running.lost = False
    running.pass_time(120.0)
    assert running.refusals() == ["trust.directive_unsigned"]
    assert_nothing_changed(running)


def test_a_release_is_not_given_up_while_newer_metadata_are_on_their_way(running: Stage) -> None:
    three = make_bundle(3)
    running.order(6, TWO)
    running.send(running.directive(7, three.slot()).sign(running.key), 0.0)
    running.sign(three)
    running.lost = True
    running.metadata()
    running.pass_time(120.0)
    assert running.refusals() == [], "it waits"
    running.lost = False
    running.pass_time(180.0)
    assert running.refusals() == []
    assert running.state().active == three.sha256


def test_a_new_director_is_believed(running: Stage) -> None:
    running.key = Ed25519PrivateKey.generate()
    running.appoint(running.key)
    running.order(6, TWO)
    assert running.state().active == TWO.sha256


# A thief of every online key: what a believed directive asks for.


def other_bytes(_stage: Stage) -> DesiredSlot:
    return TWO.slot(sha256=OTHER_BYTES.sha256)


def another_length(_stage: Stage) -> DesiredSlot:
    return TWO.slot(length_bytes=len(TWO.data) + 1)


def nothing_that_anybody_signed(_stage: Stage) -> DesiredSlot:
    return make_bundle(3).slot()


def for_other_hardware(stage: Stage) -> DesiredSlot:
    stage.sign(TWO, hardware=["armv7l"])
    return TWO.slot()


def of_another_model(stage: Stage) -> DesiredSlot:
    stage.sign(TWO, model="words")
    return TWO.slot()


def under_another_number(stage: Stage) -> DesiredSlot:
    stage.allow(Policy(model="digits", floor=3))
    return TWO.slot(release=3)


def without_facts(stage: Stage) -> DesiredSlot:
    stage.sign(TWO, release="two")
    return TWO.slot()


def below_the_floor(stage: Stage) -> DesiredSlot:
    stage.allow(Policy(model="digits", floor=3))
    return TWO.slot()


def not_listed(stage: Stage) -> DesiredSlot:
    stage.allow(Policy(model="digits", default_ring=None, rings={"1": Ring()}))
    return TWO.slot()


def outside_its_ring(stage: Stage) -> DesiredSlot:
    stage.allow(Policy(model="digits", rings={"2": Ring(fraction=0.0, canary=("cam-2",))}))
    return TWO.slot()


def by_the_policy_of_another_model(stage: Stage) -> DesiredSlot:
    stage.allow(Policy(model="words"))
    return TWO.slot()


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (other_bytes, "trust.target_differs"),
        (another_length, "trust.target_differs"),
        (nothing_that_anybody_signed, "trust.target_unknown"),
        (for_other_hardware, "bundle.wrong_hardware"),
        (of_another_model, "trust.target_foreign"),
        (under_another_number, "trust.target_foreign"),
        (without_facts, "trust.metadata_malformed"),
        (below_the_floor, "trust.below_floor"),
        (not_listed, "trust.release_unlisted"),
        (outside_its_ring, "trust.outside_ring"),
        (by_the_policy_of_another_model, "trust.metadata_mismatch"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_thief_of_every_online_key_installs_nothing_but_approved_releases(
    running: Stage, attack: Callable[[Stage], DesiredSlot], code: str
) -> None:
    running.around.chunks |= {OTHER_BYTES.sha256: OTHER_BYTES.data}
    data = running.directive(6, attack(running)).sign(running.key)
    for _ in range(2):
        running.send(data, 60.0)
    running.restart()
    running.send(data, 60.0)
    state = running.state()
    assert state.install is Install.REJECTED
    assert state.problem is not None
    assert state.problem.code == code
    assert running.refusals() == [code]
    assert_nothing_changed(running, seq=6)


def test_a_thief_may_choose_among_approved_releases(running: Stage) -> None:
    running.order(6, TWO)
    running.order(7, ONE)
    running.order(8, TWO)
    assert running.state().active == TWO.sha256
    assert running.refusals() == []


def test_the_numbers_that_a_thief_used_up_do_not_lock_the_controller_out(running: Stage) -> None:
    seq = 5 + 2**20
    running.order(seq, TWO)
    assert running.installer.seq() == seq
    running.order(seq + 1, ONE)
    assert running.state().active == ONE.sha256


# A thief of every online key: many devices at once.


def admitted(stage: Any, made: Made) -> set[int]:
    """Return which of 10,000 devices accept a release, by what their trust store says of it."""
    store = stage.bench.store
    target, policy = store.target("digits", made.path), store.policy("digits")
    accepting = set()
    for number in range(10_000):
        try:
            approve("digits", made.slot(), target, policy, device=f"dev-{number:05d}", hardware="x86_64")
        except OutsideRing:
            continue
        accepting.add(number)
    return accepting


def likely(fraction: float, devices: int = 10_000) -> range:
    """Return the counts within six standard deviations of a binomial draw: all but two in 10^9 fall in it."""
    mean, deviation = fraction * devices, math.sqrt(devices * fraction * (1 - fraction))
    return range(math.floor(mean - 6 * deviation), math.ceil(mean + 6 * deviation) + 1)


def test_a_mass_push_reaches_the_signed_share_of_a_fleet_and_a_wider_ring_needs_the_policys_key(running: Stage) -> None:
    running.allow(Policy(model="digits", rings={"2": Ring(fraction=0.05, salt="digits-2")}))
    running.metadata()
    running.pass_time(1)
    first = admitted(running, TWO)
    assert len(first) in likely(0.05)

    stolen = running.bench.repository.copy()
    stolen.keys["policy"] = type(stolen.keys["policy"]).generate_ed25519()
    wide = Policy(model="digits", rings={"2": Ring(fraction=1.0)}).model_dump_json()
    stolen.set_small("policy", "policy/digits.json", wide)
    stolen.publish()
    running.metadata(stolen)
    running.pass_time(1)
    assert running.refused() != ""
    running.bench.reopen()

    running.allow(Policy(model="digits", rings={"2": Ring(fraction=0.2, salt="digits-2")}))
    running.bench.repository.publish(version=running.bench.repository.version + 5)
    running.metadata()
    running.pass_time(1)
    second = admitted(running, TWO)
    assert len(second) in likely(0.2)
    assert first < second, "a wider ring must keep those who are in"


def test_devices_inside_and_outside_a_ring_end_as_the_rule_says(running: Stage) -> None:
    ring = Ring(fraction=0.05, salt="digits-2")
    running.allow(Policy(model="digits", rings={"2": ring}))
    running.order(6, TWO)
    is_inside = ring.admits("cam-1")
    assert (running.state().active == TWO.sha256) is is_inside
    salts = [f"s{number}" for number in range(200)]
    inside = next(salt for salt in salts if Ring(fraction=0.05, salt=salt).admits("cam-1"))
    running.allow(Policy(model="digits", rings={"2": Ring(fraction=0.05, salt=inside)}))
    running.order(7, TWO)
    assert running.state().active == TWO.sha256
