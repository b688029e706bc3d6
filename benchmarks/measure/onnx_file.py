"""Writes a network's plan as an ONNX file, as frameworks export it: opset 17, NCHW, batch norms folded or not."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from measure.networks import Floats, Layer, Network

EPSILON = 1e-5
OPSET, IR_VERSION = 17, 9
PLAIN_OPS = {"relu": "Relu", "add": "Add", "mean": "GlobalAveragePool", "flatten": "Flatten", "softmax": "Softmax"}


class _Writing:
    def __init__(self, network: Network, seed: int | None) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.rng = None if seed is None else np.random.default_rng(seed)

    def put(self, name: str, array: NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: int | list[int] | float) -> None:
        node = helper.make_node(op, inputs, [output], name=f"/{output}")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)

    def layer(self, layer: Layer) -> None:
        window = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": [layer.pad] * 4}
        match layer.op:
            case "conv":
                self.conv(layer, {**window, "group": layer.groups})
            case "relu6":
                limits = [self.put(f"{layer.name}.{end}", np.array(end, np.float32)) for end in (0, 6)]
                self.node("Clip", [*layer.inputs, *limits], layer.name)
            case "maxpool":
                self.node("MaxPool", [*layer.inputs], layer.name, **window)
            case "mean":
                self.node("GlobalAveragePool", [*layer.inputs], f"{layer.name}.hw")
                self.node("Flatten", [f"{layer.name}.hw"], layer.name)
            case "dense":
                self.node("Gemm", [*layer.inputs, *self.weights(layer)], layer.name)
            case _:
                self.node(PLAIN_OPS[layer.op], [*layer.inputs], layer.name)

    def weights(self, layer: Layer) -> list[str]:
        names = [f"{layer.name}.weight", f"{layer.name}.bias"]
        return [self.put(name, self.network.weights[name]) for name in names]

    def conv(self, layer: Layer, attributes: dict[str, int | list[int]]) -> None:
        if self.rng is None:
            self.node("Conv", [*layer.inputs, *self.weights(layer)], layer.name, **attributes)
            return
        raw = f"{layer.name}.raw"
        weight, statistics = _unfold(self.network, layer.name, self.rng)
        self.node("Conv", [*layer.inputs, self.put(f"{layer.name}.weight", weight)], raw, **attributes)
        names = [self.put(f"{layer.name}.{name}", array) for name, array in statistics.items()]
        self.node("BatchNormalization", [raw, *names], layer.name, epsilon=EPSILON)


def to_onnx(network: Network, batch_norm_seed: int | None = None) -> bytes:
    """Return a network as ONNX: ``image`` float32 [1, C, side, side] -> ``scores`` float32 [1, classes].

    Args:
        network: The plan and its weights.
        batch_norm_seed: Draws statistics for a batch norm behind each convolution, whose weights change so that the
            network computes the same; None leaves the batch norms folded.
    """
    writing = _Writing(network, batch_norm_seed)
    for layer in network.layers:
        writing.layer(layer)
    classes = len(network.weights[next(name for name in reversed(network.weights) if name.endswith(".bias"))])
    graph = helper.make_graph(
        _renamed(writing.nodes, {"input": "image", network.layers[-1].name: "scores"}),
        network.name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, network.channels, network.side, network.side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])],
        writing.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _renamed(nodes: list[onnx.NodeProto], names: dict[str, str]) -> list[onnx.NodeProto]:
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    return nodes


def _unfold(network: Network, name: str, rng: np.random.Generator) -> tuple[Floats, dict[str, Floats]]:
    """Return weights without a bias, and the batch norm that makes up for them."""
    weight, bias = network.weights[f"{name}.weight"], network.weights[f"{name}.bias"]
    scale, variance = rng.uniform(0.5, 1.5, len(bias)), rng.uniform(0.3, 3.0, len(bias))
    mean = rng.normal(0.0, 0.3, len(bias))
    factor = scale / np.sqrt(variance + EPSILON)
    statistics = {"scale": scale, "shift": bias + mean * factor, "mean": mean, "variance": variance}
    raw = weight / factor.reshape(-1, 1, 1, 1)
    return raw.astype(np.float32), {key: value.astype(np.float32) for key, value in statistics.items()}
