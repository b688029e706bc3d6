"""The model under test: the demonstration's digits, trained, quantized and packed as an operator would."""

from dataclasses import dataclass
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.manifest import Manifest
from dsops.profile import Profile
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model
from dsops_controller.demo.prepare import prepare

SEED = 0


@dataclass(frozen=True)
class Packed:
    """A bundle on disk, and its payload as a file of its own for the peers."""

    path: Path
    digest: str
    manifest: Manifest
    payload: Path
    profile: Profile


def make_bundle(folder: Path) -> Packed:
    """Build the digits bundle below ``folder``; equal on every run."""
    prepare(folder / "recipe", SEED)
    built = build_model(folder / "recipe", folder / "built").folder
    path = folder / "digits.bundle"
    manifest = build_bundle(built, 1, path, "int8")
    bundle = Bundle.open(path)
    profile = Profile.decode(bundle.read(manifest.profile))
    return Packed(path, file_digest(path)[0], manifest, built / "int8" / manifest.payload, profile)
