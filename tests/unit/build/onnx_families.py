"""Small ONNX models of the families that are usual on the edge, with random weights; what tests and benchmarks convert.

``FAMILIES`` holds a function for each. A :class:`Net` builds a graph layer by layer; names count up.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Net:
    """Builds one graph. Every method takes and returns the names of tensors.

    Args:
        opset: The operator set.
        seed: Seed of the weights.
    """

    def __init__(self, opset: int = OPSET, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"k{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(self, *shape: int, fan_in: int = 1) -> str:
        return self.constant((self._rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self._rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def node(self, operator: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: object) -> str:
        number = len(self._nodes)
        names = (
            [f"t{number}" if i == 0 else f"t{number}_{i}" for i in range(outputs)]
            if isinstance(outputs, int)
            else outputs
        )
        self._nodes.append(helper.make_node(operator, list(inputs), list(names), name=f"n{number}", **attributes))
        return names[0]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def conv(self, x: str, shape: tuple[int, int, int], stride: int = 1, *, groups: int = 1, bias: bool = True) -> str:
        """Add a convolution; ``shape`` is (inputs, outputs, kernel); padded to keep the size."""
        inputs, outputs, kernel = shape
        weights = self.weights(outputs, inputs // groups, kernel, kernel, fan_in=inputs // groups * kernel * kernel)
        tail = [self.weights(outputs)] if bias else []
        pads, kernels = [kernel // 2] * 4, [kernel, kernel]
        return self.node("Conv", x, weights, *tail, pads=pads, strides=[stride] * 2, kernel_shape=kernels, group=groups)

    def norm(self, x: str, channels: int) -> str:
        statistics = [self.positive(channels), self.weights(channels), self.weights(channels), self.positive(channels)]
        return self.node("BatchNormalization", x, *statistics)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.node("Gemm", x, self.weights(outputs, inputs, fan_in=inputs), self.weights(outputs), transB=1)

    def clip6(self, x: str) -> str:
        return self.node("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def model(self, **outputs: str) -> onnx.ModelProto:
        """Return the model; the keys name its outputs."""
        for name, tensor in outputs.items():
            self.node("Identity", tensor, outputs=[name])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, "family", self._inputs, ends, self._weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=9)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(made, strict_mode=True))
        return made


def mlp() -> onnx.ModelProto:
    net = Net()
    x = net.input("features", ["batch", 12])
    x = net.node("Relu", net.dense(x, 12, 24))
    x = net.node("Add", net.node("MatMul", x, net.weights(24, 16, fan_in=24)), net.weights(16))
    return net.model(scores=net.node("Softmax", net.dense(net.node("Tanh", x), 16, 4), axis=1))


def lenet() -> onnx.ModelProto:
    net = Net()
    x = net.input("image", [1, 1, 28, 28])
    x = net.node("Relu", net.conv(x, (1, 6, 5)))
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Tanh", net.conv(x, (6, 16, 5)))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Relu", net.dense(net.node("Flatten", x), 16 * 49, 84))
    return net.model(scores=net.node("Softmax", net.dense(x, 84, 10), axis=-1))


def mobilenet_v1(size: int = 32) -> onnx.ModelProto:
    net = Net()
    x = net.node("Relu", net.norm(net.conv(net.input("image", [1, 3, size, size]), (3, 8, 3), 2, bias=False), 8))
    for inputs, outputs, stride in ((8, 16, 1), (16, 32, 2), (32, 32, 1)):
        x = net.node("Relu", net.norm(net.conv(x, (inputs, inputs, 3), stride, groups=inputs, bias=False), inputs))
        x = net.node("Relu", net.norm(net.conv(x, (inputs, outputs, 1), bias=False), outputs))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(scores=net.node("Softmax", net.dense(x, 32, 10), axis=1))


def _inverted(net: Net, x: str, shape: tuple[int, int, int], stride: int) -> str:
    inputs, outputs, wide = shape
    y = net.clip6(net.conv(x, (inputs, wide, 1)))
    y = net.clip6(net.conv(y, (wide, wide, 3), stride, groups=wide))
    y = net.conv(y, (wide, outputs, 1))
    return net.node("Add", x, y) if inputs == outputs and stride == 1 else y


def mobilenet_v2(size: int = 32, classes: int = 10) -> onnx.ModelProto:
    net = Net()
    x = net.clip6(net.conv(net.input("image", ["n", 3, size, size]), (3, 8, 3), 2))
    for inputs, outputs, stride in ((8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2)):
        x = _inverted(net, x, (inputs, outputs, inputs * 4), stride)
    x = net.node("ReduceMean", net.clip6(net.conv(x, (16, 48, 1))), axes=[2, 3], keepdims=0)
    return net.model(scores=net.dense(x, 48, classes))


def mobilenet_v3(size: int = 32) -> onnx.ModelProto:
    net = Net()
    x = net.node("HardSwish", net.norm(net.conv(net.input("image", [1, 3, size, size]), (3, 8, 3), 2), 8))
    for inputs, outputs, stride in ((8, 16, 2), (16, 16, 1)):
        wide = inputs * 3
        y = net.node("HardSwish", net.conv(x, (inputs, wide, 1)))
        y = net.node("HardSwish", net.conv(y, (wide, wide, 5), stride, groups=wide))
        s = net.node("Relu", net.conv(net.node("GlobalAveragePool", y), (wide, wide // 4, 1)))
        s = net.node("HardSigmoid", net.conv(s, (wide // 4, wide, 1)), alpha=1 / 6, beta=0.5)
        y = net.conv(net.node("Mul", y, s), (wide, outputs, 1))
        x = net.node("Add", x, y) if inputs == outputs else y
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(scores=net.dense(net.node("HardSwish", net.dense(x, 16, 32)), 32, 10))


def resnet(size: int = 32, widths: Sequence[int] = (8, 16), blocks: int = 1) -> onnx.ModelProto:
    net = Net()
    x = net.conv(net.input("image", [1, 3, size, size]), (3, widths[0], 7), 2, bias=False)
    x = net.node("MaxPool", net.node("Relu", net.norm(x, widths[0])), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = net.node("Relu", net.norm(net.conv(x, (inputs, width, 3), stride, bias=False), width))
            y = net.norm(net.conv(y, (width, width, 3), bias=False), width)
            same = inputs == width and stride == 1
            short = x if same else net.norm(net.conv(x, (inputs, width, 1), stride, bias=False), width)
            x, inputs = net.node("Relu", net.node("Add", y, short)), width
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model(scores=net.dense(x, inputs, 10))


def ds_cnn() -> onnx.ModelProto:
    net = Net()
    x = net.input("spectrum", [1, 1, 49, 10])
    stem = net.weights(16, 1, 10, 4, fan_in=40)
    x = net.node("Relu", net.norm(net.node("Conv", x, stem, pads=[4, 1, 5, 2], strides=[2, 2]), 16))
    for _ in range(2):
        x = net.node("Relu", net.norm(net.conv(x, (16, 16, 3), groups=16), 16))
        x = net.node("Relu", net.norm(net.conv(x, (16, 16, 1)), 16))
    x = net.node("AveragePool", x, kernel_shape=[25, 5])
    return net.model(scores=net.node("Softmax", net.dense(net.node("Flatten", x), 16, 12), axis=1))


def autoencoder() -> onnx.ModelProto:
    net = Net()
    x = net.input("window", [1, 64])
    for inputs, outputs in ((64, 32), (32, 8), (8, 32)):
        x = net.node("Relu", net.norm(net.dense(x, inputs, outputs), outputs))
    return net.model(reconstruction=net.dense(x, 32, 64))


def conv_1d() -> onnx.ModelProto:
    net = Net()
    x = net.input("signal", [1, 3, 40])
    for inputs, outputs in ((3, 8), (8, 16)):
        weights = net.weights(outputs, inputs, 5, fan_in=5 * inputs)
        x = net.node("Conv", x, weights, net.weights(outputs), pads=[2, 2], strides=[2])
        x = net.node("Relu", net.norm(x, outputs))
    x = net.node("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.node("ReduceMean", x, axes=[2], keepdims=0)
    return net.model(scores=net.node("Softmax", net.dense(x, 16, 5), axis=1))


def _recurrent(operator: str, gates: int, *, twice: bool = False, **attributes: object) -> onnx.ModelProto:
    """Return a batch-first layer as exporters write it, and a dense layer on its last step."""
    net, hidden, count = Net(seed=3), 10, 2 if twice else 1
    x = net.node("Transpose", net.input("frames", [1, 9, 6]), perm=[1, 0, 2])
    rows = gates * hidden
    weights = [net.weights(count, rows, 6, fan_in=6), net.weights(count, rows, hidden, fan_in=hidden)]
    bias, start = net.weights(count, 2 * rows), net.constant(np.zeros((count, 1, hidden), np.float32))
    states = [start, start] if operator == "LSTM" else [start]
    direction = "bidirectional" if twice else "forward"
    y = net.node(
        operator, x, *weights, bias, "", *states, outputs=2, hidden_size=hidden, direction=direction, **attributes
    )
    y = net.node("Transpose", y, perm=[2, 0, 1, 3])
    y = net.node("Reshape", y, net.integers(0, 0, -1))
    y = net.node("Gather", y, net.constant(np.array(-1, np.int64)), axis=1)
    return net.model(scores=net.dense(y, hidden * count, 3))


def lstm() -> onnx.ModelProto:
    return _recurrent("LSTM", 4)


def bidirectional_lstm() -> onnx.ModelProto:
    return _recurrent("LSTM", 4, twice=True)


def gru() -> onnx.ModelProto:
    return _recurrent("GRU", 3, linear_before_reset=1)


def gru_of_the_paper() -> onnx.ModelProto:
    return _recurrent("GRU", 3, twice=True, linear_before_reset=0)


def unet(size: int = 16) -> onnx.ModelProto:
    net = Net()
    wide = net.node("Relu", net.conv(net.input("image", [1, 3, size, size]), (3, 8, 3)))
    low = net.node("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2])
    low = net.node("Relu", net.conv(low, (8, 16, 3)))
    deep = net.node("MaxPool", low, kernel_shape=[2, 2], strides=[2, 2])
    deep = net.node("Relu", net.conv(deep, (16, 16, 3)))
    up = net.node("ConvTranspose", deep, net.weights(16, 16, 2, 2, fan_in=16), net.weights(16), strides=[2, 2])
    up = net.node("Relu", net.conv(net.node("Concat", up, low, axis=1), (32, 8, 3)))
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    modes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    up = net.node("Resize", up, "", scales, **modes)
    mask = net.conv(net.node("Concat", up, wide, axis=1), (16, 1, 1))
    return net.model(mask=net.node("Sigmoid", mask))


def yolo_head(size: int = 32) -> onnx.ModelProto:
    """Return a detector: SiLU, a pyramid with Resize and Concat, two heads, boxes decoded from one of them."""
    net = Net()
    x = net.silu(net.conv(net.input("image", [1, 3, size, size]), (3, 8, 3), 2))
    near = net.silu(net.conv(x, (8, 16, 3), 2))
    far = net.silu(net.conv(near, (16, 24, 3), 2))
    pooled = net.node("MaxPool", far, kernel_shape=[5, 5], pads=[2] * 4)
    far = net.silu(net.conv(net.node("Concat", far, pooled, axis=1), (48, 24, 1)))
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = net.node("Resize", far, "", net.constant(np.array([1, 1, 2, 2], np.float32)), **modes)
    near = net.silu(net.conv(net.node("Concat", up, near, axis=1), (40, 16, 3)))
    rows = []
    for x, channels, grid in ((near, 16, size // 4), (far, 24, size // 8)):
        head = net.conv(x, (channels, 7, 1))
        rows.append(net.node("Reshape", head, net.integers(1, 7, grid * grid)))
    every = net.node("Concat", *rows, axis=2)
    sizes = net.integers(4, 3)
    boxes = net.node("Split", every, sizes, outputs=["boxes_raw", "scores_raw"], axis=1)
    scores = net.node("Sigmoid", "scores_raw")
    return net.model(
        boxes=net.node("Mul", net.node("Sigmoid", boxes), net.constant(np.float32(size))), scores=scores, far=far
    )


def two_inputs() -> onnx.ModelProto:
    """Return an image and a row of numbers that are joined; two answers."""
    net = Net()
    x = net.node("Relu", net.conv(net.input("image", [1, 3, 8, 8]), (3, 8, 3)))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    x = net.node("Concat", x, net.node("Relu", net.dense(net.input("readings", [1, 5]), 5, 8)), axis=1)
    return net.model(scores=net.node("Softmax", net.dense(x, 16, 4), axis=1), level=net.dense(x, 16, 1))


def text() -> onnx.ModelProto:
    """Return a classifier of token ids: embedding, mean, layer."""
    net = Net()
    tokens = net.input("tokens", [1, 7], TensorProto.INT64)
    x = net.node("Gather", net.weights(50, 12), tokens)
    return net.model(scores=net.dense(net.node("ReduceMean", x, axes=[1], keepdims=0), 12, 3))


def transformer() -> onnx.ModelProto:
    """Return one encoder block over [1, T, F]: attention of two heads, layer normalization, GELU written with Erf."""
    net, steps, width = Net(), 6, 8
    x = net.input("frames", [1, steps, width])

    def heads(source: str, order: Sequence[int]) -> str:
        projected = net.node("MatMul", source, net.weights(width, width, fan_in=width))
        split = net.node("Reshape", net.node("Add", projected, net.weights(width)), net.integers(0, 0, 2, width // 2))
        return net.node("Transpose", split, perm=list(order))

    scores = net.node("MatMul", heads(x, (0, 2, 1, 3)), heads(x, (0, 2, 3, 1)))
    scores = net.node("Softmax", net.node("Div", scores, net.constant(np.float32(2.0))), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", scores, heads(x, (0, 2, 1, 3))), perm=[0, 2, 1, 3])
    x = net.node("Add", x, net.node("Reshape", mixed, net.integers(0, 0, width)))
    x = net.node("LayerNormalization", x, net.positive(width), net.weights(width), axis=-1)
    y = net.node("Add", net.node("MatMul", x, net.weights(width, 16, fan_in=width)), net.weights(16))
    half = net.node(
        "Mul",
        y,
        net.node(
            "Add", net.node("Erf", net.node("Div", y, net.constant(np.float32(2**0.5)))), net.constant(np.float32(1))
        ),
    )
    y = net.node("Mul", half, net.constant(np.float32(0.5)))
    y = net.node("MatMul", y, net.weights(16, width, fan_in=16))
    return net.model(frames_out=net.node("Add", x, y))


def super_resolution() -> onnx.ModelProto:
    net = Net()
    x = net.input("image", [1, 1, 12, 10])
    x = net.node("PRelu", net.conv(x, (1, 8, 5)), net.weights(8, 1, 1))
    x = net.node("LeakyRelu", net.conv(x, (8, 8, 3)), alpha=0.1)
    return net.model(larger=net.node("DepthToSpace", net.conv(x, (8, 4, 3)), blocksize=2, mode="CRD"))


def shuffle_net() -> onnx.ModelProto:
    """Return grouped convolutions with the channels shuffled between them."""
    net = Net()
    x = net.node("Relu", net.conv(net.input("image", [1, 3, 16, 16]), (3, 12, 3), 2))
    x = net.node("Relu", net.conv(x, (12, 12, 1), groups=3))
    x = net.node("Reshape", x, net.integers(1, 3, 4, 8, 8))
    x = net.node("Reshape", net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), net.integers(1, 12, 8, 8))
    x = net.node("Relu", net.conv(x, (12, 12, 3), groups=3))
    return net.model(scores=net.dense(net.node("Flatten", net.node("GlobalMaxPool", x)), 12, 5))


FAMILIES: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "lenet": lenet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "resnet8": resnet,
    "resnet18_like": lambda: resnet(widths=(8, 16, 24, 32), blocks=2),
    "ds_cnn": ds_cnn,
    "autoencoder": autoencoder,
    "conv_1d": conv_1d,
    "lstm": lstm,
    "bidirectional_lstm": bidirectional_lstm,
    "gru": gru,
    "gru_of_the_paper": gru_of_the_paper,
    "unet": unet,
    "yolo_head": yolo_head,
    "two_inputs": two_inputs,
    "text": text,
    "transformer": transformer,
    "super_resolution": super_resolution,
    "shuffle_net": shuffle_net,
}
"""A function for each family, by name."""
