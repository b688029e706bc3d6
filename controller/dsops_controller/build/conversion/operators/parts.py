"""Operators that take tensors apart and put them together."""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.graph import Node
from dsops_controller.build.conversion.operators.elementwise import Handler
from dsops_controller.build.conversion.writing import INT32, INT64, TO_LAST, Conversion, Op, Value


def _concat(conversion: Conversion, node: Node) -> None:
    values = [conversion.value(node, name) for name in node.inputs]
    ranks = {value.rank for value in values}
    if len(ranks) != 1 or len({value.dtype for value in values}) != 1:
        raise node.refuse("its inputs differ in their number of axes, or in type")
    last = ranks <= set(TO_LAST) and any(value.channels_last for value in values)
    values = [conversion.in_layout(value, channels_last=last) for value in values]
    axis = values[0].axis(node.attributes["axis"])
    others = {value.shape[:axis] + value.shape[axis + 1 :] for value in values}
    if len(others) != 1:
        raise node.refuse(f"shapes {', '.join(str(list(value.onnx_shape)) for value in values)} do not fit")
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    options = schema.ConcatenationOptionsT()
    options.axis = axis
    form = values[0].with_shape(shape, non_negative=all(value.non_negative for value in values))
    conversion.define(node.output, conversion.emit(Op.CONCATENATION, values, form, node.output, options))


def _split(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    axis, count = value.axis(node.attributes["axis"]), len(node.outputs)
    size = value.shape[axis]
    each = -(-size // count)
    sizes = conversion.setting(node, 1, "split") or (*[each] * (count - 1), size - each * (count - 1))
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 1:
        raise node.refuse(f"it splits {size} into {list(sizes)}")
    if len(set(sizes)) == 1 and count > 1:
        _equal_parts(conversion, node, value, axis)
        return
    begin = 0
    for name, length in zip(node.outputs, sizes, strict=True):
        if name:
            conversion.define(name, cut(conversion, value, axis, (begin, length), name))
        begin += length


def _equal_parts(conversion: Conversion, node: Node, value: Value, axis: int) -> None:
    names = [name or f"{node.output}_{number}" for number, name in enumerate(node.outputs)]
    for name, part in zip(node.outputs, split_evenly(conversion, value, axis, names), strict=True):
        conversion.define(name, part)


def split_evenly(conversion: Conversion, value: Value, axis: int, names: Sequence[str]) -> list[Value]:
    """Return the equal parts of a tensor along a stored axis, one for each name."""
    if len(names) == 1:
        return [value]
    options = schema.SplitOptionsT()
    options.numSplits = len(names)
    shape = [size // len(names) if place == axis else size for place, size in enumerate(value.shape)]
    where = conversion.stored(f"{names[0]}_axis", np.array(axis, np.int32))
    forms = [value.with_shape(shape)] * len(names)
    return conversion.emit_several(Op.SPLIT, [where, value], forms, names, options)


def cut(conversion: Conversion, value: Value, axis: int, span: tuple[int, int], name: str) -> Value:
    """Return a part of a tensor.

    Args:
        conversion: The conversion under way.
        value: The tensor.
        axis: The stored axis.
        span: First element and how many.
        name: Name of the result.
    """
    begin = [span[0] if place == axis else 0 for place in range(value.rank)]
    shape = [span[1] if place == axis else size for place, size in enumerate(value.shape)]
    inputs = [value, conversion.integers(f"{name}_begin", begin), conversion.integers(f"{name}_size", shape)]
    return conversion.emit(Op.SLICE, inputs, value.with_shape(shape), name, schema.SliceOptionsT())


def _slice(conversion: Conversion, node: Node) -> None:
    value = conversion.value(node, node.input(0))
    starts, ends = conversion.setting(node, 1, "starts") or (), conversion.setting(node, 2, "ends") or ()
    axes = conversion.setting(node, 3, "axes") or tuple(range(len(starts)))
    steps = conversion.setting(node, 4, "steps") or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.refuse("its starts, ends, axes and steps do not fit")
    spans = [range(size) for size in value.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = value.axis(axis)
        spans[place] = range(*slice(start, _end(end, step, value.shape[place]), step).indices(value.shape[place]))
    if any(len(span) == 0 for span in spans):
        raise node.refuse("it leaves nothing over")
    conversion.define(node.output, _take(conversion, node, value, spans))


def _end(end: int, step: int, size: int) -> int | None:
    """Return an end as Python counts it: ONNX's ends beyond the beginning mean that the first element is taken too."""
    return None if step < 0 and end < -size else end


def _take(conversion: Conversion, node: Node, value: Value, spans: Sequence[range]) -> Value:
    """Return the elements that lie on every axis's span."""
    reversed_axes = [axis for axis, span in enumerate(spans) if span.step < 0]
    forward = [span[::-1] if span.step < 0 else span for span in spans]
    name, form = node.output, value.with_shape([len(span) for span in spans])
    begins = conversion.integers(f"{name}_begin", [span.start for span in forward])
    if all(len(span) == size for span, size in zip(spans, value.shape, strict=True)):
        result = value
    elif all(span.step == 1 for span in forward):
        sizes = conversion.integers(f"{name}_size", form.shape)
        result = conversion.emit(Op.SLICE, [value, begins, sizes], form, name, schema.SliceOptionsT())
    else:
        ends = conversion.integers(f"{name}_end", [span[-1] + 1 for span in forward])
        steps = conversion.integers(f"{name}_step", [span.step for span in forward])
        options = schema.StridedSliceOptionsT()
        result = conversion.emit(Op.STRIDED_SLICE, [value, begins, ends, steps], form, name, options)
    for axis in reversed_axes:
        over = conversion.integers(f"{name}_reversed", [axis])
        result = conversion.emit(Op.REVERSE_V2, [result, over], form, name, schema.ReverseV2OptionsT())
    return result


def _gather(conversion: Conversion, node: Node) -> None:
    """Write GATHER. Constant indices may count from the end; computed ones must not."""
    value, known = conversion.value(node, node.input(0)), conversion.constants.get(node.input(1))
    rank = known.ndim if known is not None else conversion.value(node, node.input(1)).rank
    if rank != 1:
        value = conversion.in_layout(value, channels_last=False)
    axis = value.axis(node.attributes["axis"])
    if known is None:
        indices = conversion.plain(node, node.input(1))
    else:
        if known.size == 0 or known.min() < -value.shape[axis] or known.max() >= value.shape[axis]:
            raise node.refuse(f"its indices do not lie within {value.shape[axis]} elements")
        indices = conversion.stored(f"{node.output}_indices", (known % value.shape[axis]).astype(np.int32))
    if indices.dtype not in (INT32, INT64):
        raise node.refuse(f"its indices are {indices.dtype}")
    options = schema.GatherOptionsT()
    options.axis = axis
    form = value.with_shape((*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))
    conversion.define(node.output, conversion.emit(Op.GATHER, [value, indices], form, node.output, options))


HANDLERS: dict[str, Handler] = {"Concat": _concat, "Gather": _gather, "Slice": _slice, "Split": _split}
"""Operators of this family."""
