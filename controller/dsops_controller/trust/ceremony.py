"""One person's ceremony: every offline key in one folder, each event signed and published at once.

For a trial, and for tests. What a fleet with several holders does step by step (:mod:`~dsops_controller.trust.drafts`,
``signing``, ``events``) is done here in one go, by the same rules. The folder belongs offline all the same.
"""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from securesystemslib.signer import Key

from dsops.bundle import Bundle
from dsops.clock import Clock, SystemClock
from dsops.errors import Conflict, InvalidInput, NotFound, UntrustedBundle
from dsops.ids import model_name
from dsops.trust import Policy, model_role
from dsops_controller.trust import anchor, bundle_roles, drafts
from dsops_controller.trust.drafts import Edit, Group
from dsops_controller.trust.events import Event
from dsops_controller.trust.holders import named
from dsops_controller.trust.keys import KeyFolder, OnlineKeys, OnlinePublic
from dsops_controller.trust.repository import PublishedRole, Repository
from dsops_controller.trust.roles import FLEET, POLICY, ROOT, TARGETS
from dsops_controller.trust.signers import OpenKey
from dsops_controller.trust.status import check_complete, needs

_SYSTEM = SystemClock()


def init(
    keys: Path,
    server: Path,
    *,
    fleet: str | None = None,
    root_keys: int = 3,
    threshold: int = 2,
    clock: Clock = _SYSTEM,
) -> None:
    """Found a fleet's trust: make the offline keys in ``keys`` and publish the first metadata in ``server``.

    The server folder must have its online keys (:meth:`OnlineKeys.create`). Interrupted, it can be called again: keys
    that are there are used.

    Args:
        keys: Folder for the offline keys.
        server: The server's folder.
        fleet: Name of the fleet; needed only if the folder has no ``controller.toml`` that says it.
        root_keys: Number of keys of root, and of targets.
        threshold: How many of them must sign.
        clock: Tells the time.

    Raises:
        InvalidInput: The threshold cannot be met, or the fleet's name is missing or not the server's.
        NotFound: The server was not set up.
        Conflict: The fleet was founded before.
    """
    drafts.check_threshold(root_keys, threshold)
    online = OnlinePublic.read(server / "keys")
    repository = open_repository(server, clock)
    if repository.is_established:
        raise Conflict(f"fleet {repository.director().fleet} was founded before", why=str(server))
    name = fleet_name(server, fleet)
    drafts.director(name, online)
    folder = KeyFolder(keys)
    groups = {
        role: Group(_made(folder, [f"{role}-{number}" for number in range(1, root_keys + 1)]), threshold)
        for role in (ROOT, TARGETS)
    }
    groups |= {role: Group(_made(folder, [role]), 1) for role in (FLEET, POLICY)}
    edit = Edit(None, clock.now())
    drafts.found(edit, name, online, groups)
    _publish(edit.event("init", f"found fleet {name}", name), keys, repository)


def grant(keys: Path, server: Path, model: str, floor: int = 1, clock: Clock = _SYSTEM) -> None:
    """Give a model an owner: key ``model-<m>.pem``, the role that it signs, and a first policy.

    Raises:
        InvalidInput: The name is not a model's.
        Conflict: The model has an owner.
        NotFound: A key is missing.
    """
    name = model_role(model_name(model))
    repository, folder = open_repository(server, clock), KeyFolder(keys)
    edit = Edit(repository.published(), clock.now())
    if name in repository.state().roles:
        raise Conflict(f"model {model} has an owner", hint="sign its bundles: dsops bundle sign")
    drafts.renew(edit, [TARGETS, POLICY])
    _keys_by_role(edit.event("grant", "", ""), folder)  # before a key is made for nothing
    drafts.grant(edit, model, Group(_made(folder, [name]), 1), floor)
    _publish(edit.event("grant", f"grant {model}", ""), keys, repository)


def set_policy(keys: Path, server: Path, policy: Policy, clock: Clock = _SYSTEM) -> PublishedRole:
    """Publish a model's policy: its floor, and how far each release may spread.

    Raises:
        NotFound: Nobody was granted the model, or the policy's key is missing.
        Conflict: The floor would fall.
    """
    repository = open_repository(server, clock)
    edit = Edit(repository.published(), clock.now())
    drafts.set_policy(edit, policy)
    return _publish(edit.event("policy", f"policy of {policy.model}", ""), keys, repository)[0]


