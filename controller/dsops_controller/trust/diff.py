"""What a signing event would change, for people, role by role. Pure.

It must be complete: what no line below speaks of is found by :func:`_leftovers` and shown as it stands, so that
nothing can be changed that a signer does not see.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Role, Root, TargetFile, Targets

from dsops.bundle import sha256_hex
from dsops.errors import UntrustedBundle
from dsops.trust import DIRECTOR_PATH, Director, Policy
from dsops_controller.trust.bundle_roles import read_facts
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import HOLDER_FIELD, fingerprint, holder_of, spoken
from dsops_controller.trust.policy_words import describe as describe_policy
from dsops_controller.trust.roles import FLEET, POLICY, ROLE_FIELD, TARGETS, path_prefix

_ROOT_FIELDS = frozenset({"_type", "version", "expires", "keys", "roles"})
_TARGETS_FIELDS = frozenset({"_type", "version", "expires", "targets", "delegations", ROLE_FIELD})
_KEY_FIELDS = frozenset({"keytype", "scheme", "keyval", HOLDER_FIELD})
_DELEGATION_FIELDS = frozenset({"name", "keyids", "threshold", "terminating", "paths"})


@dataclass(frozen=True)
class Change:
    """What one pending role would change.

    Attributes:
        role: The role.
        before: Its published version; 0 if it is new.
        after: The version that is to be signed.
        digest: SHA-256 (hex) of what is signed: the same for every signer, whoever signed before.
        lines: What changes, each line a thing.
    """

    role: str
    before: int
    after: int
    digest: str
    lines: tuple[str, ...]


def changes(event: Event, now: datetime) -> tuple[Change, ...]:
    """Return what an event would change, in the order root, targets, others."""
    return tuple(_change(event, name, now) for name in event.roles)


def _change(event: Event, name: str, now: datetime) -> Change:
    role, before = event.roles[name], event.before(name)
    if isinstance(role.signed, Root):
        lines = _root(before if isinstance(before, Root) else None, role.signed)
    else:
        lines = _targets(event, name, before if isinstance(before, Targets) else None, role.signed)
    days = round((role.signed.expires - now).total_seconds() / 86400)
    was = f", now {before.expires:%Y-%m-%d}" if before else ""
    nothing = "nothing but its life" if before else "it says nothing yet"
    lines = [*(lines or [nothing]), f"valid until {role.signed.expires:%Y-%m-%d} ({days} days{was})"]
    shown = tuple(line.encode("unicode_escape").decode() for line in lines)  # the texts may come from anybody
    return Change(name, before.version if before else 0, role.version, sha256_hex(role.payload), shown)


def _root(before: Root | None, after: Root) -> list[str]:
    lines = [] if before else ["this founds a new fleet: sign it only if these keys have none yet"]
    for name, role in after.roles.items():
        old = before.roles[name] if before else None
        lines += _signers(name, old, before.keys if before else {}, role, after.keys)
        lines += _leftovers(name, old.to_dict() if old else {}, role.to_dict(), {"keyids", "threshold"})
    lines += _key_fields(before.keys if before else {}, after.keys)
    plain = {"spec_version": after.spec_version, "consistent_snapshot": True}
    return lines + _leftovers("root", before.to_dict() if before else plain, after.to_dict(), _ROOT_FIELDS)


def _targets(event: Event, name: str, before: Targets | None, after: Targets) -> list[str]:
    lines = _delegations(before.delegations if before else None, after.delegations)
    old_files = before.targets if before else {}
    if before is not None and _has_other_signers(event, name):
        lines.append("other keys sign this from now on; what was published may be a thief's, so all of it is shown:")
        old_files, event = {}, replace(event, base=None, small=_all_small(event))
    for path in sorted({*old_files, *after.targets}):
        lines += _target(event, name, path, old_files.get(path), after.targets.get(path))
    plain = {"spec_version": after.spec_version}
    return lines + _leftovers(name, before.to_dict() if before else plain, after.to_dict(), _TARGETS_FIELDS)


def _has_other_signers(event: Event, name: str) -> bool:
    """Return whether the pending targets gives a role other keys than it has now."""
    delegator, before = event.delegators(name)[0], event.before(TARGETS)
    if name == TARGETS or not isinstance(before, Targets) or delegator is before:
        return False
    return _keyids(before, name) != _keyids(delegator, name)


def _keyids(delegator: Root | Targets, name: str) -> list[str] | None:
    try:
        return delegator.get_delegated_role(name).keyids
    except ValueError:  # it has no such role
        return None


def _all_small(event: Event) -> dict[str, bytes]:
    return {**(event.base.targets if event.base else {}), **event.small}


def _signers(
    name: str, old: Role | None, old_keys: Mapping[str, Key], new: Role, new_keys: Mapping[str, Key]
) -> list[str]:
    """Return who may sign a role, or how that changes."""
    if old is None:
        holders = ", ".join(holder_of(new_keys[keyid]) for keyid in new.keyids)
        return [
            f"{name} is signed by {new.threshold} of {len(new.keyids)}: {holders}",
            *(_key(new_keys[keyid]) for keyid in new.keyids),
        ]
    lines = [f"{name}: {holder_of(new_keys[k])} joins" for k in new.keyids if k not in old.keyids]
    lines += [f"  {_key(new_keys[k]).strip()}" for k in new.keyids if k not in old.keyids]
    gone = [old_keys[k] for k in old.keyids if k not in new.keyids]
    lines += [f"{name}: {holder_of(key)} leaves (key {spoken(fingerprint(key)[:16])} ...)" for key in gone]
    if lines or new.threshold != old.threshold:
        was = f"now {old.threshold} of {len(old.keyids)}"
        lines.append(f"{name} is signed by {new.threshold} of {len(new.keyids)} ({was})")
    return lines


def _key(key: Key) -> str:
    return f"  {holder_of(key)}: {key.scheme} key {spoken(fingerprint(key))}"


def _key_fields(old: Mapping[str, Key], new: Mapping[str, Key]) -> list[str]:
    lines = []
    for keyid, key in new.items():
        if keyid in old and holder_of(old[keyid]) != holder_of(key):
            lines.append(f"the key of {holder_of(old[keyid])} is said to be {holder_of(key)}'s")
        before = old[keyid].to_dict() if keyid in old else {}
        lines += _leftovers(f"key of {holder_of(key)}", before, key.to_dict(), _KEY_FIELDS)
    return lines


def _delegations(before: Delegations | None, after: Delegations | None) -> list[str]:
    old_keys, new_keys = (dict(side.keys) if side else {} for side in (before, after))
    old_roles, new_roles = ((side.roles or {}) if side else {} for side in (before, after))
    lines: list[str] = []
    for name, role in new_roles.items():
        lines += _signers(name, old_roles.get(name), old_keys, role, new_keys) + _scope(name, old_roles.get(name), role)
    lines += [f"{name} is taken away: nobody signs it any more" for name in old_roles if name not in new_roles]
    if list(old_roles) != [name for name in new_roles if name in old_roles]:
        lines.append("the order in which roles are asked changes")
    old, new = (side.to_dict() if side else {} for side in (before, after))
    return lines + _key_fields(old_keys, new_keys) + _leftovers("delegations", old, new, {"keys", "roles"})


def _scope(name: str, old: DelegatedRole | None, new: DelegatedRole) -> list[str]:
    """Return what a delegated role may sign, unless it is what its name says and was so before."""
    lines = []
    usual = new.paths == [f"{path_prefix(name)}*"] and new.terminating
    if old is None and usual:
        lines.append(f"  it may sign {path_prefix(name)}*")
    elif not usual:
        lines.append(f"{name} MAY SIGN {new.paths or new.path_hash_prefixes}, terminating: {new.terminating}")
    elif old is not None and (old.paths, old.terminating) != (new.paths, new.terminating):
        lines.append(f"{name} may sign {path_prefix(name)}* (now {old.paths})")
    return lines + _leftovers(name, old.to_dict() if old else {}, new.to_dict(), _DELEGATION_FIELDS)


def _target(event: Event, name: str, path: str, old: TargetFile | None, new: TargetFile | None) -> list[str]:
    if new is None:
        return [f"{path} is withdrawn"]
    if old is not None and old.to_dict() == new.to_dict():
        return []
    told = {"length", "hashes"} if name in (FLEET, POLICY) else {"length", "hashes", "custom"}
    extra = _leftovers(path, old.to_dict() if old else {}, new.to_dict(), told)
    if name == FLEET:
        return [*_fleet(event, path), *extra]
    if name == POLICY:
        return [*_policy(event, path), *extra]
    replaces = "REPLACES WHAT WAS SIGNED, " if old else ""
    return [f"{path}: {replaces}{_facts(new)}{new.length} bytes, sha256 {new.hashes.get('sha256', '?')}", *extra]


def _facts(target: TargetFile) -> str:
    try:
        facts = read_facts(target)
    except UntrustedBundle:
        return f"WITHOUT VALID FACTS ({target.unrecognized_fields.get('custom')!r}), "
    hardware = f" for {', '.join(facts.hardware)}" if facts.hardware else ""
    return f"release {facts.release} of {facts.model}, {facts.variant}{hardware}, "


def _fleet(event: Event, path: str) -> list[str]:
    if path != DIRECTOR_PATH:
        return [f"{path}: {_bytes(event, path)[:200]!r}"]
    after = Director.decode(_bytes(event, path))
    before = event.base.director() if event.base else None
    lines = []
    if before is None or before.fleet != after.fleet:
        lines.append(f"the fleet is called {after.fleet}" + (f" (now {before.fleet})" if before else ""))
    old = set(before.keyring()) if before else set()
    lines += [f"directives may be signed by the server's key {spoken(k)}" for k in after.keyring() if k not in old]
    lines += [f"directives signed by the server's key {spoken(k)} count no more" for k in old - set(after.keyring())]
    if before is None or before.threshold != after.threshold:
        lines.append(f"a directive needs {after.threshold} signature" + ("s" if after.threshold > 1 else ""))
    return lines


def _policy(event: Event, path: str) -> list[str]:
    before = event.base.targets.get(path) if event.base else None
    return describe_policy(Policy.decode(before) if before else None, Policy.decode(_bytes(event, path)))


def _bytes(event: Event, path: str) -> bytes:
    return _all_small(event)[path]


def _leftovers(what: str, before: Mapping[str, Any], after: Mapping[str, Any], told: Iterable[str]) -> list[str]:
    """Return the fields that differ and of which no other line tells."""
    names = sorted({*before, *after} - set(told))
    return [
        f"{what}: field {name} becomes {after.get(name)!r} (now {before.get(name)!r})"
        for name in names
        if before.get(name) != after.get(name)
    ]
