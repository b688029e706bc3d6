"""Networks that read real digits, for accuracy, trained in NumPy.

The frames of the second are MNIST's test images, halved in size, when ``DSOPS_MNIST`` names a folder with
``t10k-images.gz`` and ``t10k-labels.gz`` (the IDX files, compressed), and scikit-learn's digits when it does not.
"""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dsops.errors import InvalidInput
from dsops_controller.demo.digits import splits
from dsops_controller.demo.train import CLASSES, FILTERS_1, FILTERS_2, KERNEL, SIDE, Weights, train
from measure.networks import Floats, Layer, Network, mobilenet_small
from measure.training import Schedule
from measure.training import train as train_plan

CALIBRATION_COUNT = 200
TRAIN_SHARE = 0.6
SCHEDULES = {"digits": Schedule(20, 5e-3), "MNIST": Schedule(3, 5e-3)}


@dataclass(frozen=True)
class Fitted:
    """A network with learned weights, frames [N, H, W, C] to calibrate on, and held-out ones with their labels."""

    network: Network
    data: str
    calibration: Floats
    x: Floats
    y: NDArray[np.int64]


def digits_network(seed: int) -> Fitted:
    """Return the demonstration's convolutional network, trained."""
    data = splits(seed)
    weights = train(data.train, seed)
    held_out = data.held_out
    return Fitted(_plan(weights), "digits", data.calibration.x, held_out.x, held_out.y)


def mobilenet_network(seed: int) -> Fitted:
    """Return a network of inverted residuals, trained."""
    data, x, y = frames()
    order = np.random.default_rng(seed).permutation(len(x))
    fit, held_out = np.split(order, [round(TRAIN_SHARE * len(x))])
    network = mobilenet_small(seed, x.shape[1])
    train_plan(network, x[fit], y[fit], SCHEDULES[data], seed)
    return Fitted(network, data, x[fit[:CALIBRATION_COUNT]], x[held_out], y[held_out])


def frames() -> tuple[str, Floats, NDArray[np.int64]]:
    """Return the data's name, frames [N, side, side, 1] in 0..1 and labels."""
    named = os.environ.get("DSOPS_MNIST")
    if named is None:
        bunch = load_digits()
        return "digits", (bunch.images / 16.0).astype(np.float32)[..., None], bunch.target.astype(np.int64)
    images, labels = (
        _read_idx(Path(named) / f"t10k-{name}.gz", skip) for name, skip in (("images", 16), ("labels", 8))
    )
    halved = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255.0
    return "MNIST", np.pad(halved, ((0, 0), (1, 1), (1, 1))).astype(np.float32)[..., None], labels.astype(np.int64)


def _read_idx(path: Path, header_bytes: int) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error), hint="unset DSOPS_MNIST to do without") from error


def _plan(weights: Weights) -> Network:
    """Return the demonstration's network as a plan."""
    half = SIDE // 2
    dense = weights.dense.reshape(half, half, FILTERS_2, CLASSES).transpose(2, 0, 1, 3)
    layers = [
        Layer("conv", "conv1", ("input",), KERNEL, 1, 1),
        Layer("relu", "relu1", ("conv1",)),
        Layer("maxpool", "pool1", ("relu1",), 2, 2),
        Layer("conv", "conv2", ("pool1",), KERNEL, 1, 1),
        Layer("relu", "relu2", ("conv2",)),
        Layer("flatten", "flat", ("relu2",)),
        Layer("dense", "logits", ("flat",)),
        Layer("softmax", "scores", ("logits",)),
    ]
    arrays = {
        "conv1.weight": _oihw(weights.conv1, FILTERS_1),
        "conv1.bias": weights.bias1,
        "conv2.weight": _oihw(weights.conv2, FILTERS_2),
        "conv2.bias": weights.bias2,
        "logits.weight": dense.reshape(-1, CLASSES),
        "logits.bias": weights.bias3,
    }
    return Network("digits", 1, SIDE, layers, arrays)


def _oihw(conv: Floats, depth: int) -> Floats:
    return conv.reshape(KERNEL, KERNEL, -1, depth).transpose(3, 2, 0, 1)
