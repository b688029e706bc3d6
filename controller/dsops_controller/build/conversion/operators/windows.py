"""Sliding windows: how ONNX says padding, strides and dilation, and how TFLite does.

ONNX gives the padding of each side in numbers. TFLite has VALID (none) and SAME (as much as makes the output
``ceil(size / stride)`` long, the odd one at the end); any other padding becomes an operator of its own. A window of one
axis, [L], is one of two, [1, L].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Node
from dsops_controller.build.conversion.writing import Conversion, Op, Value

LOWEST = float(np.finfo(np.float32).min)
_MAX_SIZE = 1 << 16
Sides = tuple[int, int, int, int]
"""Padding as ONNX orders it: top, left, bottom, right."""
Pair = tuple[int, int]
Padder = Callable[[Conversion, Node, Value, Sides], Value]


@dataclass(frozen=True)
class Window:
    """A window's size, steps and padding over an image, each as (vertical, horizontal) where it has two.

    ``pads`` is the padding that decides the output's size; ``given`` is that which the model names, without what
    rounding up (``ceil_mode``) adds at the end.
    """

    size: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    pads: Sides
    given: Sides

    def output_size(self) -> Pair:
        """Return (height, width) of what the window gives."""
        return self._steps(0), self._steps(1)

    def is_same(self) -> bool:
        """Say whether TFLite's SAME pads in the same way."""
        before_and_after = []
        for axis in (0, 1):
            steps = -(-self.size[axis] // self.strides[axis])
            total = max((steps - 1) * self.strides[axis] + self.extent(axis) - self.size[axis], 0)
            before_and_after.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = before_and_after
        return self.pads == (top, left, bottom, right)

    def extent(self, axis: int) -> int:
        """Return how far the window reaches."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def _steps(self, axis: int) -> int:
        room = self.size[axis] + self.pads[axis] + self.pads[axis + 2] - self.extent(axis)
        return room // self.strides[axis] + 1


def read_window(node: Node, image: Value, kernel: tuple[int, ...]) -> Window:
    """Read a node's window over [N, H, W, C].

    Raises:
        UnsupportedModel: Its numbers are out of range, or it has more than two axes.
    """
    axes = len(kernel)
    if axes not in (1, 2):
        raise node.refuse(f"its window has {axes} axes, not 1 or 2")
    size = (image.shape[1], image.shape[2])
    strides = _pair(node, node.attributes.get("strides"), axes)
    dilations = _pair(node, node.attributes.get("dilations"), axes)
    one_row = _pair(node, kernel, axes)
    if not all(0 < number <= _MAX_SIZE for number in (*strides, *dilations, *one_row)):
        raise node.refuse("its window, strides or dilations are out of range")
    window = Window(size, one_row, strides, dilations, (0, 0, 0, 0), (0, 0, 0, 0))
    pads = _pads(node, window, axes)
    if not all(0 <= number <= _MAX_SIZE for number in pads):
        raise node.refuse("its padding is out of range")
    window = replace(window, pads=pads, given=pads)
    if node.attributes.get("ceil_mode", 0):
        window = _rounded_up(window)
    if min(window.output_size()) < 1:
        raise node.refuse(f"its window is larger than the image of {size[0]} x {size[1]}")
    return window


def _pair(node: Node, numbers: tuple[int, ...] | None, axes: int) -> Pair:
    given = tuple(numbers) if numbers else (1,) * axes
    if len(given) != axes:
        raise node.refuse(f"its window has {axes} axes, and its attributes {len(given)}")
    return (1, given[0]) if axes == 1 else (given[0], given[1])


def _pads(node: Node, window: Window, axes: int) -> Sides:
    mode = node.text("auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return _same_pads(window, lower=mode == "SAME_LOWER")
    given = tuple(node.attributes.get("pads") or (0,) * 2 * axes)
    if len(given) != 2 * axes:
        raise node.refuse(f"its padding has {len(given)} numbers, not {2 * axes}")
    return (0, given[0], 0, given[1]) if axes == 1 else (given[0], given[1], given[2], given[3])


def _same_pads(window: Window, *, lower: bool) -> Sides:
    before, after = [], []
    for axis, size in enumerate(window.size):
        steps = -(-size // window.strides[axis])
        total = max((steps - 1) * window.strides[axis] + window.extent(axis) - size, 0)
        before.append(total - total // 2 if lower else total // 2)
        after.append(total - before[-1])
    return before[0], before[1], after[0], after[1]


def _rounded_up(window: Window) -> Window:
    """Pad at the end so that a last window that sticks out counts too, if it starts within the padded image."""
    top, left, *ends = window.pads
    for axis, size in enumerate(window.size):
        room = size + window.pads[axis] + ends[axis] - window.extent(axis)
        steps = -(-room // window.strides[axis])
        if steps * window.strides[axis] >= size + window.pads[axis]:
            steps -= 1
        ends[axis] = max(ends[axis], steps * window.strides[axis] + window.extent(axis) - size - window.pads[axis])
    return replace(window, pads=(top, left, ends[0], ends[1]))


def place_window(conversion: Conversion, node: Node, image: Value, window: Window, pad: Padder) -> tuple[Value, int]:
    """Return the tensor to slide over and TFLite's padding mode; an operator that pads is written when none fits."""
    if not any(window.pads):
        return image, int(schema.Padding.VALID)
    if window.is_same():
        return image, int(schema.Padding.SAME)
    return pad(conversion, node, image, window.pads), int(schema.Padding.VALID)


def pad_zeros(conversion: Conversion, node: Node, image: Value, sides: Sides) -> Value:
    """Pad with zeros."""
    return _pad(conversion, node, image, sides, Op.PAD)


def pad_lowest(conversion: Conversion, node: Node, image: Value, sides: Sides) -> Value:
    """Pad with the lowest number, which never is the largest of a window. The quantizer cannot follow this."""
    return _pad(conversion, node, image, sides, Op.PADV2)


def pad_mirrored(conversion: Conversion, node: Node, image: Value, sides: Sides) -> Value:
    """Pad with the image's own border, mirrored: (b a | a b c)."""
    return _pad(conversion, node, image, sides, Op.MIRROR_PAD)


def _pad(conversion: Conversion, node: Node, image: Value, sides: Sides, code: int) -> Value:
    top, left, bottom, right = sides
    batch, height, width, depth = image.shape
    name = f"{node.output}_pad"
    pairs = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    inputs = [image, conversion.stored(f"{name}_sides", pairs)]
    options = {Op.PAD: schema.PadOptionsT, Op.PADV2: schema.PadV2OptionsT, Op.MIRROR_PAD: schema.MirrorPadOptionsT}[
        code
    ]()
    if code == Op.PADV2:
        inputs.append(conversion.floats(f"{name}_value", np.array([LOWEST], np.float32)))
    if code == Op.MIRROR_PAD:
        options.mode = schema.MirrorPadMode.SYMMETRIC
    form = image.with_shape(
        (batch, height + top + bottom, width + left + right, depth),
        non_negative=image.non_negative and code != Op.PADV2,
    )
    return conversion.emit(code, inputs, form, name, options)
