"""Writes TFLite files: a small builder over the FlatBuffers schema that the LiteRT package ships.

A model here is one subgraph with one signature (``serving_default``). Tensors are added, then operators that read and
write them, in the order in which they run. What no output depends on is left out of the file.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops.errors import InvalidModel
from dsops.tflite_lint import LintLimits
from dsops.tflite_lint.flatbuffer import Reader
from dsops.tflite_lint.model import ModelReader

Op = schema.BuiltinOperator
Table: TypeAlias = Any
"""A table of the schema, such as ``ModelT``; the generated code carries no types."""

SIGNATURE = "serving_default"
SCHEMA_VERSION = 3
ABSENT = -1
"""Index of an optional input that is not given."""
_FLOAT = np.dtype(np.float32)
TENSOR_TYPES = {
    _FLOAT: schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.bool_): schema.TensorType.BOOL,
}
DAMAGE = (
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    AssertionError,
)
"""What the readers of both formats, and arithmetic with what they read, raise on a damaged file."""
_IDENTIFIER = b"TFL3"
_BUFFER_ALIGNMENT = 16
"""The schema's ``force_align`` of a buffer's data, which the generated Python code does not heed."""
_LIMITS = LintLimits()
_STRUCTURE_BYTES = 1 << 16
_LAST_OLD_CODE = 127
"""Operator codes above this do not fit the schema's first field for them; it then holds this value."""


