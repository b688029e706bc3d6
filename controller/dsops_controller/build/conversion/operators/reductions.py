"""Operators that reduce axes to one number each."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Node, Shape
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.writing import FLOAT, INT64, Conversion, Op, Value


def _reduction(code: int, *, square: bool = False, root: bool = False) -> Handler:
    """Return the handler of a reduction: of the squares of its elements, and to the root of the result, if asked."""

    def write(conversion: Conversion, node: Node) -> None:
        value = conversion.value(node, node.input(0))
        if value.dtype != FLOAT:
            raise node.refuse(f"its input is {value.dtype}, not float32")
        given = conversion.setting(node, 1, "axes")
        if not given and node.attributes.get("noop_with_empty_axes", 0):
            raise node.refuse("it reduces no axis (noop_with_empty_axes)")
        axes = [axis % value.rank for axis in given] if given else list(range(value.rank))
        keep = bool(node.attributes["keepdims"])
        if not keep and not _stays_in_order(value, axes):
            value = conversion.in_layout(value, channels_last=False)
        if square:
            form = value.with_shape(value.shape, non_negative=True)
            value = conversion.emit(Op.MUL, [value, value], form, f"{node.output}_squares", schema.MulOptionsT())
        result = _reduce(conversion, node, value, (code, tuple(axes), keep))
        if root:
            result = conversion.emit(Op.SQRT, [result], result, node.output)
        conversion.define(node.output, result)

    return write


def _stays_in_order(value: Value, axes: list[int]) -> bool:
    """Say whether the axes that are left over are stored in ONNX's order."""
    left = [value.axis(axis) for axis in range(value.rank) if axis not in axes]
    return left == sorted(left)


def _reduce(conversion: Conversion, node: Node, value: Value, how: tuple[int, Shape, bool]) -> Value:
    code, axes, keep = how
    stored = sorted({value.axis(axis) for axis in axes})
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    if keep:
        shape = [1 if axis in stored else size for axis, size in enumerate(value.shape)]
    else:
        shape = [size for axis, size in enumerate(value.shape) if axis not in stored]
    form = value.with_shape(shape, channels_last=value.channels_last and keep)
    over = conversion.integers(f"{node.output}_axes", stored)
    return conversion.emit(code, [value, over], form, node.output, options)


def _arg(code: int) -> Handler:
    """Return the handler of ArgMax or ArgMin, which give int64 indices."""

    def write(conversion: Conversion, node: Node) -> None:
        value = conversion.value(node, node.input(0))
        if node.attributes.get("select_last_index", 0):
            raise node.refuse("it takes the last of equal elements")
        axis = node.attributes["axis"] % value.rank
        if not _stays_in_order(value, [axis]):
            value = conversion.in_layout(value, channels_last=False)
        place = value.axis(axis)
        options = (schema.ArgMaxOptionsT if code == Op.ARG_MAX else schema.ArgMinOptionsT)()
        options.outputType = schema.TensorType.INT64
        where = conversion.stored(f"{node.output}_axis", np.array(place, np.int32))
        shape = [size for other, size in enumerate(value.shape) if other != place]
        form = value.with_shape(shape, dtype=INT64, channels_last=False)
        result = conversion.emit(code, [value, where], form, node.output, options)
        if node.attributes["keepdims"]:
            full = [1 if other == axis else size for other, size in enumerate(value.onnx_shape)]
            result = conversion.reshape(result, full, node.output)
        conversion.define(node.output, result)

    return write


HANDLERS: dict[str, Handler] = {
    "ArgMax": _arg(Op.ARG_MAX),
    "ArgMin": _arg(Op.ARG_MIN),
    "ReduceL2": _reduction(Op.SUM, square=True, root=True),
    "ReduceMax": _reduction(Op.REDUCE_MAX),
    "ReduceMean": _reduction(Op.MEAN),
    "ReduceMin": _reduction(Op.REDUCE_MIN),
    "ReduceSum": _reduction(Op.SUM),
    "ReduceSumSquare": _reduction(Op.SUM, square=True),
}
"""Operators of this family."""
