"""Rules for products of matrices, and for the operators that look rows up."""

from dsops.tflite_lint.checks_numbers import check_scaled, check_weights
from dsops.tflite_lint.fields import FullyConnected
from dsops.tflite_lint.model import Dims
from dsops.tflite_lint.node import Node, agree, broadcast, elements, show
from dsops.tflite_lint.schema import DType

_F32, _I8, _I16 = DType.FLOAT32, DType.INT8, DType.INT16
_PRODUCTS = {
    (_F32, _F32): frozenset({_F32}),
    (_F32, _I8): frozenset({_F32}),
    (_F32, DType.INT4): frozenset({_F32}),
    (_I8, _I8): frozenset({_I8, _I16, DType.INT32}),
    (_I8, DType.INT4): frozenset({_I8, _I16, DType.INT32}),
    (_I16, _I16): frozenset({_I16, DType.INT32, DType.INT64}),
    (_I16, _I8): frozenset({_I16, DType.INT32, DType.INT64}),
}
"""Types of BATCH_MATMUL's output, by those of its inputs."""
_ACTIVATIONS = 4
_ADJOINT_X, _ADJOINT_Y = 0, 1


def check_fully_connected(node: Node) -> None:
    """FULLY_CONNECTED: the input's last elements, so many as the weights [units, depth] are deep, make one row."""
    node.choice(FullyConnected.ACTIVATION, _ACTIVATIONS)
    if node.choice(FullyConnected.WEIGHTS_FORMAT, 2):
        raise node.refuse("its weights are shuffled for one kind of processor")
    check_weights(node, (0, 1, 2), axis=0)
    weights = node.dims(1, 2)
    x = node.dims(0)
    if weights is None or x is None:
        return
    units, depth = weights
    if units == 0 or depth == 0:
        raise node.refuse(f"its weights have shape {show(weights)}")
    bias = node.optional(2)
    if bias is not None and bias.dims is not None and elements(bias.dims) not in {units, None}:
        raise node.refuse(f"its bias has shape {list(bias.shape)} for {units} units")
    node.expect(0, _rows(node, x, units, depth))


def _rows(node: Node, x: Dims, units: int | None, depth: int | None) -> Dims | None:
    """Return the output's shape."""
    if node.flag(FullyConnected.KEEP_DIMS):
        if not x or not agree(x[-1:], (depth,)):
            raise node.refuse(f"rows of {depth} do not fit the input {show(x)}")
        return (*x[:-1], units)
    count = elements(x)
    if count is None or depth is None:
        return (None, units) if x and len(node.outputs[0].shape) == 2 else None
    if count % depth:
        raise node.refuse(f"rows of {depth} do not fit the input {show(x)}")
    rows = count // depth
    out = node.outputs[0].dims
    if out is not None and len(out) != 2 and out[-1:] == (units,) and elements(out) == rows * (units or 0):
        return out  # some writers keep the dimensions without saying so; the runtime decides by itself
    return (rows, units)


def check_batch_matmul(node: Node) -> None:
    """BATCH_MATMUL: [..., M, K] times [..., K, N]; each may be turned."""
    types = node.input(0).dtype, node.input(1).dtype
    if node.outputs[0].dtype not in _PRODUCTS.get(types, frozenset()):
        raise node.refuse(f"no kernel multiplies {types[0].name} with {types[1].name} to {node.outputs[0].dtype.name}")
    for tensor in (node.input(0), node.outputs[0]):
        check_scaled(node, tensor, "its input or output")
    x, y = node.dims(0), node.dims(1)
    if x is None or y is None:
        return
    if not (2 <= len(x) <= 5 and 2 <= len(y) <= 5):
        raise node.refuse(f"it takes no {show(x)} and {show(y)}")
    rows, depth = _turned(x, turn=node.flag(_ADJOINT_X))
    other, columns = _turned(y, turn=node.flag(_ADJOINT_Y))
    if not agree((depth,), (other,)):
        raise node.refuse(f"{show(x)} and {show(y)} cannot be multiplied")
    try:
        batch = broadcast(x[:-2], y[:-2])
    except ValueError as error:
        raise node.refuse(f"{show(x)} and {show(y)} do not fit each other") from error
    node.expect(0, None if batch is None else (*batch, rows, columns))


def _turned(dims: Dims, *, turn: bool) -> Dims:
    return (dims[-1], dims[-2]) if turn else dims[-2:]


def check_embedding_lookup(node: Node) -> None:
    """EMBEDDING_LOOKUP: rows of input 1 by the numbers in input 0."""
    numbers, table = node.dims(0, 1), node.dims(1)
    if table is None or numbers is None:
        return
    if len(table) < 2:
        raise node.refuse(f"its table has shape {show(table)}")
    check_rows(node, 0, table[0])
    node.expect(0, (*numbers, *table[1:]))


def check_rows(node: Node, place: int, count: int | None) -> None:
    """Check that the constant numbers of an input name one of ``count`` rows, if both are known."""
    values = node.many_constants(place)
    if values and count is not None and not 0 <= min(values) <= max(values) < count:
        raise node.refuse(f"input {place} names rows {min(values)} to {max(values)} of {count}")
