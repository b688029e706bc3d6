"""The state of a fleet's keys: what expires when and who must act, and what a thief of each key could do. Pure.

Everything is computed from the published metadata: who reaches which threshold, what the policies allow, which
releases the owners approved.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from securesystemslib.signer import Key

from dsops_controller.trust.consequences import consequences
from dsops_controller.trust.holders import holder_of
from dsops_controller.trust.keys import ONLINE, tuf_key
from dsops_controller.trust.published import Published
from dsops_controller.trust.roles import ROOT, SNAPSHOT_LIFE, TARGETS, TIMESTAMP_LIFE
from dsops_controller.trust.state import due, expiries

_SERVER = "the server, by itself"


@dataclass(frozen=True)
class Signers:
    """Who signs one role: the keys by id, and how many of them must."""

    role: str
    threshold: int
    keys: Mapping[str, Key]

    @property
    def words(self) -> str:
        """The signers for people."""
        if self.role in ONLINE:
            return _SERVER
        return f"{self.threshold} of {', '.join(sorted(map(holder_of, self.keys.values())))}"

    def is_reached(self, thief: Iterable[str]) -> bool:
        """Return whether whoever has these keys can sign for the role."""
        return len(self.keys.keys() & set(thief)) >= self.threshold


@dataclass(frozen=True)
class Day:
    """A line of the calendar."""

    role: str
    expires: datetime
    days_left: int
    is_due: bool
    who: str


@dataclass(frozen=True)
class Theft:
    """What a thief of some keys could do.

    Attributes:
        keys: Whose keys.
        roles: Roles that the thief can sign for.
        lines: What follows.
    """

    keys: tuple[str, ...]
    roles: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What the doctor found."""

    calendar: tuple[Day, ...]
    signers: tuple[Signers, ...]
    thefts: tuple[Theft, ...]
    warnings: tuple[str, ...]

    @property
    def is_due(self) -> bool:
        """Whether somebody must act now."""
        return any(day.is_due for day in self.calendar)


def examine(published: Published, now: datetime) -> Report:
    """Look at everything that is published."""
    signers = signers_of(published)
    return Report(
        tuple(_calendar(published, signers, now)),
        tuple(signers.values()),
        tuple(_thefts(published, signers)),
        tuple(warnings(signers)),
    )


def signers_of(published: Published) -> dict[str, Signers]:
    """Return who signs each role, the director included, by role."""
    root, targets = published.state.root, published.state.targets
    found = {name: Signers(name, r.threshold, {k: root.keys[k] for k in r.keyids}) for name, r in root.roles.items()}
    assert targets.delegations is not None
    for name, role in (targets.delegations.roles or {}).items():
        found[name] = Signers(name, role.threshold, {k: targets.delegations.keys[k] for k in role.keyids})
    director = published.director()
    keys = [tuf_key(pem) for pem in director.keys]
    found["director"] = Signers("director", director.threshold, {key.keyid: key for key in keys})
    return found


def warnings(signers: Mapping[str, Signers]) -> list[str]:
    """Return what is weak in who signs what."""
    lines: list[str] = []
    online = {keyid for name in ONLINE for keyid in signers[name].keys}
    for name, role in signers.items():
        if name in ONLINE:
            continue
        if role.threshold == 1:
            lines.append(f"{name}: one key alone signs it")
        if len(role.keys) <= role.threshold:
            lines.append(f"{name}: the loss of one key {_loss(name, signers)}")
        if shared := sorted(_single_holders(role)):
            lines.append(f"{name}: {', '.join(shared)} holds keys enough to sign it alone, whatever the threshold says")
        if both := [holder_of(key) for keyid, key in role.keys.items() if keyid in online]:
            lines.append(f"{name}: {', '.join(both)} is a key of the server: whoever has the server has it")
    return lines


def _loss(name: str, signers: Mapping[str, Signers]) -> str:
    if name == ROOT:
        return "is fatal: no root can be signed any more, and every device must be set up anew"
    by = ROOT if name == TARGETS else TARGETS
    return f"stops it until {signers[by].words} name other keys (dsops trust rotate {name})"


def _single_holders(role: Signers) -> set[str]:
    """Return the holders who have as many keys of a role as must sign it, where that is more than one."""
    names = [holder_of(key) for key in role.keys.values()]
    return {name for name in names if names.count(name) >= role.threshold > 1}


def _calendar(published: Published, signers: Mapping[str, Signers], now: datetime) -> list[Day]:
    late = due(published.state, now)
    days = []
    for name, expires in expiries(published.state).items():
        life = {"snapshot": SNAPSHOT_LIFE, "timestamp": TIMESTAMP_LIFE}.get(name)
        is_due = now >= expires - life / 4 if life else name in late
        days.append(Day(name, expires, (expires - now).days, is_due, signers[name].words))
    return sorted(days, key=lambda day: day.expires)


def _thefts(published: Published, signers: Mapping[str, Signers]) -> list[Theft]:
    """Return what follows from the theft of each key, of the whole server, and of each pair that reaches more."""
    names = _names(signers)
    found = []
    for keyid, name in names.items():
        roles = _reached(signers, {keyid})
        lines = consequences(published, roles) if roles else _nothing(signers, keyid, names)
        found.append(Theft((name,), roles, tuple(lines)))
    server = {keyid for name in ONLINE for keyid in signers[name].keys}
    roles = _reached(signers, server)
    found.append(Theft(("the whole server",), roles, tuple(consequences(published, roles))))
    more: dict[tuple[str, ...], list[str]] = {}
    for pair in combinations(names, 2):
        alone = {role for keyid in pair for role in _reached(signers, {keyid})}
        if gained := tuple(role for role in _reached(signers, set(pair)) if role not in alone):
            more.setdefault(gained, []).append(" and ".join(names[keyid] for keyid in pair))
    found += [Theft(tuple(pairs), gained, tuple(consequences(published, gained))) for gained, pairs in more.items()]
    return found


def _reached(signers: Mapping[str, Signers], thief: set[str]) -> tuple[str, ...]:
    return tuple(name for name, role in signers.items() if role.is_reached(thief))


def _nothing(signers: Mapping[str, Signers], keyid: str, names: Mapping[str, str]) -> list[str]:
    """Say of a key that decides nothing alone what it is a part of."""
    parts: dict[tuple[int, str], list[str]] = {}
    for name, role in signers.items():
        if keyid in role.keys:
            others = ", ".join(sorted(names[other] for other in role.keys if other != keyid))
            parts.setdefault((role.threshold - 1, others), []).append(name)
    told = [f"{', '.join(roles)} with {number} more of {others}" for (number, others), roles in parts.items()]
    return [f"nothing alone; {'; '.join(told)}"]


def _names(signers: Mapping[str, Signers]) -> dict[str, str]:
    """Return what to call each key: its holder, or the server's role; told apart where two are alike."""
    found: dict[str, str] = {}
    for keyid in {keyid: None for role in signers.values() for keyid in role.keys}:
        online = [name for name in ONLINE if keyid in signers[name].keys]
        key = next(role.keys[keyid] for role in signers.values() if keyid in role.keys)
        found[keyid] = f"{' and '.join(online)} (server)" if online else holder_of(key)
    called = list(found.values())
    return {keyid: f"{name} [{keyid[:8]}]" if called.count(name) > 1 else name for keyid, name in found.items()}
