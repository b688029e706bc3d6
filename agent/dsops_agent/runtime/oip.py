"""The Open Inference Protocol, version 2: its messages to arrays and back. Pure.

Input and output tensors travel raw (``raw_input_contents``: little-endian, row by row; BYTES as length and bytes) or
typed (``contents``); an answer uses the form of its request.
"""

import math
import struct
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from dsops.api.v1 import inference_pb2 as pb
from dsops.errors import InvalidInput, NotFound
from dsops.manifest import TensorSpec
from dsops_agent.runtime.answer import Answer, Output
from dsops_agent.runtime.engine import DTYPES, ServedModel, datatypes_of, wrong_names
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
    specs = {spec.name: spec for spec in served.manifest.inputs}
    names = [tensor.name for tensor in request.inputs]
    if len(names) != len(specs) or set(names) != specs.keys():
        raise wrong_names(served.manifest, names)
    raw = request.raw_input_contents
    if raw and len(raw) != len(names):
        raise InvalidInput(f"a request with {len(names)} inputs has as many raw contents", why=f"got {len(raw)}")
    found = {}
    for position, tensor in enumerate(request.inputs):
        _check_tensor(tensor, specs[tensor.name], served.max_frames)
        found[tensor.name] = _raw_array(tensor, raw[position]) if raw else _typed_values(tensor)
    return found


def _check_tensor(tensor: _InputTensor, spec: TensorSpec, max_frames: int) -> None:
    datatypes = datatypes_of(spec)
    if tensor.datatype not in datatypes:
        wanted = " or ".join(datatypes)
        raise InvalidInput(f"input {spec.name!r} has datatype {wanted}", why=f"got {tensor.datatype[:16]!r}")
    shape = tuple(tensor.shape)
    if shape[1:] != spec.shape[1:] or not shape or not 1 <= shape[0] <= max_frames:
        wanted = ", ".join(["n", *map(str, spec.shape[1:])])
        raise InvalidInput(
            f"input {spec.name!r} has shape [{wanted}], n from 1 to {max_frames}", why=f"got {list(shape)[:8]}"
        )


def _raw_array(tensor: _InputTensor, raw: bytes) -> Array:
    dtype = DTYPES[tensor.datatype]
    size_bytes = math.prod(tensor.shape) * dtype.itemsize
    if len(raw) != size_bytes:
        shape = list(tensor.shape)
        raise InvalidInput(f"input {tensor.name!r} of shape {shape} has {size_bytes} bytes", why=f"got {len(raw)}")
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 is no truth value
        return np.frombuffer(raw, np.uint8).reshape(tensor.shape).astype(np.bool_)
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tensor.shape)


def _typed_values(tensor: _InputTensor) -> Array:
    if tensor.datatype not in _TYPED:
        raise InvalidInput(f"{tensor.datatype} values travel in raw_input_contents")
    count = math.prod(tensor.shape)
    values = getattr(tensor.contents, _TYPED[tensor.datatype])
    if len(values) != count:
        shape = list(tensor.shape)
        raise InvalidInput(f"input {tensor.name!r} of shape {shape} has {count} values", why=f"got {len(values)}")
    return _typed_array(tensor.name, values, DTYPES[tensor.datatype]).reshape(tensor.shape)


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


def check_version(served: ServedModel, version: str) -> None:
    """Check that a request which names a version names the one that is active.

    Raises:
        NotFound: It names another.
    """
    if version and version != str(served.release):
        raise NotFound(f"release {version[:32]} of model {served.name} is not active", why=f"{served.release} is")


def describe(served: ServedModel) -> pb.ModelMetadataResponse:
    """Return a model's metadata; -1 is the batch axis."""
    response = pb.ModelMetadataResponse(name=served.name, versions=[str(served.release)], platform=PLATFORM)
    for spec in served.manifest.inputs:
        response.inputs.add(name=spec.name, datatype=datatypes_of(spec)[0], shape=[-1, *spec.shape[1:]])
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
