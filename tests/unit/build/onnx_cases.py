"""One small ONNX model for each operator and each way of using it, to be converted and compared."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Nodes = list[tuple[str, list[str], list[str], dict[str, object]]]
Constants = dict[str, np.ndarray]
Shapes = Sequence[object] | dict[str, Sequence[object]]
RNG = np.random.default_rng(1)
INTEGERS = ("ids",)
"""Inputs that are int64."""


def const(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model(nodes: Nodes, shapes: Shapes, constants: Constants | None = None, opset: int = 17) -> bytes:
    """Return the bytes of an ONNX model from ``x`` (or several inputs) to ``y``.

    A node is (operator, inputs, outputs, attributes).
    """
    made = [helper.make_node(op, i, o, name=f"n{k}", **a) for k, (op, i, o, a) in enumerate(nodes)]
    inputs = shapes if isinstance(shapes, dict) else {"x": shapes}
    graph = helper.make_graph(
        made,
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name in INTEGERS else TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return proto.SerializeToString()


def conv(weights: np.ndarray, bias: np.ndarray | None = None, **attributes: object) -> tuple[Nodes, Constants]:
    names = ["x", "w"] if bias is None else ["x", "w", "b"]
    constants = {"w": weights} if bias is None else {"w": weights, "b": bias}
    return [("Conv", names, ["y"], attributes)], constants


IMAGE = [1, 3, 9, 7]
ROW = [1, 6]
CASES = {
    "conv-valid": (*conv(const(4, 3, 3, 3), const(4)), IMAGE),
    "conv-same": (*conv(const(4, 3, 3, 3), pads=[1, 1, 1, 1]), IMAGE),
    "conv-strided-explicit": (*conv(const(4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), [1, 3, 8, 8]),
    "conv-asymmetric": (*conv(const(4, 3, 3, 3), pads=[2, 0, 1, 1]), IMAGE),
    "conv-same-upper": (*conv(const(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]), IMAGE),
    "conv-dilated": (*conv(const(4, 3, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]), IMAGE),
    "conv-1x1-strided": (*conv(const(4, 3, 1, 1), strides=[2, 2]), IMAGE),
    "conv-depthwise": (*conv(const(3, 1, 3, 3), const(3), group=3, pads=[1] * 4), IMAGE),
    "conv-depthwise-multiplied": (*conv(const(6, 1, 3, 3), group=3, pads=[1] * 4), IMAGE),
    "conv-relu": (
        [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Relu", ["c"], ["y"], {})],
        {"w": const(4, 3, 3, 3)},
        IMAGE,
    ),
    "conv-clip6": (
        [("Conv", ["x", "w"], ["c"], {}), ("Clip", ["c", "lo", "hi"], ["y"], {})],
        {"w": const(4, 3, 3, 3), "lo": np.float32(0), "hi": np.float32(6)},
        IMAGE,
    ),
    "relu-read-twice-is-not-fused-away": (
        [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Relu", ["c"], ["r"], {}), ("Add", ["c", "r"], ["y"], {})],
        {"w": const(4, 3, 3, 3)},
        IMAGE,
    ),
    "gemm": ([("Gemm", ["x", "w", "b"], ["y"], {})], {"w": const(6, 5), "b": const(5)}, ROW),
    "gemm-transposed-scaled": (
        [("Gemm", ["x", "w", "b"], ["y"], {"transB": 1, "alpha": 0.5, "beta": 2.0})],
        {"w": const(5, 6), "b": const(1, 5)},
        ROW,
    ),
    "matmul": ([("MatMul", ["x", "w"], ["y"], {})], {"w": const(6, 5)}, ROW),
    "matmul-add-relu": (
        [("MatMul", ["x", "w"], ["m"], {}), ("Add", ["b", "m"], ["a"], {}), ("Relu", ["a"], ["y"], {})],
        {"w": const(6, 5), "b": const(5)},
        ROW,
    ),
    "add-channel-constant": ([("Add", ["x", "k"], ["y"], {})], {"k": const(3, 1, 1)}, IMAGE),
    "sub-constant-first": ([("Sub", ["k", "x"], ["y"], {})], {"k": const(1)}, IMAGE),
    "mul-image-by-its-mean": (
        [("GlobalAveragePool", ["x"], ["m"], {}), ("Sigmoid", ["m"], ["s"], {}), ("Mul", ["x", "s"], ["y"], {})],
        {},
        IMAGE,
    ),
    "tanh": ([("Tanh", ["x"], ["y"], {})], {}, ROW),
    "max-pool": ([("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]})], {}, [1, 3, 8, 8]),
    "max-pool-padded-negative": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})],
        {},
        [1, 3, 8, 8],
    ),
    "max-pool-padded-after-relu": (
        [
            ("Relu", ["x"], ["r"], {}),
            ("MaxPool", ["r"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ],
        {},
        [1, 3, 8, 8],
    ),
    "average-pool": ([("AveragePool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]})], {}, [1, 3, 8, 8]),
    "average-pool-padding-left-out": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4})],
        {},
        IMAGE,
    ),
    "average-pool-padding-counted": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 1})],
        {},
        IMAGE,
    ),
    "reduce-mean": ([("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})], {}, IMAGE),
    "reduce-mean-negative-axes": ([("ReduceMean", ["x"], ["y"], {"axes": [-1, -2]})], {}, IMAGE),
    "flatten-gemm": (
        [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w"], ["y"], {})],
        {"w": const(3 * 9 * 7, 4)},
        IMAGE,
    ),
    "reshape": ([("Reshape", ["x", "s"], ["y"], {})], {"s": np.array([1, -1], np.int64)}, IMAGE),
    "reshape-into-image": (
        [("Reshape", ["x", "s"], ["r"], {}), ("Conv", ["r", "w"], ["y"], {})],
        {"s": np.array([1, 2, 4, 3], np.int64), "w": const(4, 2, 3, 3)},
        [1, 24],
    ),
    "softmax": ([("Softmax", ["x"], ["y"], {"axis": 1})], {}, ROW),
    "pass-through": (
        [
            ("Identity", ["x"], ["i"], {}),
            ("Dropout", ["i"], ["d"], {}),
            ("Cast", ["d"], ["c"], {"to": TensorProto.FLOAT}),
            ("Relu", ["c"], ["y"], {}),
        ],
        {},
        ROW,
    ),
    "constant-node": (
        [("Constant", [], ["k"], {"value_floats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}), ("Add", ["x", "k"], ["y"], {})],
        {},
        ROW,
    ),
    "free-batch": ([("Gemm", ["x", "w"], ["y"], {})], {"w": const(6, 5)}, ["batch", 6]),
}


def simple(operator: str, shape: Sequence[object] = IMAGE, opset: int = 20, /, **attributes: object) -> tuple:
    """Return a case of an operator with one input."""
    return [(operator, ["x"], ["y"], attributes)], {}, shape, opset


def with_constants(
    operator: str, shape: Sequence[object], *constants: np.ndarray | None, opset: int = 20, **attributes: object
) -> tuple:
    """Return a case of an operator whose further inputs are constants, or absent."""
    names = ["" if values is None else f"c{number}" for number, values in enumerate(constants)]
    given = {name: values for name, values in zip(names, constants, strict=True) if name}
    return [(operator, ["x", *names], ["y"], attributes)], given, shape, opset


def chain(*operators: tuple[str, dict[str, object]], shape: Sequence[object] = IMAGE, opset: int = 20) -> tuple:
    """Return a case of operators one behind the other."""
    names = ["x", *(f"v{number}" for number in range(len(operators) - 1)), "y"]
    nodes = [(op, [names[k]], [names[k + 1]], attributes) for k, (op, attributes) in enumerate(operators)]
    return nodes, {}, shape, opset


def positive(operator: str) -> tuple:
    """Return a case of a function of positive numbers."""
    return [("Exp", ["x"], ["e"], {}), (operator, ["e"], ["y"], {})], {}, IMAGE, 20


def both(operator: str, left: Sequence[int], right: Sequence[int], **attributes: object) -> tuple:
    """Return a case of two computed operands."""
    return [(operator, ["x", "z"], ["y"], attributes)], {}, {"x": left, "z": right}, 20


def compared(operator: str, shape: Sequence[int] = ROW) -> tuple:
    """Return a case of a comparison, whose answer chooses between two tensors."""
    nodes = [(operator, ["x", "k"], ["b"], {}), ("Not", ["b"], ["n"], {}), ("Where", ["n", "x", "k"], ["y"], {})]
    return nodes, {"k": np.float32(0.1)}, shape, 20


def recurrent(operator: str, *constants: np.ndarray, **attributes: object) -> tuple:
    """Return a case of a recurrent layer on [1, 5, 3]."""
    nodes, given, _, opset = with_constants(operator, [], *constants, **attributes)
    ((_, names, _, kept),) = nodes
    first = ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]})
    return [first, (operator, ["t", *names[1:]], ["y"], kept)], given, [1, 5, 3], opset


UP = np.array([1, 1, 2, 3], np.float32)
CASES |= {
    # element by element
    **{op.lower(): simple(op) for op in ("Abs", "Neg", "Exp", "Sigmoid", "Sin", "Cos", "Floor", "Ceil")},
    **{op.lower(): simple(op) for op in ("HardSwish", "Softplus", "Mish", "Gelu", "Elu", "LeakyRelu", "HardSigmoid")},
    **{op.lower(): positive(op) for op in ("Log", "Sqrt", "Reciprocal")},
    **{op.lower(): compared(op) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")},
    "div-images": both("Div", [1, 2, 3, 4], [1, 2, 1, 1]),
    "min-of-three": ([("Min", ["x", "k", "z"], ["y"], {})], {"k": const(3, 1, 1)}, {"x": IMAGE, "z": IMAGE}, 20),
    "max": both("Max", IMAGE, [1, 1, 1, 7]),
    "pow": ([("Abs", ["x"], ["a"], {}), ("Pow", ["a", "p"], ["y"], {})], {"p": np.float32(1.7)}, IMAGE, 20),
    "add-of-lower-rank": both("Add", IMAGE, [1, 7]),
    "add-row-to-image-constant": with_constants("Add", IMAGE, const(7)),
    "and-or": (
        [
            ("Greater", ["x", "k"], ["a"], {}),
            ("Less", ["x", "l"], ["b"], {}),
            ("And", ["a", "b"], ["c"], {}),
            ("Or", ["c", "a"], ["d"], {}),
            ("Cast", ["d"], ["y"], {"to": TensorProto.FLOAT}),
        ],
        {"k": np.float32(-0.5), "l": np.float32(0.5)},
        ROW,
        20,
    ),
    "cast-through-integers": chain(("Cast", {"to": TensorProto.INT32}), ("Cast", {"to": TensorProto.FLOAT})),
    # activations
    "clip-any": with_constants("Clip", IMAGE, np.float32(-0.3), np.float32(0.7)),
    "clip-from-below": with_constants("Clip", IMAGE, np.float32(-0.3)),
    "clip-from-above": with_constants("Clip", IMAGE, None, np.float32(0.2)),
    "clip-0-1": with_constants("Clip", IMAGE, np.float32(0), np.float32(1)),
    "clip-attributes": (*simple("Clip", IMAGE, 7, min=-1.0, max=1.0),),
    "elu-alpha": simple("Elu", IMAGE, 20, alpha=0.4),
    "gelu-tanh": simple("Gelu", IMAGE, 20, approximate="tanh"),
    "hard-sigmoid-any": simple("HardSigmoid", IMAGE, 20, alpha=0.3, beta=0.4),
    "prelu": with_constants("PRelu", IMAGE, const(3, 1, 1)),
    "prelu-row": with_constants("PRelu", [1, 6], const(6)),
    "prelu-one": with_constants("PRelu", IMAGE, const(1)),
    "relu-twice": chain(("Relu", {}), ("Relu", {})),
    # convolutions
    "conv-same-lower": (*conv(const(4, 3, 4, 4), auto_pad="SAME_LOWER", strides=[2, 2]), IMAGE),
    "conv-grouped": (*conv(const(8, 2, 3, 3), const(8), group=2, pads=[1] * 4), [1, 4, 8, 8]),
    "conv-one-channel-with-many": (*conv(const(5, 1, 3, 3)), [1, 1, 8, 8]),
    "conv-row": (*conv(const(4, 3, 5), const(4), pads=[2, 1], strides=[2], dilations=[2]), [1, 3, 21]),
    "conv-normalized": (
        [
            ("Conv", ["x", "w"], ["c"], {}),
            ("BatchNormalization", ["c", "g", "o", "m", "v"], ["b"], {"epsilon": 0.01}),
            ("Relu", ["b"], ["y"], {}),
        ],
        {"w": const(4, 3, 3, 3), "g": const(4), "o": const(4), "m": const(4), "v": np.abs(const(4))},
        IMAGE,
    ),
    **{
        f"conv-transpose-{name}": with_constants(
            "ConvTranspose", [1, 3, 5, 4], const(3, 4, *size), const(4), strides=strides, **attributes
        )
        for name, size, strides, attributes in (
            ("doubling", (2, 2), [2, 2], {}),
            ("same", (4, 4), [2, 2], {"pads": [1] * 4}),
            ("cut", (3, 3), [2, 2], {"pads": [1] * 4, "output_padding": [1, 1]}),
            ("uneven", (3, 2), [2, 3], {"pads": [0, 1, 1, 0]}),
            ("shaped", (3, 3), [2, 2], {"output_shape": [10, 8]}),
            ("same-upper", (3, 3), [2, 2], {"auto_pad": "SAME_UPPER"}),
            ("dilated", (3, 3), [1, 1], {"dilations": [2, 2]}),
        )
    },
    "conv-transpose-row": with_constants("ConvTranspose", [1, 3, 9], const(3, 2, 4), strides=[2], pads=[1, 1]),
    # pools
    "max-pool-window-mostly-padding": simple("MaxPool", [1, 2, 5, 5], 20, kernel_shape=[3, 3], pads=[2, 0, 2, 0]),
    "max-pool-ceil": simple("MaxPool", [1, 2, 8, 7], 20, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max-pool-row": simple("MaxPool", [1, 3, 9], 20, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "average-pool-ceil": simple("AveragePool", [1, 2, 8, 7], 20, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average-pool-counted-same": simple(
        "AveragePool", IMAGE, 20, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "average-pool-not-same": simple("AveragePool", [1, 2, 8, 8], 20, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    "global-max-pool": simple("GlobalMaxPool"),
    "global-average-pool-row": simple("GlobalAveragePool", [1, 3, 9]),
    # matrices
    "gemm-first-transposed": with_constants("Gemm", [1, 6], const(1, 4), None, transA=1),
    "gemm-normalized": (
        [("Gemm", ["x", "w"], ["c"], {}), ("BatchNormalization", ["c", "g", "o", "m", "v"], ["y"], {})],
        {"w": const(6, 4), "g": const(4), "o": const(4), "m": const(4), "v": np.abs(const(4))},
        ROW,
    ),
    "matmul-of-three-axes": with_constants("MatMul", [1, 5, 6], const(6, 4)),
    "matmul-wrapped-weights": with_constants("MatMul", [1, 5, 6], const(1, 6, 4)),
    "matmul-column": with_constants("MatMul", [1, 5, 6], const(6)),
    "matmul-from-the-left": ([("MatMul", ["w", "x"], ["y"], {})], {"w": const(4, 5)}, [1, 5, 6]),
    "matmul-of-two": both("MatMul", [1, 2, 3, 4], [1, 2, 4, 5]),
    # normalization
    "batch-normalization-of-input": with_constants(
        "BatchNormalization", IMAGE, const(3), const(3), const(3), np.abs(const(3))
    ),
    "instance-normalization": with_constants("InstanceNormalization", IMAGE, const(3), const(3)),
    "layer-normalization": with_constants("LayerNormalization", [1, 4, 6], const(6), const(6)),
    "local-response": simple("LRN", [1, 7, 3, 3], 20, size=5, alpha=0.02, beta=0.6, bias=1.5),
    "softmax-of-channels": simple("Softmax", IMAGE, 20, axis=1),
    "softmax-of-rows": simple("Softmax", IMAGE, 20, axis=2),
    "softmax-flattened": simple("Softmax", IMAGE, 11, axis=1),
    "log-softmax": simple("LogSoftmax", ROW, 20, axis=-1),
    # shapes
    "concat": (
        [("Concat", ["x", "z", "k"], ["y"], {"axis": 1})],
        {"k": const(1, 2, 4, 4)},
        {"x": [1, 3, 4, 4], "z": [1, 1, 4, 4]},
        20,
    ),
    "concat-rows": both("Concat", [1, 2, 5], [1, 4, 5], axis=-2),
    "split": ([("Split", ["x"], ["a", "b", "c"], {"axis": 1}), ("Sub", ["a", "c"], ["y"], {})], {}, IMAGE, 17),
    "split-unequal": ([("Split", ["x", "s"], ["a", "y"], {"axis": 2})], {"s": ints(2, 7)}, IMAGE, 17),
    "slice": with_constants("Slice", IMAGE, ints(1, -4), ints(8, 1000), ints(2, 3)),
    "slice-steps": with_constants("Slice", IMAGE, ints(0, 1), ints(9, 7), ints(2, 3), ints(2, 3)),
    "slice-backwards": with_constants("Slice", IMAGE, ints(-1, 5), ints(-1000, 0), ints(2, 3), ints(-1, -2)),
    "slice-attributes": simple("Slice", IMAGE, 7, starts=[1], ends=[3], axes=[2]),
    "gather-channels": with_constants("Gather", IMAGE, ints(2, 0, -2), axis=1),
    "gather-one": with_constants("Gather", IMAGE, np.array(-1, np.int64), axis=2),
    "gather-by-input": (
        [("Gather", ["w", "ids"], ["e"], {}), ("Neg", ["e"], ["y"], {})],
        {"w": const(9, 4)},
        {"ids": [1, 6]},
        20,
    ),
    "transpose": simple("Transpose", IMAGE, 20, perm=[0, 3, 2, 1]),
    "transpose-to-last-and-back": chain(
        ("Transpose", {"perm": [0, 2, 3, 1]}), ("Transpose", {"perm": [0, 3, 1, 2]}), ("Exp", {})
    ),
    "input-is-channels-last": (
        [("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]}), ("Conv", ["t", "w"], ["y"], {})],
        {"w": const(4, 3, 3, 3)},
        [1, 9, 7, 3],
    ),
    "squeeze-unsqueeze": (
        [("Squeeze", ["x", "a"], ["s"], {}), ("Unsqueeze", ["s", "b"], ["y"], {})],
        {"a": ints(1), "b": ints(0, -1)},
        [1, 1, 4, 5],
        17,
    ),
    "squeeze-attributes": chain(("Squeeze", {"axes": [2]}), ("Unsqueeze", {"axes": [3]}), shape=[1, 3, 1, 5], opset=11),
    "flatten-axis": simple("Flatten", IMAGE, 20, axis=2),
    "reshape-zeros": with_constants("Reshape", IMAGE, ints(0, -1, 7)),
    "expand": with_constants("Expand", [1, 3, 1], ints(2, 1, 4)),
    "tile": with_constants("Tile", IMAGE, ints(1, 2, 1, 3)),
    "pad": with_constants("Pad", IMAGE, ints(0, 0, 1, 2, 0, 1, 0, 3), np.float32(0)),
    "pad-value": with_constants("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 3), np.float32(-1.5)),
    "pad-reflect": with_constants("Pad", IMAGE, ints(0, 0, 3, 2, 0, 0, 1, 2), mode="reflect"),
    "pad-edge": with_constants("Pad", IMAGE, ints(0, 0, 1, 1, 0, 0, 1, 0), mode="edge"),
    "pad-attributes": simple("Pad", IMAGE, 7, pads=[0, 0, 1, 1, 0, 0, 1, 1]),
    "depth-to-space": simple("DepthToSpace", [1, 8, 3, 2], 20, blocksize=2),
    "depth-to-space-crd": simple("DepthToSpace", [1, 8, 3, 2], 20, blocksize=2, mode="CRD"),
    "space-to-depth": simple("SpaceToDepth", [1, 3, 4, 6], 20, blocksize=2),
    "shape-arithmetic": (
        [
            ("Shape", ["x"], ["s"], {}),
            ("Gather", ["s", "zero"], ["n"], {}),
            ("Unsqueeze", ["n", "first"], ["u"], {}),
            ("Concat", ["u", "rest"], ["t"], {"axis": 0}),
            ("Reshape", ["x", "t"], ["y"], {}),
        ],
        {"zero": np.array(0, np.int64), "first": ints(0), "rest": ints(-1)},
        ["n", 3, 4, 5],
        17,
    ),
    # reductions
    **{
        f"{op.lower()}-{name}": simple(op, IMAGE, 12, axes=axes, keepdims=keep)
        for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
        for name, axes, keep in (("channels", [1], 1), ("width", [3], 0), ("all-but-batch", [-1, 1, 2], 0))
    },
    "reduce-sum-input-axes": with_constants("ReduceSum", [1, 4, 5], ints(1), keepdims=0),
    **{
        f"{op.lower()}-{name}": (
            [(op, ["x"], ["i"], {"axis": axis, "keepdims": keep}), ("Cast", ["i"], ["y"], {"to": TensorProto.FLOAT})],
            {},
            IMAGE,
            17,
        )
        for op in ("ArgMax", "ArgMin")
        for name, axis, keep in (("channels", 1, 0), ("rows", 2, 1))
    },
    # resize
    **{
        f"resize-{mode}-{way}-{rounding}": with_constants(
            "Resize", [1, 2, 4, 5], None, UP, mode=mode, coordinate_transformation_mode=way, nearest_mode=rounding
        )
        for mode, way, rounding in (
            ("nearest", "asymmetric", "floor"),
            ("nearest", "asymmetric", "ceil"),
            ("nearest", "half_pixel", "round_prefer_floor"),
            ("nearest", "half_pixel", "round_prefer_ceil"),
            ("nearest", "align_corners", "round_prefer_floor"),
            ("linear", "half_pixel", "floor"),
            ("linear", "pytorch_half_pixel", "floor"),
            ("linear", "align_corners", "floor"),
            ("linear", "asymmetric", "floor"),
        )
    },
    "resize-down": with_constants("Resize", IMAGE, None, None, ints(1, 3, 4, 3), mode="linear"),
    "upsample": with_constants("Upsample", IMAGE, UP, opset=9, mode="nearest"),
    "upsample-attributes": simple("Upsample", IMAGE, 7, scales=[1.0, 1.0, 2.0, 2.0], mode="linear"),
    # recurrent
    "lstm-reversed": recurrent(
        "LSTM", const(1, 8, 3), const(1, 8, 2), const(1, 16), hidden_size=2, direction="reverse"
    ),
    "gru-no-bias": recurrent("GRU", const(1, 6, 3), const(1, 6, 2), hidden_size=2),
    "rnn": recurrent("RNN", const(1, 2, 3), const(1, 2, 2), const(1, 4), hidden_size=2),
    "lstm-states-in-and-out": (
        [
            ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
            ("LSTM", ["t", "w", "r", "", "", "h", "c"], ["", "hn", "cn"], {"hidden_size": 2}),
            ("Concat", ["hn", "cn"], ["y"], {"axis": 2}),
        ],
        {"w": const(1, 8, 3), "r": const(1, 8, 2)},
        {"x": [1, 5, 3], "h": [1, 1, 2], "c": [1, 1, 2]},
        17,
    ),
}


def case(name: str) -> bytes:
    nodes, constants, shapes, *opset = CASES[name]
    return model(nodes, shapes, constants, *opset)
