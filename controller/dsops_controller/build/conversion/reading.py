"""Reads an ONNX file into an :class:`OnnxGraph`, checked on the way.

Only protobuf's parser and NumPy see the file: ONNX's own checker and shape inference are native code that was not made
for hostile input. What they would find is found here, against the operators' specifications that the onnx package
carries: numbers of inputs and outputs, names and kinds of attributes, each tensor computed once and before it is read.
"""

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from dsops.errors import InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.graph import Array, GraphInput, Node, OnnxGraph
from dsops_controller.build.conversion.limits import check_limits

_AttrType = onnx.defs.OpSchema.AttrType

OLDEST_OPSET = 7
MAX_ELEMENTS = 1 << 27
"""Elements of one tensor; 512 MiB of float32."""
AttributeValue: TypeAlias = Any
"""A number, bytes, a list of them, or an array."""
_DOMAINS = ("", "ai.onnx")
_MAX_RANK = 8
_INPUT_TYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
}
_NUMBERS = {
    *_INPUT_TYPES,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
}


def parse_onnx(data: bytes) -> OnnxGraph:
    """Parse and check an ONNX file's bytes. Nothing in them is executed and no other file is opened.

    Raises:
        InvalidModel: They are not a sound ONNX model, hold NaN or infinity, or keep weights in other files.
        UnsupportedModel: The form of the model or of an input is not supported.
    """
    check_limits(data)
    model = _decode(data)
    _refuse_other_forms(model)
    opset = _opset(model)
    graph = model.graph
    nodes = [_node(proto, number, opset) for number, proto in enumerate(graph.node)]
    constants = {entry.name: _tensor(entry) for entry in graph.initializer}
    inputs = [_input(info) for info in graph.input if info.name not in constants]
    outputs = [info.name for info in graph.output]
    _check_names(nodes, constants, inputs, outputs)
    return OnnxGraph(nodes, constants, inputs, outputs)


