"""The Open Inference Protocol, version 2: its messages to arrays and back. Pure.

Input and output tensors travel raw (``raw_input_contents``: little-endian, row by row; BYTES as length and bytes) or
typed (``contents``); an answer uses the form of its request.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from dsops.api.v1 import inference_pb2 as pb
from dsops.errors import InvalidInput, NotFound
from dsops_agent.runtime.engine import DTYPES, MAX_FRAMES, Answer, ServedModel
from dsops_agent.runtime.litert import Array

SCORES = "scores"
LABEL = "label"
PLATFORM = "tflite"
_InputTensor: TypeAlias = pb.ModelInferRequest.InferInputTensor
_TYPED = {
    "FP32": "fp32_contents",
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
}


def decode_frames(request: pb.ModelInferRequest, served: ServedModel) -> Array:
    """Return the frames of a request, [n, ...], in the type that was sent.

    Raises:
        InvalidInput: The input has another name, type, shape or length than the model's; the text says which it has.
    """
    spec = served.input_spec
    if len(request.inputs) != 1 or request.inputs[0].name != spec.name:
        names = ", ".join(repr(tensor.name) for tensor in request.inputs) or "none"
        raise InvalidInput(f"model {served.name} has one input, {spec.name!r}", why=f"got {names}")
    tensor = request.inputs[0]
    if tensor.datatype not in ("FP32", spec.datatype):
        wanted = " or ".join(sorted({"FP32", spec.datatype}))
        raise InvalidInput(f"input {spec.name!r} has datatype {wanted}", why=f"got {tensor.datatype[:16]!r}")
    shape = tuple(tensor.shape)
    if shape[1:] != spec.shape[1:] or not shape or not 1 <= shape[0] <= MAX_FRAMES:
        wanted = ", ".join(["n", *map(str, spec.shape[1:])])
        raise InvalidInput(
            f"input {spec.name!r} has shape [{wanted}], n from 1 to {MAX_FRAMES}", why=f"got {list(shape)[:8]}"
        )
    return _values(request, tensor, shape)


def _values(
    request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, shape: Sequence[int]
) -> Array:
    dtype = DTYPES[tensor.datatype]
    count = math.prod(shape)
    size_bytes = count * dtype.itemsize
    if request.raw_input_contents:
        raw = request.raw_input_contents[0]
        if len(request.raw_input_contents) != 1 or len(raw) != size_bytes:
            raise InvalidInput(
                f"input {tensor.name!r} of shape {list(shape)} has {size_bytes} bytes",
                why=f"got {len(raw)}",
            )
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    if tensor.datatype not in _TYPED:
        raise InvalidInput(f"{tensor.datatype} values travel in raw_input_contents")
    values = getattr(tensor.contents, _TYPED[tensor.datatype])
    if len(values) != count:
        raise InvalidInput(f"input {tensor.name!r} of shape {list(shape)} has {count} values", why=f"got {len(values)}")
    return _typed_array(tensor.name, values, dtype).reshape(shape)


def _typed_array(name: str, values: Iterable[Any], dtype: np.dtype[Any]) -> Array:
    if dtype.kind not in "iu":
        return np.array(values, dtype)
    wide = np.array(values, np.int64)
    limits = np.iinfo(dtype)
    if wide.min() < limits.min or wide.max() > limits.max:
        raise InvalidInput(f"input {name!r} holds a value outside {limits.min} to {limits.max}")
    return wide.astype(dtype)


def encode_answer(request: pb.ModelInferRequest, served: ServedModel, answer: Answer) -> pb.ModelInferResponse:
    """Return the response to a request: the outputs that it asked for, or all.

    Raises:
        InvalidInput: It asks for an output that there is not.
    """
    response = pb.ModelInferResponse(model_name=served.name, model_version=str(served.release), id=request.id)
    response.parameters["digest"].string_param = served.digest
    response.parameters["release"].int64_param = served.release
    raw = bool(request.raw_input_contents)
    for name in wanted_outputs(request, served):
        if name == SCORES:
            _add_scores(response, answer, raw=raw)
        else:
            _add_labels(response, [served.label_of(int(index)).encode() for index in answer.labels], raw=raw)
    return response


def wanted_outputs(request: pb.ModelInferRequest, served: ServedModel) -> list[str]:
    """Return the names of the outputs that a request wants.

    Raises:
        InvalidInput: There is no such output.
    """
    there = [SCORES, LABEL] if served.manifest.labels else [SCORES]
    wanted = [output.name for output in request.outputs] or there
    for name in wanted:
        if name not in there:
            raise InvalidInput(f"model {served.name} has the outputs {', '.join(there)}", why=f"got {name[:64]!r}")
    return wanted


def check_version(served: ServedModel, version: str) -> None:
    """Check that a request which names a version names the one that is active.

    Raises:
        NotFound: It names another.
    """
    if version and version != str(served.release):
        raise NotFound(f"release {version[:32]} of model {served.name} is not active", why=f"{served.release} is")


def describe(served: ServedModel) -> pb.ModelMetadataResponse:
    """Return a model's metadata; -1 is the batch axis."""
    spec = served.input_spec
    response = pb.ModelMetadataResponse(name=served.name, versions=[str(served.release)], platform=PLATFORM)
    response.inputs.add(name=spec.name, datatype="FP32", shape=[-1, *spec.shape[1:]])
    classes = math.prod(served.manifest.outputs[0].shape[1:])
    response.outputs.add(name=SCORES, datatype="FP32", shape=[-1, classes])
    if served.manifest.labels:
        response.outputs.add(name=LABEL, datatype="BYTES", shape=[-1])
    return response


def _add_scores(response: pb.ModelInferResponse, answer: Answer, *, raw: bool) -> None:
    output = response.outputs.add(name=SCORES, datatype="FP32", shape=answer.scores.shape)
    if raw:
        response.raw_output_contents.append(answer.scores.astype("<f4", copy=False).tobytes())
    else:
        output.contents.fp32_contents.extend(answer.scores.ravel().tolist())


def _add_labels(response: pb.ModelInferResponse, labels: list[bytes], *, raw: bool) -> None:
    output = response.outputs.add(name=LABEL, datatype="BYTES", shape=[len(labels)])
    if raw:
        response.raw_output_contents.append(b"".join(struct.pack("<I", len(label)) + label for label in labels))
    else:
        output.contents.bytes_contents.extend(labels)
