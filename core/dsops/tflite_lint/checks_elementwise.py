"""Rules for operators that keep a shape, combine shapes, or drop axes."""

from collections.abc import Callable

from dsops.tflite_lint.checks_numbers import check_fixed_scale, check_same_scale
from dsops.tflite_lint.model import Dims
from dsops.tflite_lint.node import Node, agree, broadcast, show
from dsops.tflite_lint.schema import DType

_ACTIVATIONS = 4
_I8, _U8, _I16 = DType.INT8, DType.UINT8, DType.INT16
_PROBABILITY = {_I8: (1 / 256, -128), _U8: (1 / 256, 0), _I16: (1 / 32768, 0)}
"""Scale and zero point of numbers in [0, 1]."""
_SIGNED_UNIT = {_I8: (1 / 128, 0), _U8: (1 / 128, 128), _I16: (1 / 32768, 0)}
"""Of numbers in [-1, 1]."""
_LOG_PROBABILITY = {_I8: (16 / 256, 127), _U8: (16 / 256, 255)}
_STORED = frozenset({_I8, _U8, _I16, DType.INT32, DType.INT4})
_FIRST = 0


def check_same_shape(node: Node) -> None:
    """The output has the first input's shape."""
    node.expect(0, node.dims(0))


def check_broadcast(node: Node) -> None:
    """Two inputs are combined element by element, sizes of 1 repeated."""
    node.expect(0, _combined(node, 0, 1))


def check_fused(node: Node) -> None:
    """As :func:`check_broadcast`, and the operator's first option is an activation."""
    node.choice(_FIRST, _ACTIVATIONS)
    check_broadcast(node)


def _combined(node: Node, left: int, right: int) -> Dims | None:
    a, b = node.dims(left), node.dims(right)
    try:
        return broadcast(a, b)
    except ValueError as error:
        raise node.refuse(f"shapes {show(a or ())} and {show(b or ())} do not fit each other") from error


def check_all_equal(node: Node) -> None:
    """ADD_N: every input has the output's shape."""
    for place in range(len(node.inputs)):
        node.expect(0, node.dims(place))


def check_select(node: Node) -> None:
    """SELECT and SELECT_V2: a condition chooses between two; SELECT's may also choose whole rows."""
    chosen, condition = _combined(node, 1, 2), node.dims(0)
    if chosen is None or condition is None:
        return
    if len(condition) == 1 and chosen and len(chosen) > 1 and agree(condition, chosen[:1]):
        return
    try:
        node.expect(0, broadcast(condition, chosen))
    except ValueError as error:
        raise node.refuse(f"the condition {show(condition)} does not fit {show(chosen)}") from error


def check_softmax(node: Node) -> None:
    """SOFTMAX: the exponent's factor is positive."""
    if node.real(_FIRST) <= 0:
        raise node.refuse("its factor is not positive")
    if not node.dims(0):
        raise node.refuse("its input has no axis")
    check_same_shape(node)
    if node.input(0).dtype is node.outputs[0].dtype:
        check_fixed_scale(node, _PROBABILITY)


def check_logistic(node: Node) -> None:
    """LOGISTIC."""
    check_same_shape(node)
    if node.outputs[0].dtype is not _I16:
        check_fixed_scale(node, _PROBABILITY)


def check_tanh(node: Node) -> None:
    """TANH."""
    check_same_shape(node)
    check_fixed_scale(node, _SIGNED_UNIT)


def check_log_softmax(node: Node) -> None:
    """LOG_SOFTMAX."""
    check_same_shape(node)
    check_fixed_scale(node, _LOG_PROBABILITY)


def check_l2_normalization(node: Node) -> None:
    """L2_NORMALIZATION."""
    node.choice(_FIRST, _ACTIVATIONS)
    check_same_shape(node)
    check_fixed_scale(node, {_I8: (1 / 128, 0), _U8: (1 / 128, 128)})


def check_local_response(node: Node) -> None:
    """LOCAL_RESPONSE_NORMALIZATION: over a radius, with three finite factors."""
    node.dims(0, 4)
    node.count(_FIRST)
    for field in (1, 2, 3):
        node.real(field)
    check_same_shape(node)


def check_leaky(node: Node) -> None:
    """LEAKY_RELU: a finite slope."""
    node.real(_FIRST)
    check_same_shape(node)


def check_quantize(node: Node) -> None:
    """QUANTIZE: from real or stored numbers to stored ones."""
    check_same_shape(node)
    if node.outputs[0].dtype not in _STORED:
        raise node.refuse(f"it gives no {node.outputs[0].dtype.name}")
    found = node.outputs[0].quantization
    if found is None or (not found.scales and found.blockwise is None):
        raise node.refuse("its output has no scale")


def check_dequantize(node: Node) -> None:
    """DEQUANTIZE: from stored numbers to real ones."""
    check_same_shape(node)
    tensor = node.input(0)
    if tensor.dtype in {DType.FLOAT16, DType.BFLOAT16}:
        return
    found = tensor.quantization
    if found is None or (not found.scales and found.blockwise is None):
        raise node.refuse("its input has no scale")


def check_reduce(node: Node) -> None:
    """MEAN, SUM, REDUCE_*: the axes of input 1 are dropped, or kept as 1 by the first option."""
    x, axes = node.dims(0), node.constant(1)
    keep = node.flag(_FIRST)
    if x is None or axes is None:
        return
    dropped = {node.axis(axis, len(x)) for axis in axes} if x else set()
    kept = [1 if place in dropped else size for place, size in enumerate(x)]
    node.expect(0, tuple(kept) if keep else tuple(size for place, size in enumerate(x) if place not in dropped))


def check_arg(node: Node) -> None:
    """ARG_MAX and ARG_MIN: one axis is dropped; the first option is the output's type."""
    x, axis = node.dims(0), node.constant(1)
    wanted = node.choice(_FIRST, len(DType))
    if node.operator.options is not None and node.outputs[0].dtype != wanted:
        raise node.refuse(f"it gives {DType(wanted).name}, its output is {node.outputs[0].dtype.name}")
    if x is None or axis is None:
        return
    if len(axis) != 1:
        raise node.refuse(f"it has {len(axis)} axes")
    place = node.axis(axis[0], len(x))
    node.expect(0, x[:place] + x[place + 1 :])


def check_cumsum(node: Node) -> None:
    """CUMSUM: along one axis."""
    x, axis = node.dims(0), node.constant(1)
    if x is not None and axis is not None:
        if len(axis) != 1:
            raise node.refuse(f"it has {len(axis)} axes")
        node.axis(axis[0], len(x))
    check_same_shape(node)


def check_prelu(node: Node) -> None:
    """PRELU: the slopes are repeated to the input's shape."""
    node.expect(0, _combined(node, 0, 1))
    check_same_shape(node)


def check_kept_scale(rule: Callable[[Node], None]) -> Callable[[Node], None]:
    """Return a rule that also asks for the same quantization of the first input and the first output."""

    def check(node: Node) -> None:
        rule(node)
        check_same_scale(node, node.input(0), node.outputs[0])

    return check
