"""The operators that can be converted: one function each, found in the table ``HANDLERS``.

Meanings are those of the ONNX operator specification (https://onnx.ai/onnx/operators/), default domain.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto

from dsops_controller.build.conversion import TO_NHWC, Activation, Conversion, Value, activation_of
from dsops_controller.build.onnx_graph import Array, Node
from dsops_controller.build.onnx_windows import LOWEST, Window, place_window, read_window

Op = schema.BuiltinOperator
Handler = Callable[[Conversion, Node], None]
_CLAMPING = (Activation.RELU, Activation.RELU6)


def _conv(conversion: Conversion, node: Node) -> None:
    weights = conversion.constant(node, 1)
    if weights.ndim != 4:
        raise node.refuse(f"its weights have {weights.ndim} axes, not 4")
    bias = conversion.optional_constant(node, 2, np.zeros(weights.shape[0], np.float32))
    image = conversion.image(node, node.input(0))
    window = read_window(node, weights.shape[2:])
    source, padding = place_window(conversion, node, image, window, fill=0.0)
    code, options, laid_out = _conv_kind(node, weights, image)
    activation, name = conversion.fused_activation(node)
    options.padding, options.fusedActivationFunction = padding, activation
    options.strideH, options.strideW = window.strides
    options.dilationHFactor, options.dilationWFactor = window.dilations
    height, width = window.output_size(*image.shape[1:3])
    constants = [
        conversion.float_constant(f"{name}_weights", laid_out),
        conversion.float_constant(f"{name}_bias", bias),
    ]
    result = conversion.result(
        name, (1, height, width, weights.shape[0]), nhwc=True, non_negative=activation in _CLAMPING
    )
    conversion.writer.operator(code, [source, *constants], [result], options)


def _conv_kind(node: Node, weights: Array, image: Value) -> tuple[int, Any, Array]:
    """Return operator, options and weights in TFLite's order for a plain or a depthwise convolution."""
    groups, depth = node.attributes.get("group", 1), image.shape[3]
    if groups == 1 and weights.shape[1] == depth:
        return Op.CONV_2D, schema.Conv2DOptionsT(), weights.transpose(0, 2, 3, 1)
    if groups == depth and weights.shape[1] == 1:
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = weights.shape[0] // depth
        return Op.DEPTHWISE_CONV_2D, options, weights.transpose(1, 2, 3, 0)
    raise node.refuse(f"it has {groups} groups over {depth} channels; plain and depthwise convolutions are known")


