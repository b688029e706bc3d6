"""Rules for the numbers that operators compute with: which types go together, and whether scales fit each other.

Source: the TensorFlow Lite 8-bit quantization specification, and what the kernels ask for when they are prepared.
"""

from itertools import repeat
from operator import sub

from dsops.tflite_lint.model import Tensor
from dsops.tflite_lint.node import Node
from dsops.tflite_lint.schema import DType

_F32, _I8, _U8, _I16 = DType.FLOAT32, DType.INT8, DType.UINT8, DType.INT16
NARROW = frozenset({_I8, _U8, _I16})
_PACKED = frozenset({DType.INT4, DType.INT2, DType.UINT4})
_WEIGHTS = {
    _F32: frozenset({_F32, _I8, _U8}) | _PACKED,
    _U8: frozenset({_U8}),
    _I8: frozenset({_I8}) | _PACKED,
    _I16: frozenset({_I8}) | _PACKED,
}
"""Types of weights, by the input's type."""
_BIASES = {
    _F32: frozenset({_F32}),
    _U8: frozenset({DType.INT32}),
    _I8: frozenset({DType.INT32}),
    _I16: frozenset({DType.INT64, DType.INT32}),
}
"""Types of the bias, likewise."""
_OUTPUTS = {_F32: {_F32}, _U8: {_U8, _I16}, _I8: {_I8, _I16}, _I16: {_I16}}
_SCALE_TOLERANCE = 1e-3
_BIAS_TOLERANCE = 0.02
"""A bias's scale is the product of the input's and the weights'; kernels allow this share of the output's scale."""


def check_weights(node: Node, places: tuple[int, int, int], axis: int, *, bias_is_needed: bool = False) -> None:
    """Check types and scales of an operator that multiplies an input with weights and adds a bias.

    Args:
        node: The operator.
        places: The places of input, weights and bias among its inputs.
        axis: The weights' dimension along which they may have a scale each.
        bias_is_needed: Whether kernels read the bias of integers without asking for it.
    """
    x, weights, bias = node.input(places[0]), node.input(places[1]), node.optional(places[2])
    if x.dtype not in _WEIGHTS or weights.dtype not in _WEIGHTS[x.dtype]:
        raise node.refuse(f"it takes no weights of {weights.dtype.name} for an input of {x.dtype.name}")
    if bias is not None and bias.dtype not in _BIASES[x.dtype]:
        raise node.refuse(f"it takes no bias of {bias.dtype.name} for an input of {x.dtype.name}")
    if bias is None and bias_is_needed and x.dtype is not _F32:
        raise node.refuse(f"it has no bias, without which no kernel takes an input of {x.dtype.name}")
    output = node.outputs[0]
    if output.dtype not in _OUTPUTS[x.dtype]:
        raise node.refuse(f"it gives no {output.dtype.name} for an input of {x.dtype.name}")
    _check_weight_scales(node, weights, axis)
    if x.dtype is not _F32:
        _check_bias_scales(node, x, weights, bias)


def scale_of(tensor: Tensor) -> float | None:
    """Return the one scale of a tensor, None when it has none or many."""
    found = tensor.quantization
    return found.scales[0] if found is not None and len(found.scales) == 1 else None


def zero_point_of(tensor: Tensor) -> int:
    """Return the first zero point of a tensor, 0 when it has none."""
    found = tensor.quantization
    return int(found.zero_points[0]) if found is not None and len(found.zero_points) else 0


def check_scaled(node: Node, tensor: Tensor, what: str) -> None:
    """Check that a tensor of narrow integers that stand for real numbers says for which."""
    if tensor.dtype is _I16 and tensor.quantization is None:
        return  # plain integers, which newer kernels compute with
    if tensor.dtype in NARROW and scale_of(tensor) is None:
        raise node.refuse(f"{what} has no single scale")
    if tensor.dtype is _I16 and zero_point_of(tensor):
        raise node.refuse(f"{what} has zero point {zero_point_of(tensor)}, which INT16 cannot have")


def check_same_scale(node: Node, *tensors: Tensor) -> None:
    """Check that tensors of narrow integers stand for the same real numbers."""
    if tensors[0].dtype not in NARROW:
        return
    scales = [scale_of(tensor) or 0.0 for tensor in tensors]
    if max(scales) - min(scales) > _SCALE_TOLERANCE * max(scales) or len(set(map(zero_point_of, tensors))) > 1:
        raise node.refuse("input and output hold the same numbers, but their quantization differs")


def check_fixed_scale(node: Node, forms: dict[DType, tuple[float, int]]) -> None:
    """Check that the output has the one quantization that the operator can give, by its type."""
    output = node.outputs[0]
    form = forms.get(output.dtype)
    scale = scale_of(output)
    if form is None or scale is None:
        return
    if abs(scale - form[0]) > _SCALE_TOLERANCE * form[0] or zero_point_of(output) != form[1]:
        raise node.refuse(
            f"its output has scale {scale:g} and zero point {zero_point_of(output)}, not {form[0]:g}, {form[1]}"
        )


def _check_weight_scales(node: Node, weights: Tensor, axis: int) -> None:
    found = weights.quantization
    if weights.dtype is _F32 or (found is not None and found.blockwise is not None):
        return
    if found is None or not found.scales:
        raise node.refuse("its weights are integers and have no scale")
    if len(found.scales) > 1 and found.axis != axis:
        raise node.refuse(f"its weights have scales along dimension {found.axis}, not {axis}")
    if weights.dtype is not _U8 and any(found.zero_points):
        raise node.refuse("its weights have a zero point other than 0")


def _check_bias_scales(node: Node, x: Tensor, weights: Tensor, bias: Tensor | None) -> None:
    check_scaled(node, x, "its input")
    check_scaled(node, node.outputs[0], "its output")
    scale, output = scale_of(x), scale_of(node.outputs[0])
    if bias is None or bias.quantization is None or weights.quantization is None or scale is None or output is None:
        return
    if any(bias.quantization.zero_points):
        raise node.refuse("its bias has a zero point other than 0")
    found, given = bias.quantization.scales, weights.quantization.scales
    if not found or weights.quantization.blockwise is not None:
        return
    if len(found) not in {1, len(given)}:
        raise node.refuse(f"its bias has {len(found)} scales, its weights have {len(given)}")
    products = [scale * one for one in given]
    gaps = list(map(abs, map(sub, products, found if len(found) > 1 else repeat(found[0]))))
    if max(gaps) > _BIAS_TOLERANCE * max(min(products), output):
        raise node.refuse("its bias's scale is not the product of its input's and its weights'")