class TfliteWriter:
    """Collects tensors and operators, and packs them."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._tensors: list[Table] = []
        self._data: dict[int, NDArray[Any]] = {}
        self._operators: list[tuple[int, int, Table]] = []
        self._names: set[str] = set()

    def tensor(self, name: str, shape: Sequence[int], dtype: np.dtype[Any] = _FLOAT) -> int:
        """Add a tensor that an operator or the caller writes; return its index. A name in use gets a number."""
        entry = schema.TensorT()
        entry.name, entry.shape, entry.hasRank = self._unique(name), [int(size) for size in shape], True
        entry.type, entry.buffer = TENSOR_TYPES[dtype], 0
        self._tensors.append(entry)
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any]) -> int:
        """Add a tensor with fixed values; return its index. The array is read when the file is packed."""
        index = self.tensor(name, values.shape, values.dtype)
        self._data[index] = values
        return index

    def operator(self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Table = None) -> None:
        """Add an operator. ``options`` is its table in the schema, such as ``Conv2DOptionsT``."""
        entry = schema.OperatorT()
        entry.inputs, entry.outputs = list(inputs), list(outputs)
        if options is not None:
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            entry.builtinOptions = options
        self._operators.append((code, _operator_version(code, len(entry.inputs), options), entry))

    def name(self, index: int) -> str:
        """Return a tensor's name."""
        return str(self._tensors[index].name)

    def rename(self, index: int, name: str) -> None:
        """Give a tensor another name."""
        self._names.discard(self._tensors[index].name)
        self._tensors[index].name = self._unique(name)

    def finish(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """Return the file. The keys name inputs and outputs in the signature."""
        operators = self._needed(outputs.values())
        places = self._places(operators, (*inputs.values(), *outputs.values()))
        codes = sorted({(code, version) for code, version, _ in operators})
        for code, version, entry in operators:
            entry.opcodeIndex = codes.index((code, version))
            entry.inputs = [places.get(index, ABSENT) for index in entry.inputs]
            entry.outputs = [places[index] for index in entry.outputs]
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.buffers = [schema.BufferT()]  # buffer 0 is the empty one, by the schema's convention
        graph.name, graph.operators = "main", [entry for _, _, entry in operators]
        graph.tensors = [self._stored(index, model.buffers) for index in places]
        graph.inputs = [places[index] for index in inputs.values()]
        graph.outputs = [places[index] for index in outputs.values()]
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, self._description, [graph]
        model.operatorCodes = [_operator_code(code, version) for code, version in codes]
        model.signatureDefs = [
            _signature(
                {name: places[index] for name, index in inputs.items()},
                {name: places[index] for name, index in outputs.items()},
            )
        ]
        return pack(model)

    def _needed(self, outputs: Iterable[int]) -> list[tuple[int, int, Table]]:
        """Return the operators on which an output depends."""
        wanted, kept = set(outputs), []
        for code, version, entry in reversed(self._operators):
            if wanted.intersection(entry.outputs):
                wanted.update(entry.inputs)
                kept.append((code, version, entry))
        return kept[::-1]

    def _places(self, operators: Iterable[tuple[int, int, Table]], ends: Iterable[int]) -> dict[int, int]:
        """Return the index in the file of every tensor that is used, by its index here."""
        used = {index for _, _, entry in operators for index in (*entry.inputs, *entry.outputs)} | set(ends)
        return {index: place for place, index in enumerate(sorted(used - {ABSENT}))}

    def _stored(self, index: int, buffers: list[Table]) -> Table:
        entry = self._tensors[index]
        if index in self._data:
            entry.buffer = len(buffers)
            buffer = schema.BufferT()
            buffer.data = self._data[index]
            buffers.append(buffer)
        return entry

    def _unique(self, name: str) -> str:
        chosen, number = name, 1
        while chosen in self._names:
            number += 1
            chosen = f"{name}#{number}"
        self._names.add(chosen)
        return chosen


def pack(model: Table) -> bytes:
    """Return a ``ModelT`` as a file, the data of each buffer aligned as the schema asks.

    The arrays are laid out one after another while the file is written, so no second copy of them all is held.
    """
    stored = sum(buffer.data.nbytes for buffer in model.buffers if isinstance(buffer.data, np.ndarray))
    for buffer in model.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(stored + _BUFFER_ALIGNMENT * len(model.buffers) + _STRUCTURE_BYTES)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _pack_buffer(buffer: Table, builder: Table) -> int:
    if isinstance(buffer.data, np.ndarray):
        values = np.ascontiguousarray(buffer.data).reshape(-1).view(np.uint8)
        builder.Prep(_BUFFER_ALIGNMENT, values.nbytes)
        buffer = schema.BufferT(values, buffer.offset, buffer.size)
    return int(schema.BufferT.Pack(buffer, builder))


_AlignedBuffer = type("_AlignedBuffer", (schema.BufferT,), {"Pack": _pack_buffer})


def normalize_tflite(data: bytes) -> bytes:
    """Return a TFLite model in the current form: operator codes in their present field, and a signature.

    Files of old converters lack both; quantization would leave their operators as they are, silently. Weights that a
    file holds behind its tables are taken into them. The structure is checked first, within bounds, as the schema's
    own code would follow any offset as often as a hostile file names it.

    Raises:
        InvalidModel: The bytes are not a readable TFLite model.
    """
    if data[4:8] != _IDENTIFIER:
        raise InvalidModel("the file is not a TFLite model", why="it lacks the identifier TFL3")
    reader = Reader(data, _LIMITS.work)
    ModelReader(reader, _LIMITS).read(reader.root())
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        for code in model.operatorCodes:
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        for buffer in model.buffers:
            _take_in(buffer, data)
        if not model.signatureDefs:
            graph = model.subgraphs[0]
            model.signatureDefs = [_signature(_named(graph, graph.inputs), _named(graph, graph.outputs))]
        return pack(model)
    except DAMAGE as error:
        raise InvalidModel("the TFLite model is damaged", why=f"{type(error).__name__} while reading it") from error


def _take_in(buffer: Table, data: bytes) -> None:
    """Let a buffer whose data lies behind the tables hold it; offsets 0 and 1 mean that it does not."""
    if buffer.offset > 1:
        buffer.data = np.frombuffer(data, np.uint8, int(buffer.size), int(buffer.offset))
    buffer.offset = buffer.size = 0


def _named(graph: Table, indices: Iterable[int]) -> dict[str, int]:
    return {_text(graph.tensors[index].name): int(index) for index in indices}


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _signature(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Table:
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = SIGNATURE, 0
    entry.inputs = [_named_tensor(name, index) for name, index in inputs.items()]
    entry.outputs = [_named_tensor(name, index) for name, index in outputs.items()]
    return entry


def _named_tensor(name: str, index: int) -> Table:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def _operator_code(code: int, version: int) -> Table:
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, _LAST_OLD_CODE), version
    return entry


def _operator_version(code: int, inputs_count: int, options: Table) -> int:
    """Return the first version of an operator that has what is used of it; a runtime that is older refuses it."""
    if code == Op.BROADCAST_TO:
        return 2
    if code == Op.TRANSPOSE_CONV:
        return 3 if inputs_count == 4 else 1
    if code == Op.FULLY_CONNECTED and options.keepNumDims:
        return 5
    if code in (Op.RESIZE_BILINEAR, Op.RESIZE_NEAREST_NEIGHBOR) and options.halfPixelCenters:
        return 3
    return 1
