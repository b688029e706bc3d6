"""Networks for the build benchmark, as plans that become the same network in ONNX and in Keras.

The weights are drawn by a seed and scaled so that signals neither die nor explode: what a build costs depends on
shapes, not on what was learned. Where accuracy matters, the last layer is fitted or the weights are given.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Op = Literal["conv", "relu", "relu6", "add", "maxpool", "mean", "flatten", "dense", "softmax"]

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2, table 2 (Sandler et al., CVPR 2018): expansion, channels, repeats, stride of the first."""
SMALL_STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2))
"""The same for frames of 8 x 8 or 16 x 16."""
RESIDUAL_GAIN = 0.5
"""Scale of what a residual branch adds: trained networks keep these branches small, so sums do not explode."""


@dataclass(frozen=True)
class Layer:
    """One layer: its operator, the names of its inputs, and for windows their size, stride, padding and groups."""

    op: Op
    name: str
    inputs: tuple[str, ...]
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    groups: int = 1


@dataclass
class Network:
    """A network of one input [channels, side, side] and one output, the last layer's.

    A convolution's weights are ``<name>.weight`` [out, in / groups, k, k] and ``<name>.bias``; a dense layer's are
    [in, out].
    """

    name: str
    channels: int
    side: int
    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, Floats] = field(default_factory=dict)

    def plan(self) -> str:
        """Return everything but the weights as JSON."""
        layers = [asdict(layer) for layer in self.layers]
        return json.dumps({"name": self.name, "channels": self.channels, "side": self.side, "layers": layers})


