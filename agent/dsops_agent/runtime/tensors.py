"""Tensors of requests and answers, whatever they came by: checked against the model, to arrays and back. Pure.

A tensor's values are raw bytes (little-endian, row by row; BYTES as length and bytes), plain numbers, or a part of
shared memory with such bytes.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsops.direct import MAX_BODY_BYTES
from dsops.errors import InvalidInput, NotFound, TooLarge
from dsops.forms import Form
from dsops_agent.runtime.answer import Answer, Output, Values
from dsops_agent.runtime.engine import DTYPES, InputForm, ServedModel, wrong_names
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.shared_memory import Region, Span

MAX_INPUT_BYTES = MAX_BODY_BYTES
"""Of all inputs of one request, whatever they come by."""
MAX_OUTPUTS = 64
"""Outputs that one request may name; a model has fewer."""
_LITTLE = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()}
"""The same types as raw bytes have them."""
_AT_ONCE = 1 << 16
"""Plain values that are converted at once."""
Raw: TypeAlias = bytes | memoryview


class Memory(Protocol):
    """Where parts of shared memory are found."""

    def get(self, name: str) -> Region:
        """Return a region, or raise NotFound."""
        ...


class _NothingShared:
    def get(self, name: str) -> Region:
        raise NotFound(f"no shared memory {name[:64]!r} is registered")


NOTHING_SHARED: Memory = _NothingShared()
"""For requests without shared memory."""


@dataclass(frozen=True)
class Given:
    """An input of a request.

    Attributes:
        name: Its name.
        datatype: Its Open Inference Protocol type.
        shape: Its shape, batch axis included.
        values: Raw bytes, plain values, or where in shared memory the bytes are.
        said: What the request says that they are: real, stored or raw; empty when it does not say.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Raw | Sequence[Any] | Span
    said: str = ""


@dataclass(frozen=True)
class Asked:
    """An output that a request names, and where in shared memory it shall go, if there."""

    name: str
    span: Span | None = None


def sent_inputs(given: Sequence[Given], served: ServedModel, memory: Memory) -> dict[str, Sent]:
    """Return the inputs of a request by name, each [n, ...], as they were sent, and what they are.

    Raises:
        InvalidInput: An input is missing, unknown or named twice, or has another type, shape or length than the
            model's; the text says which it has.
        TooLarge: They have too many bytes together.
        NotFound: An input is in shared memory that is not registered.
    """
    return read_inputs(planned(given, served), memory)


@dataclass(frozen=True)
class Plan:
    """Inputs of a request that fit the model, before a byte of them is read: what each is, in the request's order."""

    parts: tuple[tuple[Given, Form], ...]


def planned(given: Sequence[Given], served: ServedModel) -> Plan:
    """Check everything about the inputs of a request but their bytes.

    Raises:
        InvalidInput: See :func:`sent_inputs`.
        TooLarge: They have too many bytes together.
    """
    forms = served.forms
    if len(given) != len(forms):
        raise wrong_names(served.manifest, [tensor.name for tensor in given])
    kinds: dict[str, Form] = {}
    for tensor in given:
        form = forms.get(tensor.name)
        if form is None or tensor.name in kinds:
            raise wrong_names(served.manifest, [one.name for one in given])
        kinds[tensor.name] = _form_of(tensor, form, served.max_frames)
    _check_total(given)  # before a byte is read: shared memory costs whoever asks nothing
    return Plan(tuple((tensor, kinds[tensor.name]) for tensor in given))


def read_inputs(plan: Plan, memory: Memory) -> dict[str, Sent]:
    """Return the inputs of a request by name, as :func:`sent_inputs`.

    Raises:
        InvalidInput: An input has another length than its shape, or another number of values.
        NotFound: An input is in shared memory that is not registered.
    """
    return {tensor.name: Sent(form, _array(tensor, memory)) for tensor, form in plan.parts}


def tensor_bytes(given: Sequence[Given]) -> int:
    """Return how many bytes are taken beside a request to answer it: shared memory to read, plain values to convert."""
    return weighed([_taken_bytes(tensor) for tensor in given])


def weighed(sizes: Sequence[int]) -> int:
    """Return the sum of what inputs say that they take; what is more than inputs may have is refused unread."""
    return min(sum(max(size, 0) for size in sizes), MAX_INPUT_BYTES)


def item_bytes(datatype: str) -> int:
    """Return how many bytes a value takes as the model gets it; 1 for a type that there is not, which is refused."""
    return DTYPES[datatype].itemsize if datatype in DTYPES else 1


