"""Rules for operators that slide a window: convolutions and pooling.

Shapes, as the schema's documentation has them: a frame is [N, H, W, C] (3D: [N, D, H, W, C]); filters are
[C out, H, W, C in] for CONV_2D and TRANSPOSE_CONV, [1, H, W, C out] for DEPTHWISE_CONV_2D, [D, H, W, C in, C out] for
CONV_3D.
"""

from collections.abc import Sequence

from dsops.tflite_lint.checks_numbers import check_weights
from dsops.tflite_lint.fields import Conv2D, Conv3D, Depthwise, Pool2D, TransposeConv
from dsops.tflite_lint.model import Dims
from dsops.tflite_lint.node import Node, agree, show

_SAME, _PADDINGS = 0, 2
_ACTIVATIONS = 4


def check_conv_2d(node: Node) -> None:
    """CONV_2D; groups are allowed: the input may have a multiple of the filter's channels."""
    node.choice(Conv2D.ACTIVATION, _ACTIVATIONS)
    channels = _filters_out(node, axis=0)
    _check_groups(node, input_place=0, last=3)
    strides = [node.count(Conv2D.STRIDE_H), node.count(Conv2D.STRIDE_W)]
    dilations = [node.count(Conv2D.DILATION_H, 1), node.count(Conv2D.DILATION_W, 1)]
    filters = node.dims(1, 4)
    sizes = _windows(node, node.dims(0, 4), filters and filters[1:3], strides, dilations)
    check_weights(node, (0, 1, 2), axis=0, bias_is_needed=True)
    _expect(node, 0, sizes, channels)


