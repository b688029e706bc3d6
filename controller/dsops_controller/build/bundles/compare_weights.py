"""What changed between the weights of two payloads, tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dsops_controller.build.bundles.payload import Payload, Weight

Kind = Literal["added", "removed", "changed"]

_DTYPES: dict[str, str] = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "FLOAT64": "<f8",
    "INT8": "i1",
    "UINT8": "u1",
    "BOOL": "u1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
}
_BLOCK = 1 << 20
"""Values that are looked at together; it bounds the memory."""


@dataclass(frozen=True)
class WeightChange:
    """How one constant differs.

    Attributes:
        kind: What happened to it; another type or shape under the same name is a removal and an addition.
        changed: Number of values that differ as they are stored.
        elements: Number of values.
        largest: Largest difference of a real value (stored values times their scales); None where there is nothing to
            compare with, or a value is not a number.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    changed: int
    elements: int
    largest: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "changed": self.changed,
            "elements": self.elements,
            "largest_difference": self.largest,
        }


def compare_weights(before: Payload, old: bytes, after: Payload, new: bytes) -> tuple[WeightChange, ...]:
    """Return every constant that differs, in the order of the newer payload, then those that are gone."""
    known = pairs(before, after)
    changes = []
    for weight in after.weights:
        earlier = known.get(weight)
        change = _compare(earlier, old, weight, new) if earlier else _whole(weight, "added")
        if change.changed or change.largest != 0.0:
            changes.append(change)
    kept = set(known.values())
    return (*changes, *(_whole(weight, "removed") for weight in before.weights if weight not in kept))


def pairs(before: Payload, after: Payload) -> dict[Weight, Weight]:
    """Return for each constant of the newer payload that of the older one of the same name, type and shape."""
    known = {(w.name, w.dtype, w.shape, w.length_bytes): w for w in before.weights}
    found = ((w, known.get((w.name, w.dtype, w.shape, w.length_bytes))) for w in after.weights)
    return {weight: earlier for weight, earlier in found if earlier is not None}


def _whole(weight: Weight, kind: Kind) -> WeightChange:
    return WeightChange(weight.name, kind, weight.dtype, weight.shape, weight.elements, weight.elements)


def _compare(earlier: Weight, old: bytes, weight: Weight, new: bytes) -> WeightChange:
    before, after = _stored(earlier, old), _stored(weight, new)
    changed, largest = 0, 0.0
    for block in _blocks(before.shape):
        a, b = before[block], after[block]
        differs = int(np.count_nonzero(a.view(_bits(a)) != b.view(_bits(b))))
        changed += differs
        if differs or (earlier.scales, earlier.zero_points) != (weight.scales, weight.zero_points):
            largest = max(largest, _farthest(_real(earlier, a, block), _real(weight, b, block)))
    return WeightChange(
        weight.name,
        "changed",
        weight.dtype,
        weight.shape,
        changed,
        before.size,
        largest if np.isfinite(largest) else None,
    )


def _farthest(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(a - b)
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _stored(weight: Weight, data: bytes) -> NDArray[Any]:
    """Return the stored values in the tensor's shape; as single bytes when numpy has no such type."""
    raw = np.frombuffer(data, np.uint8, weight.length_bytes, weight.start)
    if weight.dtype == "INT4":
        signed = np.stack([raw << 4, raw & 0xF0], axis=1).reshape(-1)[: weight.elements].view(np.int8)
        return (signed >> 4).reshape(weight.shape or (1,))
    dtype = _DTYPES.get(weight.dtype)
    if dtype is None or weight.elements * np.dtype(dtype).itemsize != weight.length_bytes:
        return raw
    return np.frombuffer(raw.tobytes(), dtype).reshape(weight.shape or (1,))


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices along the first axis that hold a bounded number of values, at least one row each."""
    rows = max(_BLOCK // max(int(np.prod(shape[1:])), 1), 1)
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _real(weight: Weight, stored: NDArray[Any], block: slice) -> NDArray[np.float64]:
    values = stored.astype(np.float64)
    if not weight.scales or stored.ndim != len(weight.shape or (1,)):
        return values
    return (values - _along(weight, weight.zero_points or (0,), stored, block)) * _along(
        weight, weight.scales, stored, block
    )


def _along(
    weight: Weight, numbers: tuple[float, ...] | tuple[int, ...], stored: NDArray[Any], block: slice
) -> NDArray[np.float64]:
    """Return numbers, one or one a slice, so that they multiply the stored values of a block."""
    given = np.asarray(numbers, np.float64)
    if given.size == 1 or weight.axis >= stored.ndim or given.size != weight.shape[weight.axis]:
        return given[:1]
    if weight.axis == 0:
        given = given[block]
    shape = [1] * stored.ndim
    shape[weight.axis] = given.size
    return given.reshape(shape)


def _bits(values: NDArray[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{values.itemsize}")
