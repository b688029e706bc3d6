"""What the owners' signatures and the policy allow, whatever a directive asks for."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops import dsse
from dsops.directive import DesiredSlot
from dsops.errors import (
    BelowFloor,
    DifferentTarget,
    DsopsError,
    ForeignTarget,
    MalformedMetadata,
    MismatchedMetadata,
    OutsideRing,
    UnknownTarget,
    UnlistedRelease,
    UntrustedBundle,
    WrongHardware,
    every_error,
)
from dsops.trust import RULES, SLOT_RULES, Approved, Director, Policy, Ring, SignedTarget, approve, explain

SHA, INDEX, NEEDS = "1" * 64, "2" * 64, "4" * 64
WANTED = DesiredSlot(path="digits/3.int8.bundle", sha256=SHA, length_bytes=9, release=3, deployment="de-1")
FACTS = {"model": "digits", "release": 3, "variant": "int8", "hardware": ["x86_64"], "index": INDEX, "needs": NEEDS}
SIGNED = SignedTarget(WANTED.path, SHA, 9, FACTS)


def decide(target: SignedTarget | None = SIGNED, policy: Policy | None = None, hardware: str = "x86_64") -> Approved:
    return approve("digits", WANTED, target, policy or Policy(model="digits"), device="cam-1", hardware=hardware)


def test_what_owners_and_policy_allow_is_approved() -> None:
    assert decide() == Approved("digits", 3, WANTED.path, SHA, 9, INDEX, NEEDS, "de-1")


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        (None, UnknownTarget),
        (replace(SIGNED, sha256="9" * 64), DifferentTarget),
        (replace(SIGNED, length_bytes=10), DifferentTarget),
        (replace(SIGNED, custom=FACTS | {"model": "other"}), ForeignTarget),
        (replace(SIGNED, custom=FACTS | {"release": 4}), ForeignTarget),
        (replace(SIGNED, custom={}), MalformedMetadata),
        (replace(SIGNED, custom=FACTS | {"surprise": 1}), MalformedMetadata),
        (replace(SIGNED, custom=FACTS | {"hardware": ["aarch64"]}), WrongHardware),
    ],
)
def test_a_stolen_controller_cannot_choose_other_bytes(target: SignedTarget | None, refusal: type[DsopsError]) -> None:
    with pytest.raises(refusal) as caught:
        decide(target)
    assert type(caught.value) is refusal


def test_a_release_below_the_floor_is_refused() -> None:
    assert decide(policy=Policy(model="digits", floor=3))
    with pytest.raises(BelowFloor, match="floor is 4"):
        decide(policy=Policy(model="digits", floor=4))


def test_a_policy_of_another_model_is_refused() -> None:
    with pytest.raises(MismatchedMetadata, match="policy of other"):
        decide(policy=Policy(model="other"))


def test_outside_the_signed_ring_is_refused() -> None:
    closed = Policy(model="digits", rings={"3": Ring(fraction=0.0, canary=("cam-9",))})
    with pytest.raises(OutsideRing, match="ring is 0 of the fleet"):
        decide(policy=closed)
    assert decide(policy=Policy(model="digits", rings={"3": Ring(fraction=0.0, canary=("cam-1",))}))


def test_a_release_that_the_policy_does_not_list_is_refused_unless_others_have_a_ring_too() -> None:
    with pytest.raises(UnlistedRelease, match="release 3 is not listed"):
        decide(policy=Policy(model="digits", default_ring=None, rings={"2": Ring()}))
    assert decide(policy=Policy(model="digits", default_ring=None, rings={"3": Ring()}))
    assert decide(policy=Policy(model="digits", rings={"2": Ring()}))


def test_the_first_broken_rule_names_the_refusal() -> None:
    broken = replace(SIGNED, length_bytes=10, custom=FACTS | {"hardware": ["aarch64"]})
    with pytest.raises(DifferentTarget) as caught:
        decide(broken, policy=Policy(model="digits", floor=9))
    assert caught.value.details == {"rule": "length"}
    assert str(caught.value) == "digits/3.int8.bundle is refused: wanted 9 bytes, signed 10 bytes"


def test_each_rule_is_explained_also_those_behind_a_broken_one() -> None:
    policy = Policy(model="digits", floor=4, rings={"3": Ring(fraction=0.0)})
    results = explain("digits", WANTED, SIGNED, policy, device="cam-1", hardware="aarch64")
    assert [result.rule for result in results] == [rule.name for rule in SLOT_RULES]
    assert {result.rule: result.code for result in results if not result.ok} == {
        "hardware": "bundle.wrong_hardware",
        "floor": "trust.below_floor",
        "ring": "trust.outside_ring",
    }
    assert all(result.text for result in results)


def test_of_a_target_that_nobody_signed_nothing_else_can_be_said() -> None:
    results = explain("digits", WANTED, None, Policy(model="digits"), device="cam-1", hardware="x86_64")
    assert [result.ok for result in results] == [False, *[None] * (len(SLOT_RULES) - 1)]


TARGETS = st.sampled_from([None, SIGNED, replace(SIGNED, sha256="9" * 64), replace(SIGNED, custom={})])
OTHERS = st.sampled_from([None, Ring(), Ring(fraction=0.5)])


@given(TARGETS, st.integers(1, 5), OTHERS, st.sampled_from(["x86_64", "arm"]))
def test_what_is_approved_is_what_is_explained_as_right(
    target: SignedTarget | None, floor: int, others: Ring | None, hardware: str
) -> None:
    policy = Policy(model="digits", floor=floor, default_ring=others)
    results = explain("digits", WANTED, target, policy, device="cam-1", hardware=hardware)
    broken = next((result.code for result in results if not result.ok), "")
    if broken:
        with pytest.raises(every_error()[broken]):
            decide(target, policy, hardware)
    else:
        assert decide(target, policy, hardware)


def test_every_rule_has_its_own_name_and_a_code_that_fits_an_event() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.demands and 0 < len(rule.refusal.code) <= 64 for rule in RULES)


def test_the_draw_is_the_first_eight_bytes_of_the_digest() -> None:
    digest = hashlib.sha256(b"digits-3|cam-1").hexdigest()
    assert Ring(salt="digits-3").draw("cam-1") == int(digest[:16], 16)


def test_an_empty_ring_admits_nobody_and_a_full_one_everybody() -> None:
    assert not any(Ring(fraction=0.0).admits(f"dev-{n}") for n in range(100))
    assert all(Ring(fraction=1.0).admits(f"dev-{n}") for n in range(100))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"fleet":"f","keys":[]}', b'{"fleet":"f","keys":["x"],"more":1}'])
def test_a_damaged_director_file_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMetadata):
        Director.decode(data)


def test_a_director_key_that_is_none_is_refused() -> None:
    with pytest.raises(UntrustedBundle, match="cannot be read"):
        Director(fleet="f", keys=("not a key",)).keyring()
    assert dsse.MAX_ENVELOPE_BYTES == 64 * 1024
