"""What `dsops device why` says is what the device's own rules say."""

import pytest

from dsops.directive import DesiredSlot
from dsops.errors import Refusal, WrongHardware
from dsops.trust import Policy, Ring, SignedTarget, approve
from dsops_controller.fleet.why import judge

POLICY = Policy(
    model="digits", floor=2, default_ring=None, rings={"2": Ring(), "3": Ring(fraction=0.0, canary=("cam-1",))}
)


def signed(release: int, variant: str = "int8", hardware: tuple[str, ...] = ()) -> SignedTarget:
    custom = {"model": "digits", "release": release, "variant": variant, "hardware": hardware}
    custom |= {"index": "1" * 64, "needs": "2" * 64}
    return SignedTarget(f"digits/{release}.{variant}.bundle", f"{release:064x}", 9, custom)


BUNDLES = (signed(3), signed(1), signed(2), signed(4), signed(3, "edgetpu", ("coral",)))


@pytest.mark.parametrize(("device", "accepted"), [("cam-1", {2, 3}), ("cam-2", {2})])
def test_it_agrees_with_the_device_about_every_bundle(device: str, accepted: set[int]) -> None:
    answers = judge("digits", BUNDLES, POLICY, device=device, hardware="aarch64")
    assert [answer.release for answer in answers] == [1, 2, 3, 3, 4]
    assert {answer.release for answer in answers if answer.accepted} == accepted
    by_path = {target.path: target for target in BUNDLES}
    for answer in answers:
        target = by_path[answer.path]
        wanted = DesiredSlot(
            path=target.path, sha256=target.sha256, length_bytes=9, release=answer.release, deployment="d"
        )
        facts = {"device": device, "hardware": "aarch64"}
        if answer.accepted:
            assert approve("digits", wanted, target, POLICY, **facts).release == answer.release
        else:
            with pytest.raises((Refusal, WrongHardware)) as refusal:
                approve("digits", wanted, target, POLICY, **facts)
            assert refusal.value.code == next(rule.code for rule in answer.rules if rule.ok is False)


def test_a_bundle_whose_owners_say_nothing_is_answered_too() -> None:
    strange = SignedTarget("digits/1.int8.bundle", "2" * 64, 9, {})
    (answer,) = judge("digits", [strange], POLICY, device="cam-1", hardware="")
    assert not answer.accepted
    assert [rule.rule for rule in answer.rules if rule.ok is False] == ["facts"]
