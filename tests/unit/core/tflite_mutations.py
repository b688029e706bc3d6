"""Damages TFLite files on purpose, the same way for the same seed.

*Random* damage is what disks and links do, and what a fuzzer begins with. *Semantic* damage decodes the file, changes
one or two things that a FlatBuffer verifier cannot see, such as a shape or an operator's input, and encodes it again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops.tflite_lint import LintLimits
from dsops.tflite_lint.flatbuffer import Reader
from dsops.tflite_lint.model import ModelReader

Table: TypeAlias = Any
Mutation: TypeAlias = Callable[[Table, random.Random], bool]
"""Changes a ``ModelT``; says whether it found anything to change."""

_WORDS = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000)
_NUMBERS = (-(2**31), -1, 0, 1, 2, 3, 7, 255, 65536, 2**31 - 1)
_SCALES = (0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30)
_LARGEST_OP, _LARGEST_TYPE = 209, 22


def random_mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies: a third cut short, a third with bits flipped, a third struck outside the weights."""
    rng = random.Random(seed)
    structure = _outside_weights(data)
    for index in range(count):
        if index % 3 == 0:
            yield data[: rng.randrange(len(data))]
        elif index % 3 == 1:
            yield _flip(data, [rng.randrange(len(data)) for _ in range(rng.randint(1, 8))], rng)
        elif rng.random() < 0.5:
            yield _flip(data, [rng.choice(structure) for _ in range(rng.randint(1, 8))], rng)
        else:
            yield _overwrite(data, rng.choice(structure) & ~3, rng)


def semantic_mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield well-formed copies of which one or two things are wrong."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        changed = [rng.choice(MUTATIONS)(model, rng) for _ in range(rng.choice((1, 1, 2)))]
        if not any(changed):
            continue
        try:
            packed = pack(model)
        except (struct.error, TypeError, ValueError, OverflowError):
            continue  # the writer cannot express it
        if packed != data:
            made += 1
            yield packed


def pack(model: Table) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _outside_weights(data: bytes) -> list[int]:
    """Return the places of all bytes that are no constant's."""
    reader = Reader(data, LintLimits().work)
    buffers = ModelReader(reader, LintLimits()).read(reader.root()).buffers
    weights = {place for buffer in buffers for place in range(buffer.start, buffer.start + buffer.length)}
    return [place for place in range(len(data)) if place not in weights]


