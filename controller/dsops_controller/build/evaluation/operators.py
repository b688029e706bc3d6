"""Counts what the operators of a TFLite model cost, from its graph alone: nothing is run.

A multiply-accumulate (MAC) is one product added to a sum. Convolutions, matrix products and recurrent cells have them;
other operators have none and are listed with the bytes that they read and write.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel
from dsops_controller.build.conversion.tflite_writer import DAMAGE, Table
from dsops_controller.build.quantization.rewrite_buffers import inline_buffers

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_BITS = {
    schema.TensorType.FLOAT64: 64,
    schema.TensorType.FLOAT32: 32,
    schema.TensorType.FLOAT16: 16,
    schema.TensorType.INT64: 64,
    schema.TensorType.INT32: 32,
    schema.TensorType.UINT32: 32,
    schema.TensorType.INT16: 16,
    schema.TensorType.UINT16: 16,
    schema.TensorType.INT8: 8,
    schema.TensorType.UINT8: 8,
    schema.TensorType.BOOL: 8,
    schema.TensorType.INT4: 4,
}


@dataclass(frozen=True)
class OperatorCost:
    """One operator, in the order of the graph.

    Attributes:
        position: Its place, from 0.
        kind: Its TFLite name, such as ``CONV_2D``.
        output: Name of its first output.
        shape: Shape of that output.
        macs: Multiply-accumulates of one inference.
        weight_bytes: Bytes of its constants.
        moved_bytes: Bytes of everything that it reads and writes.
    """

    position: int
    kind: str
    output: str
    shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    moved_bytes: int


@dataclass(frozen=True)
class ModelCost:
    """One model's size and operators."""

    size_bytes: int
    operators: tuple[OperatorCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(one.macs for one in self.operators)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"size_bytes": self.size_bytes, "macs": self.macs, "operators": [asdict(one) for one in self.operators]}


def cost_of(model: bytes) -> ModelCost:
    """Count the cost of every operator of a model's first graph; what it calls in others is not counted.

    Raises:
        InvalidModel: The file is damaged.
    """
    try:
        table = schema.ModelT.InitFromPackedBuf(inline_buffers(model), 0)
        graph = _Graph(table)
        return ModelCost(len(model), tuple(graph.cost(place) for place in range(len(graph.operators))))
    except DAMAGE as error:
        raise InvalidModel("the TFLite model is damaged", why=f"{type(error).__name__} while counting") from error


class _Graph:
    """The first graph of a model."""

    def __init__(self, model: Table) -> None:
        graph = model.subgraphs[0]
        self._tensors, self._buffers, self._codes = graph.tensors, model.buffers, model.operatorCodes
        self.operators: Sequence[Table] = graph.operators or ()

    def cost(self, place: int) -> OperatorCost:
        operator = self.operators[place]
        code = self._codes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        inputs, outputs = self._given(operator.inputs), self._given(operator.outputs)
        count = _MACS.get(number)
        first = self._tensors[outputs[0]] if outputs else None
        return OperatorCost(
            position=place,
            kind=_NAMES.get(number, f"OPERATOR_{number}"),
            output=first.name.decode(errors="replace") if first and first.name else "",
            shape=self.shape(outputs[0]) if outputs else (),
            macs=count(self, operator) if count else 0,
            weight_bytes=sum(self._bytes(index) for index in inputs if self.is_constant(index)),
            moved_bytes=sum(self._bytes(index) for index in (*inputs, *outputs)),
        )

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self._tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def size(self, index: int) -> int:
        return math.prod(self.shape(index))

    def is_constant(self, index: int) -> bool:
        data = self._buffers[self._tensors[index].buffer].data
        return data is not None and len(data) > 0

    def is_state(self, index: int) -> bool:
        return bool(self._tensors[index].isVariable)

    def _bytes(self, index: int) -> int:
        return -(-self.size(index) * _BITS.get(self._tensors[index].type, 0) // 8)

    @staticmethod
    def _given(indices: Sequence[int] | None) -> list[int]:
        return [] if indices is None else [int(index) for index in indices if index >= 0]


def _convolution(graph: _Graph, operator: Table) -> int:
    """Weights are [out, height, width, in]; each output value is a sum over all but the first axis."""
    return graph.size(operator.outputs[0]) * math.prod(graph.shape(operator.inputs[1])[1:])


def _depthwise(graph: _Graph, operator: Table) -> int:
    """Weights are [1, height, width, out]; each output value is a sum over one window."""
    return graph.size(operator.outputs[0]) * math.prod(graph.shape(operator.inputs[1])[1:3])


def _volume(graph: _Graph, operator: Table) -> int:
    """Weights are [depth, height, width, in, out]."""
    return graph.size(operator.outputs[0]) * math.prod(graph.shape(operator.inputs[1])[:-1])


def _transposed(graph: _Graph, operator: Table) -> int:
    """Weights are [out, height, width, in]; each input value goes into a window of every output channel."""
    return graph.size(operator.inputs[2]) * math.prod(graph.shape(operator.inputs[1])[:-1])


def _fully_connected(graph: _Graph, operator: Table) -> int:
    return graph.size(operator.outputs[0]) * graph.shape(operator.inputs[1])[-1]


def _matrix_product(graph: _Graph, operator: Table) -> int:
    axis = -2 if operator.builtinOptions.adjX else -1
    return graph.size(operator.outputs[0]) * graph.shape(operator.inputs[0])[axis]


def _sequence(graph: _Graph, operator: Table) -> int:
    """Every matrix of a recurrent cell is used once a step; the input is [batch, steps, in] or [steps, batch, in]."""
    matrices = [int(index) for index in operator.inputs[1:] if index >= 0 and len(graph.shape(int(index))) == 2]
    weights = sum(graph.size(index) for index in matrices if not graph.is_state(index))
    return math.prod(graph.shape(operator.inputs[0])[:-1]) * weights


_Op = schema.BuiltinOperator
_MACS: dict[int, Callable[[_Graph, Table], int]] = {
    _Op.CONV_2D: _convolution,
    _Op.CONV_3D: _volume,
    _Op.DEPTHWISE_CONV_2D: _depthwise,
    _Op.TRANSPOSE_CONV: _transposed,
    _Op.FULLY_CONNECTED: _fully_connected,
    _Op.BATCH_MATMUL: _matrix_product,
    _Op.UNIDIRECTIONAL_SEQUENCE_LSTM: _sequence,
    _Op.BIDIRECTIONAL_SEQUENCE_LSTM: _sequence,
    _Op.UNIDIRECTIONAL_SEQUENCE_RNN: _sequence,
    _Op.BIDIRECTIONAL_SEQUENCE_RNN: _sequence,
    _Op.LSTM: _sequence,
    _Op.RNN: _sequence,
}
