"""A signing event: pending trust metadata in a folder of plain files, which goes from holder to holder.

    event.json      what it is for (for people; nothing is decided by it)
    CHECKLIST.md    who must sign what, and what to read aloud
    metadata/       <role>.json: the pending roles, with the signatures that were given so far
    targets/        the small targets that they sign: fleet/director.json, policy/<model>.json
    base/           what was published when the event was made, as the server lays it out; absent for a first one

The folder comes by mail or on a stick and may have been changed on its way. So reading it checks that it fits
together, and a signature is only given on top of what its holder knows (:func:`dsops_controller.trust.anchor.check`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from dsops import strictjson
from dsops.errors import Conflict, InvalidInput, NotFound, UntrustedBundle
from dsops.files import write_atomically
from dsops.manifest import Frozen, first_problem
from dsops_controller.trust.holders import check_ids, holder_of
from dsops_controller.trust.published import Published, check_small, small_targets, stored_name
from dsops_controller.trust.roles import ROOT, TARGETS, SignedRole, read_role

INFO, CHECKLIST, BASE = "event.json", "CHECKLIST.md", "base"
_MAX_BYTES = 64 * 1024


class Info(Frozen):
    """What an event is for, in words."""

    format: Literal["dsops-event-1"] = "dsops-event-1"
    kind: str = Field(max_length=40)
    title: str = Field(max_length=200)
    created: AwareDatetime
    fleet: str = Field(max_length=64)


@dataclass(frozen=True)
class Event:
    """An event as it is in its folder.

    Attributes:
        info: What it is for.
        base: What was published when it was made; None for a first one.
        documents: The pending roles by name, each with the signatures that it has.
        small: The small targets of pending roles, by path.
    """

    info: Info
    base: Published | None
    documents: Mapping[str, bytes]
    small: Mapping[str, bytes] = field(default_factory=dict)

    @cached_property
    def roles(self) -> dict[str, SignedRole]:
        """The pending roles, parsed, by name; root first, then targets, then the others."""
        order = sorted(self.documents, key=lambda name: (name != ROOT, name != TARGETS, name))
        return {name: read_role(self.documents[name]) for name in order}

    def before(self, name: str) -> Root | Targets | None:
        """Return what is published of a role, or None."""
        if self.base is None:
            return None
        if name == ROOT:
            return self.base.state.root
        role = self.base.state.signed.get(name)
        return role.signed if role else None

    def delegators(self, name: str) -> tuple[Root | Targets, ...]:
        """Return what says who signs a pending role: for a new root, the root before and itself."""
        if name == ROOT:
            before = self.before(ROOT)
            return (*([before] if before else []), self.roles[ROOT].root)
        by = ROOT if name == TARGETS else TARGETS
        found = self.roles[by].signed if by in self.roles else self.before(by)
        if found is None:
            raise UntrustedBundle(f"nothing says who signs {name}", why=f"the event has no {by}, and no base")
        return (found,)

    def keys(self, name: str) -> dict[str, Key]:
        """Return the keys that may sign a pending role, by id.

        Raises:
            UntrustedBundle: No delegation names the role.
        """
        try:
            found = [(by, by.get_delegated_role(name).keyids) for by in self.delegators(name)]
            return {keyid: by.get_key(keyid) for by, keyids in found for keyid in keyids}
        except ValueError as error:
            raise UntrustedBundle(f"nothing says who signs {name}", why=str(error)) from error

    def with_signature(self, name: str, signature: Signature) -> "Event":
        """Return the event with one more signature; a second one of a key takes the place of its first."""
        document = Metadata[Root].from_bytes(self.documents[name])  # the type does not matter here
        document.signatures[signature.keyid] = signature
        return replace(self, documents={**self.documents, name: document.to_bytes()})


def write(folder: Path, event: Event, checklist: str) -> None:
    """Write a new event's folder.

    Raises:
        Conflict: The folder is there already.
        NotFound: The folder above it is not.
    """
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise Conflict(f"{folder} exists", hint="name a folder that is not there yet") from error
    except FileNotFoundError as error:
        raise NotFound(f"there is no folder {folder.parent}", hint="make it first") from error
    if event.base is not None:
        event.base.write(folder / BASE)
    (folder / "metadata").mkdir()
    for path, data in event.small.items():
        (folder / "targets" / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "targets" / path, data)
    for name in event.documents:
        save(folder, event, name)
    write_atomically(folder / CHECKLIST, checklist.encode())
    write_atomically(folder / INFO, event.info.model_dump_json(indent=2).encode())  # last: with it the event counts


def save(folder: Path, event: Event, name: str) -> None:
    """Write one pending role again, with its signatures."""
    write_atomically(folder / "metadata" / f"{name}.json", event.documents[name])


def read(folder: Path) -> Event:
    """Read an event's folder and check that it fits together.

    Raises:
        NotFound: There is no event.
        InvalidInput: It is of another format.
        UntrustedBundle: Roles, small targets or signatures in it do not belong together: it was changed on its way.
        StateDamaged: The copy of what is published is damaged.
    """
    info = _read_info(folder)
    base = Published.read(folder / BASE) if (folder / BASE).exists() else None
    documents = {file.stem: _bytes(file) for file in sorted((folder / "metadata").glob("*.json"))}
    if not documents:
        raise InvalidInput(f"{folder} has nothing to sign", why="its folder metadata/ is empty")
    event = Event(info, base, documents, {})
    unchanged = base.targets if base else {}
    small = {target.path: _small(folder, target, unchanged) for target in small_targets(event.roles.values())}
    event = replace(event, small={path: data for path, data in small.items() if unchanged.get(path) != data})
    for name, role in event.roles.items():
        _check(event, name, role, small)
    return event


def _check(event: Event, name: str, role: SignedRole, small: Mapping[str, bytes]) -> None:
    if role.name != name:
        raise UntrustedBundle(f"metadata/{name}.json is {role.name}", why="the event was changed on its way")
    before = event.before(name)
    due = before.version + 1 if before else 1
    if role.version != due:
        raise UntrustedBundle(f"{name} {role.version} does not follow what is published", why=f"the next is {due}")
    check_ids(_keys_in(role.signed))
    check_small(role, small)
    keys = event.keys(name)
    for keyid, signature in role.signatures.items():
        if keyid in keys:
            _check_signature(name, role, keys[keyid], signature)


def _check_signature(name: str, role: SignedRole, key: Key, signature: Signature) -> None:
    try:
        key.verify_signature(signature, role.payload)
    except UnverifiedSignatureError as error:
        raise UntrustedBundle(
            f"the signature of {holder_of(key)} is not of this {name}",
            why="the event was changed after it was given",
            hint="take the event again from whoever made it",
        ) from error


def _keys_in(signed: Root | Targets) -> list[Key]:
    if isinstance(signed, Root):
        return list(signed.keys.values())
    return list(signed.delegations.keys.values()) if signed.delegations else []


def _small(folder: Path, target: TargetFile, unchanged: Mapping[str, bytes]) -> bytes:
    stored_name(target)  # refuses a path that leads elsewhere
    file = folder / "targets" / target.path
    if file.is_file():
        return _bytes(file)
    if target.path not in unchanged:
        raise UntrustedBundle(f"targets/{target.path} is missing", why="a pending role signs it")
    return unchanged[target.path]


def _read_info(folder: Path) -> Info:
    try:
        return Info.model_validate(strictjson.loads(_bytes(folder / INFO)))
    except FileNotFoundError as error:
        hint = "name the folder that dsops trust init, rotate or renew made"
        raise NotFound(f"{folder} is not a signing event", why=f"it has no {INFO}", hint=hint) from error
    except (strictjson.JsonRefused, ValidationError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(f"{folder / INFO} is not valid", why=why) from error


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise UntrustedBundle(f"{path.name} is too long", why=f"{_MAX_BYTES} bytes are allowed")
    return data
