"""Why a device would accept or refuse each release: the device's own rules, asked beforehand. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from dsops.directive import DesiredSlot
from dsops.rules import RuleResult
from dsops.trust import Policy, SignedTarget, TargetFacts, explain


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
