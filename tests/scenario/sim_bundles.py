"""Small bundles with what their owners sign, for simulated devices."""

import hashlib
from dataclasses import dataclass, field

from dsops.bundle import describe_blobs, encode_bundle, sha256_hex
from dsops.chunks import index_of
from dsops.directive import DesiredSlot, target_path
from dsops.manifest import Attachment, Manifest, TensorSpec
from dsops.needs import needs_of
from dsops.sealing import ContentKey, Identity, content_key, seal
from dsops.trust import SignedTarget

MODEL = "digits"
CHUNK_BYTES = 512


@dataclass(frozen=True)
class Made:
    """A bundle with what its owners signed."""

    model: str
    release: int
    data: bytes
    manifest: Manifest = field(compare=False)
    key: ContentKey | None = None
    said: bytes = b""
    """A document of its needs that its owners signed, if it is not the right one."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        return target_path(self.model, self.release, "int8")

    def slot(self, deployment: str) -> DesiredSlot:
        return DesiredSlot(
            path=self.path,
            sha256=self.sha256,
            length_bytes=len(self.data),
            release=self.release,
            deployment=deployment,
        )

    def signed(self) -> SignedTarget:
        index = index_of(self.data, CHUNK_BYTES)
        facts = {"model": self.model, "release": self.release, "variant": "int8", "index": index.digest}
        facts |= {"hardware": self.manifest.compatibility.hardware, "needs": sha256_hex(self.needs)}
        return SignedTarget(self.path, self.sha256, len(self.data), facts)

    @property
    def needs(self) -> bytes:
        """What its owners say that it needs of a device."""
        return self.said or needs_of(self.manifest, len(self.data)).encode()


def make_bundle(
    release: int,
    *,
    model: str = MODEL,
    size: int = 3000,
    secret: bytes | None = None,
    tuned_from: int = 0,
    **changes: object,
) -> Made:
    """Make a bundle; with a secret it is sealed. Its payload may be that of another release, some bytes moved.

    ``changes`` are the manifest's.
    """
    payload = hashlib.shake_256(f"{model} {tuned_from or release}".encode()).digest(size)
    if tuned_from:
        noise = hashlib.shake_256(f"{release} after {tuned_from}".encode()).digest(size)
        payload = bytes((value + (drawn < 20)) & 0xFF for value, drawn in zip(payload, noise, strict=True))
    settings = {"camera.toml": f"release = {release}".encode(), f"zones-{release}.json": b"[]" * release}
    blobs = {"model.tflite": payload, "profile.json": b"{}", "golden.bin": b"golden", **settings}
    sealed = None
    if secret is not None:
        parts = {name: blobs[name] for name in ("model.tflite", "golden.bin")}
        sealed, ciphertexts = seal(secret, Identity(model, release, "int8"), parts)
        blobs |= ciphertexts
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    fields: dict[str, object] = {
        "model": model,
        "release": release,
        "inputs": (spec,),
        "outputs": (spec,),
        "files": tuple(Attachment(blob=name, kind="config") for name in settings),
        "format": 1 if sealed is None else 2,
        "sealed": sealed,
        "blobs": describe_blobs(blobs),
    }
    manifest = Manifest.model_validate(fields | changes)
    key = None if secret is None else content_key(secret, manifest)
    return Made(model, release, encode_bundle(manifest, blobs), manifest, key)
