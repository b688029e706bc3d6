"""What `dsops device why` says is what the device's own rules say."""

import pytest

from dsops.contract import Contract, Shown
from dsops.directive import DesiredSlot
from dsops.errors import Refusal, WrongHardware
from dsops.messages import Inventory, ModelState, Problem
from dsops.needs import Needs
from dsops.states import Install
from dsops.trust import Policy, Ring, SignedTarget, approve
from dsops_controller.fleet.why import Preflight, judge, said

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


ONE, TWO = "1" * 64, "2" * 64
TOO_OLD = Problem(code="incompatible.runtime", message="it needs LiteRT 99")
WRONG = Problem(code="bundle.golden_mismatch", message="it answers something else")
FULL = Problem(code="device.no_space", message="the disk is full")


@pytest.mark.parametrize(
    ("state", "fits", "stands", "text"),
    [
        (None, None, None, "proof and probation decide"),
        (ModelState(active=ONE, install=Install.COMMITTED, target=ONE), True, True, "the device runs it"),
        (ModelState(previous=ONE, install=Install.COMMITTED, target=TWO), True, None, "proof and probation decide"),
        (ModelState(target=ONE, install=Install.REJECTED, problem=TOO_OLD), False, None, "it needs LiteRT 99"),
        (ModelState(target=TWO, install=Install.REJECTED, problem=TOO_OLD), None, None, "proof and probation decide"),
        (
            ModelState(target=ONE, install=Install.ROLLED_BACK, problem=WRONG, quarantined=(ONE,)),
            True,
            False,
            "it answers something else; to have it tried again: dsops device pardon",
        ),
        (ModelState(target=TWO, install=Install.COMMITTED, quarantined=(TWO, ONE)), None, False, "never tried again"),
        (ModelState(target=ONE, install=Install.TRUSTED, problem=FULL), None, None, "the disk is full"),
        (ModelState(target=ONE, install=Install.FETCHING), True, None, "proof and probation decide"),
    ],
)
def test_what_a_device_said_of_a_bundle_is_told(
    state: ModelState | None, fits: bool | None, stands: bool | None, text: str
) -> None:
    first, second = said(state, ONE, Preflight())
    assert (first.rule, first.ok, second.rule, second.ok) == ("fits", fits, "stands", stands)
    assert text in second.text
    if fits is False:
        assert (first.code, first.text) == (TOO_OLD.code, TOO_OLD.message)


CONTRACT = Contract(inputs=(), outputs=())
NEEDS = Needs(min_litert="2.3", contract=CONTRACT, memory_bytes=1000, disk_bytes=9)


@pytest.mark.parametrize(
    ("runtime", "memory", "code"),
    [
        ("ai-edge-litert 2.3.0", 1000, None),
        ("ai-edge-litert 2.2.1", 1000, "incompatible.runtime"),
        ("tflite-runtime 2.14.0", 1000, "incompatible.runtime"),
        ("ai-edge-litert 2.3.0", 999, "incompatible.memory"),
        ("", 0, None),
    ],
)
def test_what_follows_from_the_inventory_is_foreseen(runtime: str, memory: int, code: str | None) -> None:
    known = Preflight(NEEDS, CONTRACT, Inventory(runtime=runtime, memory_bytes=memory))
    fits, _ = said(None, ONE, known)
    assert (fits.ok, fits.code) == ((False, code) if code else (None, "bundle.incompatible"))
    tried, _ = said(ModelState(target=ONE, install=Install.FETCHING), ONE, known)
    assert tried.ok, "the device knows better"


def test_a_contract_that_programs_there_would_miss_is_foreseen() -> None:
    shown = Shown(name="x", datatype="FP32", shape=(1, 2))
    known = Preflight(NEEDS, CONTRACT.model_copy(update={"inputs": (shown,)}))
    fits, _ = said(ModelState(active=TWO), ONE, known)
    assert (fits.ok, fits.code) == (False, "incompatible.tensors")
    assert "programs there would break: input x" in fits.text