def check_depthwise_conv_2d(node: Node) -> None:
    """DEPTHWISE_CONV_2D: each input channel makes ``multiplier`` output channels."""
    node.choice(Depthwise.ACTIVATION, _ACTIVATIONS)
    channels = _filters_out(node, axis=3)
    x, filters = node.dims(0, 4), node.dims(1, 4)
    if filters is not None and filters[0] not in {1, None}:
        raise node.refuse(f"its filter has shape {show(filters)}, which does not begin with 1")
    if x is not None and x[3] and channels:
        multiplier = node.number(Depthwise.MULTIPLIER)
        if channels % x[3] or multiplier not in {0, channels // x[3]}:
            raise node.refuse(f"{x[3]} channels with a multiplier of {multiplier} do not make {channels}")
    strides = [node.count(Depthwise.STRIDE_H), node.count(Depthwise.STRIDE_W)]
    dilations = [node.count(Depthwise.DILATION_H, 1), node.count(Depthwise.DILATION_W, 1)]
    sizes = _windows(node, x, filters and filters[1:3], strides, dilations)
    check_weights(node, (0, 1, 2), axis=3, bias_is_needed=True)
    _expect(node, 0, sizes, channels)


def check_conv_3d(node: Node) -> None:
    """CONV_3D."""
    node.choice(Conv3D.ACTIVATION, _ACTIVATIONS)
    channels = _filters_out(node, axis=4)
    filters, x = node.dims(1, 5), node.dims(0, 5)
    if filters is not None and x is not None and not agree(filters[3:4], x[4:]):
        raise node.refuse(f"its filter {show(filters)} does not fit the input {show(x)}")
    strides = [node.count(field) for field in (Conv3D.STRIDE_D, Conv3D.STRIDE_H, Conv3D.STRIDE_W)]
    dilations = [node.count(field, 1) for field in (Conv3D.DILATION_D, Conv3D.DILATION_H, Conv3D.DILATION_W)]
    sizes = _windows(node, x, filters and filters[:3], strides, dilations)
    _expect(node, 0, sizes, channels)


def check_conv_3d_transpose(node: Node) -> None:
    """CONV_3D_TRANSPOSE: to the shape in input 0."""
    for field in (Conv3D.STRIDE_D, Conv3D.STRIDE_H, Conv3D.STRIDE_W):
        node.count(field)
    wanted = node.constant(0)
    if wanted is not None:
        if len(wanted) != 5 or min(wanted) < 1:
            raise node.refuse(f"it is asked for shape {list(wanted)}")
        node.expect(0, tuple(wanted))


def check_transpose_conv(node: Node) -> None:
    """TRANSPOSE_CONV: a convolution backwards, from the input 2 to a shape that is given as input 0."""
    node.choice(TransposeConv.ACTIVATION, _ACTIVATIONS)
    node.dims(0, 1)
    channels = _filters_out(node, axis=0, bias_place=3)
    _check_groups(node, input_place=2, last=3)
    strides = [node.count(TransposeConv.STRIDE_H), node.count(TransposeConv.STRIDE_W)]
    x, filters, wanted = node.dims(2, 4), node.dims(1, 4), node.constant(0)
    check_weights(node, (2, 1, 3), axis=0)
    if wanted is None:
        return
    if len(wanted) != 4 or min(wanted) < 1:
        raise node.refuse(f"it is asked for shape {list(wanted)}")
    output: Dims = tuple(wanted)
    node.expect(0, output)
    sizes = _windows(node, output, filters and filters[1:3], strides, [1, 1])
    if x is not None and sizes is not None and not agree(x[1:3], sizes):
        raise node.refuse(f"shape {show(output)} cannot come from {show(x)}")
    if not agree(output[3:], (channels,)) or (x is not None and not agree(output[:1], x[:1])):
        raise node.refuse(f"shape {show(output)} has other channels or frames than its filter and input")


def check_pool(node: Node) -> None:
    """AVERAGE_POOL_2D, MAX_POOL_2D, L2_POOL_2D."""
    node.choice(Pool2D.ACTIVATION, _ACTIVATIONS)
    x = node.dims(0, 4)
    filters = (node.count(Pool2D.FILTER_H), node.count(Pool2D.FILTER_W))
    strides = [node.count(Pool2D.STRIDE_H), node.count(Pool2D.STRIDE_W)]
    sizes = _windows(node, x, filters, strides, [1, 1])
    _expect(node, 0, sizes, None if x is None else x[3])


def _filters_out(node: Node, axis: int, bias_place: int = 2) -> int | None:
    """Return how many output channels the filter makes; the bias has one number for each."""
    filters = node.dims(1)
    if filters is None:
        return None
    if axis >= len(filters) or 0 in filters:
        raise node.refuse(f"its filter has shape {show(filters)}")
    bias = node.optional(bias_place)
    channels = filters[axis]
    if bias is not None and bias.dims is not None and not agree(bias.dims, (channels,)):
        raise node.refuse(f"its bias has shape {list(bias.shape)} for {channels} channels")
    return channels


def _check_groups(node: Node, input_place: int, last: int) -> None:
    x, filters = node.dims(input_place, last + 1), node.dims(1, last + 1)
    if x is None or filters is None or x[last] is None or not filters[last]:
        return
    given, taken, made = x[last] or 0, filters[last] or 0, filters[0] or 0
    if not given or given % taken or made % (given // taken):
        raise node.refuse(f"its filter {show(filters)} does not fit the input {show(x)}")


def _windows(
    node: Node, x: Dims | None, filters: Dims | None, strides: Sequence[int], dilations: Sequence[int]
) -> Dims | None:
    """Return how many places the window has along each spatial axis; the first option of every kind is the padding."""
    padding = node.choice(0, _PADDINGS)
    if x is None or filters is None:
        return None
    spatial = zip(x[1:-1], filters, strides, dilations, strict=True)
    return tuple(_places(node, size, window, stride, dilation, padding) for size, window, stride, dilation in spatial)


def _places(node: Node, size: int | None, window: int | None, stride: int, dilation: int, padding: int) -> int | None:
    if size is None or window is None:
        return None
    reach = (window - 1) * dilation + 1
    places = -(-size // stride) if padding == _SAME else (size - reach) // stride + 1
    if places < 1:
        raise node.refuse(f"a window of {reach} does not fit into {size}")
    return places


def _expect(node: Node, input_place: int, sizes: Dims | None, channels: int | None) -> None:
    x = node.dims(input_place)
    if x is not None and sizes is not None:
        node.expect(0, (x[0], *sizes, channels))
