"""Recurrent layers, written out step by step.

TFLite's UNIDIRECTIONAL_SEQUENCE_LSTM keeps its state between two runs, so an answer would depend on what was asked
before, and the quantizer leaves it in float; GRU has no operator at all. Written out, a layer is fully connected layers
and arithmetic: every run starts anew, and every mode of quantization applies. The input's share of the gates is
computed for all steps at once. Formulas: ONNX's LSTM, GRU and RNN with their default activations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.activations import Steps
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.operators.parts import cut, split_evenly
from dsops_controller.build.conversion.writing import FLOAT, Activation, Conversion, Op, Value

MAX_STEPS = 256
_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
State = tuple[Value, ...]
"""Hidden state, and an LSTM's cell state: [1, H] each."""


@dataclass(frozen=True)
class Direction:
    """One direction's weights: of the input [G H, I], of the state [G H, H], and their biases [G H]."""

    inputs: Array
    states: Array
    input_bias: Array
    state_bias: Array


class Cell(Protocol):
    """Writes one step."""

    def __call__(self, share: Value, state: State, name: str) -> State:
        """Return the next state, given the input's share of the gates [1, G H]."""


@dataclass(frozen=True)
class Sequence:
    """A layer's input [T, I] and the sizes of what it gives."""

    rows: Value
    steps: int
    hidden: int
    batch_first: bool


def _recurrent(gates: int, make_cell: Callable[[Conversion, Node, Direction, int], tuple[Cell, Array]]) -> Handler:
    """Return the handler of a layer with that many gates."""

    def write(conversion: Conversion, node: Node) -> None:
        _check(conversion, node)
        sequence = _sequence(conversion, node)
        directions = _directions(conversion, node, gates, sequence.hidden)
        runs = []
        for number, weights in enumerate(directions):
            name = f"{node.output or node.name}_{number}"
            cell, bias = make_cell(conversion, node, weights, sequence.hidden)
            shares = _shares(conversion, sequence, weights.inputs, bias, name)
            backwards = number == 1 or node.text("direction") == "reverse"
            order = range(sequence.steps)[:: -1 if backwards else 1]
            first = _first_state(conversion, node, number, sequence.hidden)
            runs.append(_run(conversion, cell, (shares, order), first, name))
        _define(conversion, node, sequence, runs)

    return write


def _run(conversion: Conversion, cell: Cell, way: tuple[Value, range], state: State, name: str) -> list[State]:
    """Return the states after each step, in the order of time."""
    shares, order = way
    parts = split_evenly(conversion, shares, 0, [f"{name}_{step}_input" for step in range(len(order))])
    states: dict[int, State] = {}
    for step in order:
        state = states[step] = cell(parts[step], state, f"{name}_{step}")
    return [states[step] for step in sorted(states)]


def _check(conversion: Conversion, node: Node) -> None:
    kinds = [kind.decode("utf-8", "replace") for kind in node.attributes.get("activations") or ()]
    defaults = _DEFAULTS[node.operator]
    count = 2 if node.text("direction") == "bidirectional" else 1
    if kinds and kinds[: len(defaults) * count] != defaults * count:
        raise node.refuse(f"its activations are {', '.join(kinds)}; {', '.join(defaults)} are known")
    if "clip" in node.attributes or node.attributes.get("input_forget", 0):
        raise node.refuse("it clips, or couples its gates")
    if node.operator == "LSTM" and node.input(7) and conversion.constant(node, 7).any():
        raise node.refuse("it has peepholes")


def _sequence(conversion: Conversion, node: Node) -> Sequence:
    value = conversion.plain(node, node.input(0))
    if value.rank != 3 or value.dtype != FLOAT:
        raise node.refuse(f"its input has {value.rank} axes of {value.dtype}, not 3 of float32")
    batch_first = bool(node.attributes.get("layout", 0))
    batch, steps = value.shape[0 if batch_first else 1], value.shape[1 if batch_first else 0]
    lengths = conversion.optional_constant(node, 4)
    if batch != 1 or steps > MAX_STEPS or (lengths is not None and (lengths != steps).any()):
        raise node.refuse(f"it has {steps} steps and a batch of {batch}; {MAX_STEPS} whole steps of 1 are the most")
    hidden = conversion.constant(node, 2).shape[-1]
    return Sequence(conversion.reshape(value, (steps, value.shape[2])), steps, hidden, batch_first)


