"""Pooling over windows and over whole images."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.operators.windows import (
    Padder,
    Window,
    pad_lowest,
    pad_mirrored,
    pad_zeros,
    place_window,
    read_window,
)
from dsops_controller.build.conversion.writing import FLOAT, Conversion, Op, Value


def _max_pool(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    window = _pool_window(node, image)
    if len(node.outputs) > 1 and node.outputs[1] and conversion.graph.consumers(node.outputs[1]):
        raise node.refuse("its indices are used")
    conversion.define_image(
        node.output,
        _pool(conversion, node, image, window, Op.MAX_POOL_2D),
        conversion.value(node, node.input(0)).rank,
    )


def _max_padder(image: Value, window: Window) -> Padder:
    """Return padding under which no maximum changes, preferring what quantizes.

    Zero is never the largest where nothing is negative. A mirrored border only repeats what the window holds anyway, as
    long as the padding is at most half of the window; training frameworks allow no more.
    """
    if image.non_negative:
        return pad_zeros
    halves = all(
        2 * window.pads[side] <= window.kernel[side % 2] and window.pads[side] <= window.size[side % 2]
        for side in range(4)
    )
    return pad_mirrored if halves else pad_lowest


def _average_pool(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    window = _pool_window(node, image)
    counted = bool(node.attributes.get("count_include_pad", 0))
    pooled = _pool(conversion, node, image, window, Op.AVERAGE_POOL_2D)
    same = any(window.pads) and window.is_same() and not (counted and any(window.given))
    corrections = _corrections(window, counted=counted)
    if not same and (corrections != 1.0).any():
        factors = conversion.floats(f"{node.output}_counts", corrections)
        options = schema.MulOptionsT()
        pooled = conversion.emit(Op.MUL, [pooled, factors], pooled, node.output, options)
    conversion.define_image(node.output, pooled, conversion.value(node, node.input(0)).rank)


def _corrections(window: Window, *, counted: bool) -> Array:
    """Return [1, H, W, 1]: the window's size over how many elements ONNX divides by, for each position."""
    per_axis = []
    for axis, steps in enumerate(window.output_size()):
        starts = np.arange(steps) * window.strides[axis] - window.pads[axis]
        first = -window.given[axis] if counted else 0
        last = window.size[axis] + (window.given[axis + 2] if counted else 0)
        ends = np.minimum(starts + window.kernel[axis], last)
        counts = np.maximum(ends - np.maximum(starts, first), 1)
        per_axis.append((window.kernel[axis] / counts).astype(np.float32))
    factors: Array = np.multiply.outer(*per_axis)[None, :, :, None]
    return factors


def _pool(conversion: Conversion, node: Node, image: Value, window: Window, code: int) -> Value:
    if code == Op.MAX_POOL_2D:
        source, padding = place_window(conversion, node, image, window, _max_padder(image, window))
    elif node.attributes.get("count_include_pad", 0) and any(window.pads):
        source, padding = pad_zeros(conversion, node, image, window.pads), schema.Padding.VALID
    else:
        source, padding = place_window(conversion, node, image, window, pad_zeros)
    options = schema.Pool2DOptionsT()
    options.padding = padding
    options.strideH, options.strideW = window.strides
    options.filterHeight, options.filterWidth = window.kernel
    form = image.with_shape((image.shape[0], *window.output_size(), image.shape[3]))
    return conversion.emit(code, [source], form, node.output, options)


def _pool_window(node: Node, image: Value) -> Window:
    window = read_window(node, image, tuple(node.attributes["kernel_shape"]))
    if window.dilations != (1, 1):
        raise node.refuse("its window is dilated")
    if any(window.pads[side] >= window.kernel[side % 2] for side in range(4)):
        raise node.refuse("its padding is as large as its window")
    return window


def _global_pool(code: int) -> Handler:
    def write(conversion: Conversion, node: Node) -> None:
        value = conversion.value(node, node.input(0))
        if value.rank < 3 or value.dtype != FLOAT:
            raise node.refuse(f"its input has {value.rank} axes of {value.dtype}")
        axes = sorted(value.axis(axis) for axis in range(2, value.rank))
        options = schema.ReducerOptionsT()
        options.keepDims = True
        shape = [1 if axis in axes else size for axis, size in enumerate(value.shape)]
        inputs = [value, conversion.integers(f"{node.output}_axes", axes)]
        conversion.define(node.output, conversion.emit(code, inputs, value.with_shape(shape), node.output, options))

    return write


HANDLERS: dict[str, Handler] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool(Op.MEAN),
    "GlobalMaxPool": _global_pool(Op.REDUCE_MAX),
    "MaxPool": _max_pool,
}
"""Operators of this family."""
