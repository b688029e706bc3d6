"""Looks at a model file: tensors, operators, size, what it says of itself, and whether it converts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsops import tflite_lint
from dsops.bundle import sha256_hex
from dsops.errors import InvalidInput, InvalidModel, UnsupportedModel
from dsops.manifest import Dtype, TensorSpec
from dsops.tflite_lint.flatbuffer import Reader
from dsops.tflite_lint.model import ModelReader, SubGraph
from dsops.tflite_lint.schema import Op
from dsops_controller.build.authoring.embedded import Embedded, read_onnx_facts, read_tflite_facts
from dsops_controller.build.bundles.payload import read_payload
from dsops_controller.build.conversion.convert import normalize_tflite, read_converted
from dsops_controller.build.conversion.converters import ConvertedModel, DirectConverter
from dsops_controller.build.conversion.external import find_external
from dsops_controller.build.conversion.graph import GraphInput, OnnxGraph
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.conversion.reading import parse_onnx
from dsops_controller.build.conversion.tflite_writer import DAMAGE
from dsops_controller.build.isolated import ProcessLimits, run_isolated
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.progress import Progress, silent
from dsops_controller.build.source import read_bytes

_CONVERT, _NORMALIZE = b"convert", b"normalize"
_LIMITS = ProcessLimits(time_s=300.0)
_ENDINGS = {Op.SOFTMAX: "softmax", Op.LOGISTIC: "sigmoid"}
_DATATYPES: dict[str, Dtype] = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
_TRANSPARENT = {Op.RESHAPE, Op.SQUEEZE, Op.TRANSPOSE, Op.DEQUANTIZE, Op.QUANTIZE, Op.CAST}
"""Operators that leave values what they are; an activation before them is still the output's."""


