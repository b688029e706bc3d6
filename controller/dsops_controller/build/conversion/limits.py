"""Bounds a hostile ONNX file before anything parses it as a whole.

A protobuf message of two bytes becomes an object of hundreds, so a file can ask for far more memory than it has bytes,
and nested graphs can exhaust the stack. This walk over the wire format (https://protobuf.dev/programming-guides/encoding/)
follows the message types of the schema that the onnx package carries, keeps nothing, and stops at the first bound.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx

from dsops.errors import InvalidModel

MAX_MODEL_BYTES = 1 << 30
MAX_FIELDS = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 48
_MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Descriptor: TypeAlias = Any
"""A message's description; protobuf's own types carry none."""
_NODE = onnx.NodeProto.DESCRIPTOR.full_name


@dataclass
class _Walk:
    """What was counted so far."""

    data: memoryview
    fields: int = 0
    nodes: int = 0


def check_limits(data: bytes) -> None:
    """Check that an ONNX file can be parsed in bounded memory.

    Raises:
        InvalidModel: It is larger than a model may be, holds too many nodes or fields, is nested too deeply, or is not
            a protobuf message at all.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise InvalidModel(f"the ONNX model is larger than {MAX_MODEL_BYTES >> 20} MiB")
    _walk(_Walk(memoryview(data)), 0, len(data), onnx.ModelProto.DESCRIPTOR, 0)


def _walk(walk: _Walk, position: int, end: int, message: Descriptor, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidModel("the ONNX model is nested too deeply", why=f"more than {MAX_DEPTH} levels of messages")
    known = message.fields_by_number
    while position < end:
        key, position = _varint(walk.data, position, end)
        walk.fields += 1
        if walk.fields > MAX_FIELDS:
            raise InvalidModel("the ONNX model is too large", why=f"it holds more than {MAX_FIELDS} fields")
        start, position = _value(walk.data, key & 7, position, end)
        field = known.get(key >> 3)
        inner = field.message_type if field is not None and key & 7 == _BYTES else None
        if inner is not None:
            _count_node(walk, inner)
            _walk(walk, start, position, inner, depth + 1)


def _count_node(walk: _Walk, message: Descriptor) -> None:
    if message.full_name == _NODE:
        walk.nodes += 1
        if walk.nodes > MAX_NODES:
            raise InvalidModel("the ONNX model is too large", why=f"it holds more than {MAX_NODES} nodes")


def _value(data: memoryview, wire_type: int, position: int, end: int) -> tuple[int, int]:
    """Return where a field's value starts and ends."""
    if wire_type == _VARINT:
        return position, _varint(data, position, end)[1]
    if wire_type == _BYTES:
        length, position = _varint(data, position, end)
    else:
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, -1)
    if length < 0 or position + length > end:
        raise InvalidModel("the file is not an ONNX model", why=f"a field breaks off at byte {position}")
    return position, position + length


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if position + count >= end:
            break
        byte = data[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise InvalidModel("the file is not an ONNX model", why=f"a number breaks off at byte {position}")