def _max_pool(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    # Zero is as good as minus infinity under what is never negative, and quantizes without a clash of ranges.
    fill = 0.0 if image.non_negative else LOWEST
    _pool(conversion, node, image, Op.MAX_POOL_2D, fill)


def _average_pool(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    window = _pool_window(node, image)
    plain_zeros = bool(node.attributes.get("count_include_pad", 0))
    leaves_padding_out = window.same or window.pads == window.same_pads(*image.shape[1:3])
    if (window.same or any(window.pads)) and plain_zeros == leaves_padding_out:
        raise node.refuse("TFLite's average counts its padding otherwise")
    _pool(conversion, node, image, Op.AVERAGE_POOL_2D, fill=0.0)


def _pool(conversion: Conversion, node: Node, image: Value, code: int, fill: float) -> None:
    window = _pool_window(node, image)
    source, padding = place_window(conversion, node, image, window, fill)
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.strideH, options.strideW = window.strides
    options.filterHeight, options.filterWidth = window.kernel
    height, width = window.output_size(*image.shape[1:3])
    shape = (1, height, width, image.shape[3])
    result = conversion.result(node.output, shape, nhwc=True, non_negative=image.non_negative)
    conversion.writer.operator(code, [source], [result], options)


def _pool_window(node: Node, image: Value) -> Window:
    window = read_window(node, tuple(node.attributes["kernel_shape"]))
    if window.dilations != (1, 1):
        raise node.refuse("its window is dilated")
    if node.attributes.get("ceil_mode", 0) and not _divides(window, image):
        raise node.refuse("its last window sticks out of the image (ceil_mode)")
    return window


def _divides(window: Window, image: Value) -> bool:
    """Say whether the windows end exactly at the image's border, so that rounding up or down is the same."""
    for axis, size in enumerate(image.shape[1:3]):
        room = size + window.pads[axis] + window.pads[axis + 2] - window.kernel[axis]
        if room % window.strides[axis]:
            return False
    return True


def _global_average_pool(conversion: Conversion, node: Node) -> None:
    _mean(conversion, node, keep=True)


def _reduce_mean(conversion: Conversion, node: Node) -> None:
    axes = node.attributes.get("axes")
    given = conversion.constant(node, 1) if axes is None else axes
    rank = len(conversion.value(node, node.input(0)).shape)
    if rank != 4 or sorted(int(axis) % rank for axis in given) != [2, 3]:
        raise node.refuse("only the mean over height and width is known")
    _mean(conversion, node, keep=bool(node.attributes.get("keepdims", 1)))


def _mean(conversion: Conversion, node: Node, *, keep: bool) -> None:
    image = conversion.image(node, node.input(0))
    depth = image.shape[3]
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    axes = conversion.writer.constant(f"{node.output}_axes", np.array([1, 2], np.int32))
    shape = (1, 1, 1, depth) if keep else (1, depth)
    result = conversion.result(node.output, shape, nhwc=keep, non_negative=image.non_negative)
    conversion.writer.operator(Op.MEAN, [image.index, axes], [result], options)


def _reshape(conversion: Conversion, node: Node) -> None:
    target = conversion.graph.shape(node, node.output)
    value = conversion.value(node, node.input(0))
    if value.nhwc and value.shape[1] * value.shape[2] > 1 and value.shape[3] > 1:
        value = conversion.in_layout(node, node.input(0), nhwc=False)
    options = schema.ReshapeOptionsT()
    options.newShape = list(target)
    shape = conversion.writer.constant(f"{node.output}_shape", np.array(target, np.int32))
    result = conversion.result(node.output, target, non_negative=value.non_negative)
    conversion.writer.operator(Op.RESHAPE, [value.index, shape], [result], options)


def _gemm(conversion: Conversion, node: Node) -> None:
    if node.attributes.get("transA", 0):
        raise node.refuse("its first input is transposed")
    weights = conversion.constant(node, 1) * np.float32(node.attributes.get("alpha", 1.0))
    by_output = weights if node.attributes.get("transB", 0) else weights.T
    bias = conversion.optional_constant(node, 2, np.zeros(1, np.float32)) * np.float32(node.attributes.get("beta", 1.0))
    _fully_connected(conversion, node, by_output, bias, *conversion.fused_activation(node))


def _mat_mul(conversion: Conversion, node: Node) -> None:
    """Write MatMul, or MatMul with the Add of a constant behind it, as one fully connected layer.

    TFLite's BATCH_MATMUL would do as well in float, but its constant weights quantize to all zeros.
    """
    weights = conversion.constant(node, 1)
    if weights.ndim != 2:
        raise node.refuse(f"its weights have {weights.ndim} axes, not 2")
    adder = conversion.graph.only_consumer(node.output)
    bias = _added_constant(conversion, node, adder, weights.shape[1]) if adder else None
    if adder is None or bias is None:
        zeros = np.zeros(1, np.float32)
        _fully_connected(conversion, node, weights.T, zeros, *conversion.fused_activation(node))
        return
    conversion.absorb(adder)
    _fully_connected(conversion, node, weights.T, bias, *conversion.fused_activation(adder))


def _added_constant(conversion: Conversion, node: Node, adder: Node, outputs: int) -> Array | None:
    if adder.operator != "Add":
        return None
    other = next((name for name in adder.inputs if name != node.output), "")
    values = conversion.graph.constants.get(other)
    return values if values is not None and values.size in (1, outputs) else None


def _fully_connected(
    conversion: Conversion, node: Node, weights: Array, bias: Array, activation: int, name: str
) -> None:
    """Write a fully connected layer; ``weights`` are [outputs, inputs], ``bias`` has one value or one an output."""
    value = conversion.in_layout(node, node.input(0), nhwc=False)
    if len(value.shape) != 2 or value.shape[1] != weights.shape[1]:
        raise node.refuse(f"its input has shape {list(value.shape)}, not [1, {weights.shape[1]}]")
    if bias.size not in (1, weights.shape[0]):
        raise node.refuse(f"its bias has shape {list(bias.shape)}")
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    constants = [
        conversion.float_constant(f"{name}_weights", weights),
        conversion.float_constant(f"{name}_bias", np.broadcast_to(bias.reshape(-1), (weights.shape[0],))),
    ]
    result = conversion.result(name, (1, weights.shape[0]), non_negative=activation in _CLAMPING)
    conversion.writer.operator(Op.FULLY_CONNECTED, [value.index, *constants], [result], options)


def _arithmetic(code: int, options_type: Callable[[], Any]) -> Handler:
    """Return the handler of an element-wise operator with two operands, one of which may be constant."""

    def write(conversion: Conversion, node: Node) -> None:
        rank = len(conversion.graph.shape(node, node.output))
        computed = [conversion.value(node, name) for name in node.inputs if name not in conversion.graph.constants]
        if not computed:
            raise node.refuse("both operands are constants")
        nhwc = rank == 4 and any(value.nhwc for value in computed)
        operands = [_operand(conversion, node, name, rank, nhwc=nhwc) for name in node.inputs]
        activation, name = conversion.fused_activation(node)
        options = options_type()
        options.fusedActivationFunction = activation
        shape = np.broadcast_shapes(*(conversion.writer.shape(index) for index in operands))
        result = conversion.result(name, shape, nhwc=nhwc, non_negative=activation in _CLAMPING)
        conversion.writer.operator(code, operands, [result], options)

    return write


def _operand(conversion: Conversion, node: Node, name: str, rank: int, *, nhwc: bool) -> int:
    values = conversion.graph.constants.get(name)
    if values is not None:
        full = values.reshape((1,) * (rank - values.ndim) + values.shape)
        return conversion.float_constant(f"{node.output}_{name}", full.transpose(TO_NHWC) if nhwc else full)
    value = conversion.in_layout(node, name, nhwc=nhwc)
    if len(value.shape) != rank:
        raise node.refuse(f"its operands have {len(value.shape)} and {rank} axes")
    return value.index


def _relu(conversion: Conversion, node: Node) -> None:
    kind = activation_of(conversion, node)
    if kind is None:
        raise node.refuse("only the ranges 0 to 6 and 0 and up are known")
    _unary(conversion, node, Op.RELU if kind == Activation.RELU else Op.RELU6, non_negative=True)


def _sigmoid(conversion: Conversion, node: Node) -> None:
    _unary(conversion, node, Op.LOGISTIC, non_negative=True)


def _tanh(conversion: Conversion, node: Node) -> None:
    _unary(conversion, node, Op.TANH, non_negative=False)


def _unary(conversion: Conversion, node: Node, code: int, *, non_negative: bool) -> None:
    value = conversion.value(node, node.input(0))
    result = conversion.result(node.output, value.shape, nhwc=value.nhwc, non_negative=non_negative)
    conversion.writer.operator(code, [value.index], [result])


def _softmax(conversion: Conversion, node: Node) -> None:
    value = conversion.in_layout(node, node.input(0), nhwc=False)
    rank = len(value.shape)
    axis = node.attributes.get("axis", rank - 1)  # operator sets before 13 default to 1, which is the last of two
    if axis % rank != rank - 1:
        raise node.refuse(f"its axis is {axis}; only the last one is known")
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    result = conversion.result(node.output, value.shape, non_negative=True)
    conversion.writer.operator(Op.SOFTMAX, [value.index], [result], options)


def _pass_through(conversion: Conversion, node: Node) -> None:
    conversion.alias(node)


def _dropout(conversion: Conversion, node: Node) -> None:
    if node.input(2) and bool(conversion.constant(node, 2).any()):
        raise node.refuse("it is in training mode")
    conversion.alias(node)


def _cast(conversion: Conversion, node: Node) -> None:
    if node.attributes["to"] != TensorProto.FLOAT:
        raise node.refuse(f"it casts to {TensorProto.DataType.Name(node.attributes['to'])}; only FLOAT is known")
    conversion.alias(node)


HANDLERS: dict[str, Handler] = {
    "Add": _arithmetic(Op.ADD, schema.AddOptionsT),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _relu,
    "Conv": _conv,
    "Dropout": _dropout,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "Identity": _pass_through,
    "MatMul": _mat_mul,
    "MaxPool": _max_pool,
    "Mul": _arithmetic(Op.MUL, schema.MulOptionsT),
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Sub": _arithmetic(Op.SUB, schema.SubOptionsT),
    "Tanh": _tanh,
}
"""Every operator that can be converted, besides Constant, which is read with the graph."""
