"""Normalization: by a batch's statistics (folded, or as MUL and ADD), over a layer, over channels, of scores."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.activations import Steps
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.writing import FLOAT, Conversion, Op, Value

_COERCED_SOFTMAX = 13
"""Before this operator set, Softmax flattened its input to two axes."""


def scale_and_shift(conversion: Conversion, node: Node) -> tuple[Array, Array]:
    """Return what a BatchNormalization multiplies each channel by, and what it then adds."""
    if node.attributes.get("training_mode", 0):
        raise node.refuse("it is in training mode")
    gain, offset, mean, variance = (conversion.constant(node, position).astype(np.float64) for position in (1, 2, 3, 4))
    if not gain.shape == offset.shape == mean.shape == variance.shape or gain.ndim != 1 or (variance < 0).any():
        raise node.refuse("its statistics have different shapes, or a negative variance")
    scale = gain / np.sqrt(variance + node.attributes["epsilon"])
    return scale, offset - mean * scale


def following_scale(conversion: Conversion, node: Node, channels: int) -> tuple[Array, Array, Node]:
    """Return scale and shift of the BatchNormalization that alone reads a node, and that; or one, zero, and the node.

    The normalization is then a part of the node.
    """
    reader = conversion.graph.only_consumer(node.output)
    fits = reader is not None and reader.operator == "BatchNormalization" and reader.input(0) == node.output
    if reader is None or not fits or not all(name in conversion.constants for name in reader.inputs[1:]):
        return np.ones(channels), np.zeros(channels), node
    scale, shift = scale_and_shift(conversion, reader)
    if scale.shape != (channels,):
        raise reader.refuse(f"its statistics are of {scale.size} channels, and its input has {channels}")
    conversion.absorb(reader)
    return scale, shift, reader


def _batch_normalization(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    scale, shift = scale_and_shift(conversion, node)
    if value.rank < 2 or value.onnx_shape[1] != scale.size:
        raise node.refuse(f"its statistics are of {scale.size} channels, and its input is {list(value.onnx_shape)}")
    channels = [scale.size if axis == value.axis(1) else 1 for axis in range(value.rank)]
    activation, name = conversion.fused_activation(node)
    steps = Steps(conversion, value, name)
    steps.multiply(conversion.floats(f"{name}_scale", scale.reshape(channels)))
    steps.add(conversion.floats(f"{name}_shift", shift.reshape(channels)), activation)
    conversion.define(name, steps.value)


def _instance_normalization(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    gain, offset = conversion.constant(node, 1), conversion.constant(node, 2)
    channels = [gain.size if axis == value.axis(1) else 1 for axis in range(value.rank)]
    steps = _standardized(conversion, node, value, sorted(value.axis(axis) for axis in range(2, value.rank)))
    steps.multiply(conversion.floats(f"{node.output}_scale", gain.reshape(channels)))
    steps.add(conversion.floats(f"{node.output}_shift", offset.reshape(channels)))
    conversion.define(node.output, steps.value)


def _layer_normalization(conversion: Conversion, node: Node) -> None:
    if any(node.outputs[1:]):
        raise node.refuse("its mean or deviation is used")
    value = conversion.plain(node, node.input(0))
    steps = _standardized(conversion, node, value, range(value.axis(node.attributes["axis"]), value.rank))
    steps.multiply(conversion.floats(f"{node.output}_scale", conversion.constant(node, 1)))
    offset = conversion.optional_constant(node, 2)
    if offset is not None:
        steps.add(conversion.floats(f"{node.output}_shift", offset))
    conversion.define(node.output, steps.value)


def _standardized(conversion: Conversion, node: Node, value: Value, axes: range | list[int]) -> Steps:
    """Write (x - mean) / sqrt(variance + epsilon) over stored axes."""
    if value.dtype != FLOAT:
        raise node.refuse(f"its input is {value.dtype}, not float32")
    options = schema.ReducerOptionsT()
    options.keepDims = True
    over = conversion.integers(f"{node.output}_axes", list(axes))
    form = value.with_shape([1 if axis in axes else size for axis, size in enumerate(value.shape)], non_negative=False)
    mean = conversion.emit(Op.MEAN, [value, over], form, f"{node.output}_mean", options)
    centred = Steps(conversion, value, node.output).apply(Op.SUB, mean, options=schema.SubOptionsT())
    squares = Steps(conversion, centred.value, f"{node.output}_squares").multiply(centred.value).value
    variance = conversion.emit(Op.MEAN, [squares, over], form, f"{node.output}_variance", options)
    deviation = Steps(conversion, variance, f"{node.output}_inverse").add(float(node.attributes["epsilon"]))
    return centred.multiply(deviation.apply(Op.RSQRT).value)


def _scores(code: int) -> Handler:
    """Return the handler of Softmax or LogSoftmax; TFLite computes them over the last axis."""

    def write(conversion: Conversion, node: Node) -> None:
        value = conversion.value(node, node.input(0))
        axis = node.attributes["axis"]
        if node.opset < _COERCED_SOFTMAX and axis % value.rank != value.rank - 1:
            flat = conversion.in_layout(value, channels_last=False)
            split = flat.axis(axis)
            shape = (int(np.prod(flat.shape[:split])), int(np.prod(flat.shape[split:])))
            scored = _over_last(conversion, conversion.reshape(flat, shape), node.output, code)
            conversion.define(node.output, conversion.reshape(scored, flat.shape))
        elif value.axis(axis) == value.rank - 1:
            conversion.define(node.output, _over_last(conversion, value, node.output, code))
        else:
            plain = conversion.in_layout(value, channels_last=False)
            order = list(range(plain.rank))
            order[-1], order[plain.axis(axis)] = order[plain.axis(axis)], order[-1]
            scored = _over_last(conversion, conversion.transpose(plain, order), node.output, code)
            conversion.define(node.output, conversion.transpose(scored, order))

    return write


def _over_last(conversion: Conversion, value: Value, name: str, code: int) -> Value:
    if code == Op.SOFTMAX:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
    else:
        options = schema.LogSoftmaxOptionsT()
    form = value.with_shape(value.shape, non_negative=code == Op.SOFTMAX)
    return conversion.emit(code, [value], form, name, options)


def _local_response(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    size = node.attributes["size"]
    if size < 1 or size % 2 == 0:
        raise node.refuse(f"it spans {size} channels; an odd number is known")
    options = schema.LocalResponseNormalizationOptionsT()
    options.radius, options.bias = size // 2, node.attributes["bias"]
    options.alpha, options.beta = node.attributes["alpha"] / size, node.attributes["beta"]
    code = Op.LOCAL_RESPONSE_NORMALIZATION
    result = conversion.emit(code, [image], image.with_shape(image.shape), node.output, options)
    conversion.define_image(node.output, result, conversion.value(node, node.input(0)).rank)


HANDLERS: dict[str, Handler] = {
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _scores(Op.LOG_SOFTMAX),
    "Softmax": _scores(Op.SOFTMAX),
}
"""Operators of this family."""
