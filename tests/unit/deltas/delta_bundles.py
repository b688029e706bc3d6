"""Bundles around a real quantized model, and what a fine-tuning does to it."""

from pathlib import Path

import numpy as np

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.manifest import Manifest
from dsops_controller.build.bundles.payload import read_payload
from dsops_controller.deltas.matching import BundleBytes

DIGITS = Path(__file__).parents[3] / "firmware_bundles" / "golden/v1/digits-1-int8.bundle"


def repacked(bundle: BundleBytes, release: int, **changed: bytes) -> BundleBytes:
    """Return a bundle with other blobs; double underscores in names stand for dots."""
    starts = bundle.starts
    blobs = {b.name: bundle.data[starts[b.name] : starts[b.name] + b.size_bytes] for b in bundle.manifest.blobs}
    blobs |= {name.replace("__", "."): data for name, data in changed.items()}
    fields = bundle.manifest.model_dump() | {"release": release, "blobs": describe_blobs(blobs)}
    manifest = Manifest.model_validate(fields)
    return BundleBytes(encode_bundle(manifest, blobs), manifest)


def payload_of(bundle: BundleBytes) -> bytes:
    blob = bundle.manifest.blob(bundle.manifest.payload)
    start = bundle.starts[blob.name]
    return bundle.data[start : start + blob.size_bytes]


def digits() -> BundleBytes:
    return BundleBytes(DIGITS.read_bytes(), Bundle.open(DIGITS).manifest)


def tuned(payload: bytes, seed: int = 0, share: float = 0.3) -> bytes:
    """Move a share of the quantized weights by one, as fine-tuning does."""
    rng = np.random.default_rng(seed)
    changed = bytearray(payload)
    for weight in read_payload(payload).weights:
        if weight.dtype == "INT8":
            values = np.frombuffer(payload, np.uint8, weight.length_bytes, weight.start)
            step = rng.choice(np.array([0, 1, 255], np.uint8), len(values), p=[1 - share, share / 2, share / 2])
            changed[weight.start : weight.start + weight.length_bytes] = (values + step).tobytes()
    return bytes(changed)
