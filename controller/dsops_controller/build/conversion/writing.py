"""One conversion under way: where each ONNX tensor went, in which layout, and what was already written.

ONNX puts channels on axis 1: [N, C, H, W], [N, C, L]. TFLite's kernels want them last. A :class:`Value` says how its
tensor is stored; operators ask for the layout that they need, and a transpose is written only where layouts clash.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.graph import Array, GraphInput, Node, OnnxGraph, Shape
from dsops_controller.build.conversion.tflite_writer import ABSENT, TENSOR_TYPES, Table, TfliteWriter

DESCRIPTION = "converted from ONNX by dsops"
MAX_ELEMENTS = 1 << 26
"""Elements of one computed tensor; 256 MiB of float32."""
MAX_TOTAL_ELEMENTS = 1 << 31
"""Elements of all computed tensors together; 8 GiB of float32, of which the runtime keeps few at a time."""
MAX_OPERATORS = 50_000
MAX_CONSTANT_BYTES = 1 << 30
FLOAT, INT32, INT64, BOOL = (np.dtype(kind) for kind in (np.float32, np.int32, np.int64, np.bool_))
TO_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
"""Order of the axes that moves the channels from axis 1 to the end, by rank."""
TO_FIRST = {3: (0, 2, 1), 4: (0, 3, 1, 2)}
Fact: TypeAlias = Any
"""A field of :class:`Form`."""
Op = schema.BuiltinOperator
Activation = schema.ActivationFunctionType
_CLAMPING = (Activation.RELU, Activation.RELU6)


@dataclass(frozen=True)
class Form:
    """What is known of a tensor.

    Attributes:
        shape: As it is stored.
        dtype: Type of its elements.
        channels_last: It is stored as [N, ..., C] and stands for ONNX's [N, C, ...].
        non_negative: No element can be negative; a proven fact.
        unrolled: It is one row, and is the elements of [1, H, W, C] where ONNX has those of [1, C, H, W].
    """

    shape: Shape
    dtype: np.dtype[Any] = FLOAT
    channels_last: bool = False
    non_negative: bool = False
    unrolled: Shape = ()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def onnx_shape(self) -> Shape:
        """The shape in ONNX."""
        if not self.channels_last:
            return self.shape
        return tuple(self.shape[axis] for axis in TO_FIRST[self.rank])

    def axis(self, onnx_axis: int) -> int:
        """Return where one of ONNX's axes is stored. It may be counted from the end.

        Raises:
            ValueError: There is no such axis.
        """
        if not -self.rank <= onnx_axis < self.rank:
            raise ValueError(onnx_axis)
        axis = onnx_axis % self.rank
        return TO_FIRST[self.rank][axis] if self.channels_last else axis

    def with_shape(self, shape: Sequence[int], **changes: Fact) -> "Form":
        """Return the form of another tensor that differs in shape, and in ``changes``."""
        known = {field.name: getattr(self, field.name) for field in fields(Form)}
        return Form(**(known | {"shape": tuple(shape), "unrolled": ()} | changes))


@dataclass(frozen=True)
class Value(Form):
    """A tensor of the TFLite model. Its index is that of the writer."""

    index: int = ABSENT

    def with_form(self, **changes: Fact) -> Self:
        """Return the same tensor, understood in another way."""
        return replace(self, **changes)


NONE = Value(())
"""An optional input that is not given."""


class Conversion:
    """State of one conversion; the operators' functions write through it."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.constants: dict[str, Array] = dict(graph.constants)
        self._writer = TfliteWriter(DESCRIPTION)
        self._values: dict[str, Value] = {}
        self._images: dict[int, Value] = {}
        self._laid_out: dict[tuple[int, bool], Value] = {}
        self._done: set[str] = set()
        self._elements = self._operators = self._constant_bytes = 0
        self._inputs = {entry.name: self._add_input(entry) for entry in graph.inputs}
        self._ends = frozenset(value.index for value in self._inputs.values())

    # --- what nodes read ---

    def is_computed(self, name: str) -> bool:
        """Say whether a tensor depends on the model's inputs."""
        return name in self._values and name not in self.constants

    def value(self, node: Node, name: str) -> Value:
        """Return a tensor in the layout it has; a constant is written into the file.

        Raises:
            UnsupportedModel: It is an output of its node that is not converted.
        """
        if name not in self._values:
            if name not in self.constants:
                raise node.refuse(f"its input {name!r} is a secondary output that is not converted")
            self._values[name] = self.stored(name, self.constants[name])
        return self._values[name]

    def plain(self, node: Node, name: str) -> Value:
        """Return a tensor in ONNX's own order of axes."""
        return self.in_layout(self.value(node, name), channels_last=False)

    def in_layout(self, value: Value, *, channels_last: bool) -> Value:
        """Return a tensor in a layout; a transpose is written when it has the other one."""
        if value.rank not in TO_LAST or value.channels_last == channels_last:
            return value
        known = self._laid_out.get((value.index, channels_last))
        if known is None:
            order = (TO_LAST if channels_last else TO_FIRST)[value.rank]
            known = self.transpose(value, order).with_form(channels_last=channels_last)
            self._laid_out[value.index, channels_last] = known
        return known

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Return a tensor with its stored axes in another order; a reshape when no element moves."""
        shape = [value.shape[axis] for axis in order]
        moving = [axis for axis in order if value.shape[axis] > 1]
        if moving == sorted(moving):
            return self.reshape(value, shape)
        axes = self.integers(f"{self._name(value)}_order", order)
        form = value.with_shape(shape, channels_last=False)
        return self.emit(Op.TRANSPOSE, [value, axes], form, f"{self._name(value)}_moved", schema.TransposeOptionsT())

    def reshape(self, value: Value, shape: Sequence[int], name: str = "") -> Value:
        """Return the same elements, in the order in which they are stored, in another shape.

        An axis of frames is left open in the file, so that a device may run several of them at once.
        """
        if tuple(shape) == value.shape and not name:
            return value.with_form(channels_last=False)
        label = name or f"{self._name(value)}_shaped"
        options = schema.ReshapeOptionsT()
        is_of_frames = value.shape[:1] == tuple(shape[:1]) == (1,)
        written = (-1, *shape[1:]) if is_of_frames else tuple(shape)
        options.newShape = [int(size) for size in written]
        target = self.integers(f"{label}_shape", written)
        return self.emit(Op.RESHAPE, [value, target], value.with_shape(shape, channels_last=False), label, options)

    def image(self, node: Node, name: str) -> Value:
        """Return [N, C, H, W] as [N, H, W, C], or [N, C, L] as [N, 1, L, C].

        Raises:
            UnsupportedModel: It has neither three nor four axes, or is not float32.
        """
        value = self.value(node, name)
        if value.rank not in TO_LAST or value.dtype != FLOAT:
            raise node.refuse(f"its input {name!r} has {value.rank} axes of {value.dtype}, not 3 or 4 of float32")
        if value.rank == 4:
            return self.in_layout(value, channels_last=True)
        if value.index not in self._images:
            last = self.in_layout(value, channels_last=True)
            high = self.reshape(last, (last.shape[0], 1, *last.shape[1:])).with_form(channels_last=True)
            self._images[value.index] = high
        return self._images[value.index]

    def constant(self, node: Node, position: int) -> Array:
        """Return the value of a node's constant input.

        Raises:
            UnsupportedModel: It is computed when the model runs.
        """
        name = node.input(position)
        if name not in self.constants:
            raise node.refuse(f"its input {name!r} is not a constant")
        return self.constants[name]

    def optional_constant(self, node: Node, position: int) -> Array | None:
        """Return the value of a node's constant input, or nothing when it is absent."""
        return self.constant(node, position) if node.input(position) else None

    def setting(self, node: Node, position: int, attribute: str) -> tuple[int, ...] | None:
        """Return whole numbers that are an attribute in older operator sets and a constant input in newer ones."""
        if node.input(position):
            return tuple(int(item) for item in self.constant(node, position).reshape(-1))
        given = node.attributes.get(attribute)
        return None if given is None else tuple(given)

    # --- what nodes write ---

    def floats(self, name: str, values: Array) -> Value:
        """Write a float32 constant.

        Raises:
            InvalidModel: It holds NaN or infinity.
        """
        stored = np.asarray(values, np.float32)
        if not np.isfinite(stored).all():
            raise InvalidModel(f"the weights {name!r} hold NaN or infinity")
        return Value(stored.shape, FLOAT, index=self._constant(name, stored))

    def integers(self, name: str, values: Sequence[int]) -> Value:
        """Write an int32 constant of one axis."""
        stored = np.asarray(values, np.int32)
        return Value(stored.shape, INT32, index=self._constant(name, stored))

    def stored(self, name: str, values: Array) -> Value:
        """Write a constant of its own type.

        Raises:
            UnsupportedModel: TFLite's operators do not compute with that type.
        """
        values = np.asarray(values)
        if values.dtype == FLOAT:
            return self.floats(name, values).with_form(non_negative=bool((values >= 0).all()))
        if values.dtype not in TENSOR_TYPES:
            raise UnsupportedModel(f"the constant {name!r} holds {values.dtype}", why="float32 and integers are known")
        return Value(values.shape, values.dtype, index=self._constant(name, values))

    def emit(self, code: int, inputs: Sequence[Value], form: Form, name: str, options: Table = None) -> Value:
        """Write an operator with one output; return that.

        Raises:
            UnsupportedModel: The result, or the model with it, is larger than the limits.
        """
        return self.emit_several(code, inputs, [form], [name], options)[0]

    def emit_several(
        self, code: int, inputs: Sequence[Value], forms: Sequence[Form], names: Sequence[str], options: Table = None
    ) -> list[Value]:
        """Write an operator with several outputs; return them."""
        self._count(forms)
        made = [self._tensor(name, form) for name, form in zip(names, forms, strict=True)]
        self._writer.operator(code, [value.index for value in inputs], [value.index for value in made], options)
        return made

    def define(self, name: str, value: Value) -> None:
        """Record what an ONNX tensor has become."""
        self._values[name] = value

    def define_image(self, name: str, value: Value, rank: int) -> None:
        """Record [N, H, W, C] as an ONNX tensor of ``rank`` axes; of three, H is 1 and is dropped."""
        if rank == 3:
            low = self.reshape(value, (value.shape[0], *value.shape[2:]), f"{name}_row").with_form(channels_last=True)
            self._images[low.index] = value
            value = low
        self.define(name, value)

    # --- fusing ---

    def absorb(self, node: Node) -> None:
        """Record that a node is written as a part of another."""
        self._done.add(node.output)

    def is_done(self, node: Node) -> bool:
        """Say whether a node was written together with an earlier one."""
        return node.output in self._done

    def fused_activation(self, node: Node) -> tuple[int, str]:
        """Return the activation to fuse into a node and the name of the tensor that then results.

        A ReLU, or a Clip that TFLite knows as one, is fused when it alone reads the node's output.
        """
        reader = self.graph.only_consumer(node.output)
        kind = self.activation_of(reader) if reader else None
        if reader is None or kind is None:
            return int(Activation.NONE), node.output
        self.absorb(reader)
        return kind, reader.output

    def activation_of(self, node: Node) -> int | None:
        """Return TFLite's fusable activation that equals a node, or nothing."""
        if node.operator == "Relu":
            return int(Activation.RELU)
        if node.operator != "Clip" or not all(name in self.constants for name in node.inputs[1:] if name):
            return None
        known = {
            (0.0, 6.0): Activation.RELU6,
            (0.0, math.inf): Activation.RELU,
            (-1.0, 1.0): Activation.RELU_N1_TO_1,
        }
        found = known.get(self.clip_range(node))
        return None if found is None else int(found)

    def clip_range(self, node: Node) -> tuple[float, float]:
        """Return the bounds of a Clip: inputs since operator set 11, attributes before."""
        bounds = []
        for position, attribute, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            given = self.optional_constant(node, position)
            bound = float(node.attributes.get(attribute, default) if given is None else given.reshape(()))
            bounds.append(default if abs(bound) >= np.finfo(np.float32).max else bound)
        return bounds[0], bounds[1]

    # --- the end ---

    def finish(self) -> tuple[bytes, frozenset[str], frozenset[str]]:
        """Return the TFLite file, and the names of inputs and of outputs that are [N, H, W, C] in it.

        Raises:
            UnsupportedModel: An output is an input or a constant.
        """
        outputs: dict[str, Value] = {}
        taken = {entry.index for entry in self._inputs.values()}
        for name in self.graph.outputs:
            outputs[name] = self._output(name, taken)
            taken.add(outputs[name].index)
        data = self._writer.finish(
            {name: value.index for name, value in self._inputs.items()},
            {name: value.index for name, value in outputs.items()},
        )
        return data, _moved(self._inputs), _moved(outputs)

    def _output(self, name: str, taken: set[int]) -> Value:
        value = self._values.get(name)
        if value is None or name in self.constants or value.index in self._ends:
            raise UnsupportedModel("the model computes nothing", why=f"its output {name!r} is a constant or an input")
        if value.rank != 4:
            value = self.in_layout(value, channels_last=False)
        if value.unrolled or value.index in taken:
            value = self.reshape(value, value.shape, name).with_form(channels_last=value.channels_last)
        self._writer.rename(value.index, name)
        return value

    def _add_input(self, entry: GraphInput) -> Value:
        """Add an input: [N, C, H, W] becomes [N, H, W, C], unless the model itself takes it in that order."""
        image = len(entry.shape) == 4 and entry.dtype == FLOAT and not self._is_channels_last(entry)
        shape = tuple(entry.shape[axis] for axis in TO_LAST[4]) if image else entry.shape
        self._values[entry.name] = self._tensor(entry.name, Form(shape, entry.dtype, channels_last=image))
        return self._values[entry.name]

    def _is_channels_last(self, entry: GraphInput) -> bool:
        readers = self.graph.consumers(entry.name)
        return bool(readers) and all(
            node.operator == "Transpose" and tuple(node.attributes.get("perm", ())) == TO_FIRST[4] for node in readers
        )

    def _tensor(self, name: str, form: Form) -> Value:
        index = self._writer.tensor(name, form.shape, form.dtype)
        return Value(**{field.name: getattr(form, field.name) for field in fields(Form)}, index=index)

    def _count(self, forms: Sequence[Form]) -> None:
        self._operators += 1
        self._elements += sum(math.prod(form.shape) for form in forms)
        for form in forms:
            if any(size <= 0 for size in form.shape) or math.prod(form.shape) > MAX_ELEMENTS:
                raise UnsupportedModel(f"the model computes a tensor of shape {list(form.shape)}")
        if self._elements > MAX_TOTAL_ELEMENTS or self._operators > MAX_OPERATORS:
            raise UnsupportedModel("the model computes too much", why="its tensors or operators are beyond the limits")

    def _constant(self, name: str, values: Array) -> int:
        self._constant_bytes += values.nbytes
        if self._constant_bytes > MAX_CONSTANT_BYTES:
            raise UnsupportedModel("the model is too large", why=f"its constants exceed {MAX_CONSTANT_BYTES >> 20} MiB")
        return self._writer.constant(name, values)

    def _name(self, value: Value) -> str:
        return self._writer.name(value.index)


def is_clamped(activation: int) -> bool:
    """Say whether a fused activation makes its result non-negative."""
    return activation in _CLAMPING


def _moved(values: dict[str, Value]) -> frozenset[str]:
    return frozenset(name for name, value in values.items() if value.channels_last)
