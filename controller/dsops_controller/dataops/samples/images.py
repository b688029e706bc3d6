"""Tensors as pictures: PNG (W3C Recommendation, third edition) written with what Python brings. Pure."""

import struct
import zlib
from collections.abc import Sequence

from dsops.errors import InvalidInput
from dsops_controller.dataops.samples.sample_reading import SampleTensor

MAX_SIDE = 8192
_FORMATS = {
    "BOOL": "?", "INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H", "FP16": "e", "INT32": "i", "UINT32": "I",
    "FP32": "f", "INT64": "q", "UINT64": "Q", "FP64": "d",
}  # fmt: skip
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # grey, RGB, RGB with alpha: PNG section 11.2.1
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def numbers(tensor: SampleTensor) -> tuple[float, ...]:
    """Return a tensor's values, row-major.

    Raises:
        InvalidInput: They are no numbers.
    """
    code = _FORMATS.get(tensor.datatype)
    if code is None:
        raise InvalidInput("the values are no numbers", why=f"their type is {tensor.datatype or 'not known'}")
    return struct.unpack(f"<{len(tensor.data) // struct.calcsize(code)}{code}", tensor.data)


def size_of(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Return height, width and channels if a tensor of such a shape may be one picture, else None.

    A batch of one is no axis; channels stand last or first, and are 1, 3 or 4; a side has at least 2 pixels.
    """
    axes = list(shape)
    while len(axes) > 2 and axes[0] == 1 and len(axes) != 3:
        axes = axes[1:]
    if len(axes) == 2:
        axes = [*axes, 1]
    if len(axes) != 3:
        return None
    if axes[2] not in _COLOR_TYPES and axes[0] in _COLOR_TYPES:
        axes = [axes[1], axes[2], axes[0]]
    height, width, channels = axes
    fits = channels in _COLOR_TYPES and 2 <= height <= MAX_SIDE and 2 <= width <= MAX_SIDE
    return (height, width, channels) if fits else None


def png(tensor: SampleTensor) -> bytes:
    """Return a tensor as a PNG file.

    Whole numbers of one byte are the pixels. Others are stretched: from 0 to 1, or from 0 to 255, if they all are in
    one of these, else from their least to their greatest.

    Raises:
        InvalidInput: It is no picture.
    """
    size = size_of(tensor.shape)
    if size is None:
        raise InvalidInput(
            "the input is no picture", why=f"its shape is {list(tensor.shape)}", hint="export it as npz or parquet"
        )
    height, width, channels = size
    if not tensor.data:
        raise InvalidInput("the input is not here", why="it is sealed", hint="export it as parquet, and open it there")
    pixels = tensor.data if tensor.datatype == "UINT8" else _stretched(numbers(tensor))
    if _is_channels_first(tensor.shape, channels):
        plane = height * width
        pixels = b"".join(bytes(pixels[place::plane]) for place in range(plane))
    row = width * channels
    lines = b"".join(b"\0" + pixels[start : start + row] for start in range(0, height * row, row))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 6)) + _chunk(b"IEND", b"")


def _is_channels_first(shape: Sequence[int], channels: int) -> bool:
    return channels > 1 and shape[-1] != channels


def _stretched(values: Sequence[float]) -> bytes:
    finite = [value for value in values if value - value == 0.0]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= 0:
        low, high = 0.0, next((top for top in (1.0, 255.0) if high <= top), high)
    scale = 255.0 / (high - low) if high > low else 0.0
    return bytes(round(min(255.0, max(0.0, (value - low) * scale))) if value - value == 0.0 else 0 for value in values)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
