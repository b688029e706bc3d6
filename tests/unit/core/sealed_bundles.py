"""Sealed bundles for tests: a manifest of the container's tests, sealed in short records."""

from collections.abc import Callable
from pathlib import Path

from test_bundle_format import BLOBS, manifest

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.manifest import Manifest, Sealed
from dsops.sealing import Identity, seal

RECORD = 4096
SECRET = bytes(range(32))
PAYLOAD = bytes(n * 7 % 251 for n in range(3 * RECORD + 100))
PLAIN = BLOBS | {"model.tflite": PAYLOAD}
Change = Callable[[bytes], bytes]


def sealed_manifest(blobs: dict[str, bytes], sealed: Sealed, **more: object) -> Manifest:
    return manifest(blobs, format=2, sealed=sealed, **more)


def write_sealed(
    folder: Path,
    secret: bytes = SECRET,
    plain: dict[str, bytes] | None = None,
    change: Change = bytes,
    names: tuple[str, ...] = ("model.tflite", "golden.bin"),
    **more: object,
) -> Bundle:
    """Write a bundle; ``change`` is made to the payload's ciphertext before the manifest describes it."""
    parts = plain or PLAIN
    identity = Identity("digits", int(str(more.get("release", 1))), "int8")
    sealed, ciphertexts = seal(secret, identity, {name: parts[name] for name in names}, RECORD)
    blobs = parts | ciphertexts
    blobs["model.tflite"] = change(blobs["model.tflite"])
    made = sealed_manifest(blobs, sealed, **more)
    assert made.blobs == describe_blobs(blobs)
    path = folder / "sealed.bundle"
    path.write_bytes(encode_bundle(made, blobs))
    return Bundle.open(path)
