"""Operators that compute each element by itself: arithmetic with broadcasting, comparisons, functions of one number."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.writing import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    TO_LAST,
    Conversion,
    Fact,
    Form,
    Op,
    Value,
    is_clamped,
)

Handler = Callable[[Conversion, Node], None]
_CAST = {TensorProto.FLOAT: FLOAT, TensorProto.INT32: INT32, TensorProto.INT64: INT64, TensorProto.BOOL: BOOL}


def aligned_operands(conversion: Conversion, node: Node, names: Sequence[str]) -> list[Value]:
    """Return operands that TFLite can broadcast: all with as many axes as the result, in one layout.

    That layout has the channels last when one of the operands of full rank has.
    """
    known = [conversion.constants.get(name) for name in names]
    values = {name: conversion.value(node, name) for name, array in zip(names, known, strict=True) if array is None}
    rank = max(*(v.rank for v in values.values()), *(a.ndim for a in known if a is not None), 0, 0)
    last = any(value.channels_last and value.rank == rank for value in values.values())
    return [
        _computed(conversion, values[name], rank, last=last)
        if array is None
        else _fixed(conversion, f"{node.output}_{name}", array, rank, last=last)
        for name, array in zip(names, known, strict=True)
    ]


def _computed(conversion: Conversion, value: Value, rank: int, *, last: bool) -> Value:
    if value.rank < rank:
        low = conversion.in_layout(value, channels_last=False)
        value = conversion.reshape(low, (1,) * (rank - low.rank) + low.shape)
    return conversion.in_layout(value, channels_last=last)


def _fixed(conversion: Conversion, name: str, values: Array, rank: int, *, last: bool) -> Value:
    full = values.reshape((1,) * (rank - values.ndim) + values.shape) if values.ndim else values
    if last and full.ndim == rank:
        full = full.transpose(TO_LAST[rank])
    return conversion.stored(name, full).with_form(channels_last=last)


def broadcast(node: Node, operands: Sequence[Value]) -> tuple[int, ...]:
    """Return the stored shape of a result.

    Raises:
        UnsupportedModel: The operands' shapes do not fit.
    """
    try:
        return np.broadcast_shapes(*(value.shape for value in operands))
    except ValueError as error:
        raise node.refuse(f"shapes {' and '.join(str(list(v.onnx_shape)) for v in operands)} do not fit") from error


def result_form(node: Node, operands: Sequence[Value], **changes: Fact) -> Form:
    """Return the form of what several operands give together."""
    like = max(operands, key=lambda value: value.rank)
    return like.with_shape(broadcast(node, operands), **({"non_negative": False} | changes))


def arithmetic(code: int, options_type: Callable[[], Any]) -> Handler:
    """Return the handler of Add, Sub, Mul or Div, into which an activation can be fused."""
    keeps_sign = code in (Op.ADD, Op.MUL, Op.DIV)

    def write(conversion: Conversion, node: Node) -> None:
        operands = aligned_operands(conversion, node, node.inputs)
        floating = operands[0].dtype == FLOAT
        activation, name = conversion.fused_activation(node) if floating else (0, node.output)
        options = options_type()
        options.fusedActivationFunction = activation
        positive = is_clamped(activation) or (keeps_sign and all(value.non_negative for value in operands))
        form = result_form(node, operands, non_negative=positive)
        conversion.define(name, conversion.emit(code, operands, form, name, options))

    return write


def pairwise(code: int, options_type: Callable[[], Any] | None = None, dtype: Fact = None) -> Handler:
    """Return the handler of an operator that takes two operands or more, two at a time."""

    def write(conversion: Conversion, node: Node) -> None:
        operands = aligned_operands(conversion, node, node.inputs)
        result = operands[0]
        options = options_type() if options_type else None
        for operand in operands[1:]:
            form = result_form(node, (result, operand))
            form = form if dtype is None else form.with_shape(form.shape, dtype=dtype)
            result = conversion.emit(code, (result, operand), form, node.output, options)
        conversion.define(node.output, result)

    return write


def unary(code: int, options_type: Callable[[], Any] | None = None, *, non_negative: bool = False) -> Handler:
    """Return the handler of a function of one number."""

    def write(conversion: Conversion, node: Node) -> None:
        value = conversion.value(node, node.input(0))
        form = value.with_shape(value.shape, non_negative=non_negative)
        options = options_type() if options_type else None
        conversion.define(node.output, conversion.emit(code, [value], form, node.output, options))

    return write


def _reciprocal(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    one = conversion.floats(f"{node.output}_one", np.array(1.0))
    form = value.with_shape(value.shape)
    conversion.define(node.output, conversion.emit(Op.DIV, [one, value], form, node.output, schema.DivOptionsT()))


def _where(conversion: Conversion, node: Node) -> None:
    operands = aligned_operands(conversion, node, node.inputs)
    form = result_form(node, operands, dtype=operands[1].dtype)
    conversion.define(
        node.output, conversion.emit(Op.SELECT_V2, operands, form, node.output, schema.SelectV2OptionsT())
    )


def _cast(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    kind = node.attributes["to"]
    dtype = _CAST.get(kind)
    if dtype is None:
        raise node.refuse(f"it casts to {TensorProto.DataType.Name(kind)}; FLOAT, INT32, INT64 and BOOL are known")
    if dtype == value.dtype:
        conversion.define(node.output, value)
        return
    form = value.with_shape(value.shape, dtype=dtype)
    conversion.define(node.output, conversion.emit(Op.CAST, [value], form, node.output, schema.CastOptionsT()))


def pass_through(conversion: Conversion, node: Node) -> None:
    """Let a node's output be its input."""
    conversion.define(node.output, conversion.value(node, node.input(0)))


