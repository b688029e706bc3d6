"""Converters from ONNX to TFLite: the port, and the adapter that is built in.

The built-in one needs no other program: the graph is read, checked, folded and written again, and not executed.
An image input is [1, C, H, W] in ONNX and [1, H, W, C] in the result, and so are the images between and at the end, as
TFLite's kernels want it (see :mod:`dsops_controller.build.conversion.writing`). Inputs and outputs with another number
of axes stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dsops.errors import InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.folding import FOLDERS, Folding, shape_of
from dsops_controller.build.conversion.graph import Array, Node, OnnxGraph
from dsops_controller.build.conversion.operators.table import HANDLERS
from dsops_controller.build.conversion.patterns import recognize
from dsops_controller.build.conversion.reading import parse_onnx
from dsops_controller.build.conversion.tflite_writer import DAMAGE
from dsops_controller.build.conversion.writing import TO_LAST, Conversion

_KNOWN = {*HANDLERS, *FOLDERS, "Shape", "Size"}
_LISTED = 8


@dataclass(frozen=True)
class ConvertedModel:
    """A TFLite model and how it differs from the ONNX model that it comes from.

    Names in the model's signature are those of the ONNX model.

    Attributes:
        data: The TFLite file, float32, batch 1.
        transposed_inputs: Inputs that are [N, H, W, C] here and [N, C, H, W] in ONNX.
        transposed_outputs: Outputs likewise.
    """

    data: bytes
    transposed_inputs: frozenset[str] = frozenset()
    transposed_outputs: frozenset[str] = frozenset()

    def as_input(self, name: str, values: Array) -> Array:
        """Return an ONNX input [N, C, H, W] or another as the TFLite model takes it."""
        return values.transpose(TO_LAST[4]) if name in self.transposed_inputs else values

    def as_output(self, name: str, values: Array) -> Array:
        """Return an ONNX output [N, C, H, W] or another as the TFLite model gives it."""
        return values.transpose(TO_LAST[4]) if name in self.transposed_outputs else values


class Converter(Protocol):
    """Turns ONNX into TFLite."""

    def convert(self, data: bytes) -> ConvertedModel:
        """Convert an ONNX file's bytes.

        Raises:
            InvalidModel: They are not a sound, self-contained ONNX model.
            UnsupportedModel: The model cannot be converted.
        """


class DirectConverter:
    """The built-in converter."""

    def convert(self, data: bytes) -> ConvertedModel:
        """Convert an ONNX file's bytes.

        Raises:
            InvalidModel: They are not a sound, self-contained ONNX model.
            UnsupportedModel: An operator, named with its node, or the model's form cannot be converted.
        """
        try:
            with np.errstate(all="ignore"):  # what overflows is refused when it is written
                return _write(parse_onnx(data))
        except DAMAGE as error:
            raise InvalidModel(
                "the ONNX model contradicts itself", why=f"{type(error).__name__} while reading it"
            ) from error


def _write(graph: OnnxGraph) -> ConvertedModel:
    folding = Folding()
    graph = _fold_constants(graph, folding)
    graph = recognize(graph)
    _refuse_unknown(graph.nodes)
    conversion = Conversion(graph)
    for node in graph.nodes:
        if not conversion.is_done(node):
            _write_node(conversion, node, folding)
    data, inputs, outputs = conversion.finish()
    return ConvertedModel(data, inputs, outputs)


def _fold_constants(graph: OnnxGraph, folding: Folding) -> OnnxGraph:
    """Return the graph without the nodes whose inputs are constants."""
    constants, left = dict(graph.constants), []
    for node in graph.nodes:
        folded = folding.fold(node, constants)
        constants |= folded
        if not folded:
            left.append(node)
    return OnnxGraph(left, constants, graph.inputs, graph.outputs)


def _write_node(conversion: Conversion, node: Node, folding: Folding) -> None:
    """Write a node, or compute it when all that it depends on is a constant or the shape of a tensor."""
    folded = folding.fold(node, conversion.constants)
    if not folded and node.operator in ("Shape", "Size"):
        shape = shape_of(node, conversion.value(node, node.input(0)).onnx_shape)
        folded = {} if shape is None else {node.output: shape}
    if folded:
        conversion.constants.update(folded)
    elif node.operator not in HANDLERS:
        raise node.refuse("it depends on the model's input; its inputs have to be constants")
    else:
        try:
            HANDLERS[node.operator](conversion, node)
        except DAMAGE as error:
            raise node.refuse(f"its inputs or attributes do not fit ({type(error).__name__})") from error


def _refuse_unknown(nodes: Sequence[Node]) -> None:
    """Check that every operator is known, before anything is written.

    Raises:
        UnsupportedModel: Names the first node, all its like, and how many more operators there are.
    """
    strange = [node for node in nodes if node.operator not in _KNOWN]
    if not strange:
        return
    operators = list(dict.fromkeys(node.operator for node in strange))
    listed = ", ".join(operators[:_LISTED]) + (f" and {len(operators) - _LISTED} more" if operators[_LISTED:] else "")
    first = strange[0]
    raise UnsupportedModel(
        f"cannot convert {first.operator} (node {first.name!r})",
        why=f"no conversion is known for {len(strange)} of {len(nodes)} nodes: {listed}",
        operator=first.operator,
        node=first.name,
        operators=", ".join(operators),
    )
