"""What people with offline keys do: found a fleet's trust, grant models, set policies, sign bundles.

Every function works on files and needs no network. Keep the key folder offline (removable media, one holder a key) and
bring it only for the ceremony: nothing of it is ever copied to the server.
"""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Root, TargetFile, Targets

from dsops import strictjson
from dsops.bundle import Bundle
from dsops.chunks import index_of
from dsops.clock import Clock, SystemClock
from dsops.directive import target_path
from dsops.errors import Conflict, InvalidInput, NotFound, UntrustedBundle
from dsops.ids import model_name
from dsops.manifest import Frozen, Manifest, first_problem
from dsops.trust import DIRECTOR_PATH, Director, Policy, TargetFacts, model_role, policy_path
from dsops_controller.trust.keys import KeyFolder, OnlineKeys, OnlinePublic, tuf_key
from dsops_controller.trust.repository import PublishedRole, Repository
from dsops_controller.trust.roles import (
    FLEET,
    POLICY,
    ROOT,
    TARGETS,
    SignedRole,
    lifetime,
    new_targets,
    path_prefix,
    read_role,
    sign_role,
)

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
    if not 1 <= threshold <= root_keys <= 9:
        raise InvalidInput(f"{threshold} of {root_keys} keys cannot be", why="1 <= threshold <= keys <= 9")
    online = OnlinePublic.read(server / "keys")
    repository = _repository(server, clock)
    if repository.is_established:
        raise Conflict(f"fleet {repository.director().fleet} was founded before", why=str(server))
    director = _director(_fleet_name(server, fleet), online)
    folder = KeyFolder(keys)
    holders = {
        role: [folder.make(f"{role}-{number}") for number in range(1, root_keys + 1)] for role in (ROOT, TARGETS)
    }
    owners = {role: folder.make(role) for role in (FLEET, POLICY)}
    roles = [
        sign_role(_first_root(online, holders, threshold, clock), holders[ROOT]),
        sign_role(_first_targets(owners, clock), holders[TARGETS]),
        sign_role(_with_target(new_targets(FLEET, 1, clock.now()), DIRECTOR_PATH, director), [owners[FLEET]]),
        sign_role(new_targets(POLICY, 1, clock.now()), [owners[POLICY]]),
    ]
    repository.establish(roles, {DIRECTOR_PATH: director})


def grant(keys: Path, server: Path, model: str, floor: int = 1, clock: Clock = _SYSTEM) -> None:
    """Give a model an owner: key ``model-<m>.pem``, the role that it signs, and a first policy.

    Raises:
        InvalidInput: The name is not a model's.
        Conflict: The model has an owner.
        NotFound: A key is missing.
    """
    name = model_role(model_name(model))
    repository, folder = _repository(server, clock), KeyFolder(keys)
    state = repository.state()
    if name in state.roles:
        raise Conflict(f"model {model} has an owner", hint="sign its bundles: dsops bundle sign")
    policy = _policy_bytes(Policy(model=model, floor=floor))
    signers = _enough(folder, TARGETS, state.root.roles[TARGETS].threshold)
    manager = folder.signer(POLICY)
    owner = folder.make(name)
    targets = _next_version(state.signed[TARGETS], signers, clock)
    _delegate(targets, name, owner)
    policies = _with_target(_next_version(state.signed[POLICY], [manager], clock), policy_path(model), policy)
    roles = [
        sign_role(targets, signers),
        sign_role(policies, [manager]),
        sign_role(new_targets(name, 1, clock.now()), [owner]),
    ]
    repository.publish(roles, {policy_path(model): policy})