def _dropout(conversion: Conversion, node: Node) -> None:
    if node.input(2) and bool(conversion.constant(node, 2).any()):
        raise node.refuse("it is in training mode")
    pass_through(conversion, node)


HANDLERS: dict[str, Handler] = {
    "Abs": unary(Op.ABS, schema.AbsOptionsT, non_negative=True),
    "Add": arithmetic(Op.ADD, schema.AddOptionsT),
    "And": pairwise(Op.LOGICAL_AND, schema.LogicalAndOptionsT),
    "Cast": _cast,
    "Ceil": unary(Op.CEIL),
    "Cos": unary(Op.COS, schema.CosOptionsT),
    "Div": arithmetic(Op.DIV, schema.DivOptionsT),
    "Dropout": _dropout,
    "Equal": pairwise(Op.EQUAL, schema.EqualOptionsT, BOOL),
    "Exp": unary(Op.EXP, schema.ExpOptionsT, non_negative=True),
    "Floor": unary(Op.FLOOR),
    "Greater": pairwise(Op.GREATER, schema.GreaterOptionsT, BOOL),
    "GreaterOrEqual": pairwise(Op.GREATER_EQUAL, schema.GreaterEqualOptionsT, BOOL),
    "Identity": pass_through,
    "Less": pairwise(Op.LESS, schema.LessOptionsT, BOOL),
    "LessOrEqual": pairwise(Op.LESS_EQUAL, schema.LessEqualOptionsT, BOOL),
    "Log": unary(Op.LOG),
    "Max": pairwise(Op.MAXIMUM, schema.MaximumMinimumOptionsT),
    "Min": pairwise(Op.MINIMUM, schema.MaximumMinimumOptionsT),
    "Mul": arithmetic(Op.MUL, schema.MulOptionsT),
    "Neg": unary(Op.NEG, schema.NegOptionsT),
    "Not": unary(Op.LOGICAL_NOT, schema.LogicalNotOptionsT),
    "Or": pairwise(Op.LOGICAL_OR, schema.LogicalOrOptionsT),
    "Pow": pairwise(Op.POW, schema.PowOptionsT),
    "Reciprocal": _reciprocal,
    "Sin": unary(Op.SIN),
    "Sqrt": unary(Op.SQRT, non_negative=True),
    "Sub": arithmetic(Op.SUB, schema.SubOptionsT),
    "Where": _where,
}
"""Operators of this family."""
