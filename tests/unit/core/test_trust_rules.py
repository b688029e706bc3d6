"""What the owners' signatures and the policy allow, whatever a directive asks for."""

from dataclasses import replace

import pytest

from dsops import dsse
from dsops.directive import DesiredSlot
from dsops.errors import IncompatibleBundle, UntrustedBundle
from dsops.trust import Approved, Director, Policy, Ring, SignedTarget, approve

SHA, INDEX = "1" * 64, "2" * 64
WANTED = DesiredSlot(path="digits/3.int8.bundle", sha256=SHA, length_bytes=9, release=3, deployment="de-1")
FACTS = {"model": "digits", "release": 3, "variant": "int8", "hardware": ["x86_64"], "index": INDEX}
SIGNED = SignedTarget(WANTED.path, SHA, 9, FACTS)


def decide(target: SignedTarget | None = SIGNED, policy: Policy | None = None, hardware: str = "x86_64") -> Approved:
    return approve("digits", WANTED, target, policy or Policy(model="digits"), device="cam-1", hardware=hardware)


def test_what_owners_and_policy_allow_is_approved() -> None:
    assert decide() == Approved("digits", 3, WANTED.path, SHA, 9, INDEX, "de-1")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (None, "not signed"),
        (replace(SIGNED, sha256="9" * 64), "not what its owners signed"),
        (replace(SIGNED, length_bytes=10), "not what its owners signed"),
        (replace(SIGNED, custom=FACTS | {"model": "other"}), "another slot"),
        (replace(SIGNED, custom=FACTS | {"release": 4}), "another slot"),
        (replace(SIGNED, custom={}), "no valid facts"),
        (replace(SIGNED, custom=FACTS | {"surprise": 1}), "no valid facts"),
    ],
)
def test_a_stolen_controller_cannot_choose_other_bytes(target: SignedTarget | None, reason: str) -> None:
    with pytest.raises(UntrustedBundle, match=reason):
        decide(target)


def test_a_release_below_the_floor_is_refused() -> None:
    assert decide(policy=Policy(model="digits", floor=3))
    with pytest.raises(UntrustedBundle, match="floor is 4"):
        decide(policy=Policy(model="digits", floor=4))


def test_a_policy_of_another_model_is_refused() -> None:
    with pytest.raises(UntrustedBundle, match="another slot"):
        decide(policy=Policy(model="other"))


def test_outside_the_signed_ring_is_refused() -> None:
    closed = Policy(model="digits", rings={"3": Ring(fraction=0.0, canary=("cam-9",))})
    with pytest.raises(UntrustedBundle, match="signed ring"):
        decide(policy=closed)
    assert decide(policy=Policy(model="digits", rings={"3": Ring(fraction=0.0, canary=("cam-1",))}))
    with pytest.raises(UntrustedBundle, match="signed ring"):
        decide(policy=Policy(model="digits", default_ring=None))


def test_a_ring_admits_its_fraction_of_a_fleet() -> None:
    ring = Ring(fraction=0.05, salt="digits-3")
    admitted = sum(ring.admits(f"dev-{n}") for n in range(10_000))
    assert 400 < admitted < 600
    assert not any(Ring(fraction=0.0).admits(f"dev-{n}") for n in range(100))
    assert all(Ring(fraction=1.0).admits(f"dev-{n}") for n in range(100))


def test_other_hardware_is_incompatible_not_untrusted() -> None:
    with pytest.raises(IncompatibleBundle, match="aarch64"):
        decide(hardware="aarch64")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"fleet":"f","keys":[]}', b'{"fleet":"f","keys":["x"],"more":1}'])
def test_a_damaged_director_file_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedBundle):
        Director.decode(data)


def test_a_director_key_that_is_none_is_refused() -> None:
    with pytest.raises(UntrustedBundle, match="cannot be read"):
        Director(fleet="f", keys=("not a key",)).keyring()
    assert dsse.MAX_ENVELOPE_BYTES == 64 * 1024
