"""The models of the inference benchmark: networks at the size of MLPerf Tiny's and MobileNetV2, as bundles.

Weights are drawn by a seed, the last layer is fitted to textures, and ``dsops model build`` converts, quantizes and
packs, as it would for an operator. What an inference costs depends on shapes, not on what was learned.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsops.bundle import Bundle, file_digest
from dsops.profile import Profile
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model
from measure.model import Packed
from measure.networks import (
    Floats,
    Network,
    keyword_spotting,
    mobilenet_v2,
    resnet8,
    visual_wake_words,
    with_softmax,
)
from measure.onnx_file import to_onnx
from measure.textures import Textures, fit_head, textures

SEED = 0
FRAMES_COUNT = 240
CALIBRATION_COUNT = 32


@dataclass(frozen=True)
class Plan:
    """A network, and in which variants it is served."""

    name: str
    draw: Callable[[int], Network]
    variants: tuple[str, ...]


PLANS = (
    Plan("kws", keyword_spotting, ("int8",)),
    Plan("resnet8", resnet8, ("int8",)),
    Plan("vww", visual_wake_words, ("int8",)),
    Plan("mobilenet-v2", mobilenet_v2, ("int8", "float32")),
)


@dataclass(frozen=True)
class ServedModel:
    """A bundle, and what it is asked.

    Attributes:
        name: Model and variant.
        packed: The bundle.
        frames: Frames in the type that the payload takes [N, ...].
    """

    name: str
    packed: Packed
    frames: Floats

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return int(self.frames[:1].nbytes)


def make_models(folder: Path) -> Iterator[ServedModel]:
    """Build every model below ``folder``, each when its turn comes."""
    for plan in PLANS:
        yield from make_model(folder, plan)


def make_model(folder: Path, plan: Plan, seed: int = SEED) -> Iterator[ServedModel]:
    """Build one network's variants below ``folder``; another seed draws other weights, for the same frames."""
    network = plan.draw(seed)
    frames = _frames(network)
    fit_head(network, frames)
    recipe = _write_recipe(folder / plan.name, plan, with_softmax(network), frames)
    built = build_model(recipe, folder / plan.name / "built").folder
    for variant in plan.variants:
        yield _pack(folder, plan.name, built, variant, frames.x)


def _frames(network: Network) -> Textures:
    found = textures(FRAMES_COUNT, network.side, SEED)
    return Textures(np.ascontiguousarray(found.x[..., : network.channels]), found.y)


def _write_recipe(folder: Path, plan: Plan, network: Network, frames: Textures) -> Path:
    recipe = folder / "recipe"
    recipe.mkdir(parents=True)
    (recipe / "model.onnx").write_bytes(to_onnx(network))
    (recipe / "bundle.toml").write_text(
        RECIPE.format(name=plan.name, variants="\n".join(f"[variant.{variant}]" for variant in plan.variants))
    )
    np.savez(recipe / "calibration.npz", x=frames.x[:CALIBRATION_COUNT])
    np.savez(recipe / "evaluation.npz", x=frames.x, y=frames.y)
    classes = len(network.weights[f"{network.layers[-2].name}.bias"])
    (recipe / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    return recipe


def _pack(folder: Path, name: str, built: Path, variant: str, frames: Floats) -> ServedModel:
    path = folder / f"{name}-{variant}.bundle"
    manifest = build_bundle(built, 1, path, variant)
    bundle = Bundle.open(path)
    payload = folder / f"{name}-{variant}.tflite"
    payload.write_bytes(bundle.read(manifest.payload))
    profile = Profile.decode(bundle.read(manifest.profile))
    spec = manifest.inputs[0]
    if spec.datatype == "INT8":
        stored = np.rint(frames / np.float32(spec.scale)) + np.float32(spec.zero_point)
        frames = np.clip(stored, -128, 127).astype(np.int8)
    return ServedModel(f"{name} {variant}", Packed(path, file_digest(path)[0], manifest, payload, profile), frames)


def digest_of(model: ServedModel) -> str:
    """Return a short digest of the payload: who gets the same figures has measured the same model."""
    return hashlib.sha256(model.packed.payload.read_bytes()).hexdigest()[:12]


RECIPE = """\
[model]
name = "{name}"
source = "model.onnx"
task = "classification"
labels = "labels.txt"

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"

{variants}

[gate]
max_accuracy_drop = 1.0
min_agreement = 0.0
"""
