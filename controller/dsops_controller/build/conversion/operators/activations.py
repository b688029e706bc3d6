"""Activations: those that TFLite has, and those that are written with its arithmetic."""

import math
from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Node
from dsops_controller.build.conversion.operators.elementwise import (
    Handler,
    aligned_operands,
    pass_through,
    result_form,
    unary,
)
from dsops_controller.build.conversion.tflite_writer import Table
from dsops_controller.build.conversion.writing import FLOAT, Activation, Conversion, Fact, Op, Value

_CLIPS = {
    (0.0, math.inf): Op.RELU,
    (0.0, 6.0): Op.RELU6,
    (0.0, 1.0): Op.RELU_0_TO_1,
    (-1.0, 1.0): Op.RELU_N1_TO_1,
}


class Steps:
    """Writes a chain of operators on one tensor, each named after the tensor that results in the end."""

    def __init__(self, conversion: Conversion, value: Value, name: str) -> None:
        self.value, self._conversion, self._name = value, conversion, name

    def scalar(self, value: float) -> Value:
        """Return a constant number."""
        return self._conversion.floats(f"{self._name}_constant", np.array(value))

    def apply(self, code: int, *others: Value, options: Table = None, **changes: Fact) -> "Steps":
        """Write an operator on the tensor so far, and on others of its shape or a single number."""
        form = self.value.with_shape(self.value.shape, **({"non_negative": False} | changes))
        self.value = self._conversion.emit(code, [self.value, *others], form, self._name, options)
        return self

    def multiply(self, other: Value | float) -> "Steps":
        """Multiply by a tensor or a number; by one, nothing is written."""
        if other == 1.0:
            return self
        factor = other if isinstance(other, Value) else self.scalar(other)
        return self.apply(Op.MUL, factor, options=schema.MulOptionsT())

    def add(self, other: Value | float, activation: int = Activation.NONE) -> "Steps":
        """Add a tensor or a number, with an activation behind it."""
        options = schema.AddOptionsT()
        options.fusedActivationFunction = activation
        return self.apply(Op.ADD, other if isinstance(other, Value) else self.scalar(other), options=options)


def _steps(conversion: Conversion, node: Node) -> Steps:
    value = conversion.value(node, node.input(0))
    if value.dtype != FLOAT:
        raise node.refuse(f"its input is {value.dtype}, not float32")
    return Steps(conversion, value, node.output)


def _clip(conversion: Conversion, node: Node) -> None:
    low, high = conversion.clip_range(node)
    steps = _steps(conversion, node)
    if (low, high) in _CLIPS:
        steps.apply(_CLIPS[low, high], non_negative=low == 0.0)
    else:
        options = schema.MaximumMinimumOptionsT()
        if low > -math.inf:
            steps.apply(Op.MAXIMUM, steps.scalar(low), options=options, non_negative=low >= 0)
        if high < math.inf:
            positive = steps.value.non_negative and high >= 0
            steps.apply(Op.MINIMUM, steps.scalar(high), options=options, non_negative=positive)
    conversion.define(node.output, steps.value)


def _hard_sigmoid_of(steps: Steps, alpha: float, beta: float) -> Steps:
    """Write max(0, min(1, alpha x + beta)) as relu6(6 alpha x + 6 beta) / 6, which fuses and quantizes."""
    six_alpha = 1.0 if math.isclose(alpha * 6, 1.0, rel_tol=1e-6) else alpha * 6
    return steps.multiply(six_alpha).add(beta * 6, Activation.RELU6).multiply(1 / 6)


def _hard_sigmoid(conversion: Conversion, node: Node) -> None:
    steps = _steps(conversion, node)
    written = _hard_sigmoid_of(steps, node.attributes["alpha"], node.attributes["beta"])
    conversion.define(node.output, written.value.with_form(non_negative=True))