def set_policy(keys: Path, server: Path, policy: Policy, clock: Clock = _SYSTEM) -> PublishedRole:
    """Publish a model's policy: its floor, and how far each release may spread.

    Raises:
        NotFound: Nobody was granted the model, or the policy's key is missing.
        Conflict: The floor would fall.
    """
    repository = _repository(server, clock)
    present = repository.policy(policy.model)
    if policy.floor < present.floor:
        raise Conflict(f"the floor of {policy.model} would fall", why=f"{present.floor} is published")
    data = _policy_bytes(policy)
    manager = KeyFolder(keys).signer(POLICY)
    role = _next_version(repository.state().signed[POLICY], [manager], clock)
    document = sign_role(_with_target(role, policy_path(policy.model), data), [manager])
    return repository.publish_role(document, {policy_path(policy.model): data})


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
    repository, folder = _repository(server, clock), KeyFolder(keys)
    state = repository.state()
    documents = []
    for name in dict.fromkeys(roles):
        present = read_role(state.roots[-1]) if name == ROOT else state.signed.get(name)
        if present is None:
            raise NotFound(f"there is no role {name}", why=f"there are {', '.join([ROOT, *sorted(state.roles)])}")
        signers = (
            _enough(folder, name, state.root.roles[name].threshold)
            if name in (ROOT, TARGETS)
            else [folder.signer(name)]
        )
        documents.append(sign_role(_aged(present, signers, clock), signers))
    return repository.publish(documents)


def sign_bundle(bundle: Path, keys: Path, current_role: bytes, clock: Clock = _SYSTEM) -> bytes:
    """Approve a bundle: return the next version of its model's role, with the bundle as a target.

    The published role comes from a server that may be hostile, so it is taken only if the owner's own key signed it.
    A bundle that the role names already gives the role back unchanged.

    Args:
        bundle: The bundle's file.
        keys: The folder with the key ``model-<m>.pem``.
        current_role: The model's published role.
        clock: Tells the time.

    Raises:
        MalformedBundle: The file is not a sound bundle.
        NotFound: The key is missing.
        UntrustedBundle: The role is not the model's, or not signed by its owner.
        Conflict: The release exists with other bytes, or a higher one exists.
    """
    opened = Bundle.open(bundle)
    opened.verify()
    manifest = opened.manifest
    owner = KeyFolder(keys).signer(model_role(manifest.model))
    role = _model_role(current_role, manifest.model)
    path = target_path(manifest.model, manifest.release, manifest.variant)
    data = bundle.read_bytes()
    _check_own(role, [owner])
    present = role.targets.targets.get(path)
    wanted = _target(path, data, bundle_facts(manifest, data))
    if present == wanted:
        return current_role
    if present is not None:
        hint = "build it again with the next release number"
        raise Conflict(f"release {manifest.release} of {manifest.model} was signed with other bytes", hint=hint)
    newest = max((read_facts(target).release for target in role.targets.targets.values()), default=0)
    if manifest.release < newest:
        raise Conflict(f"release {manifest.release} of {manifest.model} is old", why=f"release {newest} was signed")
    signed = _next_version(role, [owner], clock)
    signed.targets[path] = wanted
    return sign_role(signed, [owner])


def prune(keys: Path, current_role: bytes, model: str, below: int, clock: Clock = _SYSTEM) -> bytes:
    """Return the next version of a model's role without the releases below a number; the newest always stays.

    Raises:
        NotFound: The key is missing.
        UntrustedBundle: The role is not the model's, or not signed by its owner.
    """
    owner = KeyFolder(keys).signer(model_role(model_name(model)))
    signed = _next_version(_model_role(current_role, model), [owner], clock)
    releases = {path: read_facts(target).release for path, target in signed.targets.items()}
    limit = min(below, max(releases.values(), default=0))
    signed.targets = {path: target for path, target in signed.targets.items() if releases[path] >= limit}
    return sign_role(signed, [owner])


def bundle_facts(manifest: Manifest, data: bytes) -> TargetFacts:
    """Return what the target of a bundle must say of it.

    Raises:
        MalformedBundle: It is too large to be sent.
    """
    return TargetFacts(
        model=manifest.model,
        release=manifest.release,
        variant=manifest.variant,
        hardware=manifest.compatibility.hardware,
        index=index_of(data).digest,
    )


def read_facts(target: TargetFile) -> TargetFacts:
    """Return what a bundle's target says of it.

    Raises:
        UntrustedBundle: It says nothing valid.
    """
    try:
        return TargetFacts.model_validate(target.custom)
    except ValidationError as error:
        raise UntrustedBundle(f"{target.path} carries no valid facts", why=first_problem(error)) from error


