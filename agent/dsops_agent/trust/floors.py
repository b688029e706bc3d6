"""Versions of roles that must never fall again, kept beside the metadata. Pure; values in, values out.

TUF compares new metadata with the metadata on disk. Should that be wiped, or restored from a copy, these floors still
refuse what is older. A floor stands as long as its document would still verify: once so many of the keys that may have
set it are gone that the rest are below the threshold, it is forgotten. That mirrors TUF's recovery from a fast-forward
attack (specification 1.0.33, 5.3.11), where a root with new online keys undoes the versions that a thief made up.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import Field

from dsops.manifest import Frozen


@dataclass(frozen=True)
class Keys:
    """The keys that may sign a role, and how many of them must."""

    ids: frozenset[str]
    threshold: int


FOREVER = Keys(frozenset(), 0)
"""Of a root: each vouches for the next, so its floor stands whoever signs."""


@dataclass(frozen=True)
class RoleFact:
    """A role that was verified just now: its version, and who may sign it now."""

    version: int
    keys: Keys


class Floor(Frozen):
    """The newest version of a role that was accepted, and the keys that could sign it then."""

    version: int = Field(ge=1)
    keys: tuple[str, ...]


def stands(keys: Collection[str], now: Keys) -> bool:
    """Return whether what ``keys`` signed could still verify with the keys that are trusted now."""
    return len(now.ids.intersection(keys)) >= now.threshold


def fallen(floors: Mapping[str, Floor], roles: Mapping[str, RoleFact]) -> str:
    """Return which role is older than its floor, and how; an empty text when none is."""
    for name, fact in roles.items():
        floor = floors.get(name)
        if floor and stands(floor.keys, fact.keys) and fact.version < floor.version:
            return f"{name} {fact.version} is offered, {floor.version} was accepted before"
    return ""


def raised(floors: Mapping[str, Floor], roles: Mapping[str, RoleFact]) -> dict[str, Floor]:
    """Return the floors after ``roles`` were accepted."""
    made = {name: Floor(version=fact.version, keys=tuple(sorted(fact.keys.ids))) for name, fact in roles.items()}
    return {**floors, **made}
