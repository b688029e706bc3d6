"""Golden inputs: frames whose answers are known, with which a device proves that a bundle works on its hardware.

The blob (integers little-endian):

    offset  length  what
    0       8       magic ``DSOPSGLD``
    8       4       header length M, u32, at most 1 MiB
    12      M       header, strict JSON: ``format`` 1, ``labels`` (the true one of each frame), ``score_tolerance``,
                    ``inputs`` and ``scores``, each ``{"dtype": "float32", "shape": [...]}``
    12+M    ...     the inputs' values, then the scores', row by row, little-endian, nothing after them

Reading needs no pickle and no numeric package; a caller wraps the bytes in an array of its own.
"""

import math
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import InvalidInput, MalformedBundle
from dsops.manifest import Frozen, first_problem

MAGIC = b"DSOPSGLD"
MAX_HEADER_BYTES = 1 << 20
MAX_GOLDEN = 1024
_HEAD = struct.Struct("<8sI")
_ITEM_BYTES = {"float32": 4}

Size = Annotated[int, Field(ge=1, le=1 << 24)]


class _TensorHeader(Frozen):
    dtype: Literal["float32"]
    shape: tuple[Size, ...] = Field(min_length=2, max_length=4)

    @property
    def length_bytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


class _Header(Frozen):
    format: Literal[1] = 1
    labels: tuple[Annotated[str, Field(max_length=256)], ...] = Field(min_length=1, max_length=MAX_GOLDEN)
    score_tolerance: float = Field(ge=0, le=1)
    inputs: _TensorHeader
    scores: _TensorHeader

    @model_validator(mode="after")
    def _rows_match(self) -> "_Header":
        if not len(self.labels) == self.inputs.shape[0] == self.scores.shape[0]:
            raise ValueError("labels, inputs and scores have different lengths")
        return self


@dataclass(frozen=True)
class TensorBytes:
    """A tensor as plain values: ``data`` holds it row by row, little-endian. ``dtype`` is ``float32``."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class GoldenSet:
    """Frames, the scores that the payload gave them when it was built, and their true labels.

    Attributes:
        inputs: The model's real-valued inputs, [N, H, W, C] or [N, F].
        scores: Expected real-valued scores, [N, C].
        labels: The true label's name of each frame.
        score_tolerance: Largest difference of any score that is still right; kernels of processors differ a little.
    """

    inputs: TensorBytes
    scores: TensorBytes
    labels: tuple[str, ...]
    score_tolerance: float

    def encode(self) -> bytes:
        """Return the blob.

        Raises:
            InvalidInput: The parts do not belong together.
        """
        header = self._header()
        for tensor, spec in ((self.inputs, header.inputs), (self.scores, header.scores)):
            if len(tensor.data) != spec.length_bytes:
                raise InvalidInput(f"{len(tensor.data)} bytes for a tensor of shape {list(tensor.shape)}")
        text = strictjson.dumps(header.model_dump(mode="json"))
        return b"".join([_HEAD.pack(MAGIC, len(text)), text, self.inputs.data, self.scores.data])

    @classmethod
    def decode(cls, data: bytes) -> "GoldenSet":
        """Parse a blob.

        Raises:
            MalformedBundle: It is not one, is cut short, or is too long.
        """
        header, start = _read_header(data)
        middle = start + header.inputs.length_bytes
        end = middle + header.scores.length_bytes
        if len(data) != end:
            raise MalformedBundle(f"the golden inputs have {len(data)} bytes", why=f"their header says {end}")
        return cls(
            inputs=TensorBytes(header.inputs.dtype, header.inputs.shape, data[start:middle]),
            scores=TensorBytes(header.scores.dtype, header.scores.shape, data[middle:end]),
            labels=header.labels,
            score_tolerance=header.score_tolerance,
        )

    def _header(self) -> _Header:
        try:
            return _Header.model_validate(
                {
                    "labels": self.labels,
                    "score_tolerance": self.score_tolerance,
                    "inputs": {"dtype": self.inputs.dtype, "shape": self.inputs.shape},
                    "scores": {"dtype": self.scores.dtype, "shape": self.scores.shape},
                }
            )
        except ValidationError as error:
            raise InvalidInput("these are not golden inputs", why=first_problem(error)) from error


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
