"""Brings constant operands into the form for which quantization works.

What is wrong otherwise, seen with ai-edge-quantizer 0.10 and LiteRT 2.3:

- A constant operand of MAXIMUM, SELECT_V2 or PADV2 with fewer axes than the result, but not none, makes the quantizer
  fail ("Ranks of scales").
- The lowest float as PADV2's value, as converters write it before a maximum, becomes a part of the range, and every
  value rounds to zero without an error; minus infinity is left out of the range.
- The int8 kernel of DIV gives far too small quotients for small divisors, without an error; a product does not.
"""

from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.tflite_writer import Table
from dsops_controller.build.data import Floats
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quantization.rewrite_model import Rewriting

_LOWEST = -3e38
"""A value below this stands for minus infinity."""


def rewrite_constants(data: bytes) -> bytes:
    """Return an equal model without the above; as it is when there is nothing to do.

    The model's weights are inside its FlatBuffer.
    """
    operators = Graph(data).operators
    if not any(operator.name in _REWRITES for operator in operators):
        return data
    rewriting = Rewriting(data)
    for operator, entry in zip(operators, list(rewriting.graph.operators), strict=True):
        if operator.name in _REWRITES:
            _REWRITES[operator.name](rewriting, entry)
    return rewriting.finish()


def _pad(rewriting: Rewriting, entry: Table) -> None:
    values = rewriting.constant(entry.inputs[2])
    if values is not None:
        value = values.reshape(-1)[0]
        filling = np.array(-np.inf if value < _LOWEST else value, np.float32)
        entry.inputs = [*entry.inputs[:2], rewriting.add_constant(filling)]


def _widen(rewriting: Rewriting, entry: Table) -> None:
    """Give constant operands the result's number of axes, as broadcasting would."""
    axes = len(rewriting.shape(entry.outputs[0]))
    operands = []
    for index in entry.inputs:
        values = rewriting.constant(index)
        short = values is not None and 0 < values.ndim < axes
        operands.append(rewriting.add_constant(_with_axes(values, axes)) if values is not None and short else index)
    entry.inputs = operands


def _with_axes(values: Floats, axes: int) -> Floats:
    return values.reshape((1,) * (axes - values.ndim) + values.shape)


def _divide(rewriting: Rewriting, entry: Table) -> None:
    """Write a quotient by a constant as a product."""
    divisor = rewriting.constant(entry.inputs[1])
    if divisor is None or not divisor.all():
        return
    options = schema.MulOptionsT()
    if entry.builtinOptions is not None:
        options.fusedActivationFunction = entry.builtinOptions.fusedActivationFunction
    entry.inputs = [entry.inputs[0], rewriting.add_constant(np.float32(1) / divisor)]
    rewriting.become(entry, schema.BuiltinOperator.MUL, options)


_REWRITES: dict[str, Callable[[Rewriting, Table], None]] = {
    "PADV2": _pad,
    "MAXIMUM": _widen,
    "SELECT_V2": _widen,
    "DIV": _divide,
}
