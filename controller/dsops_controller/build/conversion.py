"""One conversion under way: where each ONNX tensor went, in which layout, and what was already written.

An ONNX tensor of four axes is [N, C, H, W]. Its TFLite form may be [N, H, W, C]; then its :class:`Value` is ``nhwc``.
Operators ask for the layout that they need.
"""

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops.errors import UnsupportedModel
from dsops_controller.build.onnx_graph import Array, Node, OnnxGraph
from dsops_controller.build.tflite_writer import TfliteWriter

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)
DESCRIPTION = "converted from ONNX by dsops"
Activation = schema.ActivationFunctionType
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Value:
    """The TFLite tensor of an ONNX tensor. ``shape`` is the stored one; ``non_negative`` is a proven fact."""

    index: int
    shape: tuple[int, ...]
    nhwc: bool = False
    non_negative: bool = False


class Conversion:
    """State of one conversion; operators of :mod:`dsops_controller.build.onnx_ops` write through it."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.writer = TfliteWriter(DESCRIPTION)
        self._values: dict[str, Value] = {}
        self._done: set[str] = set()
        self._input = self._add_input()

    def is_done(self, node: Node) -> bool:
        """Say whether a node was written together with an earlier one."""
        return node.output in self._done

    def finish(self) -> bytes:
        """Return the TFLite file.

        Raises:
            UnsupportedModel: The output is the input or a constant.
        """
        output = self._values.get(self.graph.output_name)
        if output is None or not self.writer.operator_count():
            raise UnsupportedModel("the model computes nothing")
        return self.writer.finish({self.graph.input_name: self._input.index}, {self.graph.output_name: output.index})

    def value(self, node: Node, name: str) -> Value:
        """Return a computed tensor in the layout it has.

        Raises:
            UnsupportedModel: It is a constant, or a second output that is not converted.
        """
        if name not in self._values:
            raise node.refuse(f"its input {name!r} is not a computed tensor")
        return self._values[name]

    def in_layout(self, node: Node, name: str, *, nhwc: bool) -> Value:
        """Return a computed tensor in a layout; a transpose is written when it has the other one."""
        value = self.value(node, name)
        if len(value.shape) != 4 or value.nhwc == nhwc:
            return value
        order = TO_NHWC if nhwc else TO_NCHW
        label = f"{name}_{'nhwc' if nhwc else 'nchw'}"
        result = self.writer.tensor(label, [value.shape[axis] for axis in order])
        axes = self.writer.constant(f"{label}_axes", np.array(order, np.int32))
        self.writer.operator(
            schema.BuiltinOperator.TRANSPOSE, [value.index, axes], [result], schema.TransposeOptionsT()
        )
        return Value(result, self.writer.shape(result), nhwc, value.non_negative)

    def image(self, node: Node, name: str) -> Value:
        """Return a computed tensor as [N, H, W, C].

        Raises:
            UnsupportedModel: It does not have four axes.
        """
        value = self.in_layout(node, name, nhwc=True)
        if len(value.shape) != 4:
            raise node.refuse(f"its input {name!r} has {len(value.shape)} axes, not 4")
        return value

    def constant(self, node: Node, position: int) -> Array:
        """Return the value of a node's constant input.

        Raises:
            UnsupportedModel: It is computed when the model runs.
        """
        name = node.input(position)
        if name not in self.graph.constants:
            raise node.refuse(f"its input {name!r} is not a constant")
        return self.graph.constants[name]

    def optional_constant(self, node: Node, position: int, default: Array) -> Array:
        """Return the value of a node's constant input, or ``default`` when it is absent."""
        return self.constant(node, position) if node.input(position) else default

    def float_constant(self, name: str, values: Array) -> int:
        """Write a float32 constant; return its tensor."""
        return self.writer.constant(name, np.ascontiguousarray(values, np.float32))

    def result(self, name: str, shape: tuple[int, ...], *, nhwc: bool = False, non_negative: bool = False) -> int:
        """Add the tensor of an ONNX tensor that the caller is about to write; return its index."""
        index = self.writer.tensor(name, shape)
        self._values[name] = Value(index, shape, nhwc, non_negative)
        return index

    def alias(self, node: Node) -> None:
        """Let a node's output be its input."""
        self._values[node.output] = self.value(node, node.input(0))

    def absorb(self, node: Node) -> None:
        """Record that a node is written as a part of another."""
        self._done.add(node.output)

    def fused_activation(self, node: Node) -> tuple[int, str]:
        """Return the activation to fuse into a node and the name of the tensor that then results.

        A ReLU or ReLU6 is fused when it alone reads the node's output.
        """
        reader = self.graph.only_consumer(node.output)
        kind = activation_of(self, reader) if reader else None
        if reader is None or kind is None:
            return Activation.NONE, node.output
        self.absorb(reader)
        return kind, reader.output

    def _add_input(self) -> Value:
        name = self.graph.input_name
        shape = self.graph.shapes[name]
        image = len(shape) == 4
        self.result(name, tuple(shape[axis] for axis in TO_NHWC) if image else shape, nhwc=image)
        return self._values[name]


def activation_of(conversion: Conversion, node: Node) -> int | None:
    """Return TFLite's activation that equals a node (ReLU, or Clip to 0..6 or 0 and up), or nothing."""
    if node.operator == "Relu":
        return int(Activation.RELU)
    if node.operator != "Clip":
        return None
    bounds = _clip_range(conversion, node)
    if bounds == (0.0, 6.0):
        return int(Activation.RELU6)
    return int(Activation.RELU) if bounds == (0.0, None) else None


def _clip_range(conversion: Conversion, node: Node) -> tuple[float | None, float | None]:
    """Return the bounds of a Clip: inputs since operator set 11, attributes before."""

    def bound(position: int, attribute: str) -> float | None:
        if node.input(position):
            return float(conversion.constant(node, position).reshape(()))
        return node.attributes.get(attribute)

    return bound(1, "min"), bound(2, "max")