def _flip(data: bytes, places: list[int], rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for place in places:
        damaged[place] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _overwrite(data: bytes, place: int, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[place : place + 4] = struct.pack("<I", rng.choice(_WORDS))
    return bytes(damaged)


def _graph(model: Table, rng: random.Random) -> Table:
    return rng.choice(model.subgraphs)


def _number(rng: random.Random, near: int) -> int:
    return rng.choice((*_NUMBERS, near + 1, near - 1, near * 2))


def _shape(model: Table, rng: random.Random) -> bool:
    tensor = rng.choice(_graph(model, rng).tensors)
    shape = [int(size) for size in tensor.shape] if tensor.shape is not None else []
    kind = rng.randrange(4)
    if kind == 0 or not shape:
        shape.insert(rng.randint(0, len(shape)), rng.choice((0, 1, 2, 5)))
    elif kind == 1:
        del shape[rng.randrange(len(shape))]
    else:
        place = rng.randrange(len(shape))
        shape[place] = _number(rng, shape[place])
    tensor.shape = shape
    return True


def _type(model: Table, rng: random.Random) -> bool:
    tensor = rng.choice(_graph(model, rng).tensors)
    before, tensor.type = tensor.type, rng.randint(0, _LARGEST_TYPE)
    return bool(before != tensor.type)


def _buffer_index(model: Table, rng: random.Random) -> bool:
    tensor = rng.choice(_graph(model, rng).tensors)
    before, tensor.buffer = tensor.buffer, rng.choice((rng.randrange(len(model.buffers)), len(model.buffers), 2**31))
    return bool(before != tensor.buffer)


def _buffer_data(model: Table, rng: random.Random) -> bool:
    buffer = rng.choice(model.buffers)
    if buffer.data is None or not len(buffer.data):
        return False
    kept = rng.choice((0, len(buffer.data) // 2, len(buffer.data) - 1))
    buffer.data = buffer.data[:kept] if rng.random() < 0.7 else np.concatenate([buffer.data, buffer.data])
    return True


def _constant(model: Table, rng: random.Random) -> bool:
    """Change a number in a small constant of integers: an axis, a shape, a padding, an index."""
    graph = _graph(model, rng)
    kinds = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
    found = [t for t in graph.tensors if t.type in kinds and t.quantization is None and _has_data(model, t)]
    if not found:
        return False
    tensor = rng.choice(found)
    values = np.array(model.buffers[tensor.buffer].data, np.uint8).view(kinds[tensor.type]).copy()
    place = rng.randrange(len(values))
    values[place] = _number(rng, int(values[place])) % 2**31 * rng.choice((1, 1, -1))
    model.buffers[tensor.buffer].data = values.view(np.uint8)
    return True


def _has_data(model: Table, tensor: Table) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0 and len(data) % 8 == 0


def _operator_tensors(model: Table, rng: random.Random) -> bool:
    graph = _graph(model, rng)
    operator = rng.choice(graph.operators)
    side = rng.choice(("inputs", "inputs", "outputs"))
    listed = getattr(operator, side)
    indices = [int(index) for index in listed] if listed is not None else []
    if not indices:
        return False
    place, count = rng.randrange(len(indices)), len(graph.tensors)
    kind = rng.randrange(5)
    if kind == 0:
        del indices[place]
    elif kind == 1:
        indices.append(rng.randrange(count))
    else:
        indices[place] = rng.choice((rng.randrange(count), rng.randrange(count), -1, count, 2**31 - 1, -2))
    setattr(operator, side, indices)
    return True


def _graph_tensors(model: Table, rng: random.Random) -> bool:
    graph = _graph(model, rng)
    side = rng.choice(("inputs", "outputs"))
    indices = [int(index) for index in getattr(graph, side)]
    place, count = rng.randrange(len(indices)), len(graph.tensors)
    indices[place] = rng.choice((rng.randrange(count), -1, count, 2**31 - 1))
    setattr(graph, side, indices if rng.random() < 0.8 else indices[1:])
    return True


def _operator_code(model: Table, rng: random.Random) -> bool:
    operator = rng.choice(_graph(model, rng).operators)
    before = operator.opcodeIndex
    operator.opcodeIndex = rng.choice((rng.randrange(len(model.operatorCodes)), len(model.operatorCodes), 2**31))
    return bool(before != operator.opcodeIndex)


def _builtin(model: Table, rng: random.Random) -> bool:
    code = rng.choice(model.operatorCodes)
    before, new = code.builtinCode, rng.randint(0, _LARGEST_OP)
    code.builtinCode, code.deprecatedBuiltinCode = new, min(new, 127)
    return bool(before != new)


def _option(model: Table, rng: random.Random) -> bool:
    operator = rng.choice(_graph(model, rng).operators)
    options = operator.builtinOptions
    fields = sorted(name for name, value in vars(options).items() if type(value) is int) if options is not None else []
    if not fields:
        return False
    name = rng.choice(fields)
    before = getattr(options, name)
    small = "padding" in name.lower() or "fused" in name.lower() or "type" in name.lower()
    setattr(options, name, rng.randint(-1, 7) if small else _number(rng, before))
    return bool(before != getattr(options, name))


def _options_type(model: Table, rng: random.Random) -> bool:
    graph = _graph(model, rng)
    operator, other = rng.choice(graph.operators), rng.choice(graph.operators)
    before = operator.builtinOptionsType
    if rng.random() < 0.4:
        operator.builtinOptionsType, operator.builtinOptions = 0, None
    else:
        operator.builtinOptionsType, operator.builtinOptions = other.builtinOptionsType, other.builtinOptions
    return bool(before != operator.builtinOptionsType)


def _quantization(model: Table, rng: random.Random) -> bool:
    found = [t.quantization for t in _graph(model, rng).tensors if t.quantization is not None]
    found = [q for q in found if q.scale is not None and len(q.scale)]
    if not found:
        return False
    chosen = rng.choice(found)
    kind = rng.randrange(4)
    if kind == 0:
        scales = np.array(chosen.scale, np.float32)
        place = rng.randrange(len(scales))
        scales[place] = rng.choice((*_SCALES, scales[place] * 4))
        chosen.scale = scales
    elif kind == 1:
        points = np.array(chosen.zeroPoint, np.int64)
        points[rng.randrange(len(points))] = rng.choice((-(2**40), -129, 128, 256, 70000, 5))
        chosen.zeroPoint = points
    elif kind == 2:
        chosen.quantizedDimension = rng.choice((-1, 1, 2, 3, 9, 2**31 - 1))
    else:
        chosen.scale = np.array(chosen.scale, np.float32)[:-1]
    return True


def _order(model: Table, rng: random.Random) -> bool:
    graph = _graph(model, rng)
    if len(graph.operators) < 2:
        return False
    first, second = rng.sample(range(len(graph.operators)), 2)
    operators = graph.operators
    if rng.random() < 0.7:
        operators[first], operators[second] = operators[second], operators[first]
    else:
        del operators[first]
    return True


def _variable(model: Table, rng: random.Random) -> bool:
    tensor = rng.choice(_graph(model, rng).tensors)
    tensor.isVariable = not tensor.isVariable
    return True


def _signature(model: Table, rng: random.Random) -> bool:
    if not model.signatureDefs:
        return False
    entry = rng.choice(model.signatureDefs)
    if rng.random() < 0.3:
        entry.subgraphIndex = rng.choice((1, 5, 2**31))
    else:
        rng.choice([*entry.inputs, *entry.outputs]).tensorIndex = rng.choice((0, 1, 3, 999, 2**31))
    return True


MUTATIONS: tuple[Mutation, ...] = (
    _shape,
    _shape,
    _type,
    _buffer_index,
    _buffer_data,
    _constant,
    _operator_tensors,
    _operator_tensors,
    _graph_tensors,
    _operator_code,
    _builtin,
    _option,
    _option,
    _options_type,
    _quantization,
    _quantization,
    _order,
    _variable,
    _signature,
)
"""What semantic damage may be; a kind that is listed twice is twice as likely."""