def wanted_outputs(asked: Sequence[Asked], served: ServedModel) -> list[tuple[Output, Span | None]]:
    """Return the outputs that a request wants: those that it names, or else the model's default ones.

    Raises:
        InvalidInput: There is no such output.
    """
    offered = served.offered
    if not asked:
        return [(output, None) for output in served.usual]
    if len(asked) > MAX_OUTPUTS:
        raise InvalidInput(f"a request names at most {MAX_OUTPUTS} outputs", why=f"got {len(asked)}")
    for one in asked:
        if one.name not in offered:
            raise InvalidInput(
                f"model {served.name} has the outputs {', '.join(offered)}", why=f"got {one.name[:64]!r}"
            )
    return [(offered[one.name], one.span) for one in asked]


def packed(values: Values, datatype: str) -> bytes:
    """Return an output's raw bytes."""
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(text)) + text for text in values)
    return values.astype(_LITTLE[datatype], copy=False).tobytes()


def values_of(output: Output, answer: Answer) -> tuple[Values, list[int]]:
    """Return an output's values and shape."""
    values = output.take(answer)
    return values, [answer.frames, *output.shape]


def _taken_bytes(tensor: Given) -> int:
    if isinstance(tensor.values, Span):
        return tensor.values.size
    if isinstance(tensor.values, bytes | memoryview):  # they stay where they are
        return 0
    return len(tensor.values) * item_bytes(tensor.datatype)


def _form_of(tensor: Given, form: InputForm, max_frames: int) -> Form:
    shape = tensor.shape
    kind = form.form_of(tensor.datatype, shape, tensor.said)
    if not shape or not 1 <= shape[0] <= max_frames:
        raise InvalidInput(
            f"input {form.name!r} has shape {form}, n from 1 to {max_frames}", why=f"got {list(shape)[:8]}"
        )
    return kind


def _array(tensor: Given, memory: Memory) -> Array:
    if isinstance(tensor.values, Span):
        _check_length(tensor, tensor.values.size)  # before a byte is read
        return _of_bytes(tensor, memory.get(tensor.values.region).read(tensor.values))  # which is nobody else's
    if isinstance(tensor.values, bytes | memoryview):
        _check_length(tensor, len(tensor.values))
        return _of_bytes(tensor, np.frombuffer(tensor.values, np.uint8))
    return _plain_array(tensor, tensor.values)


def _check_total(given: Sequence[Given]) -> None:
    total = sum(_size_bytes(tensor) for tensor in given)
    if total > MAX_INPUT_BYTES:
        raise TooLarge(
            f"the inputs of a request have up to {MAX_INPUT_BYTES} bytes together, in shared memory too",
            why=f"these have {total}",
            hint="send fewer frames in a request",
        )


def _size_bytes(tensor: Given) -> int:
    return math.prod(tensor.shape) * DTYPES[tensor.datatype].itemsize


def _check_length(tensor: Given, found: int) -> None:
    size_bytes = _size_bytes(tensor)
    if found != size_bytes:
        raise InvalidInput(
            f"input {tensor.name!r} of shape {list(tensor.shape)} has {size_bytes} bytes", why=f"got {found}"
        )


def _of_bytes(tensor: Given, found: NDArray[np.uint8]) -> Array:
    """Return the values that bytes are; the memory stays the same, except for truth values."""
    dtype = DTYPES[tensor.datatype]
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 is no truth value
        return found.reshape(tensor.shape).astype(np.bool_)
    return found.view(_LITTLE[tensor.datatype]).astype(dtype, copy=False).reshape(tensor.shape)


def _plain_array(tensor: Given, values: Sequence[Any]) -> Array:
    count = math.prod(tensor.shape)
    if len(values) != count:
        raise InvalidInput(
            f"input {tensor.name!r} of shape {list(tensor.shape)} has {count} values", why=f"got {len(values)}"
        )
    return _typed_array(tensor.name, values, DTYPES[tensor.datatype]).reshape(tensor.shape)


def _typed_array(name: str, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    found = np.empty(len(values), dtype)
    try:
        with np.errstate(over="ignore"):  # it becomes infinity, which is refused
            for start in range(0, len(values), _AT_ONCE):  # other threads go on in between
                part = slice(start, start + _AT_ONCE)
                found[part] = _checked_integers(name, values[part], dtype) if dtype.kind in "iu" else values[part]
    except OverflowError as error:
        raise InvalidInput(f"input {name!r} holds a value that no {dtype} can be", why=str(error)) from error
    return found


def _checked_integers(name: str, values: Sequence[Any], dtype: np.dtype[Any]) -> Array:
    limits, wide = np.iinfo(dtype), np.asarray(values, np.int64)
    if wide.min() < limits.min or wide.max() > limits.max:
        raise InvalidInput(f"input {name!r} holds a value outside {limits.min} to {limits.max}")
    return wide
