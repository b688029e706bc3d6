"""Rules for operators that pick elements by numbers, which would read outside a tensor if nobody looked."""

from collections.abc import Sequence
from typing import Final

from dsops.tflite_lint.checks_dense import check_rows
from dsops.tflite_lint.fields import Axis
from dsops.tflite_lint.node import Node, agree, show

_MAX_SEGMENTS: Final = 1 << 31


def check_gather(node: Node) -> None:
    """GATHER: rows along an axis by the numbers in input 1."""
    x, numbers = node.dims(0), node.dims(1)
    if x is None or numbers is None:
        return
    axis = node.axis(node.number(Axis.FIRST), len(x))
    batch = node.number(Axis.BATCH_DIMS)
    batch = batch + len(numbers) if batch < 0 else batch
    if not 0 <= batch <= min(axis, len(numbers)) or not agree(x[:batch], numbers[:batch]):
        raise node.refuse(f"{batch} batch dimensions of {show(x)} and {show(numbers)}")
    check_rows(node, 1, x[axis])
    node.expect(0, (*x[:axis], *numbers[batch:], *x[axis + 1 :]))


def check_gather_nd(node: Node) -> None:
    """GATHER_ND: slices by rows of numbers in input 1."""
    x, numbers = node.dims(0), node.dims(1)
    if x is None or not numbers:
        return
    depth = numbers[-1]
    if depth is None:
        return
    if not 1 <= depth <= len(x):
        raise node.refuse(f"numbers of {depth} axes for {show(x)}")
    _check_places(node, 1, x, depth)
    node.expect(0, (*numbers[:-1], *x[depth:]))


def check_scatter_nd(node: Node) -> None:
    """SCATTER_ND: slices of input 1 to the places in input 0, in the shape of input 2."""
    numbers, wanted = node.dims(0), node.constant(2)
    if wanted is None or not numbers:
        return
    depth = numbers[-1]
    if min(wanted, default=0) < 0 or (depth is not None and not 1 <= depth <= len(wanted)):
        raise node.refuse(f"places {show(numbers)} in shape {list(wanted)}")
    if depth is not None:
        _check_places(node, 0, wanted, depth)
        updates = node.dims(1)
        if updates is not None and not agree(updates, (*numbers[:-1], *wanted[depth:])):
            raise node.refuse(f"{show(updates)} is not what goes to places {show(numbers)} in shape {list(wanted)}")
    node.expect(0, tuple(wanted))


def _check_places(node: Node, place: int, sizes: Sequence[int | None], depth: int) -> None:
    values = node.many_constants(place)
    for axis in range(depth if values else 0):
        size, column = sizes[axis], (values or ())[axis::depth]
        if size is not None and not 0 <= min(column) <= max(column) < size:
            raise node.refuse(f"input {place} names places {min(column)} to {max(column)} of {size}")


def check_one_hot(node: Node) -> None:
    """ONE_HOT: a new axis of the depth in input 1."""
    x, depth = node.dims(0), node.constant(1)
    if depth is not None and (len(depth) != 1 or depth[0] < 0):
        raise node.refuse(f"depth {list(depth)}")
    if x is None or depth is None:
        return
    axis = node.axis(node.number(Axis.FIRST), len(x) + 1)
    node.expect(0, (*x[:axis], depth[0], *x[axis:]))


def check_top_k(node: Node) -> None:
    """TOPK_V2: as many of the last axis as input 1 says."""
    x, wanted = node.dims(0), node.constant(1)
    if not x or wanted is None:
        return
    if len(wanted) != 1 or wanted[0] < 0 or (x[-1] is not None and wanted[0] > x[-1]):
        raise node.refuse(f"it is asked for the largest {list(wanted)} of {show(x)}")
    for place in (0, 1):
        node.expect(place, (*x[:-1], wanted[0]))


def check_update_slice(node: Node) -> None:
    """DYNAMIC_UPDATE_SLICE: input 1 over a part of input 0."""
    x, update, begins = node.dims(0), node.dims(1), node.dims(2, 1)
    node.expect(0, x)
    if x is None or update is None:
        return
    fits = len(x) == len(update) and all(b is None or a is None or b <= a for a, b in zip(x, update, strict=True))
    if not fits or (begins is not None and not agree(begins, (len(x),))):
        raise node.refuse(f"{show(update)} does not fit into {show(x)}")


def check_reverse_sequence(node: Node) -> None:
    """REVERSE_SEQUENCE: along one axis, by lengths for each place of another."""
    x, lengths = node.dims(0), node.dims(1, 1)
    node.expect(0, x)
    if x is None:
        return
    along, batch = node.axis(node.number(0), len(x)), node.axis(node.number(1), len(x))
    limit, values = x[along], node.many_constants(1)
    if values and limit is not None and not 0 <= min(values) <= max(values) <= limit:
        raise node.refuse(f"its lengths are {min(values)} to {max(values)} of {limit}")
    if along == batch or (lengths is not None and not agree(lengths, (x[batch],))):
        raise node.refuse(f"axes {along} and {batch} of {show(x)}")


def check_broadcast_args(node: Node) -> None:
    """BROADCAST_ARGS: two shapes."""
    for place in (0, 1):
        node.dims(place, 1)


def check_segments(node: Node) -> None:
    """SEGMENT_SUM and the unsorted kinds, which are told how many segments there are: rows are added up."""
    x, numbers, values = node.dims(0), node.dims(1), node.many_constants(1)
    told = node.constant(2) if len(node.inputs) > 2 else None
    if told is not None and (len(told) != 1 or told[0] < 0):
        raise node.refuse(f"it is asked for {list(told)} segments")
    if values and not 0 <= min(values) <= max(values) < (told[0] if told else _MAX_SEGMENTS):
        raise node.refuse(f"it names segments {min(values)} to {max(values)}")
    count = told[0] if told else (max(values) + 1 if values and len(node.inputs) == 2 else None)
    if x is not None and numbers is not None and count is not None:
        node.expect(0, (count, *x[len(numbers) :]))
