"""A device's slots on a real disk, for the tests of this folder, and small bundles to put there."""

import errno
import hashlib
import os
import shutil
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


class Rows:
    """The journal's table of slots, in memory; it outlives a kill as the journal does, and costs no disk."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], SlotRow] = {}

    def put_slot(self, model: str, row: SlotRow) -> None:
        self.rows[model, row.name] = row

    def clear_slot(self, model: str, name: str) -> None:
        self.rows.pop((model, name), None)

    def slot(self, model: str, name: str) -> SlotRow | None:
        return self.rows.get((model, name))

    def close(self) -> None:
        self.rows.clear()


class Disk:
    """Slots of one device."""

    def __init__(self, folder: Path, *, real_journal: bool = True) -> None:
        self.folder = folder
        self.free = 10**6
        self.journal = Journal(folder / "journal.db") if real_journal else Rows()
        self.slots = Slots(folder / "slots", self.journal, lambda _folder: self.free)

    def copy(self, folder: Path) -> "Disk":
        """Return another disk that holds the same; rows in memory only."""
        shutil.copytree(self.folder, folder, symlinks=True)
        made = Disk(folder, real_journal=False)
        if isinstance(self.journal, Rows) and isinstance(made.journal, Rows):
            made.journal.rows.update(self.journal.rows)
        return made

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


class FailsOnce:
    """fsync(2) of a disk that loses what was written to one file, and says so once, as the kernel does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = False
        self._fsync = os.fsync

    def __call__(self, handle: int) -> None:
        is_it = self.path.exists() and os.path.samestat(os.fstat(handle), self.path.stat())
        if is_it and not self.failed:
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fsync(handle)
