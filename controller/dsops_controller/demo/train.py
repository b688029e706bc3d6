"""Trains the demonstration's network in NumPy and writes it as ONNX.

The network: 3x3 convolution, ReLU, 2x2 max-pooling, 3x3 convolution, ReLU, dense layer, softmax; 26 kB of weights.
Arrays are [N, height, width, channels] here; the ONNX file has [N, channels, height, width], as ONNX wants it.
"""

from dataclasses import astuple, dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from dsops_controller.demo.digits import Images, Labelled

Floats = NDArray[np.float32]

SIDE = 8
CLASSES = 10
FILTERS_1 = 12
FILTERS_2 = 24
KERNEL = 3
LEARNING_RATE = 3e-3
BATCH = 64
EPOCHS = 40


@dataclass(frozen=True)
class Weights:
    """What was learned; a convolution's weights are [9 * channels in, channels out], a row a tap of a channel."""

    conv1: Floats
    bias1: Floats
    conv2: Floats
    bias2: Floats
    dense: Floats
    bias3: Floats


@dataclass(frozen=True)
class _Pass:
    """What a forward pass leaves for the backward pass."""

    patches1: Floats
    active1: Floats
    pooled: Floats
    patches2: Floats
    active2: Floats
    scores: Floats


def train(data: Labelled, seed: int, epochs: int = EPOCHS) -> Weights:
    """Train on ``data`` by Adam (Kingma and Ba, ICLR 2015); the same arguments give the same weights.

    One BLAS thread is used: products this small lose ten times more to threads than they gain.
    """
    rng = np.random.default_rng(seed)
    weights = list(astuple(_initial(rng)))
    adam = _Adam(weights)
    with threadpool_limits(limits=1):
        for _ in range(epochs):
            order = rng.permutation(len(data))
            for rows in np.array_split(order, max(1, len(data) // BATCH)):
                batch = data.take(rows)
                adam.step(weights, _gradients(Weights(*weights), batch))
    return Weights(*weights)


def probabilities(weights: Weights, x: Images) -> Floats:
    """Return the scores float32 [N, 10] of frames float32 [N, 8, 8, 1]."""
    return _softmax(_forward(weights, x).scores)


def accuracy(weights: Weights, data: Labelled) -> float:
    """Return the share of frames whose highest score is their label's."""
    return float((_forward(weights, data.x).scores.argmax(axis=1) == data.y).mean())


def to_onnx(weights: Weights) -> bytes:
    """Return the network as an ONNX model: ``image`` float32 [1, 1, 8, 8] -> ``scores`` float32 [1, 10]."""
    nodes = [
        helper.make_node("Conv", ["image", "conv1", "bias1"], ["c1"], name="conv1", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "conv2", "bias2"], ["c2"], name="conv2", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Flatten", ["r2"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "dense", "bias3"], ["logits"], name="dense"),
        helper.make_node("Softmax", ["logits"], ["scores"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in _onnx_weights(weights).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _onnx_weights(weights: Weights) -> dict[str, Floats]:
    half = SIDE // 2
    dense = weights.dense.reshape(half, half, FILTERS_2, CLASSES).transpose(2, 0, 1, 3)
    return {
        "conv1": _oihw(weights.conv1),
        "bias1": weights.bias1,
        "conv2": _oihw(weights.conv2),
        "bias2": weights.bias2,
        "dense": np.ascontiguousarray(dense.reshape(-1, CLASSES)),
        "bias3": weights.bias3,
    }


def _oihw(conv: Floats) -> Floats:
    taps = conv.reshape(KERNEL, KERNEL, -1, conv.shape[1])
    return np.ascontiguousarray(taps.transpose(3, 2, 0, 1), np.float32)


def _initial(rng: np.random.Generator) -> Weights:
    """Draw weights whose scale keeps a ReLU network's variance (He et al., ICCV 2015)."""

    def draw(inputs: int, outputs: int) -> Floats:
        return np.asarray(rng.standard_normal((inputs, outputs)) * np.sqrt(2.0 / inputs), np.float32)

    taps = KERNEL * KERNEL
    return Weights(
        conv1=draw(taps, FILTERS_1),
        bias1=np.zeros(FILTERS_1, np.float32),
        conv2=draw(taps * FILTERS_1, FILTERS_2),
        bias2=np.zeros(FILTERS_2, np.float32),
        dense=draw((SIDE // 2) ** 2 * FILTERS_2, CLASSES),
        bias3=np.zeros(CLASSES, np.float32),
    )


def _forward(weights: Weights, x: Images) -> _Pass:
    patches1 = _patches(x)
    active1 = np.maximum(patches1 @ weights.conv1 + weights.bias1, 0.0)
    pooled = _blocks(active1).max(axis=(2, 4))
    patches2 = _patches(pooled)
    active2 = np.maximum(patches2 @ weights.conv2 + weights.bias2, 0.0)
    scores = active2.reshape(len(x), -1) @ weights.dense + weights.bias3
    return _Pass(patches1, active1, pooled, patches2, active2, scores)


def _gradients(weights: Weights, batch: Labelled) -> list[Floats]:
    """Return the gradient of the mean cross-entropy by each weight, in the order of :class:`Weights`."""
    seen = _forward(weights, batch.x)
    error = _softmax(seen.scores)
    error[np.arange(len(batch)), batch.y] -= 1.0
    error /= len(batch)
    flat = seen.active2.reshape(len(batch), -1)
    error2 = (error @ weights.dense.T).reshape(seen.active2.shape) * (seen.active2 > 0.0)
    pool_error = _patches_back(np.asarray(error2 @ weights.conv2.T, np.float32))
    error1 = _pool_back(pool_error, seen) * (seen.active1 > 0.0)
    return [
        *_weight_gradient(seen.patches1, error1),
        *_weight_gradient(seen.patches2, error2),
        *_weight_gradient(flat, error),
    ]


def _weight_gradient(inputs: Floats, error: Floats) -> tuple[Floats, Floats]:
    rows, errors = inputs.reshape(-1, inputs.shape[-1]), error.reshape(-1, error.shape[-1])
    return rows.T @ errors, errors.sum(axis=0)


def _patches(x: Floats) -> Floats:
    """Return the zero-padded 3x3 neighbourhood of each pixel: [N, H, W, C] -> [N, H, W, 9 * C]."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + height, j : j + width] for i in range(KERNEL) for j in range(KERNEL)]
    return np.concatenate(taps, axis=-1)


def _patches_back(error: Floats) -> Floats:
    """Return what :func:`_patches` passes back: each pixel collects the errors of the nine patches that it is in."""
    count, height, width, depth = error.shape
    taps = error.reshape(count, height, width, KERNEL, KERNEL, depth // KERNEL**2)
    padded = np.zeros((count, height + 2, width + 2, taps.shape[-1]), np.float32)
    for i in range(KERNEL):
        for j in range(KERNEL):
            padded[:, i : i + height, j : j + width] += taps[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1]


def _blocks(x: Floats) -> Floats:
    count, height, width, depth = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, depth)


def _pool_back(error: Floats, seen: _Pass) -> Floats:
    """Send each pool's error to its largest inputs (equal ones are zeros, which the ReLU stops)."""
    largest = _blocks(seen.active1) == seen.pooled[:, :, None, :, None]
    return np.asarray((error[:, :, None, :, None] * largest).reshape(seen.active1.shape), np.float32)


def _softmax(scores: Floats) -> Floats:
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


class _Adam:
    """Adam's moments; ``step`` changes the weights in place."""

    def __init__(self, weights: list[Floats], beta1: float = 0.9, beta2: float = 0.999) -> None:
        self._beta1, self._beta2 = beta1, beta2
        self._first = [np.zeros_like(w) for w in weights]
        self._second = [np.zeros_like(w) for w in weights]
        self._steps = 0

    def step(self, weights: list[Floats], gradients: list[Floats]) -> None:
        self._steps += 1
        correct1, correct2 = 1.0 - self._beta1**self._steps, 1.0 - self._beta2**self._steps
        for weight, gradient, first, second in zip(weights, gradients, self._first, self._second, strict=True):
            np.add(first, (1.0 - self._beta1) * (gradient - first), out=first)
            np.add(second, (1.0 - self._beta2) * (gradient**2 - second), out=second)
            change = LEARNING_RATE * (first / correct1) / (np.sqrt(second / correct2) + 1e-8)
            np.subtract(weight, change, out=weight)
