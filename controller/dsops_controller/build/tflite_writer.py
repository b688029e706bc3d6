"""Writes TFLite files: a small builder over the FlatBuffers schema that the LiteRT package ships.

A model here is one subgraph with one signature (``serving_default``). Tensors are added, then operators that read and
write them, in the order in which they run.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Table: TypeAlias = Any
"""A table of the schema, such as ``ModelT``; the generated code carries no types."""

SIGNATURE = "serving_default"
SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_TENSOR_TYPES = {np.dtype(np.float32): schema.TensorType.FLOAT32, np.dtype(np.int32): schema.TensorType.INT32}
_LAST_OLD_CODE = 127
"""Operator codes above this do not fit the schema's first field for them; it then holds this value."""


class TfliteWriter:
    """Collects tensors and operators, and packs them."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._tensors: list[Table] = []
        self._buffers: list[Table] = [schema.BufferT()]  # buffer 0 is the empty one, by the schema's convention
        self._operators: list[Table] = []
        self._codes: list[int] = []

    def tensor(self, name: str, shape: Sequence[int]) -> int:
        """Add a float32 tensor that an operator or the caller writes; return its index."""
        return self._add_tensor(name, shape, np.dtype(np.float32), buffer=0)

    def constant(self, name: str, values: NDArray[np.float32] | NDArray[np.int32]) -> int:
        """Add a tensor with fixed values, float32 or int32; return its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self._add_tensor(name, values.shape, values.dtype, buffer=len(self._buffers) - 1)

    def operator(self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Table = None) -> None:
        """Add an operator. ``options`` is its table in the schema, such as ``Conv2DOptionsT``."""
        if code not in self._codes:
            self._codes.append(code)
        entry = schema.OperatorT()
        entry.opcodeIndex = self._codes.index(code)
        entry.inputs, entry.outputs = list(inputs), list(outputs)
        if options is not None:
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            entry.builtinOptions = options
        self._operators.append(entry)

    def operator_count(self) -> int:
        """Return how many operators were added."""
        return len(self._operators)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._tensors[index].shape)

    def finish(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """Return the file. The keys name inputs and outputs in the signature."""
        graph = schema.SubGraphT()
        graph.name = "main"
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, self._description
        model.subgraphs, model.buffers = [graph], self._buffers
        model.operatorCodes = [_operator_code(code) for code in self._codes]
        model.signatureDefs = [signature(inputs, outputs)]
        return pack(model)

    def _add_tensor(self, name: str, shape: Sequence[int], dtype: np.dtype[Any], buffer: int) -> int:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.hasRank = name, [int(size) for size in shape], True
        entry.type, entry.buffer = _TENSOR_TYPES[dtype], buffer
        self._tensors.append(entry)
        return len(self._tensors) - 1


def pack(model: Table) -> bytes:
    """Return a ``ModelT`` as a file."""
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def is_tflite(data: bytes) -> bool:
    """Say whether the bytes carry the format's identifier."""
    return data[4:8] == _IDENTIFIER


def signature(inputs: dict[str, int], outputs: dict[str, int]) -> Table:
    """Return a ``SignatureDefT`` that names the first subgraph's tensors."""
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = SIGNATURE, 0
    entry.inputs = [_named_tensor(name, index) for name, index in inputs.items()]
    entry.outputs = [_named_tensor(name, index) for name, index in outputs.items()]
    return entry


def _named_tensor(name: str, index: int) -> Table:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def _operator_code(code: int) -> Table:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, _LAST_OLD_CODE), 1
    return entry
