"""What may be removed from the disk. Pure: it takes what is there and what is needed, and returns what may go.

Of the slots only a candidate may go that was never committed, is not active, and that no install needs: it is kept as
long as there is room, for it may be wanted again. So may a bundle that was given up, for it is damaged. The active and
the previous bundle are never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HeldSlot:
    """One slot that holds a bundle; ``digest`` is empty when that was given up."""

    model: str
    name: str
    digest: str
    committed: bool


@dataclass(frozen=True)
class Held:
    """What is on the disk.

    Attributes:
        staging: Names of the files under way; each begins with the digest of what it is for.
        slots: The slots that hold something.
        active: Name of the active slot by model.
    """

    staging: frozenset[str] = frozenset()
    slots: tuple[HeldSlot, ...] = ()
    active: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Garbage:
    """What may be removed."""

    staging: frozenset[str]
    slots: tuple[HeldSlot, ...]


def garbage(held: Held, needed: frozenset[str], *, is_short: bool) -> Garbage:
    """Return what may be removed.

    Args:
        held: What is on the disk.
        needed: Digests of bundles, and of deltas, that installs which have not ended are for.
        is_short: Whether room is needed.
    """
    files = frozenset(name for name in held.staging if name.partition(".")[0] not in needed)
    candidates = (slot for slot in held.slots if not slot.committed and slot.digest not in needed)
    slots = tuple(slot for slot in candidates if held.active.get(slot.model) != slot.name)
    return Garbage(files, slots if is_short else ())
