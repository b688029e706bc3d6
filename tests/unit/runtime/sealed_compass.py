"""Seals a bundle that is there already."""

from dataclasses import dataclass
from pathlib import Path

from runtime_bundles import MadeBundle

from dsops.bundle import Bundle, describe_blobs, encode_bundle, sha256_hex
from dsops.manifest import Manifest
from dsops.sealing import RECORD_BYTES, ContentKey, Identity, content_key, seal

SECRET = b"a secret of the one who builds.."


@dataclass(frozen=True)
class SealedBundle:
    path: Path
    digest: str
    manifest: Manifest
    key: ContentKey


def sealed(made: MadeBundle, record_bytes: int = RECORD_BYTES, secret: bytes = SECRET) -> SealedBundle:
    """Write the bundle again, with payload and golden inputs encrypted."""
    bundle = Bundle.open(made.path)
    old = bundle.manifest
    blobs = {blob.name: bundle.read(blob.name) for blob in old.blobs}
    names = (old.payload, old.golden)
    identity = Identity(old.model, old.release, old.variant)
    part, ciphertexts = seal(secret, identity, {name: blobs[name] for name in names}, record_bytes)
    blobs |= ciphertexts
    fields = old.model_dump() | {"format": 2, "sealed": part, "blobs": describe_blobs(blobs)}
    manifest = Manifest.model_validate(fields)
    data = encode_bundle(manifest, blobs)
    path = made.path.with_name(f"sealed-{made.path.name}")
    path.write_bytes(data)
    return SealedBundle(path, sha256_hex(data), manifest, content_key(secret, manifest))
