"""Checks a bundle as a device would: by what the controller publishes, from a root that the caller holds."""

import tempfile
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Targets

from dsops.bundle import Bundle, file_digest
from dsops.directive import target_path
from dsops.dsse import PublicKey, key_id, load_public_key
from dsops.errors import UntrustedBundle
from dsops.messages import TrustPack
from dsops.trust import model_role
from dsops_controller.trust.client import accept


def check_bundle(bundle: Path, root: bytes, pack: TrustPack, now: datetime) -> str:
    """Return the path under which the owners of its model signed a bundle.

    Args:
        bundle: The bundle file.
        root: The first root metadata, as it is installed with devices.
        pack: What the controller publishes for the bundle's model.
        now: The time at which the metadata must be valid.

    Raises:
        MalformedBundle: It is not a bundle.
        UntrustedBundle: The metadata does not follow from the root, or does not name these bytes.
    """
    manifest = Bundle.open(bundle).manifest
    path = target_path(manifest.model, manifest.release, manifest.variant)
    with tempfile.TemporaryDirectory() as folder:
        signed = accept(Path(folder), pack.files(), root, [path], now).get(path)
    if signed is None:
        raise UntrustedBundle(f"{path} is not signed", why=f"the owners of {manifest.model} approved no such bundle")
    if (signed.hashes["sha256"], signed.length) != file_digest(bundle):
        raise UntrustedBundle(f"{bundle.name} is not what the owners of {manifest.model} signed as {path}")
    return path


def published_role(model: str, root: bytes, pack: TrustPack, now: datetime) -> bytes:
    """Return a model's role as it follows from a root that the caller holds.

    Raises:
        UntrustedBundle: The metadata does not follow from the root, or has no such role.
    """
    name = model_role(model)
    with tempfile.TemporaryDirectory() as folder:
        accept(Path(folder), pack.files(), root, [f"{model}/any"], now)  # a look-up loads the model's role
        found = Path(folder) / f"{name}.json"
        if not found.exists():
            raise UntrustedBundle(f"{model} has no owner", why=f"no delegation names {name}")
        return found.read_bytes()


def owner_keys(model: str, root: bytes, pack: TrustPack, now: datetime) -> dict[str, PublicKey]:
    """Return the keys of a model's owners by key id, as they follow from a root that the caller holds.

    Raises:
        UntrustedBundle: The metadata does not follow from the root, or gives the model no owner.
    """
    role = model_role(model)
    with tempfile.TemporaryDirectory() as folder:
        accept(Path(folder), pack.files(), root, [], now)
        targets = Metadata[Targets].from_file(str(Path(folder) / "targets.json")).signed
    delegations = targets.delegations
    if delegations is None or delegations.roles is None or role not in delegations.roles:
        raise UntrustedBundle(f"{model} has no owner", why=f"no delegation names {role}")
    keys = [_crypto_key(delegations.keys[known]) for known in delegations.roles[role].keyids]
    return {key_id(key): key for key in keys}


def _crypto_key(key: Key) -> PublicKey:
    public = str(key.keyval["public"])
    if key.keytype == "ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return load_public_key(public)
