"""Sliding windows: how ONNX says padding, strides and dilation, and how TFLite does.

ONNX gives the padding of each side in numbers. TFLite has VALID (none) and SAME (as much as makes the output
``ceil(size / stride)`` long, the odd one at the end); any other padding becomes an operator of its own.
"""

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion import Conversion, Value
from dsops_controller.build.onnx_graph import Node

LOWEST = float(np.finfo(np.float32).min)
Sides = tuple[int, int, int, int]
"""Padding as ONNX orders it: top, left, bottom, right."""


@dataclass(frozen=True)
class Window:
    """A window's size, steps and padding, each as (vertical, horizontal) where it has two."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Sides
    same: bool

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of what the window gives for an image."""
        sizes = []
        for axis, size in enumerate((height, width)):
            if self.same:
                sizes.append(-(-size // self.strides[axis]))
            else:
                room = size + self.pads[axis] + self.pads[axis + 2] - self._extent(axis)
                sizes.append(room // self.strides[axis] + 1)
        return sizes[0], sizes[1]

    def same_pads(self, height: int, width: int) -> Sides:
        """Return the padding that TFLite's SAME gives to an image."""
        before, after = [], []
        for axis, size in enumerate((height, width)):
            steps = -(-size // self.strides[axis]) - 1
            total = max(steps * self.strides[axis] + self._extent(axis) - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return before[0], before[1], after[0], after[1]

    def _extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def read_window(node: Node, kernel: tuple[int, ...]) -> Window:
    """Read a node's window.

    Raises:
        UnsupportedModel: It does not have two axes, or is padded at the beginning first (SAME_LOWER).
    """
    given = node.attributes
    mode = given.get("auto_pad", b"NOTSET").decode()
    if len(kernel) != 2:
        raise node.refuse(f"its window has {len(kernel)} axes, not 2")
    if mode == "SAME_LOWER":
        raise node.refuse("it is padded at the beginning first (auto_pad SAME_LOWER)")
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0)) if mode == "NOTSET" else (0, 0, 0, 0)
    vertical, horizontal = given.get("strides", (1, 1))
    down, across = given.get("dilations", (1, 1))
    return Window(
        kernel=(kernel[0], kernel[1]),
        strides=(vertical, horizontal),
        dilations=(down, across),
        pads=(top, left, bottom, right),
        same=mode == "SAME_UPPER",
    )


def place_window(conversion: Conversion, node: Node, image: Value, window: Window, fill: float) -> tuple[int, int]:
    """Return the tensor to slide over and TFLite's padding mode; write a padding operator when neither mode fits.

    Args:
        conversion: The conversion under way.
        node: The convolution or pool.
        image: Its input, [N, H, W, C].
        window: Its window.
        fill: Value of the padding.
    """
    _, height, width, _ = image.shape
    if window.same or (any(window.pads) and window.pads == window.same_pads(height, width)):
        return image.index, schema.Padding.SAME
    if not any(window.pads):
        return image.index, schema.Padding.VALID
    return _pad(conversion, node, image, window.pads, fill), schema.Padding.VALID


def _pad(conversion: Conversion, node: Node, image: Value, pads: Sides, fill: float) -> int:
    top, left, bottom, right = pads
    batch, height, width, depth = image.shape
    writer, name = conversion.writer, f"{node.output}_pad"
    result = writer.tensor(name, (batch, height + top + bottom, width + left + right, depth))
    sides = writer.constant(f"{name}_sides", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    if fill == 0.0:
        writer.operator(schema.BuiltinOperator.PAD, [image.index, sides], [result], schema.PadOptionsT())
    else:
        value = writer.constant(f"{name}_value", np.array([fill], np.float32))
        writer.operator(schema.BuiltinOperator.PADV2, [image.index, sides, value], [result], schema.PadV2OptionsT())
    return result
