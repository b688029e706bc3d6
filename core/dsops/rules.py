"""Rules as values: what is demanded, which refusal a breach is, and how it is found out. Pure.

One tuple of rules serves three readers: what enforces them, what explains them to people, and the documents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from dsops.errors import DsopsError

C = TypeVar("C")


class Verdict(NamedTuple):
    """Whether a rule holds, and the facts that decide it."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Rule(Generic[C]):
    """One rule over a case ``C``.

    Attributes:
        name: Stable name, one word or a few.
        demands: What must hold, as a sentence without a full stop.
        refusal: The error that a breach raises; its code is the rule's.
        check: Finds out whether it holds.
        is_ground: The rules behind it cannot even be asked when it is broken.
    """

    name: str
    demands: str
    refusal: type[DsopsError]
    check: Callable[[C], Verdict]
    is_ground: bool = False


@dataclass(frozen=True)
class RuleResult:
    """What became of one rule.

    Attributes:
        rule: The rule's name.
        ok: Whether it holds; None if that cannot be said, because of a rule before.
        text: The facts that decide it.
        code: Code of the error that a breach raises.
    """

    rule: str
    ok: bool | None
    text: str
    code: str


def enforce(rules: Sequence[Rule[C]], case: C, what: str) -> None:
    """Return if every rule holds, asked in their order.

    Args:
        rules: The rules.
        case: What they are asked about.
        what: What is refused, for the error's text.

    Raises:
        DsopsError: The first broken rule's refusal.
    """
    for rule in rules:
        verdict = rule.check(case)
        if not verdict.ok:
            raise rule.refusal(f"{what} is refused", why=verdict.text, rule=rule.name)


def explain_rules(rules: Sequence[Rule[C]], case: C) -> list[RuleResult]:
    """Return what becomes of every rule, in their order; raises nothing."""
    results: list[RuleResult] = []
    broken = ""
    for rule in rules:
        if broken:
            results.append(RuleResult(rule.name, None, f"cannot be said: {broken} is broken", rule.refusal.code))
            continue
        verdict = rule.check(case)
        results.append(RuleResult(rule.name, verdict.ok, verdict.text, rule.refusal.code))
        if rule.is_ground and not verdict.ok:
            broken = rule.name
    return results
