"""A model as values: what the lint's rules look at, decoded from the file within limits."""

import math
from array import array
from dataclasses import dataclass
from typing import TypeAlias

from dsops.tflite_lint import fields
from dsops.tflite_lint.flatbuffer import Reader, Table, unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.schema import LAST_OLD_CODE, DType, Op

_OPS = {int(op): op for op in Op}
_DTYPES = {int(dtype): dtype for dtype in DType}
MAX_RANK = 8
"""More dimensions no kernel takes."""
MAX_ARITY = 8192
"""More inputs or outputs no operator or graph has."""
_EXTERNAL_DATA_FROM = 2
"""An offset below this says that a buffer's data is inside the FlatBuffer (schema: 0 and 1 are reserved)."""

Dims: TypeAlias = tuple[int | None, ...]
"""A shape; None stands for a size that is known only when the model runs."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How stored numbers stand for real ones. ``scales`` is empty when it is not said, one number, or one a slice."""

    scales: "array[float] | array[int]"
    zero_points: "array[float] | array[int]"
    axis: int
    blockwise: tuple[int, int, int] | None
    """Tensor of the scales, tensor of the zero points, block size."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a constant's bytes are in the file; length 0 means that there are none."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor. ``dims`` is its shape as far as it is known before the model runs, None when not even its rank is."""

    index: int
    name: str
    dtype: DType
    shape: tuple[int, ...]
    dims: Dims | None
    buffer: Buffer
    is_variable: bool
    quantization: Quantization | None
    where: str

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its values."""
        return self.buffer.length > 0


@dataclass(frozen=True, slots=True)
class OperatorCode:
    """A kind of operator: ``op`` is None for codes that this version does not know."""

    code: int
    op: Op | None
    custom: str
    version: int

    @property
    def name(self) -> str:
        """The operator's name, as people know it."""
        if self.op is Op.CUSTOM:
            return self.custom[:80]
        return self.op.name if self.op is not None else f"builtin {self.code}"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: what it reads and writes, by the tensors' indices (-1: an optional input that is left out)."""

    index: int
    kind: OperatorCode
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    options_type: int
    options: Table | None
    mutated: int
    where: str


@dataclass(frozen=True, slots=True)
class SubGraph:
    """A graph: its tensors, and its operators in the order in which they run."""

    index: int
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Model:
    """A decoded file."""

    reader: Reader
    root: Table
    description: str
    codes: tuple[OperatorCode, ...]
    buffers: tuple[Buffer, ...]
    subgraphs: tuple[SubGraph, ...]