def _directions(conversion: Conversion, node: Node, gates: int, hidden: int) -> list[Direction]:
    inputs, states = conversion.constant(node, 1), conversion.constant(node, 2)
    count = 2 if node.text("direction") == "bidirectional" else 1
    bias = conversion.optional_constant(node, 3)
    rows = gates * hidden
    bias = np.zeros((count, 2 * rows), np.float32) if bias is None else bias
    if (
        inputs.shape[:2] != (count, rows)
        or inputs.ndim != 3
        or states.shape != (count, rows, hidden)
        or bias.shape != (count, 2 * rows)
    ):
        raise node.refuse(f"its weights have shapes {list(inputs.shape)}, {list(states.shape)} and {list(bias.shape)}")
    return [
        Direction(inputs[number], states[number], bias[number, :rows], bias[number, rows:]) for number in range(count)
    ]


def _first_state(conversion: Conversion, node: Node, number: int, hidden: int) -> State:
    states = []
    for position in (5, 6) if node.operator == "LSTM" else (5,):
        given, name = node.input(position), f"{node.output or node.name}_{number}_start_{position}"
        if given and given not in conversion.constants:
            value = conversion.plain(node, given)
            rows = conversion.reshape(value, (-(-int(np.prod(value.shape)) // hidden), hidden))
            states.append(cut(conversion, rows, 0, (number, 1), name) if rows.shape[0] > 1 else rows)
        else:
            known = conversion.constants[given].reshape(-1, hidden)[number] if given else np.zeros(hidden)
            states.append(conversion.floats(name, known.reshape(1, hidden)))
    return tuple(states)


def _shares(conversion: Conversion, sequence: Sequence, weights: Array, bias: Array, name: str) -> Value:
    return _layer(conversion, sequence.rows, _weights(conversion, weights, bias, f"{name}_inputs"), f"{name}_inputs")


def _weights(conversion: Conversion, weights: Array, bias: Array, name: str) -> tuple[Value, Value]:
    return conversion.floats(f"{name}_weights", weights), conversion.floats(f"{name}_bias", bias)


def _layer(conversion: Conversion, value: Value, constants: tuple[Value, Value], name: str) -> Value:
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = Activation.NONE
    form = value.with_shape((value.shape[0], constants[0].shape[0]), non_negative=False)
    return conversion.emit(Op.FULLY_CONNECTED, [value, *constants], form, name, options)


def _lstm_cell(conversion: Conversion, node: Node, weights: Direction, _hidden: int) -> tuple[Cell, Array]:
    """Return a cell, gates in ONNX's order: input, output, forget, cell."""
    label = f"{node.output or node.name}_states"
    constants = _weights(conversion, weights.states, weights.state_bias, label)

    def cell(share: Value, state: State, name: str) -> State:
        last, memory = state
        total = Steps(conversion, _layer(conversion, last, constants, f"{name}_gates"), f"{name}_gates").add(share)
        names = [f"{name}_{gate}" for gate in ("taken", "shown", "kept", "fresh")]
        gates = [
            Steps(conversion, part, label)
            for part, label in zip(split_evenly(conversion, total.value, 1, names), names, strict=True)
        ]
        taken, shown, kept = (gate.apply(Op.LOGISTIC, non_negative=True).value for gate in gates[:3])
        fresh = gates[3].apply(Op.TANH).multiply(taken)
        memory = Steps(conversion, memory, f"{name}_cell").multiply(kept).add(fresh.value).value
        return Steps(conversion, memory, f"{name}_hidden").apply(Op.TANH).multiply(shown).value, memory

    return cell, weights.input_bias


def _gru_cell(conversion: Conversion, node: Node, weights: Direction, hidden: int) -> tuple[Cell, Array]:
    """Return a cell, gates in ONNX's order: update, reset, hidden."""
    label = f"{node.output or node.name}_states"
    after = bool(node.attributes["linear_before_reset"])
    split = 2 * hidden
    zeros = np.zeros(hidden, np.float32)
    gate_weights = _weights(conversion, weights.states[:split], weights.state_bias[:split], f"{label}_gates")
    own_bias = weights.state_bias[split:]
    own = _weights(conversion, weights.states[split:], own_bias if after else zeros, f"{label}_hidden")
    added = np.zeros(split, np.float32)
    bias = weights.input_bias + np.concatenate([added, zeros if after else own_bias])

    def cell(share: Value, state: State, name: str) -> State:
        (last,) = state
        shares = split_evenly(conversion, share, 1, [f"{name}_{gate}_input" for gate in ("update", "reset", "fresh")])
        parts = split_evenly(
            conversion, _layer(conversion, last, gate_weights, f"{name}_gates"), 1, [f"{name}_update", f"{name}_reset"]
        )
        update, reset = (
            Steps(conversion, part, f"{name}_{gate}").add(other).apply(Op.LOGISTIC, non_negative=True).value
            for part, other, gate in zip(parts, shares, ("update", "reset"), strict=False)
        )
        if after:
            fresh = Steps(conversion, _layer(conversion, last, own, f"{name}_own"), f"{name}_own").multiply(reset)
        else:
            kept = Steps(conversion, last, f"{name}_kept").multiply(reset).value
            fresh = Steps(conversion, _layer(conversion, kept, own, f"{name}_own"), f"{name}_own")
        fresh.add(shares[2]).apply(Op.TANH)
        change = Steps(conversion, last, f"{name}_change")
        change.apply(Op.SUB, fresh.value, options=schema.SubOptionsT()).multiply(update)
        return (Steps(conversion, change.value, f"{name}_state").add(fresh.value).value,)

    return cell, bias


def _rnn_cell(conversion: Conversion, node: Node, weights: Direction, _hidden: int) -> tuple[Cell, Array]:
    """Return the cell of a simple network, which has one gate."""
    label = f"{node.output or node.name}_states"
    constants = _weights(conversion, weights.states, weights.state_bias, label)

    def cell(share: Value, state: State, name: str) -> State:
        total = Steps(conversion, _layer(conversion, state[0], constants, f"{name}_state"), f"{name}_state")
        return (total.add(share).apply(Op.TANH).value,)

    return cell, weights.input_bias


def _define(conversion: Conversion, node: Node, sequence: Sequence, runs: list[list[State]]) -> None:
    """Record the outputs: every step's hidden state, and the last states."""
    hidden, steps, count = sequence.hidden, sequence.steps, len(runs)
    if node.outputs[0]:
        rows = [runs[number][step][0] for step in range(steps) for number in range(count)]
        whole = _stack(conversion, rows, node.outputs[0])
        every = (1, steps, count, hidden) if sequence.batch_first else (steps, count, 1, hidden)
        conversion.define(node.outputs[0], conversion.reshape(whole, every))
    for position, name in enumerate(node.outputs[1:]):
        if name:
            ends = [_last(node, number, run)[position] for number, run in enumerate(runs)]
            last = (1, count, hidden) if sequence.batch_first else (count, 1, hidden)
            conversion.define(name, conversion.reshape(_stack(conversion, ends, name), last))


def _last(node: Node, number: int, run: list[State]) -> State:
    return run[0] if number == 1 or node.text("direction") == "reverse" else run[-1]


def _stack(conversion: Conversion, rows: list[Value], name: str) -> Value:
    if len(rows) == 1:
        return rows[0]
    options = schema.ConcatenationOptionsT()
    options.axis = 0
    return conversion.emit(Op.CONCATENATION, rows, rows[0].with_shape((len(rows), rows[0].shape[1])), name, options)


HANDLERS: dict[str, Handler] = {
    "GRU": _recurrent(3, _gru_cell),
    "LSTM": _recurrent(4, _lstm_cell),
    "RNN": _recurrent(1, _rnn_cell),
}
"""Operators of this family."""
