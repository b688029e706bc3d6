"""An operator among its tensors: what a rule asks of it, and how it refuses it."""

import math
from collections.abc import Sequence

from dsops.errors import InvalidModel
from dsops.tflite_lint.flatbuffer import Table, unsound, whole_numbers
from dsops.tflite_lint.model import Dims, Operator, SubGraph, Tensor
from dsops.tflite_lint.schema import DType

_KINDS = {DType.INT32: "i", DType.INT64: "q"}
MAX_VALUES = 1024
"""More values no axes, shapes, paddings or sizes of parts have."""
MAX_STEP = 1 << 14
"""Larger strides, filters or dilations mean nothing."""


class Node:
    """One operator. ``inputs`` holds None where an optional input is left out."""

    def __init__(self, operator: Operator, graph: SubGraph, file: Table) -> None:
        tensors = graph.tensors
        self.operator = operator
        self.inputs: tuple[Tensor | None, ...] = tuple(tensors[i] if i >= 0 else None for i in operator.inputs)
        self.outputs: tuple[Tensor, ...] = tuple(tensors[i] for i in operator.outputs)
        self.intermediates: tuple[Tensor, ...] = tuple(tensors[i] for i in operator.intermediates)
        self._file = file

    def refuse(self, why: str) -> InvalidModel:
        """Return the error that says what is wrong here."""
        return unsound(self.operator.where, why)

    def input(self, place: int) -> Tensor:
        """Return an input that the operator must have."""
        found = self.inputs[place] if place < len(self.inputs) else None
        if found is None:
            raise self.refuse(f"input {place} is left out")
        return found

    def optional(self, place: int) -> Tensor | None:
        """Return an input, or None when it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def dims(self, place: int, *ranks: int) -> Dims | None:
        """Return an input's shape, None when its rank is not known.

        Raises:
            InvalidModel: Its rank is none of ``ranks``, if any are given.
        """
        tensor = self.input(place)
        dims = tensor.dims
        if dims is not None and ranks and len(dims) not in ranks:
            raise self.refuse(f"input {place} has shape {list(tensor.shape)}, of another rank than it takes")
        return dims

    def constant(self, place: int) -> Sequence[int] | None:
        """Return the few values of an input of int32 or int64, None when they are known only when the model runs.

        Raises:
            InvalidModel: There are more than any axes, shapes or sizes have.
        """
        tensor = self.input(place)
        if tensor.is_constant and tensor.elements > MAX_VALUES:
            raise self.refuse(f"input {place} has {tensor.elements} values")
        values = self.many_constants(place)
        return None if values is None else [int(value) for value in values]

    def many_constants(self, place: int) -> Sequence[int] | None:
        """Return the values of an input as :meth:`constant` does, however many they are."""
        tensor = self.input(place)
        kind = _KINDS.get(tensor.dtype)
        if kind is None or not tensor.elements:
            return None if kind is None else ()
        if not tensor.is_constant:
            return None
        self._file.spend(tensor.elements)
        return whole_numbers(self._file.data(tensor.buffer.start, tensor.buffer.length), kind)

    def count(self, field: int, default: int = 0, most: int = MAX_STEP) -> int:
        """Return an option that counts something.

        Raises:
            InvalidModel: It is not in [1, ``most``].
        """
        value = self.number(field, default)
        if not 1 <= value <= most:
            raise self.refuse(f"option {field} is {value}, outside 1 to {most}")
        return value

    def number(self, field: int, default: int = 0) -> int:
        """Return an option, an ``int``; the default when there are no options."""
        options = self.operator.options
        return default if options is None else options.int32(field, default)

    def choice(self, field: int, choices: int) -> int:
        """Return an option that is one of ``choices`` values, from 0.

        Raises:
            InvalidModel: It is not.
        """
        options = self.operator.options
        value = 0 if options is None else options.byte(field)
        if not 0 <= value < choices:
            raise self.refuse(f"option {field} is {value}, which means nothing")
        return value

    def flag(self, field: int) -> bool:
        """Return an option, a truth value, false by default."""
        options = self.operator.options
        return options is not None and options.flag(field)

    def real(self, field: int) -> float:
        """Return an option, a finite number, 0 by default.

        Raises:
            InvalidModel: It is not finite.
        """
        options = self.operator.options
        value = 0.0 if options is None else options.float32(field)
        if not math.isfinite(value):
            raise self.refuse(f"option {field} is not a finite number")
        return value

    def axis(self, value: int, rank: int) -> int:
        """Return an axis as a number from 0; the file may count it from the last.

        Raises:
            InvalidModel: There is no such axis.
        """
        if not -rank <= value < rank:
            raise self.refuse(f"there is no axis {value} in {rank} dimensions")
        return value % rank

    def expect(self, place: int, dims: Dims | None) -> None:
        """Check that an output has the shape that the operator will give it, as far as both are known.

        Raises:
            InvalidModel: They differ.
        """
        tensor = self.outputs[place]
        if dims is None or tensor.dims is None:
            return
        if not agree(tensor.dims, dims):
            raise self.refuse(f"output {place} has shape {list(tensor.shape)}, but it gives {show(dims)}")


def agree(left: Dims, right: Dims) -> bool:
    """Say whether two shapes can be the same."""
    return len(left) == len(right) and all(a is None or b is None or a == b for a, b in zip(left, right, strict=True))


def show(dims: Dims) -> str:
    """Return a shape for people; a size that is not known is ``?``."""
    return f"[{', '.join('?' if size is None else str(size) for size in dims)}]"


def elements(dims: Dims | None) -> int | None:
    """Return how many elements a shape has, None when that is not known."""
    if dims is None:
        return None
    known = [size for size in dims if size is not None]
    return math.prod(known) if len(known) == len(dims) else None


def broadcast(left: Dims | None, right: Dims | None) -> Dims | None:
    """Return the shape that two broadcast to, None when that is not known.

    Raises:
        ValueError: They do not fit each other.
    """
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    return tuple(_broadcast_size(a, b) for a, b in pairs)


def _broadcast_size(left: int | None, right: int | None) -> int | None:
    if left == 1:
        return right
    if right in {1, left}:
        return left
    if left is None or right is None:
        return left if right is None else right
    raise ValueError(f"{left} and {right} differ")
