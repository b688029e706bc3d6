"""What quantization needs to know of a TFLite file, read from the file in place: nothing is unpacked or copied."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops_controller.build.conversion.tflite_writer import Table

_OPERATOR_NAMES: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
OPERATOR_NAMES = frozenset(_OPERATOR_NAMES.values())
"""The names of TFLite's built-in operators."""
CASTS = ("QUANTIZE", "DEQUANTIZE")
"""Operators that only change how numbers are stored."""


@dataclass(frozen=True)
class Tensor:
    """One tensor. ``type`` is a code of the schema's ``TensorType``; a constant's values are in the file."""

    name: str
    type: int
    shape: tuple[int, ...]
    constant: bool
    scaled: bool

    @property
    def size(self) -> int:
        """Number of its values."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Operator:
    """One operator, with its built-in name, and the indices of its tensors; an absent input is -1."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Graph:
    """The first subgraph of a model: the one that runs."""

    def __init__(self, data: bytes) -> None:
        self._model = schema.Model.GetRootAs(data, 0)
        self._graph = self._model.Subgraphs(0)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, by index."""
        return tuple(self._tensor(self._graph.Tensors(index)) for index in range(self._graph.TensorsLength()))

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """Every operator, in the order in which they run."""
        codes = [self._model.OperatorCodes(index) for index in range(self._model.OperatorCodesLength())]
        names = [_OPERATOR_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
        entries = [self._graph.Operators(index) for index in range(self._graph.OperatorsLength())]
        return tuple(
            Operator(names[entry.OpcodeIndex()], _whole(entry.InputsAsNumpy()), _whole(entry.OutputsAsNumpy()))
            for entry in entries
        )

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the model's inputs."""
        return _whole(self._graph.InputsAsNumpy())

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the model's outputs."""
        return _whole(self._graph.OutputsAsNumpy())

    def inputs_of(self, operator: Operator) -> list[Tensor]:
        """Return the tensors that an operator reads."""
        return [self.tensors[index] for index in operator.inputs if index >= 0]

    def outputs_of(self, operator: Operator) -> list[Tensor]:
        """Return the tensors that an operator writes."""
        return [self.tensors[index] for index in operator.outputs]

    def label(self, operator: Operator) -> str:
        """Return how to name an operator to people: its kind and the tensor that it writes."""
        written = self.outputs_of(operator)
        return f"{operator.name} {written[0].name!r}" if written else operator.name

    def constant(self, index: int) -> bytes:
        """Return the bytes of a constant that is stored inside the FlatBuffer."""
        values = self._model.Buffers(self._graph.Tensors(index).Buffer()).DataAsNumpy()
        return bytes(values.tobytes())

    def _tensor(self, entry: Table) -> Tensor:
        quantization = entry.Quantization()
        buffer = self._model.Buffers(entry.Buffer())
        return Tensor(
            name=(entry.Name() or b"").decode(),
            type=entry.Type(),
            shape=_whole(entry.ShapeAsNumpy()),
            constant=buffer.DataLength() > 0 or buffer.Offset() > 1,
            scaled=quantization is not None and quantization.ScaleLength() > 0,
        )


def tally(operators: Iterable[Operator]) -> str:
    """Return the kinds of operators with their numbers, for people."""
    counts = Counter(operator.name for operator in operators)
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _whole(values: NDArray[np.int32] | int) -> tuple[int, ...]:
    """Return a vector of the file as whole numbers; the reader gives 0 for one that is absent."""
    return tuple(int(value) for value in values) if isinstance(values, np.ndarray) else ()
