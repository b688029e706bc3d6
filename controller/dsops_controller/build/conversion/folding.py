"""Computes what does not depend on the model's inputs, with NumPy and within bounds; nothing else is executed."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from dsops_controller.build.conversion.graph import Array, Node

MAX_FOLDED_ELEMENTS = 1 << 26
"""Elements of all folded tensors together, but for those that are only seen in another way."""
_VIEWS = {"Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
Folder = Callable[[Node, Sequence[Array]], Sequence[Array]]
Settings = tuple[int, ...]


class Folding:
    """Folds nodes whose inputs are known, and keeps count of what that costs."""

    def __init__(self) -> None:
        self._elements = 0

    def fold(self, node: Node, constants: Mapping[str, Array]) -> dict[str, Array]:
        """Return the values of a node's outputs, or nothing when it cannot be folded.

        Raises:
            UnsupportedModel: They would be too large, or the node contradicts itself.
        """
        folder = FOLDERS.get(node.operator)
        if folder is None or not all(name in constants for name in node.inputs if name):
            return {}
        try:
            with np.errstate(all="ignore"):
                results = folder(node, [constants.get(name, np.zeros(0)) for name in node.inputs])
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise node.refuse(f"it contradicts itself: {str(error).split(chr(10), 1)[0]}") from error
        if node.operator not in _VIEWS:
            self._count(node, sum(result.size for result in results))
        return {name: result for name, result in zip(node.outputs, results, strict=False) if name}

    def _count(self, node: Node, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_FOLDED_ELEMENTS:
            raise node.refuse(f"constants of more than {MAX_FOLDED_ELEMENTS} elements would be computed")


def _bounded(node: Node, shape: Sequence[int]) -> Sequence[int]:
    if len(shape) > 8 or any(size < 0 for size in shape) or math.prod(shape) > MAX_FOLDED_ELEMENTS:
        raise node.refuse(f"a constant of shape {list(shape)[:8]} would be computed")
    return shape


def _elementwise(function: Callable[..., Array]) -> Folder:
    def fold(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
        _bounded(node, np.broadcast_shapes(*(values.shape for values in inputs)))
        result = inputs[0] if len(inputs) > 1 else function(inputs[0])
        for other in inputs[1:]:
            result = function(result, other)
        keep = result.dtype.kind == "b" or inputs[0].dtype.kind == "b"
        return [np.asarray(result if keep else result.astype(inputs[0].dtype))]

    return fold


def _divide(left: Array, right: Array) -> Array:
    """Divide as ONNX does: whole numbers are cut off toward zero."""
    if left.dtype.kind != "i":
        return np.asarray(left / right)
    if not right.all():
        raise ZeroDivisionError("division by zero")
    quotient = np.abs(left) // np.abs(right)
    return np.asarray(quotient * np.sign(left) * np.sign(right))


def _settings(node: Node, inputs: Sequence[Array], position: int, attribute: str) -> Settings | None:
    if position < len(inputs) and node.input(position):
        return tuple(int(item) for item in inputs[position].reshape(-1))
    given = node.attributes.get(attribute)
    return None if given is None else tuple(given)


def _constant(node: Node, _inputs: Sequence[Array]) -> Sequence[Array]:
    for name, value in node.attributes.items():
        if name == "value":
            return [value]
        if name in ("value_float", "value_floats"):
            return [np.asarray(value, np.float32)]
        if name in ("value_int", "value_ints"):
            return [np.asarray(value, np.int64)]
    raise node.refuse("a constant that is not a dense number")


def _cast(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    kind = node.attributes["to"]
    if kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise node.refuse("it casts to text")
    return [inputs[0].astype(helper.tensor_dtype_to_np_dtype(kind))]


def _gather(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    values, indices = inputs
    axis = node.attributes["axis"]
    kept = values.size // max(values.shape[axis], 1)
    _bounded(node, (kept, indices.size))
    return [np.asarray(np.take(values, indices.astype(np.int64), axis=axis))]


def _concat(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    _bounded(node, (sum(values.size for values in inputs),))
    return [np.concatenate(inputs, axis=node.attributes["axis"])]


def _reshape(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    target = [int(size) for size in inputs[1].reshape(-1)]
    if not node.attributes.get("allowzero", 0):
        target = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return [inputs[0].reshape(target)]


def _squeeze(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [np.squeeze(inputs[0], _settings(node, inputs, 1, "axes"))]


def _unsqueeze(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [np.expand_dims(inputs[0], _settings(node, inputs, 1, "axes") or ())]


def _transpose(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [inputs[0].transpose(node.attributes.get("perm"))]


def _slice(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    starts, ends = (_settings(node, inputs, place, name) or () for place, name in ((1, "starts"), (2, "ends")))
    axes = _settings(node, inputs, 3, "axes") or tuple(range(len(starts)))
    steps = _settings(node, inputs, 4, "steps") or (1,) * len(starts)
    spans = [slice(None)] * inputs[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        beyond = step < 0 and end < -inputs[0].shape[axis]
        spans[axis] = slice(start, None if beyond else end, step)
    return [inputs[0][tuple(spans)]]


def _split(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    axis, count = node.attributes["axis"], len(node.outputs)
    size = inputs[0].shape[axis]
    each = -(-size // count)
    sizes = _settings(node, inputs, 1, "split") or (*[each] * (count - 1), size - each * (count - 1))
    return np.split(inputs[0], np.cumsum(sizes)[:-1], axis)


def _constant_of_shape(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    shape = _bounded(node, [int(size) for size in inputs[0].reshape(-1)])
    given = node.attributes.get("value")
    return [np.full(shape, np.float32(0) if given is None else given.reshape(-1)[0])]


def _range(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    start, limit, step = (values.reshape(()) for values in inputs)
    count = max(int(np.ceil((float(limit) - float(start)) / float(step))), 0)
    _bounded(node, (count,))
    return [(start + np.arange(count) * step).astype(start.dtype)]


def _expand(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1].reshape(-1)))
    return [np.broadcast_to(inputs[0], _bounded(node, shape))]


def _tile(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    repeats = [int(count) for count in inputs[1].reshape(-1)]
    _bounded(node, [size * count for size, count in zip(inputs[0].shape, repeats, strict=True)])
    return [np.tile(inputs[0], repeats)]


def _where(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    _bounded(node, np.broadcast_shapes(*(values.shape for values in inputs)))
    return [np.where(*inputs)]


def _product(node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    axes = _settings(node, inputs, 1, "axes")
    keep = bool(node.attributes["keepdims"])
    return [np.asarray(np.prod(inputs[0], axis=axes or None, keepdims=keep, dtype=inputs[0].dtype))]


def _same(_node: Node, inputs: Sequence[Array]) -> Sequence[Array]:
    return [inputs[0]]


FOLDERS: dict[str, Folder] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(np.equal),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "Identity": _same,
    "Less": _elementwise(np.less),
    "Log": _elementwise(np.log),
    "Max": _elementwise(np.maximum),
    "Min": _elementwise(np.minimum),
    "Mod": _elementwise(np.mod),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(np.power),
    "Range": _range,
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""What computes an operator's outputs from known inputs."""


def shape_of(node: Node, shape: Sequence[int]) -> Array | None:
    """Return what Shape or Size gives for a tensor whose shape is known; nothing for other operators."""
    if node.operator == "Size":
        return np.asarray(math.prod(shape), np.int64)
    if node.operator != "Shape":
        return None
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(shape[start:end], np.int64)
