"""Rules for operators that move space into depth or into frames, or change the resolution."""

from collections.abc import Sequence

from dsops.tflite_lint.model import Dims
from dsops.tflite_lint.node import Node, agree, show

_BLOCK = 0


def check_space_to_depth(node: Node) -> None:
    """SPACE_TO_DEPTH: blocks of pixels become channels."""
    block, x = node.count(_BLOCK), node.dims(0, 4)
    if x is None:
        return
    frames, height, width, channels = x
    if any(size is not None and size % block for size in (height, width)):
        raise node.refuse(f"{show(x)} has no whole blocks of {block}")
    node.expect(0, (frames, _over(height, block), _over(width, block), _times(channels, block * block)))


def check_depth_to_space(node: Node) -> None:
    """DEPTH_TO_SPACE: channels become blocks of pixels."""
    block, x = node.count(_BLOCK), node.dims(0, 4)
    if x is None:
        return
    frames, height, width, channels = x
    if channels is not None and channels % (block * block):
        raise node.refuse(f"{channels} channels make no blocks of {block}")
    node.expect(0, (frames, _times(height, block), _times(width, block), _over(channels, block * block)))


def check_space_to_batch(node: Node) -> None:
    """SPACE_TO_BATCH_ND: pads, then moves each place within a block to a frame of its own."""
    x, block, pads = node.dims(0, 3, 4), node.constant(1), node.constant(2)
    if x is None or block is None or pads is None:
        return
    spatial = _spatial(node, x, block, pads)
    frames = x[0]
    sizes = []
    for place, size in enumerate(spatial):
        padded = None if size is None else size + pads[2 * place] + pads[2 * place + 1]
        if padded is not None and padded % block[place]:
            raise node.refuse(f"{padded} has no whole blocks of {block[place]}")
        sizes.append(_over(padded, block[place]))
        frames = _times(frames, block[place])
    node.expect(0, (frames, *sizes, x[-1]))


def check_batch_to_space(node: Node) -> None:
    """BATCH_TO_SPACE_ND: the other way round; crops at last."""
    x, block, crops = node.dims(0, 3, 4), node.constant(1), node.constant(2)
    if x is None or block is None or crops is None:
        return
    spatial = _spatial(node, x, block, crops)
    frames = x[0]
    sizes: list[int | None] = []
    for place, size in enumerate(spatial):
        if frames is not None and frames % block[place]:
            raise node.refuse(f"{frames} frames make no blocks of {block[place]}")
        frames = _over(frames, block[place])
        cut = crops[2 * place] + crops[2 * place + 1]
        if size is not None and size * block[place] < cut:
            raise node.refuse(f"{cut} cannot be cropped from {size * block[place]}")
        sizes.append(None if size is None else size * block[place] - cut)
    node.expect(0, (frames, *sizes, x[-1]))


def _spatial(node: Node, x: Dims, block: Sequence[int], edges: Sequence[int]) -> Dims:
    spatial = x[1:-1]
    if len(block) != len(spatial) or min(block) < 1 or len(edges) != 2 * len(spatial) or min(edges) < 0:
        raise node.refuse(f"blocks of {list(block)} with edges {list(edges)} for {show(x)}")
    return spatial


def check_resize(node: Node) -> None:
    """RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR: to the height and width in input 1."""
    options = node.operator.options
    if options is not None:
        for field in _flags_of_resize(node):
            options.flag(field)
    x, sizes, shape = node.dims(0, 4), node.constant(1), node.dims(1, 1)
    if shape is not None and not agree(shape, (2,)):
        raise node.refuse(f"the size that it is given has shape {show(shape)}")
    if sizes is None:
        return
    if min(sizes) < 1:
        raise node.refuse(f"it is asked for size {list(sizes)}")
    if x is not None:
        node.expect(0, (x[0], *sizes, x[3]))


def _flags_of_resize(node: Node) -> tuple[int, int]:
    """Return the fields of align_corners and half_pixel_centers; the bilinear kind has two older fields before."""
    return (2, 3) if node.operator.kind.name == "RESIZE_BILINEAR" else (0, 1)


def _times(size: int | None, factor: int) -> int | None:
    return None if size is None else size * factor


def _over(size: int | None, factor: int) -> int | None:
    return None if size is None else size // factor
