"""A model's role: the bundles that its owners approved, and how one is added. Pure but for reading the bundle."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from dsops.bundle import Bundle, bundle_index
from dsops.directive import target_path
from dsops.errors import Conflict, UntrustedBundle
from dsops.ids import model_name
from dsops.manifest import Manifest, first_problem
from dsops.needs import check_length, needs_of
from dsops.trust import TargetFacts, model_role
from dsops_controller.trust.anchor import signed_by
from dsops_controller.trust.roles import SignedRole, lifetime, read_role
from dsops_controller.trust.signers import OpenKey

_SKEW = timedelta(days=1)
"""How far the clocks of two owners may be apart."""


def approve(
    bundle: Path,
    current: bytes,
    keys: Sequence[OpenKey],
    now: datetime,
    *,
    pending: bytes | None = None,
    is_vouched: bool = False,
) -> bytes:
    """Return the next version of a model's role, which names a bundle, with a signature of each key.

    The published role comes from a server that may be hostile, so it is built upon only if the owner's own key signed
    it, if it is the first one and names nothing, or if the caller vouches for it. A bundle that the role names already
    gives the role back unchanged.

    Args:
        bundle: The bundle's file.
        current: The model's published role.
        keys: The owners' keys.
        now: The time.
        pending: What another owner signed of this bundle before; its signatures stay.
        is_vouched: Whether the caller found the role to follow from a root that it knows.

    Raises:
        MalformedBundle: The file is not a sound bundle.
        UntrustedBundle: A role is not the model's, not signed by its owner, or says more than this bundle.
        Conflict: The release exists with other bytes, or a higher one exists.
    """
    opened = Bundle.open(bundle)
    opened.verify()
    role = model_role_of(current, opened.manifest.model)
    for key in keys:
        check_own(role, key, is_vouched=is_vouched)
    wanted = _target(opened.manifest, bundle.read_bytes())
    if role.targets.targets.get(wanted.path) == wanted:
        return current
    _check_release(role.targets, wanted, opened.manifest)
    signed = next_version(role, now)
    signed.targets[wanted.path] = wanted
    document = _joined(signed, pending, now)
    for key in keys:
        signature = key.sign(document.signed_bytes)
        document.signatures[signature.keyid] = signature
    return document.to_bytes()


def prune(current: bytes, model: str, below: int, keys: Sequence[OpenKey], now: datetime) -> bytes:
    """Return the next version of a model's role without the releases below a number; the newest always stays.

    Raises:
        UntrustedBundle: The role is not the model's, or not signed by its owner.
    """
    role = model_role_of(current, model_name(model))
    for key in keys:
        check_own(role, key)
    signed = next_version(role, now)
    releases = {path: read_facts(target).release for path, target in signed.targets.items()}
    limit = min(below, max(releases.values(), default=0))
    signed.targets = {path: target for path, target in signed.targets.items() if releases[path] >= limit}
    document = Metadata(signed)
    for key in keys:
        signature = key.sign(document.signed_bytes)
        document.signatures[signature.keyid] = signature
    return document.to_bytes()


def bundle_facts(manifest: Manifest, data: bytes) -> TargetFacts:
    """Return what the target of a bundle must say of it.

    Raises:
        MalformedBundle: It is too large to be sent.
    """
    document = needs_of(manifest, len(data))
    check_length(document.encode())
    return TargetFacts(
        model=manifest.model,
        release=manifest.release,
        variant=manifest.variant,
        hardware=manifest.compatibility.hardware,
        index=bundle_index(data).digest,
        needs=document.digest,
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


def model_role_of(data: bytes, model: str) -> SignedRole:
    """Parse a model's role.

    Raises:
        UntrustedBundle: It is another role.
    """
    role = read_role(data)
    if role.name != model_role(model):
        raise UntrustedBundle(f"{role.name} is not the role of {model}")
    return role


def check_own(role: SignedRole, key: OpenKey, *, is_vouched: bool = False) -> None:
    """Check that a key may sign a role again on top of what it says now.

    Raises:
        UntrustedBundle: The key did not sign what the role says, and nobody vouches for it.
    """
    is_blank = role.version == 1 and not role.targets.targets and not role.targets.delegations
    if not (is_vouched or is_blank or signed_by(role, key.public)):
        raise UntrustedBundle(
            f"the published {role.name} is not signed by your key",
            why="another key made it",
            hint="if you know it to be right, give a root that you know: --known-root 1.root.json",
        )


def next_version(role: SignedRole, now: datetime) -> Targets:
    """Return a copy of a role to be changed, one version higher, with a whole life ahead."""
    signed = read_role(role.data).targets
    signed.version += 1
    signed.expires = now + lifetime(role.name)
    return signed


def _target(manifest: Manifest, data: bytes) -> TargetFile:
    path = target_path(manifest.model, manifest.release, manifest.variant)
    target = TargetFile.from_data(path, data, ["sha256"])
    target.unrecognized_fields["custom"] = bundle_facts(manifest, data).model_dump(mode="json")
    return target


def _check_release(targets: Targets, wanted: TargetFile, manifest: Manifest) -> None:
    name = f"release {manifest.release} of {manifest.model}"
    if wanted.path in targets.targets:
        hint = "build it again with the next release number"
        raise Conflict(f"{name} was signed with other bytes", hint=hint)
    newest = max((read_facts(target).release for target in targets.targets.values()), default=0)
    if manifest.release < newest:
        raise Conflict(f"{name} is old", why=f"release {newest} was signed")


def _joined(signed: Targets, pending: bytes | None, now: datetime) -> Metadata[Root]:
    """Return what is to be signed: what another owner signed before, if it says the very same."""
    fresh = Metadata[Root].from_bytes(Metadata(signed).to_bytes())  # the type does not matter to signatures
    if pending is None:
        return fresh
    other = read_role(pending)
    if other.name == read_role(fresh.to_bytes()).name and other.version < signed.version:
        return fresh  # of an earlier release
    ours, theirs = (found.to_dict() | {"expires": None} for found in (signed, other.signed))
    if ours != theirs or not now < other.signed.expires <= signed.expires + _SKEW:
        raise UntrustedBundle(
            "what another owner signed is not this bundle on top of what is published",
            why="it names other bundles, or another version",
            hint="remove the file BUNDLE.role.json and sign anew",
        )
    return Metadata[Root].from_bytes(pending)
