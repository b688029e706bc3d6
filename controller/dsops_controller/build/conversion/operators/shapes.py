"""Operators that move elements or give them another shape, and compute nothing."""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Array, Node, Shape
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.writing import TO_FIRST, Conversion, Op, Value

_LAYERS = ("Gemm", "MatMul")


def _reshape(conversion: Conversion, node: Node) -> None:
    source = conversion.value(node, node.input(0))
    given = conversion.setting(node, 1, "shape") or ()
    zeros_stay = not node.attributes.get("allowzero", 0)
    target = [
        source.onnx_shape[axis] if size == 0 and zeros_stay and axis < source.rank else size
        for axis, size in enumerate(given)
    ]
    _write_reshape(conversion, node, source, _without_free_axis(node, target, math.prod(source.shape)))


def _without_free_axis(node: Node, target: list[int], elements: int) -> Shape:
    if target.count(-1) == 1:
        known = -math.prod(target)
        target = [elements // known if size == -1 and known > 0 else size for size in target]
    if any(size < 1 for size in target) or math.prod(target) != elements:
        raise node.refuse(f"{elements} elements do not fill the shape {target}")
    return tuple(target)


def _flatten(conversion: Conversion, node: Node) -> None:
    source = conversion.value(node, node.input(0))
    axis = node.attributes["axis"]
    axis += source.rank if axis < 0 else 0
    shape = source.onnx_shape
    _write_reshape(conversion, node, source, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(conversion: Conversion, node: Node) -> None:
    source = conversion.value(node, node.input(0))
    given = conversion.setting(node, 1, "axes")
    shape = source.onnx_shape
    dropped = {axis % source.rank for axis in given} if given else {i for i, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in dropped):
        raise node.refuse(f"its axes {sorted(dropped)} of {list(shape)} are not all 1")
    _write_reshape(conversion, node, source, tuple(size for i, size in enumerate(shape) if i not in dropped))


def _unsqueeze(conversion: Conversion, node: Node) -> None:
    source = conversion.value(node, node.input(0))
    axes = conversion.setting(node, 1, "axes") or ()
    rank = source.rank + len(axes)
    added = {axis % rank for axis in axes}
    if len(added) != len(axes):
        raise node.refuse(f"it adds an axis twice: {list(axes)}")
    sizes = iter(source.onnx_shape)
    _write_reshape(conversion, node, source, tuple(1 if axis in added else next(sizes) for axis in range(rank)))


def _write_reshape(conversion: Conversion, node: Node, source: Value, target: Shape) -> None:
    """Write a reshape of ONNX's order of elements.

    When the result goes into a fully connected layer only, an image is unrolled as it is stored, and the layer's
    weights are put into that order instead: no element has to move.
    """
    reader = conversion.graph.only_consumer(node.output)
    if (
        source.channels_last
        and source.rank == 4
        and target == (1, math.prod(source.shape))
        and reader is not None
        and _takes_any_order(conversion, node, reader)
    ):
        unrolled = source.shape
        flat = conversion.reshape(source, target, node.output)
        conversion.define(node.output, flat.with_form(unrolled=unrolled))
        return
    plain = conversion.in_layout(source, channels_last=False)
    conversion.define(node.output, conversion.reshape(plain, target))


def _takes_any_order(conversion: Conversion, node: Node, reader: Node) -> bool:
    weights = conversion.constants.get(reader.input(1))
    fixed = weights is not None and weights.ndim == 2 and reader.input(0) == node.output
    return fixed and reader.operator in _LAYERS and not reader.attributes.get("transA", 0)


def _transpose(conversion: Conversion, node: Node) -> None:
    """Write a transpose, or none when the tensor is already stored in the wanted order."""
    source = conversion.value(node, node.input(0))
    order = tuple(node.attributes.get("perm") or reversed(range(source.rank)))
    if sorted(order) != list(range(source.rank)):
        raise node.refuse(f"its order of axes is {list(order)}")
    stored = [source.axis(axis) for axis in order]
    if source.rank == 4 and tuple(stored) == TO_FIRST[4]:
        conversion.define(node.output, source.with_form(channels_last=True))
    elif stored == list(range(source.rank)):
        conversion.define(node.output, source.with_form(channels_last=False))
    else:
        conversion.define(node.output, conversion.transpose(source, stored))


def _expand(conversion: Conversion, node: Node) -> None:
    source = conversion.plain(node, node.input(0))
    wanted = tuple(int(size) for size in conversion.constant(node, 1).reshape(-1))
    try:
        shape = np.broadcast_shapes(source.shape, wanted)
    except ValueError as error:
        raise node.refuse(f"shapes {list(source.shape)} and {list(wanted)} do not fit") from error
    inputs = [source, conversion.integers(f"{node.output}_shape", shape)]
    options = schema.BroadcastToOptionsT()
    form = source.with_shape(shape)
    conversion.define(node.output, conversion.emit(Op.BROADCAST_TO, inputs, form, node.output, options))


def _tile(conversion: Conversion, node: Node) -> None:
    source = conversion.plain(node, node.input(0))
    repeats = tuple(int(count) for count in conversion.constant(node, 1).reshape(-1))
    if len(repeats) != source.rank:
        raise node.refuse(f"it repeats {len(repeats)} axes of {source.rank}")
    shape = [size * count for size, count in zip(source.shape, repeats, strict=True)]
    inputs = [source, conversion.integers(f"{node.output}_repeats", repeats)]
    result = conversion.emit(Op.TILE, inputs, source.with_shape(shape), node.output, schema.TileOptionsT())
    conversion.define(node.output, result)


def _depth_to_space(conversion: Conversion, node: Node) -> None:
    """Write DEPTH_TO_SPACE, which is the mode DCR; for CRD (a pixel shuffle) the channels are put in order first."""
    image = conversion.image(node, node.input(0))
    size, mode = node.attributes["blocksize"], node.text("mode", "DCR")
    batch, height, width, depth = image.shape
    if size < 1 or depth % (size * size):
        raise node.refuse(f"{depth} channels do not fill blocks of {size}")
    if mode == "CRD":
        order = np.arange(depth).reshape(-1, size * size).T.reshape(-1)
        options = schema.GatherOptionsT()
        options.axis = 3
        inputs = [image, conversion.integers(f"{node.output}_order", [int(place) for place in order])]
        image = conversion.emit(Op.GATHER, inputs, image, f"{node.output}_ordered", options)
    options = schema.DepthToSpaceOptionsT()
    options.blockSize = size
    form = image.with_shape((batch, height * size, width * size, depth // (size * size)))
    conversion.define(node.output, conversion.emit(Op.DEPTH_TO_SPACE, [image], form, node.output, options))


def _space_to_depth(conversion: Conversion, node: Node) -> None:
    image = conversion.image(node, node.input(0))
    size = node.attributes["blocksize"]
    batch, height, width, depth = image.shape
    if size < 1 or height % size or width % size:
        raise node.refuse(f"blocks of {size} do not fill {height} x {width}")
    options = schema.SpaceToDepthOptionsT()
    options.blockSize = size
    form = image.with_shape((batch, height // size, width // size, depth * size * size))
    conversion.define(node.output, conversion.emit(Op.SPACE_TO_DEPTH, [image], form, node.output, options))


def _pad(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    pads = list(conversion.setting(node, 1, "pads") or ())
    axes = conversion.setting(node, 3, "axes") or range(value.rank)
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise node.refuse(f"its padding is {pads}")
    pairs = np.zeros((value.rank, 2), np.int32)
    for number, axis in enumerate(axes):
        pairs[value.axis(axis)] = pads[number], pads[number + len(axes)]
    if not pairs.any():
        conversion.define(node.output, value)
        return
    code, options, fill = _pad_kind(conversion, node, value, pairs)
    inputs = [value, conversion.stored(f"{node.output}_sides", pairs)]
    if code == Op.PADV2:
        inputs.append(conversion.stored(f"{node.output}_fill", np.array([fill], value.dtype)))
    shape = [size + int(pair.sum()) for size, pair in zip(value.shape, pairs, strict=True)]
    form = value.with_shape(shape, non_negative=value.non_negative and fill >= 0)
    conversion.define(node.output, conversion.emit(code, inputs, form, node.output, options))


def _pad_kind(conversion: Conversion, node: Node, value: Value, pairs: Array) -> tuple[int, object, float]:
    """Return operator, options and filling. A border repeated once is the same as mirrored once."""
    mode = node.text("mode", "constant")
    if mode == "constant":
        given = conversion.optional_constant(node, 2)
        fill = float(node.attributes.get("value", 0.0) if given is None else given.reshape(()))
        return (Op.PAD, schema.PadOptionsT(), 0.0) if fill == 0.0 else (Op.PADV2, schema.PadV2OptionsT(), fill)
    options = schema.MirrorPadOptionsT()
    reach = 1 if mode == "reflect" else 0
    if mode not in ("reflect", "edge") or (mode == "edge" and pairs.max() > 1):
        raise node.refuse(f"its mode is {mode!r}; constant, reflect, and edge by one element are known")
    if any(pair.max() + reach > size for pair, size in zip(pairs, value.shape, strict=True)):
        raise node.refuse("its padding is larger than its input")
    options.mode = schema.MirrorPadMode.REFLECT if mode == "reflect" else schema.MirrorPadMode.SYMMETRIC
    return Op.MIRROR_PAD, options, 0.0


HANDLERS: dict[str, Handler] = {
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operators of this family."""
