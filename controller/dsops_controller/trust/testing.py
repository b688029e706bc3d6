"""For tests: a real, founded fleet in a temporary folder, and small bundles that are structurally sound.

Everything is the real thing (keys, files, signatures); only the payload of the bundles is no model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securesystemslib.signer import CryptoSigner

from dsops.bundle import describe_blobs, encode_bundle
from dsops.clock import ManualClock
from dsops.manifest import Manifest, TensorSpec
from dsops_controller.trust import ceremony
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.repository import Repository


@dataclass(frozen=True)
class FoundedFleet:
    """Offline keys, a server's folder and its repository, after the ceremony."""

    keys: Path
    server: Path
    clock: ManualClock
    repository: Repository

    @classmethod
    def create(cls, folder: Path, clock: ManualClock, fleet: str = "lab") -> "FoundedFleet":
        """Hold the ceremony with fresh keys below ``folder``."""
        keys, server = folder / "offline", folder / "server"
        online = OnlineKeys.create(server / "keys")
        ceremony.init(keys, server, fleet=fleet, clock=clock)
        return cls(keys, server, clock, Repository(server / "trust", online, clock))

    def online(self, role: str) -> CryptoSigner:
        """Return what signs with the server's first key of a role: what a thief of the server has."""
        return CryptoSigner(OnlineKeys.load(self.server / "keys").all(role)[0])

    def grant(self, model: str, floor: int = 1) -> None:
        """Give a model an owner."""
        ceremony.grant(self.keys, self.server, model, floor, self.clock)

    def sign(self, bundle: Path, model: str = "digits") -> bytes:
        """Return the next version of the model's role with a bundle as a target; it is not published."""
        return ceremony.sign_bundle(bundle, self.keys, self.repository.role(f"model-{model}"), self.clock)


class MakeBundle(Protocol):
    """Writes a bundle and returns its path."""

    def __call__(
        self, model: str = "digits", release: int = 1, payload: bytes = b"weights", variant: str = "int8"
    ) -> Path:
        """Write a bundle with this payload."""
        ...


def bundle_maker(folder: Path) -> MakeBundle:
    """Return what writes bundles into ``folder``."""

    def make(model: str = "digits", release: int = 1, payload: bytes = b"weights", variant: str = "int8") -> Path:
        blobs = {"model.tflite": payload, "profile.json": b"{}", "golden.bin": b"golden"}
        spec = TensorSpec(name="x", datatype="INT8", shape=(1, 4), scale=0.1)
        entries = describe_blobs(blobs)
        manifest = Manifest(
            model=model, release=release, variant=variant, inputs=(spec,), outputs=(spec,), blobs=entries
        )
        path = folder / f"{model}-{release}-{variant}-{entries[1].sha256[:8]}.bundle"
        path.write_bytes(encode_bundle(manifest, blobs))
        return path

    return make