def _repository(server: Path, clock: Clock) -> Repository:
    return Repository(server / "trust", OnlineKeys.load(server / "keys"), clock)


def _fleet_name(server: Path, given: str | None) -> str:
    """Return the fleet's name; devices compare it with what the server writes into every directive."""
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


def _director(fleet: str, online: OnlinePublic) -> bytes:
    try:
        return _encoded(Director(fleet=fleet, keys=(online.director,)))
    except ValidationError as error:
        raise InvalidInput(f"{fleet!r} is not a fleet's name", why=first_problem(error)) from error


def _policy_bytes(policy: Policy) -> bytes:
    return _encoded(policy)


def _encoded(value: Frozen) -> bytes:
    return strictjson.dumps(value.model_dump(mode="json"))


def _first_root(online: OnlinePublic, holders: dict[str, list[CryptoSigner]], threshold: int, clock: Clock) -> Root:
    root = Root(expires=clock.now() + lifetime(ROOT), consistent_snapshot=True)
    for role, signers in holders.items():
        for signer in signers:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = threshold
    root.add_key(tuf_key(online.snapshot), "snapshot")
    root.add_key(tuf_key(online.timestamp), "timestamp")
    return root


def _first_targets(owners: dict[str, CryptoSigner], clock: Clock) -> Targets:
    targets = new_targets(TARGETS, 1, clock.now())
    for name, owner in owners.items():
        _delegate(targets, name, owner)
    return targets


def _delegate(targets: Targets, name: str, owner: CryptoSigner) -> None:
    if targets.delegations is None:
        targets.delegations = Delegations(keys={}, roles={})
    assert targets.delegations.roles is not None
    role = DelegatedRole(name, [], threshold=1, terminating=True, paths=[f"{path_prefix(name)}*"])
    targets.delegations.roles[name] = role
    targets.add_key(owner.public_key, name)


def _target(path: str, data: bytes, facts: TargetFacts) -> TargetFile:
    target = TargetFile.from_data(path, data, ["sha256"])
    target.unrecognized_fields["custom"] = facts.model_dump(mode="json")
    return target


def _with_target(targets: Targets, path: str, data: bytes) -> Targets:
    targets.targets[path] = TargetFile.from_data(path, data, ["sha256"])
    return targets


def _next_version(role: SignedRole, signers: Sequence[CryptoSigner], clock: Clock) -> Targets:
    """Return a copy of a role to be changed, one version higher, with a whole life ahead."""
    signed = _aged(role, signers, clock)
    assert isinstance(signed, Targets)
    return signed


def _aged(role: SignedRole, signers: Sequence[CryptoSigner], clock: Clock) -> Root | Targets:
    _check_own(role, signers)
    signed = read_role(role.data).signed
    signed.version += 1
    signed.expires = clock.now() + lifetime(role.name)
    return signed


def _enough(folder: KeyFolder, role: str, threshold: int) -> Sequence[CryptoSigner]:
    names = folder.names(f"{role}-")
    if len(names) < threshold:
        found = ", ".join(names) or "none"
        hint = "bring the folder with the offline keys: --keys FOLDER"
        raise NotFound(f"{role} needs {threshold} of its keys", why=f"{folder.path} has {found}", hint=hint)
    return [folder.signer(name) for name in names]


def _model_role(data: bytes, model: str) -> SignedRole:
    role = read_role(data)
    if role.name != model_role(model):
        raise UntrustedBundle(f"{role.name} is not the role of {model}")
    return role


def _check_own(role: SignedRole, signers: Sequence[CryptoSigner]) -> None:
    """Check that one of the keys that shall sign a role again signed what it says now.

    The role comes from a server that may be hostile: nobody's key may be lent to what its holder never saw.
    """
    if not any(_is_valid(role, signer) for signer in signers):
        raise UntrustedBundle(f"the published {role.name} is not signed by your key", why="another key made it")


def _is_valid(role: SignedRole, signer: CryptoSigner) -> bool:
    signature = role.signatures.get(signer.public_key.keyid)
    if signature is None:
        return False
    try:
        signer.public_key.verify_signature(signature, role.payload)
    except UnverifiedSignatureError:
        return False
    return True
