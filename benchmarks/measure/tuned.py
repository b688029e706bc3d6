"""A MobileNetV2 that is trained, then trained on: its head only, all of it; and another that begins elsewhere.

Everything is done for real and small: frames of 16 x 16, cross-entropy by Adam in NumPy, and our own int8 quantizer,
which calibrates each model on frames of its own, as a build does.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsops.bundle import describe_blobs, encode_bundle
from dsops.manifest import Manifest
from dsops_controller.build.conversion.convert import read_model
from dsops_controller.build.data import DataSet
from dsops_controller.build.golden import choose_golden
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.profile import build_profile
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from measure.fitted import frames
from measure.networks import Floats, Network, mobilenet_v2, with_softmax
from measure.onnx_file import to_onnx
from measure.training import Schedule, forward, train

CLASSES = 10
FIRST = 0.35
"""Share of the frames that the first training has, and others after it as many."""
SEEN = 3000
"""How many frames a training sees at least, if need be several times."""
TRAINING, TUNING = 1e-3, 3e-4
"""Adam's rate at first."""
HELD_OUT = 300


@dataclass(frozen=True)
class Release:
    """A quantized model, alone and as a bundle, and how often the float model is right on held-out frames."""

    name: str
    payload: bytes
    data: bytes
    accuracy: float


@dataclass(frozen=True)
class _Frames:
    x: Floats
    y: NDArray[np.int64]

    def part(self, begin: float, end: float) -> "_Frames":
        rows = slice(round(begin * len(self.x)), round(end * len(self.x)))
        return _Frames(self.x[rows], self.y[rows])


def releases(folder: Path, seed: int) -> Iterator[Release]:
    """Yield the release that is installed, then its three successors."""
    _, x, y = frames()
    order = np.random.default_rng(seed).permutation(len(x))
    every = _Frames(np.repeat(x[order], 3, axis=-1), y[order])
    first, later = every.part(0, FIRST), every.part(FIRST, 2 * FIRST)
    held_out = _Frames(every.x[-HELD_OUT:], every.y[-HELD_OUT:])
    base = _trained(mobilenet_v2(seed, x.shape[1], CLASSES), first, TRAINING, seed)
    yield _release(folder, "base", base, 1, first, held_out)
    yield _release(folder, "head only", _trained(base, later, TUNING, seed, only="dense"), 2, later, held_out)
    yield _release(folder, "fine-tuned", _trained(base, later, TUNING, seed), 2, later, held_out)
    other = _trained(mobilenet_v2(seed + 1, x.shape[1], CLASSES), later, TRAINING, seed + 1)
    yield _release(folder, "unrelated", other, 2, later, held_out)


def _trained(network: Network, data: _Frames, rate: float, seed: int, only: str = "") -> Network:
    """Return a network after training; with ``only``, other weights than those whose names begin so stay."""
    tuned = copy.deepcopy(network)
    epochs = max(1, round(SEEN / len(data.x)))
    train(tuned, data.x, data.y, Schedule(epochs, rate), seed, only)
    return tuned


def _release(
    folder: Path, name: str, network: Network, number: int, calibration: _Frames, held_out: _Frames
) -> Release:
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(with_softmax(network)))
    real = read_model(path)
    (spec,) = LitertModel(real).inputs
    payload = quantize(real, QuantMode.INT8, DataSet({spec.name: calibration.x[:100]})).data
    model = LitertModel(payload)
    meaning = Meaning(labels=tuple(map(str, range(CLASSES))))
    data = DataSet({spec.name: held_out.x}, held_out.y)
    blobs = {
        "model.tflite": payload,
        "golden.bin": choose_golden(payload, data, meaning, 8).encode(),
        "profile.json": build_profile(payload, data, meaning).encode(),
    }
    manifest = Manifest(
        model="mobilenet", release=number, labels=meaning.labels, inputs=model.inputs, outputs=model.outputs,
        blobs=describe_blobs(blobs),
    )  # fmt: skip
    scores, _ = forward(network, held_out.x)
    accuracy = float((scores.argmax(axis=1) == held_out.y).mean())
    return Release(name, payload, encode_bundle(manifest, blobs), accuracy)