def renew(keys: Path, server: Path, roles: Iterable[str], clock: Clock = _SYSTEM) -> tuple[PublishedRole, ...]:
    """Sign roles again, as they are, for another life; several in one step, for the case that all have expired.

    Args:
        keys: The folder with the keys of these roles.
        server: The server's folder.
        roles: ``root``, ``targets``, ``fleet``, ``policy`` or ``model-<m>``.
        clock: Tells the time.

    Raises:
        NotFound: There is no such role, or a key is missing.
    """
    repository = open_repository(server, clock)
    edit = Edit(repository.published(), clock.now())
    drafts.renew(edit, roles)
    return _publish(edit.event("renew", "renew", ""), keys, repository)


def sign_bundle(bundle: Path, keys: Path, current_role: bytes, clock: Clock = _SYSTEM) -> bytes:
    """Approve a bundle with the key ``model-<m>.pem``; see :func:`bundle_roles.approve`."""
    return bundle_roles.approve(
        bundle, current_role, [owner_key(keys, Bundle.open(bundle).manifest.model)], clock.now()
    )


def prune(keys: Path, current_role: bytes, model: str, below: int, clock: Clock = _SYSTEM) -> bytes:
    """Return a model's role without old releases; see :func:`bundle_roles.prune`."""
    return bundle_roles.prune(current_role, model, below, [owner_key(keys, model_name(model))], clock.now())


def owner_key(keys: Path, model: str) -> OpenKey:
    """Return the key of a model's owner in a folder.

    Raises:
        NotFound: It is not there.
    """
    name = model_role(model)
    return OpenKey(f"file:{keys / name}.pem", KeyFolder(keys).signer(name))


def open_repository(server: Path, clock: Clock = _SYSTEM) -> Repository:
    """Return the repository in a server's folder.

    Raises:
        NotFound: The server was not set up.
    """
    return Repository(server / "trust", OnlineKeys.load(server / "keys"), clock)


def fleet_name(server: Path, given: str | None) -> str:
    """Return the fleet's name; devices compare it with what the server writes into every directive.

    Raises:
        InvalidInput: It is missing, or not the server's.
    """
    try:
        configured = tomllib.loads((server / "controller.toml").read_text()).get("fleet", given)
    except FileNotFoundError:
        configured = given
    except (OSError, ValueError) as error:
        raise InvalidInput("controller.toml cannot be read", why=str(error)) from error
    if not isinstance(configured, str) or not configured.strip():
        raise InvalidInput("a fleet needs a name", hint="set `fleet` in controller.toml")
    if given not in (None, configured):
        raise InvalidInput(f"the fleet cannot be {given!r}", why=f"controller.toml says {configured!r}")
    return configured


def signed_by_all(event: Event, keys: Path) -> Event:
    """Return an event with the signature of every key of a folder that may sign it.

    Raises:
        NotFound: The folder has too few keys.
        UntrustedBundle: What is published does not follow from what the keys signed.
    """
    for name, found in _keys_by_role(event, KeyFolder(keys)).items():
        _check_anchor(event, name, found)
        for key in found:
            event = event.with_signature(name, key.sign(event.roles[name].payload))
    check_complete(event)
    return event


def _publish(event: Event, keys: Path, repository: Repository) -> tuple[PublishedRole, ...]:
    signed = signed_by_all(event, keys)
    return repository.submit(list(signed.documents.values()), signed.small)


def _made(folder: KeyFolder, names: Sequence[str]) -> list[Key]:
    return [named(folder.make(name).public_key, name) for name in names]


def _keys_by_role(event: Event, folder: KeyFolder) -> dict[str, list[OpenKey]]:
    """Return the keys of the folder that may sign each pending role.

    Raises:
        NotFound: There are too few.
    """
    every = [OpenKey(f"file:{folder.path / name}.pem", folder.signer(name)) for name in folder.names("")]
    found = {}
    for need in needs(event):
        wanted = event.keys(need.role)
        found[need.role] = [key for key in every if key.public.keyid in wanted]
        if len(found[need.role]) < need.threshold:
            has = ", ".join(Path(key.uri).stem for key in found[need.role]) or "none"
            hint = "bring the folder with the offline keys: --keys FOLDER"
            what = f"{need.role} needs {need.threshold} of its keys"
            raise NotFound(what, why=f"{folder.path} has {has}", hint=hint)
    return found


def _check_anchor(event: Event, name: str, keys: Sequence[OpenKey]) -> None:
    """Check that one of the keys leads to what is published: they are all of one person."""
    refused: UntrustedBundle | None = None
    for key in keys:
        try:
            return anchor.check(event, name, key.public, None)
        except UntrustedBundle as error:
            refused = error
    if refused is not None:
        raise refused
    return None
