"""Real frames, the real int8 model that answers them, and the signals of both: what streams for drift are drawn from.

Two sources: the 10,000 test images of MNIST, with a profile of 2,000, and scikit-learn's 1,797 digits, with one of 500.
"""

import gzip
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsops import signals
from dsops.manifest import Task
from dsops.profile import Profile
from dsops_agent.runtime.observe import SLICE_FRAMES
from dsops_controller.build.conversion.convert import read_model
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.profile import build_profile
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.demo.digits import splits
from measure.interpreter import BareInterpreter
from measure.model import SEED, make_bundle
from measure.networks import Drawing, Network, with_softmax
from measure.onnx_file import to_onnx
from measure.shifts import CHANGES, Images, Labels
from measure.training import Schedule, train

DATA = Path(__file__).parents[1] / "data"
TRAINED, REFERENCE = 3000, 2000
EPOCHS, RATE = 12, 4e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What a detector may look at of some frames: signals by name [N], scores [N, 10]."""

    signals: Mapping[str, Floats]
    scores: NDArray[np.float32]

    @cached_property
    def columns(self) -> Floats:
        """The signals as columns [N, S]."""
        return np.stack(list(self.signals.values()), axis=1)


@dataclass(frozen=True)
class Camera:
    """A source of frames.

    Attributes:
        profile: Of the reference.
        reference: The frames of the profile.
        clean: Other frames from the same source, labelled ``y``.
        changed: The same frames after each change.
    """

    name: str
    profile: Profile
    reference: Seen
    clean: Seen
    y: Labels
    changed: Mapping[str, Seen]
    accuracy: float


def mnist() -> Camera:
    """Train a small network on 3,000 images, quantize it, and measure the rest."""
    x, y = _read_mnist()
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = x[order], y[order]
    network = _network()
    train(network, x[:TRAINED], y[:TRAINED], Schedule(EPOCHS, RATE), SEED)
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        path = Path(name) / "model.onnx"
        path.write_bytes(to_onnx(with_softmax(network)))
        real = read_model(path)
        (spec,) = LitertModel(real).inputs
        payload = quantize(real, QuantMode.INT8, DataSet({spec.name: x[:200]})).data
        model_file = Path(name) / "model.tflite"
        model_file.write_bytes(payload)
        model = BareInterpreter(model_file)
    reference = slice(TRAINED, TRAINED + REFERENCE)
    meaning = Meaning(labels=tuple(map(str, range(10))))
    profile = build_profile(payload, DataSet({spec.name: x[reference]}, y[reference]), meaning)
    return _camera("MNIST", profile, model, x[reference], x[TRAINED + REFERENCE :], y[TRAINED + REFERENCE :])


def digits() -> Camera:
    """Return the demonstration's digits; its clean frames are those of the profile and as many others.

    The 500 others shown again and again would be a distribution of their own, which is not quite that of the profile.
    """
    parts = splits(SEED)
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        bundle = make_bundle(Path(name))
        model = BareInterpreter(bundle.payload)
    held_out = parts.held_out
    return _camera("digits", bundle.profile, model, parts.reference.x, held_out.x, held_out.y)


def see(model: BareInterpreter, x: Images) -> Seen:
    """Run the model and measure every signal, in groups as a device does under load."""
    scores = model.run(x)
    found: dict[str, list[float]] = {}
    for start in range(0, len(x), SLICE_FRAMES):
        rows = slice(start, start + SLICE_FRAMES)
        for name, values in signals.measure(Task.CLASSIFICATION, [(0, x[rows])], scores[rows], scores[rows]).items():
            found.setdefault(name, []).extend(values)
    return Seen({name: np.array(values) for name, values in found.items()}, scores)


def _camera(name: str, profile: Profile, model: BareInterpreter, reference: Images, x: Images, y: Labels) -> Camera:
    rng = np.random.default_rng(SEED)
    clean = see(model, x)
    changed = {kind: see(model, change(x, rng)) for kind, change in CHANGES.items()}
    accuracy = float((clean.scores.argmax(axis=1) == y).mean())
    return Camera(name, profile, see(model, reference), clean, y, changed, accuracy)


def _network() -> Network:
    draw = Drawing("mnist", 1, 28, SEED)
    value = "input"
    for depth in (8, 16, 24):
        value = draw.plain("relu6", draw.conv(value, depth, 3, 2))
    value = draw.plain("relu6", draw.conv(value, 48, 7, 4))  # over all of the 4 x 4 that are left
    draw.dense(draw.plain("mean", value), 10)
    return draw.network


def _read_mnist() -> tuple[Images, Labels]:
    """Return the images float32 [10000, 28, 28, 1] in 0..1 and their labels (IDX format of the MNIST page)."""
    images = np.frombuffer(gzip.decompress((DATA / "t10k-images.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((DATA / "t10k-labels.gz").read_bytes()), np.uint8, offset=8)
    return (images.reshape(-1, 28, 28, 1) / 255.0).astype(np.float32), labels.astype(np.int64)
