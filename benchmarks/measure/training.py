"""Trains a small network's plan in NumPy: cross-entropy by Adam, gradients layer by layer.

Values are [N, height, width, channels]; pooling and plain ReLU are not needed here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from measure.networks import Floats, Layer, Network

Labels = NDArray[np.int64]
Back = Callable[[Floats], tuple[list[Floats], dict[str, Floats]]]
"""From the gradient by a layer's output to those by its inputs, and by its weights."""

BATCH = 64


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast at first; the rate falls to zero along half a cosine (Loshchilov, ICLR 2017)."""

    epochs: int
    rate: float


def train(network: Network, x: Floats, y: Labels, schedule: Schedule, seed: int, only: str = "") -> None:
    """Change the weights of ``network`` to those that are learned from frames [N, H, W, C] and labels [N].

    Weights whose names do not begin with ``only`` stay as they are.
    """
    rng = np.random.default_rng(seed)
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in network.weights.items()}
    steps = schedule.epochs * max(1, len(x) // BATCH)
    done = 0
    with threadpool_limits(limits=1):
        for _ in range(schedule.epochs):
            for rows in np.array_split(rng.permutation(len(x)), max(1, len(x) // BATCH)):
                done += 1
                rate = schedule.rate * 0.5 * (1.0 + np.cos(np.pi * done / (steps + 1)))
                found = gradients(network, x[rows], y[rows])
                _adam(network, {n: g for n, g in found.items() if n.startswith(only)}, moments, done, rate)


def forward(network: Network, x: Floats) -> tuple[Floats, list[Back]]:
    """Return the last layer's output, and for each layer what its backward pass needs."""
    values: dict[str, Floats] = {"input": x}
    backs = []
    for layer in network.layers:
        made, back = _LAYERS[layer.op](network, layer, [values[name] for name in layer.inputs])
        values[layer.name] = made
        backs.append(back)
    return values[network.layers[-1].name], backs


def gradients(network: Network, x: Floats, y: Labels) -> dict[str, Floats]:
    """Return the gradient of the mean cross-entropy by each weight."""
    scores, backs = forward(network, x)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = powers / powers.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1.0
    found: dict[str, Floats] = {}
    errors: dict[str, Floats] = {network.layers[-1].name: error / len(y)}
    for layer, back in zip(reversed(network.layers), reversed(backs), strict=True):
        given, of_weights = back(errors.pop(layer.name))
        found |= of_weights
        for name, part in zip(layer.inputs, given, strict=True):
            errors[name] = errors[name] + part if name in errors else part
    return found


def _adam(
    network: Network,
    found: dict[str, Floats],
    moments: dict[str, tuple[Floats, Floats]],
    step: int,
    rate: float,
) -> None:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1); changes weights and moments in place."""
    for name, gradient in found.items():
        first, second = moments[name]
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        scaled = first / (1.0 - 0.9**step) / (np.sqrt(second / (1.0 - 0.999**step)) + 1e-8)
        network.weights[name] -= (rate * scaled).astype(np.float32)


def _conv(network: Network, layer: Layer, inputs: list[Floats]) -> tuple[Floats, Back]:
    return (_depthwise if layer.groups > 1 else _dense_conv)(network, layer, inputs[0])


def _windows(x: Floats, layer: Layer) -> tuple[Floats, list[Floats]]:
    """Return the padded input and, for each place of the kernel, a view [N, h, w, C] of what lies under it."""
    padded = np.pad(x, ((0, 0), (layer.pad,) * 2, (layer.pad,) * 2, (0, 0)))
    return padded, _views(padded, layer)


def _views(padded: Floats, layer: Layer) -> list[Floats]:
    size = (padded.shape[1] - layer.kernel) // layer.stride + 1
    span = (size - 1) * layer.stride + 1
    places = [(i, j) for i in range(layer.kernel) for j in range(layer.kernel)]
    return [padded[:, i : i + span : layer.stride, j : j + span : layer.stride] for i, j in places]


def _unpadded(padded: Floats, layer: Layer) -> Floats:
    inner = slice(layer.pad, padded.shape[1] - layer.pad)
    return padded[:, inner, inner]


def _dense_conv(network: Network, layer: Layer, x: Floats) -> tuple[Floats, Back]:
    weight = network.weights[f"{layer.name}.weight"]
    kernel = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
    padded, views = _windows(x, layer)
    patches = np.concatenate(views, axis=-1)

    def back(error: Floats) -> tuple[list[Floats], dict[str, Floats]]:
        of_kernel = patches.reshape(-1, len(kernel)).T @ error.reshape(-1, error.shape[-1])
        spread = np.zeros_like(padded)
        parts = np.split(error @ kernel.T, layer.kernel**2, axis=-1)
        for view, part in zip(_views(spread, layer), parts, strict=True):
            np.add(view, part, out=view)
        shape = (layer.kernel, layer.kernel, weight.shape[1], len(weight))
        return [_unpadded(spread, layer)], _named(layer, of_kernel.reshape(shape).transpose(3, 2, 0, 1), error)

    return patches @ kernel + network.weights[f"{layer.name}.bias"], back


def _depthwise(network: Network, layer: Layer, x: Floats) -> tuple[Floats, Back]:
    taps = network.weights[f"{layer.name}.weight"].reshape(layer.groups, -1).T
    padded, views = _windows(x, layer)
    summed = np.zeros_like(views[0])
    for view, tap in zip(views, taps, strict=True):
        summed += view * tap

    def back(error: Floats) -> tuple[list[Floats], dict[str, Floats]]:
        of_taps = np.stack([np.einsum("nhwc,nhwc->c", view, error) for view in views], axis=1)
        spread = np.zeros_like(padded)
        for view, tap in zip(_views(spread, layer), taps, strict=True):
            np.add(view, error * tap, out=view)
        shape = (layer.groups, 1, layer.kernel, layer.kernel)
        return [_unpadded(spread, layer)], _named(layer, of_taps.reshape(shape), error)

    return summed + network.weights[f"{layer.name}.bias"], back


def _dense(network: Network, layer: Layer, inputs: list[Floats]) -> tuple[Floats, Back]:
    weight = network.weights[f"{layer.name}.weight"]

    def back(error: Floats) -> tuple[list[Floats], dict[str, Floats]]:
        return [error @ weight.T], _named(layer, inputs[0].T @ error, error)

    return inputs[0] @ weight + network.weights[f"{layer.name}.bias"], back


def _relu6(network: Network, layer: Layer, inputs: list[Floats]) -> tuple[Floats, Back]:
    x = inputs[0]
    return np.clip(x, 0.0, 6.0), lambda error: ([error * ((x > 0.0) & (x < 6.0))], {})


def _add(network: Network, layer: Layer, inputs: list[Floats]) -> tuple[Floats, Back]:
    return inputs[0] + inputs[1], lambda error: ([error, error], {})


def _mean(network: Network, layer: Layer, inputs: list[Floats]) -> tuple[Floats, Back]:
    shape = inputs[0].shape
    area = shape[1] * shape[2]
    return inputs[0].mean(axis=(1, 2)), lambda error: ([np.broadcast_to(error[:, None, None] / area, shape)], {})


def _named(layer: Layer, of_weight: Floats, error: Floats) -> dict[str, Floats]:
    of_bias = error.reshape(-1, error.shape[-1]).sum(axis=0)
    return {f"{layer.name}.weight": of_weight, f"{layer.name}.bias": of_bias}


_LAYERS = {"conv": _conv, "dense": _dense, "relu6": _relu6, "add": _add, "mean": _mean}