def _elu(conversion: Conversion, node: Node) -> None:
    """Write ELU; with an alpha of its own as max(x, 0) + alpha (exp(min(x, 0)) - 1)."""
    steps, alpha = _steps(conversion, node), node.attributes["alpha"]
    if alpha == 1.0:
        conversion.define(node.output, steps.apply(Op.ELU).value)
        return
    options = schema.MaximumMinimumOptionsT()
    positive = Steps(conversion, steps.value, f"{node.output}_positive").apply(Op.RELU).value
    steps.apply(Op.MINIMUM, steps.scalar(0.0), options=options).apply(Op.EXP, options=schema.ExpOptionsT())
    conversion.define(node.output, steps.add(-1.0).multiply(float(alpha)).add(positive).value)


def _leaky_relu(conversion: Conversion, node: Node) -> None:
    options = schema.LeakyReluOptionsT()
    options.alpha = node.attributes["alpha"]
    conversion.define(node.output, _steps(conversion, node).apply(Op.LEAKY_RELU, options=options).value)


def _prelu(conversion: Conversion, node: Node) -> None:
    """Write PRELU. TFLite wants its slopes without the batch axis."""
    value = conversion.value(node, node.input(0))
    name, slopes = node.input(1), conversion.constant(node, 1)
    if slopes.size == 1:
        options = schema.LeakyReluOptionsT()
        options.alpha = float(slopes.reshape(()))
        conversion.define(node.output, _steps(conversion, node).apply(Op.LEAKY_RELU, options=options).value)
        return
    operands = aligned_operands(conversion, node, node.inputs)
    full = slopes.reshape((1,) * (value.rank - slopes.ndim) + slopes.shape)
    if full.shape[0] != 1:
        raise node.refuse(f"its slopes have shape {list(slopes.shape)}")
    stored = full.transpose([0, *range(2, value.rank), 1]) if value.channels_last else full
    form = result_form(node, operands)
    slope = conversion.floats(f"{node.output}_{name}", stored[0])
    conversion.define(node.output, conversion.emit(Op.PRELU, [operands[0], slope], form, node.output))


def _gelu(conversion: Conversion, node: Node) -> None:
    options = schema.GeluOptionsT()
    options.approximate = node.text("approximate") == "tanh"
    conversion.define(node.output, _steps(conversion, node).apply(Op.GELU, options=options).value)


def _softplus_of(conversion: Conversion, steps: Steps, name: str) -> Steps:
    """Write log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    positive = Steps(conversion, steps.value, f"{name}_positive").apply(Op.RELU).value
    steps.apply(Op.ABS, options=schema.AbsOptionsT()).apply(Op.NEG, options=schema.NegOptionsT())
    return steps.apply(Op.EXP, options=schema.ExpOptionsT()).add(1.0).apply(Op.LOG).add(positive)


def _softplus(conversion: Conversion, node: Node) -> None:
    written = _softplus_of(conversion, _steps(conversion, node), node.output)
    conversion.define(node.output, written.value.with_form(non_negative=True))


def _mish(conversion: Conversion, node: Node) -> None:
    steps = _steps(conversion, node)
    source = steps.value
    conversion.define(node.output, _softplus_of(conversion, steps, node.output).apply(Op.TANH).multiply(source).value)


def _swish(conversion: Conversion, node: Node) -> None:
    steps = _steps(conversion, node)
    source = steps.value
    scaled = steps.multiply(float(node.attributes.get("alpha", 1.0)))
    conversion.define(node.output, scaled.apply(Op.LOGISTIC).multiply(source).value)


def _relu(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    if value.non_negative:
        pass_through(conversion, node)
    else:
        _write_relu(conversion, node)


_write_relu: Callable[[Conversion, Node], None] = unary(Op.RELU, non_negative=True)

HANDLERS: dict[str, Handler] = {
    "Clip": _clip,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": unary(Op.HARD_SWISH, schema.HardSwishOptionsT),
    "LeakyRelu": _leaky_relu,
    "Mish": _mish,
    "PRelu": _prelu,
    "Relu": _relu,
    "Sigmoid": unary(Op.LOGISTIC, non_negative=True),
    "Softplus": _softplus,
    "Swish": _swish,
    "Tanh": unary(Op.TANH),
}
"""Operators of this family."""