class ModelReader:
    """Decodes a file. Nothing is checked here but the FlatBuffer itself, the limits, and what values can hold."""

    def __init__(self, reader: Reader, limits: LintLimits) -> None:
        self._reader = reader
        self._limits = limits
        self._buffers: tuple[Buffer, ...] = ()
        self._codes: tuple[OperatorCode, ...] = ()
        self._tensors_left = limits.tensors
        self._operators_left = limits.operators

    def read(self, root: Table) -> Model:
        """Return the model.

        Raises:
            InvalidModel: Its structure is unsound.
        """
        most = self._limits.buffers
        if root.has(fields.Model.EXTERNAL_BUFFERS):
            raise unsound("the file", "it keeps weights in other files")
        codes = root.tables(fields.Model.OPERATOR_CODES, most, "operator code")
        self._codes = tuple(self._read_code(table) for table in codes)
        self._buffers = tuple(self._read_buffer(t) for t in root.tables(fields.Model.BUFFERS, most, "buffer"))
        graphs = root.tables(fields.Model.SUBGRAPHS, self._limits.subgraphs, "subgraph")
        description = root.text(fields.Model.DESCRIPTION, self._limits.name_bytes, "bytes of description")
        subgraphs = tuple(self._read_subgraph(index, table) for index, table in enumerate(graphs))
        return Model(self._reader, root, description, self._codes, self._buffers, subgraphs)

    def _read_code(self, table: Table) -> OperatorCode:
        old, new = table.byte(fields.OperatorCode.OLD_CODE), table.int32(fields.OperatorCode.CODE)
        code = max(old, new)
        if code < 0 or min(old, new) not in {0, min(code, LAST_OLD_CODE)}:
            raise unsound(table.where, f"its two codes, {old} and {new}, contradict each other")
        custom = table.text(fields.OperatorCode.CUSTOM, self._limits.name_bytes, "bytes of a custom operator's name")
        op = _OPS.get(code)
        if bool(custom) != (op is Op.CUSTOM):
            raise unsound(table.where, f"builtin code {code} does not go with a custom operator's name {custom[:80]!r}")
        version = table.int32(fields.OperatorCode.VERSION, 1)
        if not 1 <= version <= LAST_OLD_CODE:
            raise unsound(table.where, f"version {version}")
        return OperatorCode(code, op, custom, version)

    def _read_buffer(self, table: Table) -> Buffer:
        start, length = table.span(fields.Buffer.DATA, "bytes of data")
        offset, size = table.uint64(fields.Buffer.OFFSET), table.uint64(fields.Buffer.SIZE)
        if offset < _EXTERNAL_DATA_FROM:
            return Buffer(start, length)
        if length or offset + size > self._reader.size:
            raise unsound(table.where, f"its {size} bytes at {offset} are not in the file")
        table.claim(offset, offset + size)
        return Buffer(offset, size)

    def _read_subgraph(self, index: int, table: Table) -> SubGraph:
        limits = self._limits
        prefix = f"subgraph {index}, " if index else ""
        table.text(fields.SubGraph.NAME, limits.name_bytes, "bytes of name")
        tensors = table.tables(fields.SubGraph.TENSORS, self._tensors_left, f"{prefix}tensor")
        operators = table.tables(fields.SubGraph.OPERATORS, self._operators_left, f"{prefix}operator")
        self._tensors_left -= len(tensors)
        self._operators_left -= len(operators)
        return SubGraph(
            index=index,
            tensors=tuple(self._read_tensor(i, t) for i, t in enumerate(tensors)),
            inputs=table.int32s(fields.SubGraph.INPUTS, MAX_ARITY, "inputs"),
            outputs=table.int32s(fields.SubGraph.OUTPUTS, MAX_ARITY, "outputs"),
            operators=tuple(self._read_operator(i, t) for i, t in enumerate(operators)),
            where=table.where,
        )

    def _read_tensor(self, index: int, table: Table) -> Tensor:
        name = table.text(fields.Tensor.NAME, self._limits.name_bytes, "bytes of name")
        code = table.byte(fields.Tensor.TYPE)
        dtype = _DTYPES.get(code)
        if dtype is None:
            raise unsound(table.where, f"element type {code} is not known")
        if table.has(fields.Tensor.SPARSITY) or table.uint32(fields.Tensor.EXTERNAL_BUFFER):
            raise unsound(table.where, "sparse tensors and weights in other files are not admitted")
        number = table.uint32(fields.Tensor.BUFFER)
        if number >= len(self._buffers):
            raise unsound(table.where, f"it names buffer {number} of {len(self._buffers)}")
        shape = table.int32s(fields.Tensor.SHAPE, MAX_RANK, "dimensions")
        return Tensor(
            index=index,
            name=name,
            dtype=dtype,
            shape=shape,
            dims=_known_dims(table, shape, self._buffers[number].length),
            buffer=self._buffers[number],
            is_variable=table.flag(fields.Tensor.IS_VARIABLE),
            quantization=self._read_quantization(table),
            where=f"{table.where} ({name[:80]!r})",
        )

    def _read_quantization(self, tensor: Table) -> Quantization | None:
        table = tensor.table(fields.Tensor.QUANTIZATION)
        if table is None:
            return None
        for field in (fields.Quantization.MIN, fields.Quantization.MAX):
            table.numbers(field, "f", "minima or maxima")
        return Quantization(
            scales=table.numbers(fields.Quantization.SCALE, "f", "scales"),
            zero_points=table.numbers(fields.Quantization.ZERO_POINT, "q", "zero points"),
            axis=table.int32(fields.Quantization.AXIS),
            blockwise=_blockwise(table),
        )

    def _read_operator(self, index: int, table: Table) -> Operator:
        number = table.uint32(fields.Operator.CODE)
        if number >= len(self._codes):
            raise unsound(table.where, f"it names operator code {number} of {len(self._codes)}")
        kind = self._codes[number]
        where = table.where = f"{table.where} ({kind.name})"
        options_type = table.byte(fields.Operator.OPTIONS_TYPE)
        options = table.table(fields.Operator.OPTIONS)
        if bool(options_type) != (options is not None):
            raise unsound(where, "its options and their type do not go together")
        if table.byte(fields.Operator.OPTIONS_2_TYPE) or table.uint64(fields.Operator.LARGE_OFFSET):
            raise unsound(where, "it has options of a kind that is not admitted")
        table.span(fields.Operator.CUSTOM_OPTIONS, "bytes of custom options")
        return Operator(
            index=index,
            kind=kind,
            inputs=table.int32s(fields.Operator.INPUTS, MAX_ARITY, "inputs"),
            outputs=table.int32s(fields.Operator.OUTPUTS, MAX_ARITY, "outputs"),
            intermediates=table.int32s(fields.Operator.INTERMEDIATES, MAX_ARITY, "intermediate tensors"),
            options_type=options_type,
            options=options,
            mutated=table.span(fields.Operator.MUTATED, "inputs that it changes")[1],
            where=where,
        )


def _known_dims(table: Table, shape: tuple[int, ...], constant_bytes: int) -> Dims | None:
    """Return what is known of a shape; the file writes 1 where the signature says -1.

    A file that says nothing of the rank writes an empty shape for a tensor whose shape is not known, too.
    """
    signature = table.int32s(fields.Tensor.SIGNATURE, MAX_RANK, "dimensions of the signature")
    has_rank = table.flag(fields.Tensor.HAS_RANK)
    if any(size < 0 for size in shape):
        raise unsound(table.where, f"its shape is {list(shape)}")
    if not shape and not signature:
        return () if has_rank or constant_bytes else None
    if not signature:
        return shape
    if len(signature) != len(shape) or any(s not in {-1, size} for s, size in zip(signature, shape, strict=True)):
        raise unsound(table.where, f"its shape {list(shape)} and its signature {list(signature)} contradict each other")
    return tuple(None if s == -1 else s for s in signature)


def _blockwise(table: Table) -> tuple[int, int, int] | None:
    if table.byte(fields.Quantization.DETAILS_TYPE) != fields.Quantization.BLOCKWISE:
        return None
    details = table.table(fields.Quantization.DETAILS)
    if details is None:
        raise unsound(table.where, "it says nothing of its blocks")
    return (
        details.int32(fields.Blockwise.SCALES),
        details.int32(fields.Blockwise.ZERO_POINTS),
        details.int32(fields.Blockwise.BLOCK_SIZE),
    )
