"""Why a device would accept or refuse each release: its own rules, asked beforehand, and what it has said. Pure.

Whether a bundle fits, and stands the test, the device finds out, and says so with each report. A part of its preflight
is made here beforehand: what follows from its inventory and from what it serves. Operators, delegates and the disk are
not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from dsops.contract import Contract, breaches
from dsops.directive import DesiredSlot
from dsops.errors import ContractBroken, IncompatibleBundle, OverMemory, RuntimeTooOld, UnfitModel
from dsops.messages import Inventory, ModelState
from dsops.needs import Needs, is_new_enough
from dsops.rules import RuleResult
from dsops.states import Deployment, Install, deployment_state
from dsops.trust import Policy, SignedTarget, TargetFacts, explain

_BEFORE_PREFLIGHT = frozenset({Install.IDLE, Install.RECEIVED, Install.TRUSTED, Install.REJECTED})


@dataclass(frozen=True)
class Answer:
    """What a device says of one signed bundle.

    Attributes:
        model: The bundle's model.
        release: Its release; 0 when its owners did not say.
        variant: Its variant.
        path: Its name in the trust metadata.
        accepted: Whether every rule holds.
        rules: What becomes of each rule.
    """

    model: str
    release: int
    variant: str
    path: str
    accepted: bool
    rules: tuple[RuleResult, ...]


def judge(
    model: str, signed: Iterable[SignedTarget], policy: Policy, *, device: str, hardware: str
) -> tuple[Answer, ...]:
    """Return what a device says of every bundle that a model's owners signed, oldest release first.

    Args:
        model: The model.
        signed: What its owners signed.
        policy: Its policy.
        device: The device.
        hardware: The device's class of hardware, as it reported it.
    """
    answers = [_answer(model, target, policy, device, hardware) for target in signed]
    return tuple(sorted(answers, key=lambda answer: (answer.release, answer.variant)))


@dataclass(frozen=True)
class Preflight:
    """What is known here of what a device compares before it fetches: a part of its own preflight.

    Attributes:
        needs: What the bundle needs; None if it was not pushed.
        serves: What programs on the device use now; None if it serves nothing that was pushed.
        inventory: What the device reported of itself.
    """

    needs: Needs | None = None
    serves: Contract | None = None
    inventory: Inventory = field(default_factory=Inventory)


def said(state: ModelState | None, sha256: str, known: Preflight) -> tuple[RuleResult, RuleResult]:
    """Return what a device has said of a bundle: whether it fits, and whether it stood the test there.

    Args:
        state: The device's newest report of the model; None if it said nothing yet.
        sha256: The bundle's digest.
        known: What to judge by as long as the device has not tried it.
    """
    return _fits(state or ModelState(), sha256, known), _stands(state or ModelState(), sha256)


def _fits(state: ModelState, sha256: str, known: Preflight) -> RuleResult:
    code, is_tried = IncompatibleBundle.code, state.target == sha256
    if is_tried and state.problem:
        ended = deployment_state(state.install, state.problem.code)
        if ended is Deployment.INCOMPATIBLE:
            return RuleResult("fits", False, state.problem.message, state.problem.code)
    if sha256 in (state.active, state.previous) or (is_tried and state.install not in _BEFORE_PREFLIGHT):
        return RuleResult("fits", True, "the device found that it does", code)
    return _foreseen(known) or RuleResult("fits", None, "the device tells before it fetches anything", code)


def _foreseen(known: Preflight) -> RuleResult | None:
    """Return why a bundle that was not tried yet will not fit; None when that is not certain from here."""
    needs, has = known.needs, known.inventory
    if needs is None:
        return None
    name, _, version = has.runtime.partition(" ")
    if name and not is_new_enough(name, version, needs.min_litert):
        text = f"it needs LiteRT {needs.min_litert}, the device has {has.runtime}"
        return RuleResult("fits", False, text, RuntimeTooOld.code)
    broken = breaches(known.serves, needs.contract) if known.serves else []
    if broken:
        return RuleResult("fits", False, f"programs there would break: {broken[0]}", ContractBroken.code)
    if has.memory_bytes and needs.memory_bytes > has.memory_bytes:
        text = f"it needs {needs.memory_bytes} bytes of memory, the device has {has.memory_bytes}"
        return RuleResult("fits", False, text, OverMemory.code)
    return None


def _stands(state: ModelState, sha256: str) -> RuleResult:
    problem = state.problem if state.target == sha256 else None
    code = problem.code if problem else UnfitModel.code
    if sha256 in state.quarantined:
        text = problem.message if problem else "it failed on the device, and is never tried again"
        return RuleResult("stands", False, f"{text}; to have it tried again: dsops device pardon", code)
    if sha256 == state.active:
        return RuleResult("stands", True, "the device runs it", code)
    return RuleResult("stands", None, problem.message if problem else "proof and probation decide", code)


def _answer(model: str, target: SignedTarget, policy: Policy, device: str, hardware: str) -> Answer:
    facts = _facts(target)
    release, variant = (facts.release, facts.variant) if facts else (0, "")
    wanted = DesiredSlot(
        path=target.path, sha256=target.sha256, length_bytes=target.length_bytes, release=max(1, release), deployment=""
    )
    rules = tuple(explain(model, wanted, target, policy, device=device, hardware=hardware))
    return Answer(model, release, variant, target.path, all(rule.ok for rule in rules), rules)


def _facts(target: SignedTarget) -> TargetFacts | None:
    try:
        return TargetFacts.model_validate(dict(target.custom))
    except ValidationError:
        return None
