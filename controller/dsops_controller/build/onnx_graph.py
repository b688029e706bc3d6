"""Reads an ONNX model into a checked, plain form: nodes with decoded attributes, constants, shapes, consumers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

from dsops.errors import InvalidModel, UnsupportedModel

Array = NDArray[Any]
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One operation. ``inputs`` may hold empty names, as ONNX writes absent optional inputs."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def output(self) -> str:
        """The first output's name."""
        return self.outputs[0]

    def input(self, position: int) -> str:
        """Return an input's name, empty when it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def refuse(self, why: str) -> UnsupportedModel:
        """Return the error that names this node and what cannot be converted about it."""
        return UnsupportedModel(
            f"cannot convert {self.operator} (node {self.name!r})", why=why, operator=self.operator, node=self.name
        )


class OnnxGraph:
    """One graph with one float input of batch 1 and one output.

    Attributes:
        nodes: Operations in the order in which they run; constants are not among them.
        constants: Values known when the model is converted, by name.
        shapes: Every other tensor's shape, by name, as far as it could be inferred.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        every = [_node(proto, number) for number, proto in enumerate(graph.node)]
        self.constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        self.constants |= {node.output: _constant_value(node) for node in every if node.operator == "Constant"}
        self.nodes = [node for node in every if node.operator != "Constant"]
        self.shapes = {info.name: _dimensions(info) for info in (*graph.input, *graph.value_info, *graph.output)}
        self.input_name = _only_input(graph, self.constants)
        self.output_name = _only_output(graph)
        self._consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                self._consumers.setdefault(name, []).append(node)

    def only_consumer(self, name: str) -> Node | None:
        """Return the one node that reads a tensor, or nothing when several do or when it is the model's output."""
        readers = self._consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name != self.output_name else None

    def shape(self, node: Node, name: str) -> tuple[int, ...]:
        """Return a tensor's static shape.

        Raises:
            UnsupportedModel: It is not known before the model runs.
        """
        found = self.shapes.get(name)
        if found is None or any(size <= 0 for size in found):
            raise node.refuse(f"the shape of {name!r} is not known before the model runs")
        return found


def parse_onnx(data: bytes) -> OnnxGraph:
    """Parse and check an ONNX file's bytes. Nothing in them is executed and no other file is opened.

    Raises:
        InvalidModel: They are not a sound ONNX model, or keep weights in other files.
        UnsupportedModel: The model has several inputs or outputs, or a fixed batch that is not 1.
    """
    model = _decode(data)
    _refuse_external_data(model.graph)
    _refuse_foreign_operators(model.graph)
    try:
        onnx.checker.check_model(model)
        _set_batch_one(model.graph)
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise InvalidModel("the ONNX model is not sound", why=_first_line(error)) from error
    return OnnxGraph(inferred)


def _decode(data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InvalidModel("the file is not an ONNX model", why=_first_line(error)) from error
    if not model.graph.node:
        raise InvalidModel("the file is not an ONNX model", why="it holds no graph")
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _refuse_external_data(graph: onnx.GraphProto) -> None:
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise InvalidModel(
                f"the ONNX model keeps {tensor.name!r} in another file",
                why="a model is built from one file, whose digest the bundle records",
                hint="save the model with its weights inside: onnx.save(model, path, save_as_external_data=False)",
            )


def _refuse_foreign_operators(graph: onnx.GraphProto) -> None:
    for number, proto in enumerate(graph.node):
        if proto.domain not in _DEFAULT_DOMAINS:
            node = _node(proto, number)
            raise node.refuse(f"it belongs to the operator set {proto.domain!r}")


def _set_batch_one(graph: onnx.GraphProto) -> None:
    """Fix a free batch axis to 1 and forget the shapes that were inferred with it."""
    constants = {entry.name for entry in graph.initializer}
    for info in graph.input:
        if info.name not in constants and info.type.tensor_type.shape.dim:
            batch = info.type.tensor_type.shape.dim[0]
            if not batch.HasField("dim_value"):
                batch.dim_value = 1
    del graph.value_info[:]
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")


def _only_input(graph: onnx.GraphProto, constants: dict[str, Array]) -> str:
    inputs = [info for info in graph.input if info.name not in constants]
    if len(inputs) != 1:
        raise UnsupportedModel(f"the model has {len(inputs)} inputs", why="one is supported")
    info = inputs[0]
    if info.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UnsupportedModel(f"the input {info.name!r} is not float32")
    shape = _dimensions(info)
    if len(shape) < 2 or shape[0] != 1 or any(size <= 0 for size in shape):
        raise UnsupportedModel(
            f"the input {info.name!r} has shape {list(shape)}",
            why="every axis but the batch must be fixed, and the batch must be 1 or free",
            hint="export the model with a batch of 1",
        )
    return info.name


def _only_output(graph: onnx.GraphProto) -> str:
    if len(graph.output) != 1:
        raise UnsupportedModel(f"the model has {len(graph.output)} outputs", why="one is supported")
    return graph.output[0].name


def _dimensions(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)


def _node(proto: onnx.NodeProto, number: int) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    name = proto.name or f"#{number}"
    return Node(name, proto.op_type, tuple(proto.input), tuple(proto.output), attributes)


def _constant_value(node: Node) -> Array:
    for name, value in node.attributes.items():
        if name == "value":
            return numpy_helper.to_array(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise node.refuse("a constant that is not a dense number")
