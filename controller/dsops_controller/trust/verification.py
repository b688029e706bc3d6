"""Checks a bundle as a device would: by what the controller publishes, from a root that the caller holds."""

import tempfile
from datetime import datetime
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.directive import target_path
from dsops.errors import UntrustedBundle
from dsops.messages import TrustPack
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
