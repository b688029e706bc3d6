"""Rules for operators that move elements without computing: reshape, join, split, cut, pad, repeat."""

import math
from collections.abc import Sequence

from dsops.tflite_lint.fields import Axis, StridedSlice
from dsops.tflite_lint.model import MAX_ARITY, MAX_RANK, Dims
from dsops.tflite_lint.node import Node, agree, broadcast, elements, show

_ACTIVATIONS = 4
_FIRST = 0
_MODES = 2
_MAX_SIZE = 1 << 31


def check_reshape(node: Node) -> None:
    """RESHAPE: to the shape in input 1, or else in the options; one size may be -1."""
    x = node.dims(0)
    wanted = _wanted_shape(node)
    count, out = elements(x), node.outputs[0].dims
    if wanted is None:
        if count is not None and elements(out) not in {None, count}:
            raise node.refuse(f"{count} elements cannot have shape {show(out or ())}")
        return
    node.expect(0, _resolved(node, wanted, count))


def _wanted_shape(node: Node) -> Sequence[int] | None:
    options = node.operator.options
    given: Sequence[int] | None = options.int32s(_FIRST, MAX_RANK, "sizes") if options is not None else None
    if len(node.inputs) > 1:
        values = node.constant(1)
        dims = node.dims(1)
        if values is not None and dims is not None and len(dims) != 1:
            raise node.refuse(f"the shape that it is given has shape {show(dims)}")
        given = values
    if given is None:
        return None
    return () if list(given) == [0] else given  # how old converters write a scalar


