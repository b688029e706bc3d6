"""Rules for recurrent operators: their many inputs have to fit each other, and their state has to be a variable."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsops.tflite_lint.checks_numbers import check_scaled, scale_of
from dsops.tflite_lint.fields import Lstm, Rnn, Svdf
from dsops.tflite_lint.model import Dims
from dsops.tflite_lint.node import Node, agree, show
from dsops.tflite_lint.schema import DType

_ACTIVATIONS = 6
_HIDDEN = 4
"""Which intermediate tensor stands for the cell's numbers before the projection."""
_LSTM_ARITIES = frozenset({20, 24})
_BASIC_LSTM = 5
_BASIC_KERNEL = 1
_F32, _I8, _U8, _I16 = DType.FLOAT32, DType.INT8, DType.UINT8, DType.INT16
_SVDF_TYPES = frozenset(
    (*types[:3], bias, types[3])
    for *types, sums in (
        (_F32, _F32, _F32, _F32, _F32),
        (_F32, _I8, _F32, _F32, _F32),
        (_F32, _I8, _I8, _I8, _F32),
        (_F32, _U8, _U8, _U8, _F32),
        (_I8, _I8, _I16, _I16, DType.INT32),
    )
    for bias in (sums, None)
)
"""Types of input, two filters, bias and state. A state of INT8 would be written beyond its end."""
_FULL_INTEGER_INTERMEDIATES = frozenset({5, 12})


@dataclass(frozen=True)
class _Cell:
    """Where the parts of one LSTM cell begin among the inputs; the gates' order is input, forget, cell, output."""

    weights: int
    states: int
    norms: int


_FORWARD = _Cell(weights=1, states=18, norms=20)
_BIDIRECTIONAL = (_Cell(weights=1, states=35, norms=48), _Cell(weights=18, states=37, norms=48))


def check_lstm(node: Node) -> None:
    """LSTM: one step of a cell; the basic kernel has five inputs and four outputs."""
    node.choice(Lstm.ACTIVATION, _ACTIVATIONS)
    if node.choice(Lstm.KERNEL, 2) == _BASIC_KERNEL:
        _check_basic(node)
        return
    x = node.dims(0, 2)
    _check_arity(node)
    made = _check_cell(node, _FORWARD, x)
    node.expect(0, None if x is None or made is None else (x[0], made))


def check_sequence_lstm(node: Node) -> None:
    """UNIDIRECTIONAL_SEQUENCE_LSTM: a cell over [time, N, features], or [N, time, features]."""
    node.choice(Lstm.ACTIVATION, _ACTIVATIONS)
    time_major = node.flag(Lstm.UNIDIRECTIONAL_TIME_MAJOR)
    _check_arity(node)
    x = node.dims(0, 3)
    if node.flag(Lstm.DIAGONAL):
        raise node.refuse("diagonal recurrent weights are not admitted")
    made = _check_cell(node, _FORWARD, _one_step(x, time_major=time_major))
    node.expect(0, None if x is None or made is None else (*x[:2], made))


def check_bidirectional_lstm(node: Node) -> None:
    """BIDIRECTIONAL_SEQUENCE_LSTM: two cells, one backwards; outputs apart or merged."""
    node.choice(Lstm.ACTIVATION, _ACTIVATIONS)
    if len(node.inputs) != 48:
        raise node.refuse(f"it has {len(node.inputs)} inputs, 48 are needed")
    merged = node.flag(Lstm.MERGE_OUTPUTS)
    time_major = _flag_true_by_default(node, Lstm.BIDIRECTIONAL_TIME_MAJOR)
    x = node.dims(0, 3)
    step = _one_step(x, time_major=time_major)
    made = [_check_cell(node, cell, step) for cell in _BIDIRECTIONAL]
    _check_merge(node, x, made, merged=merged)


def check_rnn(node: Node) -> None:
    """RNN: one step of [N, features]."""
    x = node.dims(0, 2)
    units = _check_rnn_cell(node, 1, x)
    node.expect(0, None if x is None else (x[0], units))


