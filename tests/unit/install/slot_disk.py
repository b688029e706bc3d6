"""A device's slots on a real disk, for the tests of this folder, and small bundles to put there."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from dsops.bundle import describe_blobs, encode_bundle
from dsops.manifest import Attachment, Manifest, TensorSpec
from dsops_agent.install.journal import Journal, SlotRow
from dsops_agent.install.slots import Slots


def bundle(release: int, model: str = "digits", files: Mapping[str, bytes] | None = None) -> bytes:
    files = {} if files is None else files
    blobs = {"model.tflite": bytes(300 + release), "profile.json": b"{}", "golden.bin": b"g", **files}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(
        model=model,
        release=release,
        inputs=(spec,),
        outputs=(spec,),
        files=tuple(Attachment(blob=name, kind="config") for name in files),
        blobs=describe_blobs(blobs),
    )
    return encode_bundle(manifest, blobs)


def row(data: bytes, release: int) -> SlotRow:
    return SlotRow("", hashlib.sha256(data).hexdigest(), len(data), release, committed=False)


class Disk:
    """Slots of one device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.free = 10**6
        self.journal = Journal(folder / "journal.db")
        self.slots = Slots(folder / "slots", self.journal, lambda _folder: self.free)

    def stage(self, release: int, data: bytes | None = None) -> str:
        data = data or bundle(release)
        source = self.folder / "part"
        source.write_bytes(data)
        return self.slots.stage("digits", row(data, release), source).name

    def install(self, release: int, data: bytes | None = None) -> str:
        name = self.stage(release, data)
        self.slots.activate("digits", name)
        self.slots.commit("digits", row(data or bundle(release), release).digest)
        return name

    def place(self, name: str) -> Path:
        return self.folder / "slots" / "digits" / name
