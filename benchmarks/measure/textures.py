"""Frames for networks with drawn weights: textures of ten kinds, and a last layer that tells them apart.

So the large networks classify as trained ones do, with clear and unclear frames, though nobody has trained them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.litert import LitertModel
from measure.networks import Floats, Network
from measure.onnx_file import to_onnx

KINDS = 10
CELLS = 8
VARIATION = 0.35
"""How far a frame's field is from that of its kind, where the fields of two kinds are about 0.8 apart."""
NOISE = 0.05
SHARPNESS = 12.0
"""Score of the right label over that of the others."""


@dataclass(frozen=True)
class Textures:
    """Frames [N, side, side, 3] in -1..1, and each one's kind."""

    x: Floats
    y: NDArray[np.int64]


def textures(count: int, side: int, seed: int) -> Textures:
    """Return smooth random fields with some noise; frames of a kind are alike."""
    rng = np.random.default_rng(seed)
    kinds = rng.uniform(-1.0, 1.0, (KINDS, CELLS, CELLS, 3)).astype(np.float32)
    y = np.arange(count, dtype=np.int64) % KINDS
    coarse = kinds[y] + rng.normal(0.0, VARIATION, (count, CELLS, CELLS, 3)).astype(np.float32)
    smooth = _enlarged(_enlarged(coarse, side).swapaxes(1, 2), side).swapaxes(1, 2)
    smooth += rng.standard_normal(smooth.shape, np.float32) * np.float32(NOISE)
    return Textures(np.clip(smooth, -1.0, 1.0), y)


def fit_head(network: Network, frames: Textures) -> None:
    """Change the last layer so that the first ten labels are the kinds; ridge regression on half of the frames."""
    last = network.layers[-1].name
    trunk = Network("trunk", network.channels, network.side, network.layers[:-1], dict(network.weights))
    weight, bias = (trunk.weights.pop(f"{last}.{part}") for part in ("weight", "bias"))
    known = slice(0, len(frames.x) // 2)
    features = LitertModel(convert_onnx(to_onnx(trunk))).run(frames.x[known])
    middle = features.mean(axis=0)
    centred = features - middle
    wanted = SHARPNESS * (np.eye(KINDS, dtype=np.float32)[frames.y[known]] - 1.0 / KINDS)
    gram = centred @ centred.T
    ridge = 0.01 * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=np.float32)
    weight[:, :KINDS] = centred.T @ np.linalg.solve(gram + ridge, wanted)
    weight[:, KINDS:] *= 0.1
    bias[:KINDS] = -middle @ weight[:, :KINDS]
    bias[KINDS:] = -SHARPNESS / 2
    network.weights |= {f"{last}.weight": weight.astype(np.float32), f"{last}.bias": bias.astype(np.float32)}


def _enlarged(fields: Floats, side: int) -> Floats:
    """Stretch the second axis to ``side``, linearly."""
    steps = np.linspace(0.0, fields.shape[1] - 1, side)
    low = np.minimum(steps.astype(np.intp), fields.shape[1] - 2)
    part = (steps - low).astype(np.float32)[:, None, None]
    return np.asarray(fields[:, low] * (1.0 - part) + fields[:, low + 1] * part, np.float32)
