"""Rules for tensors: sizes, the bytes of constants, quantization."""

import math
from collections.abc import Sequence

from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import Model, Quantization, SubGraph, Tensor
from dsops.tflite_lint.schema import DType

BITS: dict[DType, int] = {
    DType.FLOAT32: 32,
    DType.FLOAT16: 16,
    DType.INT32: 32,
    DType.UINT8: 8,
    DType.INT64: 64,
    DType.BOOL: 8,
    DType.INT16: 16,
    DType.COMPLEX64: 64,
    DType.INT8: 8,
    DType.FLOAT64: 64,
    DType.COMPLEX128: 128,
    DType.UINT64: 64,
    DType.UINT32: 32,
    DType.UINT16: 16,
    DType.INT4: 4,
    DType.BFLOAT16: 16,
    DType.INT2: 2,
    DType.UINT4: 4,
    DType.FLOAT8_E4M3FN: 8,
    DType.FLOAT8_E5M2: 8,
}
"""Bits an element; narrow ones are packed, the last byte padded."""

_STORED: dict[DType, tuple[int, int]] = {
    DType.UINT8: (0, 255),
    DType.INT8: (-128, 127),
    DType.INT16: (-(1 << 15), (1 << 15) - 1),
    DType.UINT16: (0, (1 << 16) - 1),
    DType.INT32: (-(1 << 31), (1 << 31) - 1),
    DType.INT4: (-8, 7),
    DType.UINT4: (0, 15),
    DType.INT2: (-2, 1),
}
"""Smallest and largest stored number of each type, between which its zero points lie."""
_NOT_ADMITTED = frozenset({DType.STRING, DType.VARIANT, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2})
"""Types that no kernel computes with, or whose size nobody knows."""
_SUMS = frozenset({DType.INT32, DType.INT64})
"""Types of biases, whose scale is a product and may underflow to 0."""


def check_tensors(model: Model, limits: LintLimits) -> int:
    """Check every tensor; return how many elements the tensors hold that are no constants.

    Raises:
        InvalidModel: One is unsound, or all of them are too large or too many.
    """
    total = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            _check_values(tensor, limits)
            _check_quantization(tensor, graph)
            total += 0 if tensor.is_constant else tensor.elements
    if total > limits.activation_elements:
        raise unsound("the file", f"its activations have {total} elements, {limits.activation_elements} are allowed")
    return total


def _check_values(tensor: Tensor, limits: LintLimits) -> None:
    if tensor.elements > limits.tensor_elements:
        raise unsound(
            tensor.where, f"shape {list(tensor.shape)} has more than the {limits.tensor_elements} elements allowed"
        )
    if tensor.dtype in _NOT_ADMITTED or (tensor.dtype is DType.RESOURCE and not limits.control_flow):
        raise unsound(tensor.where, f"tensors of type {tensor.dtype.name} are not admitted")
    length = tensor.buffer.length
    if not length or tensor.dtype is DType.RESOURCE:
        return
    expected = (tensor.elements * BITS[tensor.dtype] + 7) // 8
    if length != expected:
        shape = list(tensor.shape)
        raise unsound(tensor.where, f"{length} bytes for shape {shape} of {tensor.dtype.name}, which has {expected}")
    if tensor.is_variable:
        raise unsound(tensor.where, "it is a variable, and has constant values")


def _check_quantization(tensor: Tensor, graph: SubGraph) -> None:
    found = tensor.quantization
    if found is None:
        return
    if found.blockwise is not None:
        _check_blocks(tensor, found.blockwise, graph)
        return
    if len(found.scales) != len(found.zero_points):
        raise unsound(tensor.where, f"{len(found.scales)} scales and {len(found.zero_points)} zero points")
    if found.scales:
        _check_axis(tensor, found)
        _check_scales(tensor, found.scales)
        _check_zero_points(tensor, found.zero_points)


def _check_axis(tensor: Tensor, found: Quantization) -> None:
    rank, count = len(tensor.shape), len(found.scales)
    if not 0 <= found.axis < max(rank, 1):
        raise unsound(tensor.where, f"it is quantized along dimension {found.axis} of {rank}")
    if count > 1 and tensor.shape[found.axis] != count:
        raise unsound(tensor.where, f"{count} scales along dimension {found.axis} of shape {list(tensor.shape)}")


def _check_scales(tensor: Tensor, scales: Sequence[float]) -> None:
    if not all(map(math.isfinite, scales)):
        raise unsound(tensor.where, "a scale is not finite")
    smallest = min(scales)
    if smallest < 0 or (smallest == 0 and tensor.dtype not in _SUMS):
        raise unsound(tensor.where, f"scale {smallest:g} is not positive")


def _check_zero_points(tensor: Tensor, zero_points: Sequence[float]) -> None:
    low, high = _STORED.get(tensor.dtype, (-(1 << 63), (1 << 63) - 1))
    if min(zero_points) < low or max(zero_points) > high:
        raise unsound(tensor.where, f"a zero point lies outside what {tensor.dtype.name} can hold")


def _check_blocks(tensor: Tensor, blocks: tuple[int, int, int], graph: SubGraph) -> None:
    scales, zero_points, size = blocks
    count = len(graph.tensors)
    if not 0 <= scales < count or not -1 <= zero_points < count:
        raise unsound(tensor.where, f"its scales and zero points are tensors {scales} and {zero_points} of {count}")
    if size < 1 or not tensor.shape or tensor.shape[-1] % size:
        raise unsound(tensor.where, f"blocks of {size} in shape {list(tensor.shape)}")