def _resolved(node: Node, wanted: Sequence[int], count: int | None) -> Dims:
    if len(wanted) > MAX_RANK or min(wanted, default=0) < -1 or list(wanted).count(-1) > 1:
        raise node.refuse(f"it is asked for shape {list(wanted)}")
    known = math.prod(size for size in wanted if size != -1)
    if count is None:
        return tuple(None if size == -1 else size for size in wanted)
    if -1 not in wanted and known != count:
        raise node.refuse(f"{count} elements cannot have shape {list(wanted)}")
    if -1 in wanted and (known == 0 or count % known):
        raise node.refuse(f"{count} elements cannot have shape {list(wanted)}")
    return tuple(count // known if size == -1 else size for size in wanted)


def check_transpose(node: Node) -> None:
    """TRANSPOSE: input 1 holds a permutation of the axes."""
    x, order = node.dims(0), node.constant(1)
    if x is None or order is None:
        return
    places = [node.axis(place, len(x)) for place in order]
    if sorted(places) != list(range(len(x))):
        raise node.refuse(f"{list(order)} is no order of {len(x)} axes")
    node.expect(0, tuple(x[place] for place in places))


def check_concatenation(node: Node) -> None:
    """CONCATENATION: along an axis; the other sizes are equal."""
    node.choice(1, _ACTIVATIONS)
    shapes = [node.dims(place) for place in range(len(node.inputs))]
    known = [dims for dims in shapes if dims is not None]
    if not known:
        return
    axis = node.axis(node.number(Axis.FIRST), len(known[0]))
    rest = [dims[:axis] + dims[axis + 1 :] for dims in known]
    for dims, others in zip(known, rest, strict=True):
        if len(dims) != len(known[0]) or not agree(others, rest[0]):
            raise node.refuse(f"shapes {show(known[0])} and {show(dims)} cannot be joined along axis {axis}")
    sizes = [dims[axis] for dims in known]
    total = None if None in sizes or len(known) != len(shapes) else sum(size or 0 for size in sizes)
    node.expect(0, (*rest[0][:axis], total, *rest[0][axis:]))


def check_pack(node: Node) -> None:
    """PACK: joins along a new axis; the first option counts the inputs."""
    count = node.count(_FIRST, most=MAX_ARITY)
    if count != len(node.inputs):
        raise node.refuse(f"it says that it has {count} inputs, and has {len(node.inputs)}")
    shapes = [node.dims(place) for place in range(count)]
    first = shapes[0]
    if first is None:
        return
    for dims in shapes:
        if dims is not None and not agree(first, dims):
            raise node.refuse(f"shapes {show(first)} and {show(dims)} differ")
    axis = node.axis(node.number(Axis.SECOND), len(first) + 1)
    node.expect(0, (*first[:axis], count, *first[axis:]))


def check_unpack(node: Node) -> None:
    """UNPACK: takes an axis apart; the first option counts the outputs."""
    x, count = node.dims(0), node.count(_FIRST, most=MAX_ARITY)
    if count != len(node.outputs):
        raise node.refuse(f"it says that it has {count} outputs, and has {len(node.outputs)}")
    if x is None:
        return
    axis = node.axis(node.number(Axis.SECOND), len(x))
    if x[axis] not in {None, count}:
        raise node.refuse(f"axis {axis} of {show(x)} does not have {count} parts")
    for place in range(count):
        node.expect(place, x[:axis] + x[axis + 1 :])


def check_split(node: Node) -> None:
    """SPLIT: input 1 into equal parts along the axis in input 0; the first option counts them."""
    count, x, axis = _parts(node), node.dims(1), node.constant(0)
    if x is None or axis is None:
        return
    place = _one_axis(node, axis, len(x))
    size = x[place]
    if size is not None and size % count:
        raise node.refuse(f"{size} cannot be split into {count} equal parts")
    for output in range(count):
        node.expect(output, (*x[:place], None if size is None else size // count, *x[place + 1 :]))


def check_split_v(node: Node) -> None:
    """SPLIT_V: into parts of the sizes in input 1, one of which may be -1, along the axis in input 2."""
    count, x, sizes, axis = _parts(node), node.dims(0), node.constant(1), node.constant(2)
    if x is None or sizes is None or axis is None:
        return
    place = _one_axis(node, axis, len(x))
    total = x[place]
    if len(sizes) != count or min(sizes) < -1 or list(sizes).count(-1) > 1:
        raise node.refuse(f"{count} parts of sizes {list(sizes)}")
    rest = None if total is None else total - sum(size for size in sizes if size != -1)
    if rest is not None and (rest < 0 or (rest and -1 not in sizes)):
        raise node.refuse(f"parts of sizes {list(sizes)} do not make {total}")
    for output, size in enumerate(sizes):
        node.expect(output, (*x[:place], rest if size == -1 else size, *x[place + 1 :]))


def _parts(node: Node) -> int:
    count = node.count(_FIRST, most=MAX_ARITY)
    if count != len(node.outputs):
        raise node.refuse(f"it says that it has {count} outputs, and has {len(node.outputs)}")
    return count


def _one_axis(node: Node, values: Sequence[int], rank: int) -> int:
    if len(values) != 1:
        raise node.refuse(f"it has {len(values)} axes")
    return node.axis(values[0], rank)


def check_slice(node: Node) -> None:
    """SLICE: from the places in input 1, as many as input 2 says, -1 for the rest."""
    x, begins, sizes = node.dims(0), node.constant(1), node.constant(2)
    if x is None or begins is None or sizes is None:
        return
    if not len(x) == len(begins) == len(sizes):
        raise node.refuse(f"{len(begins)} places and {len(sizes)} sizes for {len(x)} axes")
    node.expect(0, tuple(_cut(node, *part) for part in zip(x, begins, sizes, strict=True)))


def _cut(node: Node, size: int | None, begin: int, length: int) -> int | None:
    if begin < 0 or length < -1:
        raise node.refuse(f"it takes {length} from {begin}")
    if size is None:
        return None if length == -1 else length
    taken = size - begin if length == -1 else length
    if taken < 0 or begin + taken > size:
        raise node.refuse(f"it takes {taken} from {begin} of {size}")
    return taken


def check_strided_slice(node: Node) -> None:
    """STRIDED_SLICE: begin, end and step of each axis in inputs 1 to 3, and masks for those left open."""
    x = node.dims(0)
    begins, ends, steps = (node.constant(place) for place in (1, 2, 3))
    masks = [node.number(field) for field in range(5)]
    if any(not 0 <= mask < 1 << 2 * MAX_RANK for mask in masks):
        raise node.refuse(f"its masks are {masks}")
    if steps is not None and 0 in steps:
        raise node.refuse("a step is 0")
    if x is None or begins is None or ends is None or steps is None:
        return
    if not len(begins) == len(ends) == len(steps):
        raise node.refuse(f"{len(begins)} begins, {len(ends)} ends, {len(steps)} steps")
    if masks[StridedSlice.ELLIPSIS_MASK] or masks[StridedSlice.NEW_AXIS_MASK]:
        return
    if len(steps) > len(x):
        raise node.refuse(f"it cuts {len(steps)} axes of {show(x)}")
    offset = node.flag(StridedSlice.OFFSET)
    kept: list[int | None] = []
    for place, step in enumerate(steps):
        end = begins[place] + ends[place] if offset else ends[place]
        if masks[StridedSlice.SHRINK_AXIS_MASK] >> place & 1:
            _check_inside(node, x[place], begins[place])
            continue
        begin_or_open = None if masks[StridedSlice.BEGIN_MASK] >> place & 1 else begins[place]
        end_or_open = None if masks[StridedSlice.END_MASK] >> place & 1 else end
        size = x[place]
        kept.append(None if size is None else len(range(*slice(begin_or_open, end_or_open, step).indices(size))))
    node.expect(0, (*kept, *x[len(steps) :]))


def _check_inside(node: Node, size: int | None, place: int) -> None:
    if size is not None and not -size <= place < size:
        raise node.refuse(f"it takes place {place} of {size}")


def check_pad(node: Node) -> None:
    """PAD, PADV2: input 1 holds [rank, 2] numbers of elements before and after."""
    x, pads = node.dims(0), _pads(node)
    if x is None or pads is None:
        return
    node.expect(0, tuple(None if size is None else size + sum(pair) for size, pair in zip(x, pads, strict=True)))


def check_mirror_pad(node: Node) -> None:
    """MIRROR_PAD: as PAD; there must be as much to mirror."""
    reflected = 1 - node.choice(_FIRST, _MODES)
    x, pads = node.dims(0), _pads(node)
    if x is None or pads is None:
        return
    for size, pair in zip(x, pads, strict=True):
        if size is not None and max(pair) > size - reflected:
            raise node.refuse(f"{max(pair)} elements cannot be mirrored from {size}")
    check_pad(node)


def _pads(node: Node) -> list[tuple[int, int]] | None:
    x, values, shape = node.dims(0), node.constant(1), node.dims(1)
    if x is not None and shape is not None and not agree(shape, (len(x), 2)):
        raise node.refuse(f"its padding has shape {show(shape)} for {len(x)} axes")
    if values is None:
        return None
    if values and not 0 <= min(values) <= max(values) < _MAX_SIZE:
        raise node.refuse("its padding is negative or too large")
    return list(zip(values[::2], values[1::2], strict=True))


def check_squeeze(node: Node) -> None:
    """SQUEEZE: drops the axes of size 1 that the first option names, or all."""
    x, options = node.dims(0), node.operator.options
    named = options.int32s(_FIRST, MAX_RANK, "axes") if options is not None else ()
    if x is None:
        return
    places = {node.axis(axis, len(x)) for axis in named}
    if any(x[place] not in {1, None} for place in places):
        raise node.refuse(f"axes {sorted(places)} of {show(x)} are not all of size 1")
    if not places and None in x:
        return
    dropped = places or {place for place, size in enumerate(x) if size == 1}
    node.expect(0, tuple(size for place, size in enumerate(x) if place not in dropped))


def check_expand_dims(node: Node) -> None:
    """EXPAND_DIMS: a new axis at the place in input 1."""
    x, axis = node.dims(0), node.constant(1)
    if x is not None and axis is not None:
        place = _one_axis(node, axis, len(x) + 1)
        node.expect(0, (*x[:place], 1, *x[place:]))


def check_tile(node: Node) -> None:
    """TILE: repeats each axis."""
    x, times = node.dims(0), node.constant(1)
    if x is None or times is None:
        return
    if len(times) != len(x) or min(times, default=0) < 0 or max(times, default=0) >= _MAX_SIZE:
        raise node.refuse(f"{list(times)} repetitions of {show(x)}")
    node.expect(0, tuple(None if size is None else size * time for size, time in zip(x, times, strict=True)))


def check_broadcast_to(node: Node) -> None:
    """BROADCAST_TO: to the shape in input 1."""
    x, wanted = node.dims(0), node.constant(1)
    if x is None or wanted is None:
        return
    if min(wanted, default=0) < 0:
        raise node.refuse(f"it is asked for shape {list(wanted)}")
    try:
        fits = broadcast(x, tuple(wanted)) == tuple(wanted)
    except ValueError:
        fits = False
    if not fits and None not in x:
        raise node.refuse(f"{show(x)} cannot be repeated to {list(wanted)}")
    node.expect(0, tuple(wanted))


def check_fill(node: Node) -> None:
    """FILL: one value, in the shape of input 0."""
    wanted = node.constant(0)
    if wanted is not None:
        if min(wanted, default=0) < 0:
            raise node.refuse(f"it is asked for shape {list(wanted)}")
        node.expect(0, tuple(wanted))


def check_range(node: Node) -> None:
    """RANGE: from input 0 up to input 1 in steps of input 2."""
    values = [node.constant(place) for place in range(3)]
    if any(found is not None and len(found) != 1 for found in values) or values[2] in ([0], (0,)):
        raise node.refuse("its start, limit and step are no three values, or the step is 0")
    if None not in values:
        start, limit, step = (found[0] for found in values if found)
        node.expect(0, (max(0, -((start - limit) // step)),))


def check_drawn(node: Node) -> None:
    """RANDOM_UNIFORM and its like: in the shape of input 0."""
    check_fill(node)


def check_diagonal(node: Node) -> None:
    """MATRIX_DIAG: the last axis becomes a square."""
    x = node.dims(0)
    node.expect(0, None if not x else (*x, x[-1]))


def check_shape(node: Node) -> None:
    """SHAPE: a number an axis."""
    x = node.dims(0)
    node.expect(0, None if x is None else (len(x),))


def check_rank(node: Node) -> None:
    """RANK: one number."""
    node.expect(0, ())


def check_reverse(node: Node) -> None:
    """REVERSE_V2: along the axes in input 1."""
    x, axes = node.dims(0), node.constant(1)
    if x is not None and axes is not None:
        for axis in axes:
            node.axis(axis, len(x))
    node.expect(0, x)
