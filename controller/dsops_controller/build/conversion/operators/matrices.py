"""Products of matrices: layers with constant weights, and products of two computed tensors."""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.operators.normalization import following_scale
from dsops_controller.build.conversion.writing import FLOAT, Conversion, Op, Value, is_clamped

Layer = tuple[Array, Array]
"""Weights [outputs, inputs] and bias [outputs]."""


def _gemm(conversion: Conversion, node: Node) -> None:
    value = _rows(conversion, node)
    if node.attributes["transA"]:
        value = conversion.transpose(conversion.reshape(value, value.shape), (1, 0))
    weights = conversion.constant(node, 1)
    if weights.ndim != 2 or value.rank != 2:
        raise node.refuse(f"it multiplies {value.rank} axes by {weights.ndim}, not 2 by 2")
    weights = _times(weights if node.attributes["transB"] else weights.T, node.attributes["alpha"])
    outputs = weights.shape[0]
    given = conversion.optional_constant(node, 2)
    bias = np.zeros(1, np.float32) if given is None else _times(given, node.attributes["beta"])
    if bias.size not in (1, outputs):
        raise node.refuse(f"its bias has shape {list(bias.shape)}, not [{outputs}]")
    scale, shift, last = following_scale(conversion, node, outputs)
    if last is not node:
        weights = (weights * scale[:, None]).astype(np.float32)
        bias = (bias.reshape(-1) * scale + shift).astype(np.float32)
    _write_layer(conversion, last, value, (weights, bias))


def _times(values: Array, factor: float) -> Array:
    return values if factor == 1.0 else values * np.float32(factor)


def _mat_mul(conversion: Conversion, node: Node) -> None:
    """Write MatMul; with a constant, and the Add of a bias behind it, as one fully connected layer.

    TFLite's BATCH_MATMUL would do as well in float, but its constant weights quantize to all zeros.
    """
    left, right = (conversion.constants.get(name) for name in node.inputs)
    if left is None and right is None:
        _product(conversion, node)
    elif right is not None:
        _layer(conversion, node, right)
    elif left is not None and left.ndim == 2:
        _from_left(conversion, node, left)
    else:
        raise node.refuse("its constant has more than 2 axes")


def _layer(conversion: Conversion, node: Node, given: Array) -> None:
    weights = given.reshape(given.shape[-2:]) if given.ndim > 2 and math.prod(given.shape[:-2]) == 1 else given
    if weights.ndim == 1:
        weights = weights[:, None]
    value = _rows(conversion, node)
    if weights.ndim != 2 or given.ndim > max(value.rank, 2):
        raise node.refuse(f"its weights have shape {list(given.shape)}")
    adder = conversion.graph.only_consumer(node.output)
    bias = _added_constant(conversion, node, adder, weights.shape[1]) if adder and given.ndim > 1 else None
    if adder is not None and bias is not None:
        conversion.absorb(adder)
        _write_layer(conversion, adder, value, (weights.T, bias))
        return
    if given.ndim > 1:
        _write_layer(conversion, node, value, (weights.T, np.zeros(1, np.float32)))
        return
    column = _fully_connected(conversion, value, (weights.T, np.zeros(1, np.float32)), 0, f"{node.output}_column")
    conversion.define(node.output, conversion.reshape(column, column.shape[:-1], node.output))


def _from_left(conversion: Conversion, node: Node, left: Array) -> None:
    """Write W x as the transpose of (the transpose of x) times (the transpose of W)."""
    value = conversion.plain(node, node.input(1))
    if value.rank < 2:
        raise node.refuse("its second operand has one axis")
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    turned = conversion.transpose(value, order)
    _check(node, turned, left)
    layer = (left, np.zeros(1, np.float32))
    product = _fully_connected(conversion, turned, layer, 0, f"{node.output}_turned")
    conversion.define(node.output, conversion.transpose(product, order))


def _product(conversion: Conversion, node: Node) -> None:
    left, right = (conversion.plain(node, name) for name in node.inputs)
    if min(left.rank, right.rank) < 2 or left.shape[-1] != right.shape[-2] or {left.dtype, right.dtype} != {FLOAT}:
        raise node.refuse(f"it multiplies {list(left.shape)} by {list(right.shape)}")
    try:
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError as error:
        raise node.refuse(f"it multiplies {list(left.shape)} by {list(right.shape)}") from error
    form = left.with_shape((*batch, left.shape[-2], right.shape[-1]), non_negative=False)
    options = schema.BatchMatMulOptionsT()
    conversion.define(node.output, conversion.emit(Op.BATCH_MATMUL, [left, right], form, node.output, options))


def _added_constant(conversion: Conversion, node: Node, adder: Node, outputs: int) -> Array | None:
    if adder.operator != "Add":
        return None
    other = next((name for name in adder.inputs if name != node.output), "")
    values = conversion.constants.get(other)
    if values is None or values.size not in (1, outputs) or values.shape[-1:] not in ((), (1,), (outputs,)):
        return None
    return values if values.ndim <= 1 else None


def _rows(conversion: Conversion, node: Node) -> Value:
    """Return the first input in ONNX's order of axes; a flattened image may stay unrolled as it is stored."""
    return conversion.plain(node, node.input(0))


def _write_layer(conversion: Conversion, node: Node, value: Value, layer: Layer) -> None:
    _check(node, value, layer[0])
    activation, name = conversion.fused_activation(node)
    conversion.define(name, _fully_connected(conversion, value, layer, activation, name))


def _check(node: Node, value: Value, weights: Array) -> None:
    if value.rank < 1 or value.shape[-1] != weights.shape[1] or value.dtype != FLOAT:
        raise node.refuse(f"its input has shape {list(value.shape)}, and its weights take {weights.shape[1]}")


def _fully_connected(conversion: Conversion, value: Value, layer: Layer, activation: int, name: str) -> Value:
    weights, bias = layer
    if value.unrolled:
        height, width, depth = value.unrolled[1:]
        weights = weights.reshape(-1, depth, height, width).transpose(0, 2, 3, 1).reshape(weights.shape)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    options.keepNumDims = value.rank != 2
    constants = [
        conversion.floats(f"{name}_weights", weights),
        conversion.floats(f"{name}_bias", np.broadcast_to(bias.reshape(-1), (weights.shape[0],))),
    ]
    shape = (*value.shape[:-1], weights.shape[0])
    form = value.with_shape(shape, non_negative=is_clamped(activation), channels_last=False)
    return conversion.emit(Op.FULLY_CONNECTED, [value, *constants], form, name, options)


HANDLERS: dict[str, Handler] = {"Gemm": _gemm, "MatMul": _mat_mul}
"""Operators of this family."""