class Drawing:
    """Draws a network layer by layer; every method returns the new layer's name."""

    def __init__(self, name: str, channels: int, side: int, seed: int) -> None:
        self.network = Network(name, channels, side)
        self._rng = np.random.default_rng(seed)
        self._depth = {"input": channels}

    def depth(self, value: str) -> int:
        """Return how many channels a layer's output has."""
        return self._depth[value]

    def plain(self, op: Op, *inputs: str, kernel: int = 1, stride: int = 1, pad: int = 0) -> str:
        """Add a layer without weights."""
        name = f"{op}{len(self.network.layers)}"
        self.network.layers.append(Layer(op, name, inputs, kernel, stride, pad))
        self._depth[name] = self.depth(inputs[0])
        return name

    def conv(
        self, value: str, depth: int, kernel: int, stride: int = 1, *, depthwise: bool = False, gain: float = 1.0
    ) -> str:
        """Add a convolution, padded so that a stride of 1 keeps the side; He's scale (ICCV 2015) times ``gain``."""
        groups = depth if depthwise else 1
        name = f"conv{len(self.network.layers)}"
        fan_in = self.depth(value) // groups * kernel**2
        per_channel = self._rng.uniform(0.7, 1.2, (depth, 1, 1, 1)) * gain * np.sqrt(2.0 / fan_in)
        weight = self._rng.standard_normal((depth, self.depth(value) // groups, kernel, kernel)) * per_channel
        self._put(name, weight, self._rng.normal(0.0, 0.1, depth))
        self.network.layers.append(Layer("conv", name, (value,), kernel, stride, kernel // 2, groups))
        self._depth[name] = depth
        return name

    def dense(self, value: str, units: int) -> str:
        """Add a dense layer."""
        name = f"dense{len(self.network.layers)}"
        weight = self._rng.standard_normal((self.depth(value), units)) * np.sqrt(1.0 / self.depth(value))
        self._put(name, weight, np.zeros(units))
        self.network.layers.append(Layer("dense", name, (value,)))
        self._depth[name] = units
        return name

    def _put(self, name: str, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        self.network.weights[f"{name}.weight"] = weight.astype(np.float32)
        self.network.weights[f"{name}.bias"] = bias.astype(np.float32)


def mobilenet_v2(seed: int, side: int = 224, classes: int = 1000) -> Network:
    """Return MobileNetV2 1.0 (Sandler et al., CVPR 2018), 3.5 million weights, batch norms folded, without softmax."""
    return _mobilenet(Drawing("mobilenet_v2", 3, side, seed), STAGES, (32, 1280), classes)


def mobilenet_small(seed: int, side: int, classes: int = 10) -> Network:
    """Return a network of MobileNetV2's blocks for small gray frames."""
    return _mobilenet(Drawing("mobilenet_small", 1, side, seed), SMALL_STAGES, (16, 128), classes)


def resnet18(seed: int, side: int = 224, classes: int = 1000) -> Network:
    """Return ResNet-18 (He et al., CVPR 2016, table 1), 11.7 million weights, batch norms folded, without softmax."""
    draw = Drawing("resnet18", 3, side, seed)
    value = draw.plain("relu", draw.conv("input", 64, 7, 2))
    value = draw.plain("maxpool", value, kernel=3, stride=2, pad=1)
    for depth, first_stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first_stride, 1):
            value = _basic_block(draw, value, depth, stride)
    draw.dense(draw.plain("mean", value), classes)
    return draw.network


def resnet8(seed: int) -> Network:
    """Return a network of the size of MLPerf Tiny's image classification: 32 x 32 x 3, three residual blocks."""
    draw = Drawing("resnet8", 3, 32, seed)
    value = draw.plain("relu", draw.conv("input", 16, 3))
    for depth, stride in ((16, 1), (32, 2), (64, 2)):
        value = _basic_block(draw, value, depth, stride)
    draw.dense(draw.plain("mean", value), 10)
    return draw.network


def keyword_spotting(seed: int) -> Network:
    """Return a network of the size of MLPerf Tiny's keyword spotting, whose 49 x 10 values are here 22 x 22."""
    draw = Drawing("kws", 1, 22, seed)
    value = draw.plain("relu", draw.conv("input", 64, 7, 2))
    for _ in range(4):
        value = draw.plain("relu", draw.conv(value, 64, 3, depthwise=True))
        value = draw.plain("relu", draw.conv(value, 64, 1))
    draw.dense(draw.plain("mean", value), 12)
    return draw.network


def visual_wake_words(seed: int) -> Network:
    """Return a network of the size of MLPerf Tiny's visual wake words: MobileNetV1 0.25 (Howard et al., 2017)."""
    draw = Drawing("vww", 3, 96, seed)
    value = draw.plain("relu6", draw.conv("input", 8, 3, 2))
    for depth, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        value = draw.plain("relu6", draw.conv(value, draw.depth(value), 3, stride, depthwise=True))
        value = draw.plain("relu6", draw.conv(value, depth, 1))
    draw.dense(draw.plain("mean", value), 10)
    return draw.network


def with_softmax(network: Network) -> Network:
    """Return the network with probabilities for scores."""
    layers = [*network.layers, Layer("softmax", "softmax", (network.layers[-1].name,))]
    return Network(network.name, network.channels, network.side, layers, network.weights)


def _mobilenet(
    draw: Drawing, stages: Sequence[tuple[int, int, int, int]], ends: tuple[int, int], classes: int
) -> Network:
    stem, last = ends
    value = draw.plain("relu6", draw.conv("input", stem, 3, 2 if draw.network.side > 32 else 1))
    for expansion, depth, repeats, first_stride in stages:
        for stride in (first_stride, *[1] * (repeats - 1)):
            value = _inverted_residual(draw, value, expansion, depth, stride)
    value = draw.plain("relu6", draw.conv(value, last, 1))
    draw.dense(draw.plain("mean", value), classes)
    return draw.network


def _inverted_residual(draw: Drawing, value: str, expansion: int, depth: int, stride: int) -> str:
    wide = draw.depth(value) * expansion
    inner = value if expansion == 1 else draw.plain("relu6", draw.conv(value, wide, 1))
    inner = draw.plain("relu6", draw.conv(inner, wide, 3, stride, depthwise=True))
    added = stride == 1 and draw.depth(value) == depth
    inner = draw.conv(inner, depth, 1, gain=RESIDUAL_GAIN if added else 1.0)
    return draw.plain("add", inner, value) if added else inner


def _basic_block(draw: Drawing, value: str, depth: int, stride: int) -> str:
    inner = draw.plain("relu", draw.conv(value, depth, 3, stride))
    inner = draw.conv(inner, depth, 3, gain=RESIDUAL_GAIN)
    same = stride == 1 and draw.depth(value) == depth
    shortcut = value if same else draw.conv(value, depth, 1, stride)
    return draw.plain("relu", draw.plain("add", inner, shortcut))
