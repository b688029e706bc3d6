"""Preflight: whether a bundle fits this device, decided before any of its bytes is asked for. Pure.

Each rule has an error, and so a code, of its own. All broken rules are named; the first one's error is raised. Classes
of hardware are judged before, with the trust rules: they are part of what is signed of the bundle itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dsops.contract import Contract, breaches
from dsops.errors import (
    ContractBroken,
    DelegateMissing,
    IncompatibleBundle,
    NoMemory,
    OperatorMissing,
    OverMemory,
    OverSize,
    RuntimeTooOld,
)
from dsops.needs import Needs, is_new_enough
from dsops_agent.install.ports import Memory, Support

_NAMED = 5
"""Of a long list so many are named in a message."""


@dataclass(frozen=True)
class Facts:
    """What the device has.

    Attributes:
        support: Its runtime, and which of the bundle's operators that does not know.
        delegates: Its accelerators that the runtime can use.
        contract: What programs use now; None when nothing is served, or when a change is meant.
        memory: The memory that the process of a bundle may have.
        disk_bytes: Size of the disk for bundles.
        reserve_bytes: How much of it must stay free.
        max_bundle_bytes: Longest bundle that the device's owner wants, files included; 0 sets no limit.
    """

    support: Support
    delegates: frozenset[str]
    contract: Contract | None
    memory: Memory
    disk_bytes: int
    reserve_bytes: int
    max_bundle_bytes: int = 0


def check(needs: Needs, facts: Facts) -> None:
    """Check that a device can ever run a bundle.

    Raises:
        IncompatibleBundle: It cannot; the class is that of the first broken rule of :data:`RULES`.
    """
    broken = [(error, text) for error, rule in RULES if (text := rule(needs, facts))]
    if broken:
        raise broken[0][0]("the bundle does not fit this device", why="; ".join(text for _, text in broken))


def check_memory_now(needs: Needs, memory: Memory) -> None:
    """Check that there is memory to try a bundle in at this moment.

    Raises:
        NoMemory: There is not; later there may be.
    """
    if needs.memory_bytes > memory.free_bytes:
        why = f"{memory.free_bytes} bytes are free, {needs.memory_bytes} are needed"
        raise NoMemory("not enough free memory to try the bundle", why=why)


def _runtime(needs: Needs, facts: Facts) -> str:
    has = facts.support
    if is_new_enough(has.runtime, has.version, needs.min_litert):
        return ""
    return f"it needs LiteRT {needs.min_litert}, the device has {has.runtime} {has.version}"


def _delegates(needs: Needs, facts: Facts) -> str:
    missing = [name for name in needs.delegates if name not in facts.delegates]
    has = ", ".join(sorted(facts.delegates)) or "none"
    return f"it needs the delegate {_listed(missing)}, the device has {has}" if missing else ""


def _operators(needs: Needs, facts: Facts) -> str:
    missing = facts.support.missing
    has = facts.support
    return f"{has.runtime} {has.version} does not run {_listed(missing)}" if missing else ""


def _contract(needs: Needs, facts: Facts) -> str:
    broken = breaches(facts.contract, needs.contract) if facts.contract else []
    return f"programs here would break: {_listed(broken)}" if broken else ""


def _memory(needs: Needs, facts: Facts) -> str:
    has = facts.memory.total_bytes
    return f"it needs {needs.memory_bytes} bytes of memory, {has} can be had" if needs.memory_bytes > has else ""


def _size(needs: Needs, facts: Facts) -> str:
    takes, most = needs.disk_bytes, facts.max_bundle_bytes
    if most and takes > most:
        return f"it takes {takes} bytes, install.max_bundle_bytes is {most}"
    room = facts.disk_bytes - facts.reserve_bytes
    return f"it takes {takes} bytes, the whole disk has room for {max(0, room)}" if takes > room else ""


def _listed(texts: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


RULES: tuple[tuple[type[IncompatibleBundle], Callable[[Needs, Facts], str]], ...] = (
    (RuntimeTooOld, _runtime),
    (DelegateMissing, _delegates),
    (OperatorMissing, _operators),
    (ContractBroken, _contract),
    (OverMemory, _memory),
    (OverSize, _size),
)
"""What a bundle may break, in order. A rule returns what is wrong, or empty. An operator that a delegate brings is
missing with it, so delegates come first.
"""
