"""The Open Inference Protocol, version 2: its messages to arrays and back. Pure.

Input and output tensors travel raw (``raw_input_contents``: little-endian, row by row; BYTES as length and bytes) or
typed (``contents``); an answer uses the form of its request.
"""

import math
import struct
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.errors import InvalidInput
from dsops_agent.runtime.answer import Answer, Output
from dsops_agent.runtime.engine import DTYPES, InputForm, ServedModel, wrong_names
from dsops_agent.runtime.litert import Array

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
    "BYTES": "bytes_contents",
}


def decode_inputs(request: pb.ModelInferRequest, served: ServedModel) -> dict[str, Array]:
    """Return the inputs of a request by name, each [n, ...], in the type that was sent.

    Raises:
        InvalidInput: An input is missing, unknown or named twice, or has another type, shape or length than the
            model's; the text says which it has.
    """
    forms, raw = served.forms, request.raw_input_contents
    if len(request.inputs) != len(forms):
        raise wrong_names(served.manifest, [tensor.name for tensor in request.inputs])
    if raw and len(raw) != len(forms):
        raise InvalidInput(f"a request with {len(forms)} inputs has as many raw contents", why=f"got {len(raw)}")
    found: dict[str, Array] = {}
    for position, tensor in enumerate(request.inputs):
        form = forms.get(tensor.name)
        if form is None or tensor.name in found:
            raise wrong_names(served.manifest, [one.name for one in request.inputs])
        shape = _checked_shape(tensor, form, served.max_frames)
        found[form.name] = _raw_array(tensor, shape, raw[position]) if raw else _typed_values(tensor, shape)
    return found


def key_of(request: pb.ModelInferRequest) -> str:
    """Return the parameter ``key`` of a request: who or what asks; empty when it has none."""
    if "key" not in request.parameters:  # a look would make one
        return ""
    key = request.parameters["key"]
    return key.string_param or (str(key.int64_param) if key.WhichOneof("parameter_choice") == "int64_param" else "")


def _checked_shape(tensor: _InputTensor, form: InputForm, max_frames: int) -> tuple[int, ...]:
    if tensor.datatype not in form.datatypes:
        wanted = " or ".join(form.datatypes)
        raise InvalidInput(f"input {form.name!r} has datatype {wanted}", why=f"got {tensor.datatype[:16]!r}")
    shape = tuple(tensor.shape)
    if shape[1:] != form.shape or not shape or not 1 <= shape[0] <= max_frames:
        raise InvalidInput(
            f"input {form.name!r} has shape {form}, n from 1 to {max_frames}", why=f"got {list(shape)[:8]}"
        )
    return shape


def _raw_array(tensor: _InputTensor, shape: tuple[int, ...], raw: bytes) -> Array:
    dtype = DTYPES[tensor.datatype]
    size_bytes = math.prod(shape) * dtype.itemsize
    if len(raw) != size_bytes:
        raise InvalidInput(
            f"input {tensor.name!r} of shape {list(shape)} has {size_bytes} bytes", why=f"got {len(raw)}"
        )
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 is no truth value
        return np.frombuffer(raw, np.uint8).reshape(shape).astype(np.bool_)
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _typed_values(tensor: _InputTensor, shape: tuple[int, ...]) -> Array:
    if tensor.datatype not in _TYPED:
        raise InvalidInput(f"{tensor.datatype} values travel in raw_input_contents")
    count = math.prod(shape)
    values = getattr(tensor.contents, _TYPED[tensor.datatype])
    if len(values) != count:
        raise InvalidInput(f"input {tensor.name!r} of shape {list(shape)} has {count} values", why=f"got {len(values)}")
    return _typed_array(tensor.name, values, DTYPES[tensor.datatype]).reshape(shape)


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
    response.parameters["latency_us"].int64_param = round(sum(answer.latency_us))
    raw = bool(request.raw_input_contents)
    for output in wanted_outputs(request, served):
        _add(response, output, answer, raw=raw)
    return response


def wanted_outputs(request: pb.ModelInferRequest, served: ServedModel) -> list[Output]:
    """Return the outputs that a request wants.

    Raises:
        InvalidInput: There is no such output.
    """
    offered = served.offered
    if not request.outputs:
        return [output for output in offered.values() if output.by_default]
    for wanted in request.outputs:
        if wanted.name not in offered:
            raise InvalidInput(
                f"model {served.name} has the outputs {', '.join(offered)}", why=f"got {wanted.name[:64]!r}"
            )
    return [offered[wanted.name] for wanted in request.outputs]


def describe(served: ServedModel) -> pb.ModelMetadataResponse:
    """Return a model's metadata; -1 is the batch axis."""
    response = pb.ModelMetadataResponse(name=served.name, versions=[str(served.release)], platform=PLATFORM)
    for form in served.forms.values():
        response.inputs.add(name=form.name, datatype=form.datatypes[0], shape=[-1, *form.shape])
    for output in served.offered.values():
        response.outputs.add(name=output.name, datatype=output.datatype, shape=[-1, *output.shape])
    return response


def _add(response: pb.ModelInferResponse, output: Output, answer: Answer, *, raw: bool) -> None:
    values = output.take(answer)
    shape = [len(values), *output.shape]
    tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    if raw:
        response.raw_output_contents.append(_packed(values, output.datatype))
    else:
        plain = values if isinstance(values, list) else values.ravel().tolist()
        getattr(tensor.contents, _TYPED[output.datatype]).extend(plain)


def _packed(values: Array | list[bytes], datatype: str) -> bytes:
    if isinstance(values, list):
        return b"".join(struct.pack("<I", len(text)) + text for text in values)
    return values.astype(DTYPES[datatype].newbyteorder("<"), copy=False).tobytes()
