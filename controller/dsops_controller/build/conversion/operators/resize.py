"""Resizing of images. ONNX has many ways to say which source pixel belongs to which, TFLite three.

Each axis's source coordinates are computed as ONNX says, and as each of TFLite's ways does; one that gives the same is
taken. Nearest-neighbour resizing that fits none becomes a gather of rows and of columns, which always fits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops_controller.build.conversion.graph import Node
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.writing import Conversion, Op, Value

Coordinates = NDArray[np.float64]
_WAYS = (("asymmetric", False, False), ("half_pixel", False, True), ("align_corners", True, False))
"""TFLite's ways as ONNX calls them, with TFLite's two settings: corners aligned, centers half a pixel in."""
_ROUNDING: dict[str, Callable[[Coordinates], Coordinates]] = {
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
_TOLERANCE = 1e-4
_MAX_SIZE = 1 << 14


def _resize(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    if conversion.value(node, node.input(0)).rank != 4:
        raise node.refuse("its input has 3 axes, not 4")
    if node.attributes.get("antialias", 0) or node.attributes.get("exclude_outside", 0):
        raise node.refuse("it smooths (antialias), or leaves out what lies outside (exclude_outside)")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("it keeps the aspect ratio")
    sizes, scales = _sizes(conversion, node, image)
    mode = node.text("mode", "nearest")
    coordinate_mode = node.text("coordinate_transformation_mode", "asymmetric")
    if mode not in ("nearest", "linear"):
        raise node.refuse(f"its mode is {mode!r}; nearest and linear are known")
    wanted = [_coordinates(node, coordinate_mode, image.shape[1 + axis], sizes[axis], scales[axis]) for axis in (0, 1)]
    write = _nearest if mode == "nearest" else _linear
    conversion.define(node.output, write(conversion, node, image, wanted))


def _sizes(conversion: Conversion, node: Node, image: Value) -> tuple[list[int], list[float]]:
    """Return the height and width of the result, and the scales that lead there.

    Raises:
        UnsupportedModel: Batch or channels would change, or the sizes are out of range.
    """
    upsample = node.operator == "Upsample" or node.opset < 11
    scales = conversion.constant(node, 1 if upsample else 2) if node.input(1 if upsample else 2) else None
    if scales is None and "scales" in node.attributes:
        scales = np.array(node.attributes["scales"], np.float32)
    axes = [axis % 4 for axis in node.attributes.get("axes") or range(4)]
    before = image.onnx_shape
    after, factors = list(before), [1.0] * 4
    if scales is not None and scales.size:
        for axis, factor in zip(axes, scales.reshape(-1), strict=True):
            after[axis], factors[axis] = int(np.floor(before[axis] * float(factor))), float(factor)
    else:
        for axis, size in zip(axes, conversion.constant(node, 3).reshape(-1), strict=True):
            after[axis], factors[axis] = int(size), int(size) / before[axis]
    if after[:2] != list(before[:2]) or not all(0 < size <= _MAX_SIZE for size in after):
        raise node.refuse(f"it resizes {list(before)} to {after}")
    return after[2:], factors[2:]


def _coordinates(node: Node, mode: str, before: int, after: int, scale: float) -> Coordinates:
    """Return where each element of the result lies in the source, by the specification of Resize.

    A scale that leads to a whole size is taken as the sizes' ratio: an element that lies half-way between two, where
    the rounding decides, is then seen as that.
    """
    places = np.arange(after, dtype=np.float64)
    whole = abs(before * scale - after) < _TOLERANCE
    if mode == "align_corners":
        return places * (before - 1) / max(after - 1, 1)
    if mode == "asymmetric":
        return places * before / after if whole else places / scale
    if mode == "pytorch_half_pixel" and after == 1:
        return places
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return ((places + 0.5) * before / after if whole else (places + 0.5) / scale) - 0.5
    raise node.refuse(f"its coordinates are {mode!r}")


def _nearest(conversion: Conversion, node: Node, image: Value, wanted: list[Coordinates]) -> Value:
    rounding = _ROUNDING.get(node.text("nearest_mode", "floor"))
    if rounding is None:
        raise node.refuse(f"it rounds by {node.text('nearest_mode')!r}")
    sources = [
        np.clip(rounding(places), 0, image.shape[1 + axis] - 1).astype(int) for axis, places in enumerate(wanted)
    ]
    for mode, corners, centers in _WAYS:
        if all((_tflite_nearest(mode, image.shape[1 + a], s.size) == s).all() for a, s in enumerate(sources)):
            options = schema.ResizeNearestNeighborOptionsT()
            options.alignCorners, options.halfPixelCenters = corners, centers
            return _write(conversion, node, image, (Op.RESIZE_NEAREST_NEIGHBOR, options, wanted))
    for axis, source in enumerate(sources, 1):
        options = schema.GatherOptionsT()
        options.axis = axis
        shape = [source.size if place == axis else size for place, size in enumerate(image.shape)]
        indices = conversion.integers(f"{node.output}_rows", [int(place) for place in source])
        image = conversion.emit(Op.GATHER, [image, indices], image.with_shape(shape), node.output, options)
    return image


def _tflite_nearest(mode: str, before: int, after: int) -> NDArray[Any]:
    """Return the sources that TFLite's nearest neighbour takes; it computes in float32."""
    places = np.arange(after, dtype=np.float32)
    if mode == "align_corners" and after > 1:
        found = np.floor(places * (np.float32(before - 1) / np.float32(after - 1)) + np.float32(0.5))
    else:
        offset = np.float32(0.5) if mode == "half_pixel" else np.float32(0)
        found = np.floor((places + offset) * (np.float32(before) / np.float32(after)))
    places_taken: NDArray[Any] = np.clip(found, 0, before - 1).astype(int)
    return places_taken


def _linear(conversion: Conversion, node: Node, image: Value, wanted: list[Coordinates]) -> Value:
    for mode, corners, centers in _WAYS:
        if all(_is_linear(mode, image.shape[1 + axis], places) for axis, places in enumerate(wanted)):
            options = schema.ResizeBilinearOptionsT()
            options.alignCorners, options.halfPixelCenters = corners, centers
            return _write(conversion, node, image, (Op.RESIZE_BILINEAR, options, wanted))
    mode = node.text("coordinate_transformation_mode", "asymmetric")
    raise node.refuse(f"linear with {mode!r} to these sizes gives coordinates that TFLite does not have")


def _is_linear(mode: str, before: int, wanted: Coordinates) -> bool:
    after = wanted.size
    places = np.arange(after, dtype=np.float64)
    if mode == "align_corners" and after > 1:
        found = places * (before - 1) / (after - 1)
    elif mode == "half_pixel":
        found = (places + 0.5) * before / after - 0.5
    else:
        found = places * before / after
    return bool(np.abs(np.clip(found, 0, before - 1) - np.clip(wanted, 0, before - 1)).max() < _TOLERANCE)


def _write(conversion: Conversion, node: Node, image: Value, how: tuple[int, object, list[Coordinates]]) -> Value:
    code, options, wanted = how
    sizes = [places.size for places in wanted]
    inputs = [image, conversion.integers(f"{node.output}_size", sizes)]
    return conversion.emit(code, inputs, image.with_shape((1, *sizes, image.shape[3])), node.output, options)


HANDLERS: dict[str, Handler] = {"Resize": _resize, "Upsample": _resize}
"""Operators of this family."""
