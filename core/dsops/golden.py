"""Golden inputs: frames whose answers are known, with which a device proves that a bundle works on its hardware.

The blob (integers little-endian):

    offset  length  what
    0       8       magic ``DSOPSGLD``
    8       4       header length M, u32, at most 1 MiB
    12      M       header, strict JSON: ``format`` 1, ``labels`` (the true one of each frame, or none), ``tolerances``
                    (one an output), ``inputs`` and ``outputs``, each a list of ``{"name", "dtype", "shape"}``; ``raw``
                    names the inputs of which it holds raw frames, and is not there when there are none
    12+M    ...     the inputs' values, then the outputs', in that order, row by row, little-endian, nothing after

Reading needs no pickle and no numeric package; a caller wraps the bytes in an array of its own.
"""

import math
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import InvalidInput, MalformedBundle
from dsops.manifest import MAX_TENSORS, Frozen, first_problem

MAGIC = b"DSOPSGLD"
MAX_HEADER_BYTES = 1 << 20
MAX_GOLDEN = 1024
MAX_GOLDEN_BYTES = 1 << 28
_HEAD = struct.Struct("<8sI")

GoldenDtype = Literal["float32", "int32", "int64", "bool", "uint8", "int8", "int16"]
ITEM_BYTES: dict[GoldenDtype, int] = {
    "float32": 4,
    "int32": 4,
    "int64": 8,
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
}
"""Bytes of one value of each type that a tensor may have."""

_Size = Annotated[int, Field(ge=1, le=1 << 24)]
_Tolerance = Annotated[float, Field(ge=0, le=1e30)]


class _TensorHeader(Frozen):
    name: str = Field(min_length=1, max_length=256)
    dtype: GoldenDtype
    shape: tuple[_Size, ...] = Field(min_length=1, max_length=8)

    @property
    def length_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class _Header(Frozen):
    format: Literal[1] = 1
    labels: tuple[Annotated[str, Field(max_length=256)], ...] = Field(max_length=MAX_GOLDEN)
    tolerances: tuple[_Tolerance, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    inputs: tuple[_TensorHeader, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[_TensorHeader, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    raw: tuple[Annotated[str, Field(max_length=256)], ...] = Field(default=(), max_length=MAX_TENSORS)

    @model_validator(mode="after")
    def _rows_match(self) -> "_Header":
        rows = {tensor.shape[0] for tensor in (*self.inputs, *self.outputs)}
        if len(rows) != 1 or max(rows) > MAX_GOLDEN or (self.labels and len(self.labels) not in rows):
            raise ValueError("labels, inputs and outputs have different lengths, or too many rows")
        if len(self.tolerances) != len(self.outputs):
            raise ValueError("every output needs a tolerance")
        if not {tensor.name for tensor in self.inputs}.issuperset(self.raw):
            raise ValueError("raw names an input that there is not")
        if self.length_bytes > MAX_GOLDEN_BYTES:
            raise ValueError(f"{self.length_bytes} bytes of values, {MAX_GOLDEN_BYTES} are allowed")
        return self

    @property
    def length_bytes(self) -> int:
        return sum(tensor.length_bytes for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True)
class TensorBytes:
    """A named tensor as plain values: ``data`` holds it row by row, little-endian; its first axis counts frames."""

    name: str
    dtype: GoldenDtype
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class GoldenSet:
    """Frames, what the payload answered to them when it was built, and their true labels.

    Attributes:
        inputs: The model's inputs in its order, each [N, ...]: real values, or raw frames where ``raw`` says so.
        outputs: Expected real-valued outputs in its order, each [N, ...].
        tolerances: Largest difference of any value of each output that is still right; kernels of processors differ.
        labels: The true label's name of each frame; empty when the model has no labels.
        raw: Inputs of which raw frames are held, so that a device proves its preprocessing too.
    """

    inputs: tuple[TensorBytes, ...]
    outputs: tuple[TensorBytes, ...]
    tolerances: tuple[float, ...]
    labels: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.inputs[0].shape[0]

    def encode(self) -> bytes:
        """Return the blob.

        Raises:
            InvalidInput: The parts do not belong together.
        """
        header = self._header()
        tensors = (*self.inputs, *self.outputs)
        for tensor, spec in zip(tensors, (*header.inputs, *header.outputs), strict=True):
            if len(tensor.data) != spec.length_bytes:
                raise InvalidInput(f"{len(tensor.data)} bytes for tensor {tensor.name!r} of shape {list(tensor.shape)}")
        text = strictjson.dumps(header.model_dump(mode="json", exclude=None if self.raw else {"raw"}))
        return b"".join([_HEAD.pack(MAGIC, len(text)), text, *(tensor.data for tensor in tensors)])

    @classmethod
    def decode(cls, data: bytes) -> "GoldenSet":
        """Parse a blob.

        Raises:
            MalformedBundle: It is not one, is cut short, or is too long.
        """
        header, start = _read_header(data)
        if len(data) != start + header.length_bytes:
            raise MalformedBundle(
                f"the golden inputs have {len(data)} bytes", why=f"their header says {start + header.length_bytes}"
            )
        tensors, values = [], memoryview(data)  # a copy of many megabytes would hold up every other thread
        for spec in (*header.inputs, *header.outputs):
            tensors.append(TensorBytes(spec.name, spec.dtype, spec.shape, values[start : start + spec.length_bytes]))
            start += spec.length_bytes
        split = len(header.inputs)
        return cls(tuple(tensors[:split]), tuple(tensors[split:]), header.tolerances, header.labels, header.raw)

    def _header(self) -> _Header:
        try:
            return _Header.model_validate(
                {
                    "labels": self.labels,
                    "tolerances": self.tolerances,
                    "inputs": [_describe(tensor) for tensor in self.inputs],
                    "outputs": [_describe(tensor) for tensor in self.outputs],
                    "raw": self.raw,
                }
            )
        except ValidationError as error:
            raise InvalidInput("these are not golden inputs", why=first_problem(error)) from error


def _describe(tensor: TensorBytes) -> dict[str, object]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}


def _read_header(data: bytes) -> tuple[_Header, int]:
    if len(data) < _HEAD.size:
        raise MalformedBundle("the golden inputs are cut short")
    magic, length = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise MalformedBundle("the blob does not hold golden inputs", why="it does not begin with the magic bytes")
    start = _HEAD.size + length
    if length > MAX_HEADER_BYTES or start > len(data):
        raise MalformedBundle("the golden inputs are cut short", why=f"their header has {length} bytes")
    try:
        return _Header.model_validate(strictjson.loads(data[_HEAD.size : start])), start
    except strictjson.JsonRefused as error:
        raise MalformedBundle("the golden inputs' header is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise MalformedBundle("the golden inputs' header is not valid", why=first_problem(error)) from error
