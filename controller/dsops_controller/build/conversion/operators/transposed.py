"""Transposed convolutions, and the weights that they share with plain ones."""

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.normalization import following_scale
from dsops_controller.build.conversion.writing import Conversion, Op, Value

_MAX_STEP = 1 << 10
_MAX_DENSE = 1 << 24
"""Elements of a dilated kernel that is written out with its gaps."""


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution.

    Attributes:
        size: Elements of the input.
        stride: Step in the output for each of the input.
        reach: Size of the kernel, with the gaps that dilation makes.
        begin: Elements cut off at the beginning.
        out: Elements of the output.
    """

    size: int
    stride: int
    reach: int
    begin: int
    out: int

    @property
    def full(self) -> int:
        """Elements before anything is cut off."""
        return (self.size - 1) * self.stride + self.reach

    def is_same(self) -> bool:
        """Say whether TFLite's SAME cuts in this way."""
        return -(-self.out // self.stride) == self.size and max(self.full - self.out, 0) // 2 == self.begin

    def is_valid(self) -> bool:
        """Say whether nothing is cut off, and at most a step's rest added."""
        return self.begin == 0 and self.full <= self.out < self.full + self.stride


def conv_transpose(conversion: Conversion, node: Node) -> None:
    """Write TRANSPOSE_CONV; where TFLite's paddings do not fit, the whole output is computed and then cut."""
    weights, image = image_weights(conversion, node), conversion.image(node, node.input(0))
    if node.attributes["group"] != 1 or weights.shape[0] != image.shape[3]:
        raise node.refuse(f"it has {node.attributes['group']} groups over {image.shape[3]} channels; 1 group is known")
    weights, bias, last = scaled_weights(conversion, node, weights, axis=1)
    dense = _dilated(node, weights, _numbers(node, "dilations", image, 1))
    axes = _axes(node, image, dense.shape[2:])
    same, valid = all(axis.is_same() for axis in axes), all(axis.is_valid() for axis in axes)
    computed = [axis.out if same or valid else max(axis.full, axis.begin + axis.out) for axis in axes]
    options = schema.TransposeConvOptionsT()
    options.strideH, options.strideW = (axis.stride for axis in axes)
    options.padding = schema.Padding.SAME if same and not valid else schema.Padding.VALID
    form = image.with_shape((image.shape[0], *computed, dense.shape[1]), non_negative=False)
    inputs = [
        conversion.integers(f"{node.output}_shape", form.shape),
        conversion.floats(f"{node.output}_weights", dense.transpose(1, 2, 3, 0)),
        image,
        conversion.floats(f"{node.output}_bias", bias),
    ]
    result = conversion.emit(Op.TRANSPOSE_CONV, inputs, form, last.output, options)
    if not (same or valid):
        result = _cut(conversion, result, axes, last.output)
    conversion.define_image(last.output, result, conversion.value(node, node.input(0)).rank)


def _cut(conversion: Conversion, value: Value, axes: list[Axis], name: str) -> Value:
    shape = (value.shape[0], axes[0].out, axes[1].out, value.shape[3])
    begin = conversion.integers(f"{name}_begin", (0, axes[0].begin, axes[1].begin, 0))
    size = conversion.integers(f"{name}_size", shape)
    return conversion.emit(Op.SLICE, [value, begin, size], value.with_shape(shape), name, schema.SliceOptionsT())


def _axes(node: Node, image: Value, reach: tuple[int, ...]) -> list[Axis]:
    strides = _numbers(node, "strides", image, 1)
    added = _numbers(node, "output_padding", image, 0)
    wanted = _numbers(node, "output_shape", image, 0)
    pads = _numbers(node, "pads", image, 0, count=2)
    mode = node.text("auto_pad", "NOTSET")
    axes = []
    for axis in (0, 1):
        size, stride = image.shape[1 + axis], strides[axis]
        full = (size - 1) * stride + reach[axis] + added[axis]
        begin, out = pads[axis], full - pads[axis] - pads[axis + 2]
        given = wanted[axis] or (size * stride if mode.startswith("SAME") else 0)
        if given:
            total, out = full - given, given
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        if out < 1 or begin < 0 or added[axis] >= max(stride, 2):
            raise node.refuse("its output is empty, or padded more than TFLite can")
        axes.append(Axis(size, stride, reach[axis], begin, out))
    return axes


def _numbers(node: Node, attribute: str, image: Value, default: int, count: int = 1) -> tuple[int, ...]:
    """Return numbers for both axes of an image; a row has one axis, and its first is left at the default."""
    given = tuple(node.attributes.get(attribute) or ())
    if not given:
        return (default,) * 2 * count
    if attribute == "output_shape":
        given = given[-2:]
    if len(given) == count and image.shape[1] == 1:
        given = tuple(number for one in given for number in (default, one))
    if len(given) != 2 * count or not all(0 <= number <= _MAX_STEP or attribute == "output_shape" for number in given):
        raise node.refuse(f"its attribute {attribute!r} is {list(given)}")
    if attribute in ("strides", "dilations") and min(given) < 1:
        raise node.refuse(f"its attribute {attribute!r} is {list(given)}")
    return given


def _dilated(node: Node, weights: Array, dilations: tuple[int, ...]) -> Array:
    """Return a kernel with zeros in its gaps, which computes the same without dilation."""
    if dilations == (1, 1):
        return weights
    height, width = ((size - 1) * step + 1 for size, step in zip(weights.shape[2:], dilations, strict=True))
    if weights.shape[0] * weights.shape[1] * height * width > _MAX_DENSE:
        raise node.refuse(f"its kernel is dilated to {height} x {width}")
    dense = np.zeros((*weights.shape[:2], height, width), np.float32)
    dense[:, :, :: dilations[0], :: dilations[1]] = weights
    return dense


def image_weights(conversion: Conversion, node: Node) -> Array:
    """Return weights as [_, _, H, W]; over a row H is 1."""
    weights = conversion.constant(node, 1)
    if weights.ndim not in (3, 4) or weights.ndim != conversion.value(node, node.input(0)).rank:
        raise node.refuse(f"its weights have {weights.ndim} axes, and its input another number, or neither 3 nor 4")
    return weights if weights.ndim == 4 else weights[:, :, None]


def scaled_weights(conversion: Conversion, node: Node, weights: Array, axis: int) -> tuple[Array, Array, Node]:
    """Return weights and bias with a batch normalization behind them folded in, and the last node that they cover.

    Args:
        conversion: The conversion under way.
        node: The convolution.
        weights: Its weights.
        axis: Where they have the output's channels.
    """
    groups = int(node.attributes.get("group", 1))
    channels = weights.shape[0] if axis == 0 else weights.shape[1] * groups
    given = conversion.optional_constant(node, 2)
    bias = np.zeros(channels, np.float32) if given is None else given
    if bias.shape != (channels,):
        raise node.refuse(f"its bias has shape {list(bias.shape)}, not [{channels}]")
    scale, shift, last = following_scale(conversion, node, channels)
    if last is node:
        return weights, bias, node
    by_channel = scale.reshape((-1, 1, 1, 1)) if axis == 0 else scale.reshape((1, -1, 1, 1))
    bias = (bias * scale + shift).astype(np.float32)
    return weights * by_channel.astype(np.float32), bias, last
