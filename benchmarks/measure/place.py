"""What every run of a delivery shares: a folder, the keys of a fleet, and files of random bytes."""

import os
from dataclasses import dataclass
from pathlib import Path

from dsops.bundle import sha256_hex
from dsops.chunks import index_of
from dsops_agent.identity import Identity
from dsops_agent.install.fetch import Wanted
from measure.broker import Keys


@dataclass(frozen=True)
class Cargo:
    """A file to deliver, and what its owners sign of it."""

    path: Path
    wanted: Wanted

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.wanted.length_bytes

    @property
    def name(self) -> str:
        """Its length as people say it."""
        return f"{self.size_bytes / 1e6:g} MB"


@dataclass(frozen=True)
class Place:
    """Folder and keys, and the devices that real agents are."""

    folder: Path
    keys: Keys
    devices: tuple[Identity, ...]

    @classmethod
    def create(cls, folder: Path, devices: int) -> "Place":
        """Make the keys of a fleet."""
        keys = Keys.create(folder / "keys")
        keys.light()
        return cls(folder, keys, tuple(keys.device(f"cam-{number}") for number in range(devices)))

    def cargo(self, size_bytes: int) -> Cargo:
        """Make a file of random bytes."""
        data = os.urandom(size_bytes)
        path = self.folder / f"{size_bytes}.bundle"
        path.write_bytes(data)
        return Cargo(path, Wanted(sha256_hex(data), len(data), index_of(data).digest))
