"""Signed roles of the trust metadata (The Update Framework 1.0.33): reading, checking and signing one. Pure.

The metadata of a delegated role does not name the role in TUF. Ours does, in the signed field ``dsops-role``, so that
a role's document can never be passed off as another's, even if one key signs both.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from securesystemslib.signer import Signature, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from dsops.errors import UntrustedBundle
from dsops.trust import model_role
from dsops_controller.trust.holders import holder_of

ROLE_FIELD = "dsops-role"
ROOT, TARGETS, FLEET, POLICY = "root", "targets", "fleet", "policy"
MAX_ROLE_BYTES = 64 * 1024
"""A role that is longer could not be sent: a pack is one message."""

_MODEL_ROLE = re.compile(r"model-[a-z0-9][a-z0-9-]{0,62}")
_LIFE_DAYS = {ROOT: 365, TARGETS: 365, FLEET: 180, POLICY: 90}
_MODEL_LIFE_DAYS = 180
SNAPSHOT_LIFE = timedelta(days=14)
TIMESTAMP_LIFE = timedelta(days=3)


def lifetime(role: str) -> timedelta:
    """Return how long a role that people sign is valid."""
    return timedelta(days=_LIFE_DAYS.get(role, _MODEL_LIFE_DAYS))


@dataclass(frozen=True)
class SignedRole:
    """One role's document, parsed but not yet believed.

    Attributes:
        name: The role that it claims to be.
        data: The document.
        signed: What it says.
        payload: The bytes that were signed.
        signatures: Signatures by key id.
    """

    name: str
    data: bytes
    signed: Root | Targets
    payload: bytes
    signatures: dict[str, Signature]

    @property
    def version(self) -> int:
        """Version that the document says."""
        return self.signed.version

    @property
    def root(self) -> Root:
        """The content of a root document."""
        assert isinstance(self.signed, Root)
        return self.signed

    @property
    def targets(self) -> Targets:
        """The content of any other document."""
        assert isinstance(self.signed, Targets)
        return self.signed


def read_role(data: bytes) -> SignedRole:
    """Parse a role that people sign: root, targets, fleet, policy or a model's. Nothing is believed yet.

    Raises:
        UntrustedBundle: It is too long, not TUF metadata, or of a role that only the server signs.
    """
    if len(data) > MAX_ROLE_BYTES:
        raise UntrustedBundle("the role is too long", why=f"{len(data)} bytes, {MAX_ROLE_BYTES} allowed")
    try:
        document = Metadata[Root].from_bytes(data)  # the type is a guess; content decides below
        return _read(data, document.signed, document.signed_bytes, document.signatures)
    except (DeserializationError, SerializationError, RecursionError) as error:
        raise UntrustedBundle("the role is not TUF metadata", why=str(error)[:200]) from error


def sign_role(signed: Root | Targets | Snapshot | Timestamp, signers: Iterable[Signer]) -> bytes:
    """Return a role's document with one signature a key."""
    document = Metadata(cast("Root", signed))  # Metadata's type variable takes no union
    for signer in signers:
        document.sign(signer, append=True)
    return document.to_bytes()


def new_targets(name: str, version: int, now: datetime) -> Targets:
    """Return an empty role of a name (any but root)."""
    return Targets(version, expires=now + lifetime(name), unrecognized_fields={ROLE_FIELD: name})


def check_signatures(role: SignedRole, delegator: Root | Targets) -> None:
    """Check that enough of the keys that ``delegator`` names for the role signed it.

    Raises:
        UntrustedBundle: They did not, or there is no such role.
    """
    try:
        result = delegator.get_verification_result(role.name, role.payload, role.signatures)
    except ValueError as error:
        raise UntrustedBundle(f"there is no role {role.name}", why="no delegation names it") from error
    if not result:
        missing = ", ".join(sorted(map(holder_of, result.unsigned.values())))
        why = f"{len(result.signed)} of {result.threshold} signatures; missing: {missing}"
        hint = "let them sign it: dsops trust sign"
        if model_of(role.name):
            hint = "let the model's owners sign: dsops bundle sign BUNDLE --key URI"
        raise UntrustedBundle(f"{role.name} is not signed by its owners", why=why, hint=hint)


def check_content(role: SignedRole, now: datetime) -> None:
    """Check what a role says, apart from its signatures: not expired, only its own paths, no further delegation.

    Raises:
        UntrustedBundle: A rule refuses it.
    """
    if role.signed.is_expired(now):
        expires = role.signed.expires.isoformat()
        raise UntrustedBundle(f"{role.name} has expired", why=f"at {expires}", hint="sign it again")
    if role.name in (ROOT, TARGETS):
        return
    if role.targets.delegations is not None:
        raise UntrustedBundle(f"{role.name} delegates further", why="only the top-level targets role may")
    for path in role.targets.targets:
        if not path.startswith(path_prefix(role.name)):
            raise UntrustedBundle(f"{role.name} signs {path}", why=f"it may only sign {path_prefix(role.name)}*")


def check_target(target: TargetFile, data: bytes) -> None:
    """Check a target's bytes against what was signed.

    Raises:
        UntrustedBundle: Length or digest differ.
    """
    try:
        target.verify_length_and_hashes(data)
    except RepositoryError as error:
        raise UntrustedBundle(f"{target.path} is not what was signed", why=str(error)) from error


def path_prefix(name: str) -> str:
    """Return what the target paths of a delegated role begin with."""
    return f"{model_of(name) or name}/"


def model_of(name: str) -> str | None:
    """Return the model whose bundles a role signs, or None for the other roles."""
    return name.removeprefix(model_role("")) if _MODEL_ROLE.fullmatch(name) else None


def _read(data: bytes, signed: Signed, payload: bytes, signatures: dict[str, Signature]) -> SignedRole:
    if isinstance(signed, Root):
        return SignedRole(ROOT, data, signed, payload, signatures)
    if not isinstance(signed, Targets):
        raise UntrustedBundle(f"a {signed.type} is not taken from outside", why="the server signs it itself")
    return SignedRole(_name_of(signed), data, signed, payload, signatures)


def _name_of(signed: Targets) -> str:
    name = signed.unrecognized_fields.get(ROLE_FIELD)
    if not isinstance(name, str) or not (name in (TARGETS, FLEET, POLICY) or model_of(name)):
        raise UntrustedBundle(
            "the role does not say which one it is", why=f"its signed field {ROLE_FIELD!r} is {name!r}"
        )
    return name