def _decode(data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InvalidModel("the file is not an ONNX model", why=str(error).strip().split("\n", 1)[0]) from error
    if not model.graph.node:
        raise InvalidModel("the file is not an ONNX model", why="it holds no graph")
    return model


def _refuse_other_forms(model: onnx.ModelProto) -> None:
    if model.functions:
        raise UnsupportedModel(
            f"the model defines functions of its own, such as {model.functions[0].name!r}",
            why="only operators of the ONNX standard are converted",
            hint="write them into the graph first: onnx.inliner.inline_local_functions(model)",
        )
    if model.graph.sparse_initializer:
        raise UnsupportedModel("the model has sparse weights", why="only dense ones are converted")


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        raise UnsupportedModel(
            f"the model asks for operator set {', '.join(map(str, versions)) or 'none'}",
            why=f"one of {OLDEST_OPSET} to {newest} is needed",
            hint="convert it with onnx.version_converter, or export it again",
        )
    return int(versions[0])


def _node(proto: onnx.NodeProto, number: int, opset: int) -> Node:
    if proto.domain not in _DOMAINS:
        return Node(
            proto.name or f"#{number}",
            f"{proto.domain}::{proto.op_type}",
            tuple(proto.input),
            tuple(proto.output),
            {},
            opset,
        )
    given = {entry.name: _attribute(entry) for entry in proto.attribute}
    node = Node(proto.name or f"#{number}", proto.op_type, tuple(proto.input), tuple(proto.output), given, opset)
    return _with_defaults(node, proto)


def _with_defaults(node: Node, proto: onnx.NodeProto) -> Node:
    """Check a node against its operator's specification and add the defaults of absent attributes.

    Raises:
        InvalidModel: It has too few or too many inputs or outputs, or attributes of another name or kind.
    """
    try:
        schema = onnx.defs.get_schema(node.operator, node.opset, "")
    except onnx.defs.SchemaError:
        return node  # refused with all others that are not known
    for what, given, least, most in (
        ("inputs", node.inputs, schema.min_input, schema.max_input),
        ("outputs", node.outputs, schema.min_output, schema.max_output),
    ):
        if not least <= len(given) <= most:
            raise _unsound(node, f"it has {len(given)} {what}")
    for entry in proto.attribute:
        known = schema.attributes.get(entry.name)
        if known is None or known.type != getattr(_AttrType, AttributeProto.AttributeType.Name(entry.type), None):
            raise _unsound(node, f"its attribute {entry.name!r} is not one of the operator, or of another kind")
    absent = {name: entry for name, entry in schema.attributes.items() if name not in node.attributes}
    missing = [name for name, entry in absent.items() if entry.required]
    if missing:
        raise _unsound(node, f"its attribute {missing[0]!r} is missing")
    defaults = {name: _attribute(entry.default_value) for name, entry in absent.items() if entry.default_value.name}
    return Node(node.name, node.operator, node.inputs, node.outputs, defaults | dict(node.attributes), node.opset)


def _unsound(node: Node, why: str) -> InvalidModel:
    return InvalidModel(
        "the ONNX model is not sound",
        why=f"{node.operator} (node {node.name!r}): {why}",
        operator=node.operator,
        node=node.name,
    )


def _attribute(entry: AttributeProto) -> AttributeValue:
    """Return an attribute's value: a number, bytes, a list of them, or an array. Graphs are left out."""
    if entry.type == AttributeProto.TENSOR:
        return _tensor(entry.t)
    if entry.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None  # belongs to control flow, which is refused by its operator
    return onnx.helper.get_attribute_value(entry)


def _tensor(proto: TensorProto) -> Array:
    """Return a dense tensor of numbers; of large ones a view of the bytes that were read.

    Raises:
        InvalidModel: It is in another file, too large, holds NaN or infinity, or its data contradicts its shape.
        UnsupportedModel: It does not hold numbers.
    """
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise InvalidModel(
            f"the ONNX model keeps {proto.name!r} in another file",
            why="a model is built from one file, whose digest the bundle records",
            hint="save the model with its weights inside: onnx.save(model, path, save_as_external_data=False)",
        )
    if proto.data_type not in _NUMBERS:
        raise UnsupportedModel(f"the constant {proto.name!r} holds {_type_name(proto.data_type)}, not numbers")
    if len(proto.dims) > _MAX_RANK or any(size < 0 for size in proto.dims) or math.prod(proto.dims) > MAX_ELEMENTS:
        raise InvalidModel(f"the constant {proto.name!r} has shape {list(proto.dims)[:_MAX_RANK]}")
    try:
        values: Array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise InvalidModel(f"the constant {proto.name!r} contradicts its shape {list(proto.dims)}") from error
    if values.ndim and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InvalidModel(f"the constant {proto.name!r} holds NaN or infinity")
    return values


def _type_name(data_type: int) -> str:
    found = next((name for name, number in TensorProto.DataType.items() if number == data_type), None)
    return str(found or f"type {data_type}")


def _input(info: onnx.ValueInfoProto) -> GraphInput:
    """Read an input; a free batch axis becomes 1.

    Raises:
        UnsupportedModel: It is no tensor of a supported type, or its axes are not fixed, or its batch is not 1.
    """
    kind = info.type.tensor_type
    dtype = _INPUT_TYPES.get(kind.elem_type)
    if dtype is None:
        raise UnsupportedModel(
            f"the input {info.name!r} holds {_type_name(kind.elem_type)}", why="float32, int32, int64 or bool is needed"
        )
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shape = tuple(size or 0 for size in [sizes[0] or 1, *sizes[1:]]) if sizes else ()
    if shape[:1] != (1,) or min(shape) <= 0 or len(shape) > _MAX_RANK or math.prod(shape) > MAX_ELEMENTS:
        raise UnsupportedModel(
            f"the input {info.name!r} has shape {['?' if size is None else size for size in sizes]}",
            why="every axis but the batch must be fixed, and the batch must be 1 or free",
            hint="export the model with fixed sizes and a batch of 1",
        )
    return GraphInput(info.name, shape, dtype)


def _check_names(
    nodes: Iterable[Node], constants: Iterable[str], inputs: Iterable[GraphInput], outputs: list[str]
) -> None:
    """Check that each tensor is computed once, and before it is read; so the graph has no cycle.

    Raises:
        InvalidModel: A name is used twice or before it is computed, or there are no outputs.
    """
    known: set[str] = set(constants)
    for entry in inputs:
        _add_name(known, entry.name)
    for node in nodes:
        for name in node.inputs:
            if name and name not in known:
                raise _unsound(node, f"its input {name!r} is computed nowhere before it")
        for name in filter(None, node.outputs):
            _add_name(known, name)
    missing = [name for name in outputs if name not in known]
    if not outputs or missing or len(set(outputs)) != len(outputs):
        raise InvalidModel(
            "the ONNX model is not sound",
            why=f"its output {missing[0]!r} is computed nowhere" if missing else "its outputs are none or named twice",
        )


def _add_name(known: set[str], name: str) -> None:
    if name in known:
        raise InvalidModel("the ONNX model is not sound", why=f"the tensor {name!r} is there twice")
    known.add(name)