@dataclass(frozen=True)
class Tensors:
    """What the float TFLite model takes and gives.

    Attributes:
        inputs: Of a model that cannot be converted, the ONNX model's.
        outputs: None of a model that cannot be converted, for their shapes are not known.
        activations: What each output ends with: ``softmax``, ``sigmoid`` or nothing.
        transposed: Inputs that are [N, C, H, W] in the ONNX model and [N, H, W, C] here.
        is_quantized: Whether the source holds integers that stand for real values.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    activations: tuple[str, ...] = ()
    transposed: frozenset[str] = frozenset()
    is_quantized: bool = False


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        file: Its name.
        form: ``onnx`` or ``tflite``.
        operators: Number of each operator of the file.
        parameters: Number of trained values.
        embedded: What the file says of itself.
        refusal: Why it cannot be built from, empty when it can.
        unsupported: The operators that the built-in converter does not know.
        converter: What converts it: ``built-in``, ``onnx2tf`` or nothing.
    """

    file: str
    form: str
    sha256: str
    length_bytes: int
    operators: Mapping[str, int]
    parameters: int
    embedded: Embedded
    tensors: Tensors
    refusal: str = ""
    unsupported: tuple[str, ...] = ()
    converter: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for people and programs."""
        told = self.embedded
        outputs = zip(self.tensors.outputs, self.tensors.activations, strict=True)
        return {
            "file": self.file,
            "form": self.form,
            "sha256": self.sha256,
            "length_bytes": self.length_bytes,
            "parameters": self.parameters,
            "quantized": self.tensors.is_quantized,
            "inputs": [_tensor(spec) for spec in self.tensors.inputs],
            "outputs": [_tensor(spec) | {"activation": activation or "none"} for spec, activation in outputs],
            "operators": dict(self.operators),
            "says": {"name": told.name, "description": told.description, "license": told.license}
            | {"author": told.author, "labels": list(told.labels)},
            "can_be_built": not self.refusal,
            "converter": self.converter,
            "refusal": self.refusal,
            "unsupported": list(self.unsupported),
        }


def inspect_model(path: Path, *, apart: bool = True) -> Inspection:
    """Look at a model file; nothing in it is executed, and it is only read.

    Args:
        path: The file.
        apart: Convert and load it in a process of its own, which costs half a second and more, as is right for files
            that nobody vouches for.

    Raises:
        InvalidInput: It cannot be read, or its name ends in neither .onnx nor .tflite.
        InvalidModel: It is not what its name says.
    """
    if path.suffix not in (".onnx", ".tflite"):
        raise InvalidInput(f"{path.name} is not a model file", why="its name ends in neither .onnx nor .tflite")
    data = read_bytes(path, MAX_MODEL_BYTES)
    found = _inspect_onnx(path, data, apart) if path.suffix == ".onnx" else _inspect_tflite(data, apart)
    return replace(found, file=path.name, sha256=sha256_hex(data), length_bytes=len(data))


def _inspect_onnx(path: Path, data: bytes, apart: bool) -> Inspection:
    graph = _parse(data)
    found = Inspection(
        file="",
        form="onnx",
        sha256="",
        length_bytes=0,
        operators=dict(sorted(Counter(node.operator for node in graph.nodes).items())),
        parameters=sum(int(values.size) for values in graph.constants.values() if values.dtype.kind == "f"),
        embedded=read_onnx_facts(data),
        tensors=Tensors(inputs=tuple(_spec(entry) for entry in graph.inputs)),
    )
    try:
        return replace(found, tensors=_tensors(data, _CONVERT, apart), converter="built-in")
    except (UnsupportedModel, InvalidModel) as error:
        named = str(error.details.get("operators") or error.details.get("operator") or "")
        refused = replace(found, refusal=str(error), unsupported=tuple(filter(None, named.split(", "))))
    return _converted_outside(path, refused, apart) if refused.unsupported and find_external() else refused


def _parse(data: bytes) -> OnnxGraph:
    try:
        return parse_onnx(data)
    except DAMAGE as error:
        raise InvalidModel(
            "the ONNX model contradicts itself", why=f"{type(error).__name__} while reading it"
        ) from error


def _converted_outside(path: Path, refused: Inspection, apart: bool) -> Inspection:
    try:
        converted = read_converted(path)
        tensors = replace(_tensors(converted.data, _NORMALIZE, apart), transposed=converted.transposed_inputs)
    except (UnsupportedModel, InvalidModel) as error:
        return replace(refused, refusal=str(error))
    return replace(refused, tensors=tensors, refusal="", converter="onnx2tf")


def _inspect_tflite(data: bytes, apart: bool) -> Inspection:
    payload = read_payload(data)
    found = Inspection(
        file="",
        form="tflite",
        sha256="",
        length_bytes=0,
        operators=payload.operators,
        parameters=payload.parameters,
        embedded=read_tflite_facts(data),
        tensors=Tensors(),
        unsupported=payload.custom_operators,
    )
    try:
        tensors = _tensors(data, _NORMALIZE, apart)
    except InvalidModel as error:
        return replace(found, refusal=str(error))
    is_quantized = any(weight.scales for weight in payload.weights)
    return replace(found, tensors=replace(tensors, is_quantized=is_quantized))


def _tensors(data: bytes, form: bytes, apart: bool) -> Tensors:
    parts = [form, data]
    answers = run_isolated(f"{__name__}:look", parts, "looking at the model", _LIMITS) if apart else look(parts, silent)
    found = json.loads(answers[0])
    return Tensors(
        inputs=tuple(TensorSpec.model_validate(entry) for entry in found["inputs"]),
        outputs=tuple(TensorSpec.model_validate(entry) for entry in found["outputs"]),
        activations=tuple(found["activations"]),
        transposed=frozenset(found["transposed"]),
    )


def look(parts: Sequence[bytes], _progress: Progress) -> list[bytes]:
    """Return, as JSON, the tensors of a model; the work of :func:`inspect_model` in a process of its own.

    Raises:
        InvalidModel: It is not sound.
        UnsupportedModel: It cannot be converted.
    """
    form, data = parts
    converted = DirectConverter().convert(data) if form == _CONVERT else ConvertedModel(normalize_tflite(data))
    tflite_lint.lint(converted.data)
    model = LitertModel(converted.data)
    found = {
        "inputs": [spec.model_dump(mode="json") for spec in model.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in model.outputs],
        "activations": _activations(converted.data),
        "transposed": sorted(converted.transposed_inputs),
    }
    return [json.dumps(found).encode()]


def _activations(data: bytes) -> list[str]:
    limits = tflite_lint.LintLimits()
    reader = Reader(data, limits.work)
    graph = ModelReader(reader, limits).read(reader.root()).subgraphs[0]
    return [_activation(graph, output) for output in graph.outputs]


def _activation(graph: SubGraph, tensor: int) -> str:
    """Return which activation a tensor ends with. Operators that only move or store values are passed over."""
    for operator in reversed(graph.operators):
        if tensor in operator.outputs:
            kind = operator.kind.op
            if kind not in _TRANSPARENT:
                return _ENDINGS.get(kind, "") if kind is not None else ""
            tensor = operator.inputs[0]
    return ""


def _spec(entry: GraphInput) -> TensorSpec:
    return TensorSpec(name=entry.name[:256] or "?", datatype=_DATATYPES[entry.dtype.name], shape=entry.shape)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