def check_sequence_rnn(node: Node) -> None:
    """UNIDIRECTIONAL_SEQUENCE_RNN."""
    node.choice(Rnn.ACTIVATION, _ACTIVATIONS)
    x = node.dims(0, 3)
    units = _check_rnn_cell(node, 1, _one_step(x, time_major=node.flag(Rnn.TIME_MAJOR)))
    node.expect(0, None if x is None else (*x[:2], units))


def check_bidirectional_rnn(node: Node) -> None:
    """BIDIRECTIONAL_SEQUENCE_RNN: two cells, one backwards; outputs apart or merged."""
    node.choice(Rnn.ACTIVATION, _ACTIVATIONS)
    if len(node.inputs) != 12:
        raise node.refuse(f"it has {len(node.inputs)} inputs, 12 are needed")
    x = node.dims(0, 3)
    step = _one_step(x, time_major=node.flag(Rnn.TIME_MAJOR))
    made = [_check_rnn_cell(node, place, step) for place in (1, 5)]
    _check_merge(node, x, made, merged=node.flag(Rnn.MERGE_OUTPUTS))


def check_svdf(node: Node) -> None:
    """SVDF (Nakkiran et al., Interspeech 2015): a filter over features, then one over time."""
    node.choice(Svdf.ACTIVATION, _ACTIVATIONS)
    if tuple(tensor and tensor.dtype for tensor in node.inputs) not in _SVDF_TYPES:
        raise node.refuse("no kernel takes inputs of its types")
    if node.input(0).dtype is _I8:
        for tensor in (*(node.input(place) for place in (0, 1, 2, 4)), node.outputs[0]):
            check_scaled(node, tensor, "a tensor")
    rank = node.count(Svdf.RANK)
    x, features, times, state = node.dims(0, 2), node.dims(1, 2), node.dims(2, 2), node.dims(4, 2)
    _check_state(node, 4)
    if x is None or features is None or times is None or state is None:
        return
    filters, memory = features[0], times[1]
    if not filters or filters % rank or not memory:
        raise node.refuse(f"{filters} filters of rank {rank} over {memory} steps")
    fits = agree(features[1:], x[1:]) and agree(times[:1], (filters,)) and agree(state, (x[0], filters * memory))
    if not fits:
        raise node.refuse("input, filters and state do not fit each other")
    _check_shape(node, 3, (filters // rank,))
    node.expect(0, (x[0], filters // rank))


def _check_basic(node: Node) -> None:
    if len(node.inputs) != _BASIC_LSTM or len(node.outputs) != 4:
        raise node.refuse("the basic kernel has 5 inputs and 4 outputs")
    x, previous, weights = node.dims(0, 2), node.dims(1, 2), node.dims(2, 2)
    if x is None or previous is None or weights is None or None in (x[1], previous[1]):
        return
    made = previous[1]
    wide = (x[1] or 0) + (made or 0)
    if not agree(weights, (4 * (made or 0), wide)):
        raise node.refuse(f"its weights have shape {show(weights)} for {show(x)} and {show(previous)}")
    _check_shape(node, 3, (4 * (made or 0),))
    _check_shape(node, 4, (x[0], made))


def _check_arity(node: Node) -> None:
    if len(node.inputs) not in _LSTM_ARITIES or len(node.outputs) != 1:
        raise node.refuse(f"it has {len(node.inputs)} inputs and {len(node.outputs)} outputs")
    x, weights = node.input(0), node.input(2)
    floating = x.dtype is DType.FLOAT32
    if not floating:
        _check_integers(node)
    if x.dtype not in {DType.FLOAT32, DType.INT8, DType.INT16} or (not floating and weights.dtype is not DType.INT8):
        raise node.refuse(f"it takes no weights of {weights.dtype.name} for an input of {x.dtype.name}")


def _check_integers(node: Node) -> None:
    """Check what a cell of integers needs: scales, also of the numbers between its steps."""
    if len(node.intermediates) not in _FULL_INTEGER_INTERMEDIATES:
        raise node.refuse(f"it has {len(node.intermediates)} intermediate tensors")
    normalized = any(node.optional(place) is not None for place in range(_FORWARD.norms, len(node.inputs)))
    for place, tensor in enumerate(node.intermediates):
        if (normalized or place == _HIDDEN) and scale_of(tensor) is None:
            raise node.refuse(f"intermediate {place} has no single scale")
    for place in (*range(_FORWARD.weights + 8), _FORWARD.states, _FORWARD.states + 1):
        found = node.optional(place)
        if found is not None:
            check_scaled(node, found, f"input {place}")
    check_scaled(node, node.outputs[0], "its output")


def _check_cell(node: Node, cell: _Cell, step: Dims | None) -> int | None:
    """Check the parts of a cell for a step [N, features]; return how many numbers it gives."""
    gates = cell.weights
    forget, recurrent = node.dims(gates + 1, 2), node.dims(gates + 5, 2)
    if forget is None or recurrent is None:
        return None
    cells, made = forget[0], recurrent[1]
    coupled = node.optional(gates) is None
    if coupled != (node.optional(gates + 4) is None):
        raise node.refuse("it has input gate weights for the input or for the state, not for both")
    if len({tensor.dtype for tensor in node.inputs[gates : gates + 8] if tensor is not None}) > 1:
        raise node.refuse("its weights have different types")
    features = forget[1] if step is None else step[1]
    for place in range(gates + (1 if coupled else 0), gates + 4):
        _check_shape(node, place, (cells, features))
    for place in range(gates + (5 if coupled else 4), gates + 8):
        _check_shape(node, place, (cells, made))
    _check_optional(node, range(gates + 8, gates + 12), (cells,))
    for place in range(gates + 12, gates + 15):
        _check_shape(node, place, (cells,))
    if not coupled:
        _check_shape(node, gates + 11, (cells,))
    _check_projection(node, gates + 15, cells, made)
    _check_optional(node, range(cell.norms, min(cell.norms + 4, len(node.inputs))), (cells,))
    _check_states(node, cell.states, None if step is None else step[0], made, cells)
    return made


def _check_projection(node: Node, place: int, cells: int | None, made: int | None) -> None:
    if node.optional(place) is None:
        if cells != made:
            raise node.refuse(f"{cells} cells give {made} numbers without a projection")
        if node.optional(place + 1) is not None:
            raise node.refuse("it has a projection's bias and no projection")
        return
    _check_shape(node, place, (made, cells))
    _check_optional(node, [place + 1], (made,))


def _check_states(node: Node, place: int, batch: int | None, made: int | None, cells: int | None) -> None:
    for state, width in ((place, made), (place + 1, cells)):
        _check_state(node, state)
        _check_shape(node, state, (batch, width))


def _check_state(node: Node, place: int) -> None:
    if not node.input(place).is_variable:
        raise node.refuse(f"input {place} is its state and no variable")


def _check_rnn_cell(node: Node, place: int, step: Dims | None) -> int | None:
    """Check weights, recurrent weights, bias and state from ``place`` on; return the number of units."""
    weights = node.dims(place, 2)
    if weights is None:
        return None
    units = weights[0]
    if step is not None:
        _check_shape(node, place, (units, step[1]))
        _check_shape(node, place + 3, (step[0], units))
    _check_shape(node, place + 1, (units, units))
    _check_shape(node, place + 2, (units,))
    _check_state(node, place + 3)
    return units


def _check_merge(node: Node, x: Dims | None, made: Sequence[int | None], *, merged: bool) -> None:
    if len(node.outputs) != (1 if merged else 2):
        raise node.refuse(f"it has {len(node.outputs)} outputs")
    if x is None or None in made:
        return
    widths = [sum(width or 0 for width in made)] if merged else list(made)
    for place, width in enumerate(widths):
        node.expect(place, (*x[:2], width))


def _check_shape(node: Node, place: int, dims: Dims) -> None:
    found = node.dims(place)
    if found is not None and not agree(found, dims):
        raise node.refuse(f"input {place} has shape {show(found)}, not {show(dims)}")


def _check_optional(node: Node, places: Sequence[int], dims: Dims) -> None:
    for place in places:
        if node.optional(place) is not None:
            _check_shape(node, place, dims)


def _one_step(x: Dims | None, *, time_major: bool) -> Dims | None:
    if x is None:
        return None
    return (x[1], x[2]) if time_major else (x[0], x[2])


def _flag_true_by_default(node: Node, field: int) -> bool:
    options = node.operator.options
    return options is None or not options.has(field) or options.flag(field)
