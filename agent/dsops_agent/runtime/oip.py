"""The Open Inference Protocol, version 2, as gRPC messages: requests to tensors, answers to responses.

Input tensors travel raw (``raw_input_contents``), typed (``contents``) or in shared memory, as clients of Triton use
it; outputs go into shared memory where a request wants them there. Otherwise an answer is typed when its request is,
and raw when not.
"""

import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.errors import InvalidInput
from dsops_agent.runtime.answer import Answer, Output
from dsops_agent.runtime.engine import ServedModel, wrong_names
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.shared_memory import Span
from dsops_agent.runtime.tensors import (
    NOTHING_SHARED,
    Asked,
    Given,
    Memory,
    item_bytes,
    packed,
    planned,
    read_inputs,
    sent_inputs,
    values_of,
    wanted_outputs,
    weighed,
)

PLATFORM = "tflite"
EXTENSIONS = ("model_repository(index)", "system_shared_memory", "binary_tensor_data", "schedule_policy(timeout)")
"""What is answered beside the protocol; the names are Triton's where it has one."""
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
FORM = "form"
"""Parameter of a request or of one input: ``real``, ``stored`` or ``raw``, where type and shape do not tell."""
KEY = "key"
"""Parameter of a request: who or what asks."""
LATENCY = "latency_us"
"""Parameter of an answer: microseconds in the interpreter, all frames together."""
_ALIKE_BYTES = 2048
"""A longer request is not kept to be compared with the next."""
_InputTensor: TypeAlias = pb.ModelInferRequest.InferInputTensor
_OutputTensor: TypeAlias = pb.ModelInferRequest.InferRequestedOutputTensor
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


def decode_inputs(
    request: pb.ModelInferRequest, served: ServedModel, memory: Memory = NOTHING_SHARED
) -> dict[str, Sent]:
    """Return the inputs of a request by name, as they were sent.

    Who uses shared memory asks in the same words again and again: what was found out about them is kept with the model.

    Raises:
        InvalidInput: See :func:`dsops_agent.runtime.tensors.sent_inputs`.
        NotFound: An input is in shared memory that is not registered.
    """
    if not _is_wordy(request):
        return sent_inputs(_given_inputs(request, served), served, memory)
    plans, asked = served.plans, request.SerializeToString()
    plan = plans.get(asked)
    if plan is None:
        plan = planned(_given_inputs(request, served), served)
        if len(asked) <= _ALIKE_BYTES:
            plans.keep(asked, plan)
    return read_inputs(plan, memory)


def _is_wordy(request: pb.ModelInferRequest) -> bool:
    """Return whether a request may come again word for word: it has no id, and every value is in shared memory."""
    if request.raw_input_contents or request.id:
        return False
    return all(REGION in tensor.parameters and not tensor.HasField("contents") for tensor in request.inputs)


def _given_inputs(request: pb.ModelInferRequest, served: ServedModel) -> list[Given]:
    if len(request.inputs) != len(served.forms):
        raise wrong_names(served.manifest, [tensor.name for tensor in request.inputs])
    raw = list(request.raw_input_contents)
    given = []
    outside = 0
    for tensor in request.inputs:
        span, said = _span(tensor), _said(request, tensor)
        if span is None and raw:
            if outside == len(raw):
                raise _raw_count(request, len(raw))
            given.append(_given(tensor, raw[outside], said))
            outside += 1
        elif span is None:
            given.append(_given(tensor, _typed(tensor), said))
        else:
            given.append(_given(tensor, span, said))
    if outside != len(raw):
        raise _raw_count(request, len(raw))
    return given


def tensor_bytes(request: pb.ModelInferRequest) -> int:
    """Return how many bytes are taken beside a request to answer it: shared memory to read, typed values to convert.

    Raises:
        InvalidInput: It does not say how long an input is.
    """
    sizes = []
    for tensor in request.inputs:
        if span := _span(tensor):
            sizes.append(span.size)
        if tensor.HasField("contents") and tensor.datatype in _TYPED:
            sizes.append(len(_typed(tensor)) * item_bytes(tensor.datatype))
    return weighed(sizes) if sizes else 0


def asked_outputs(request: pb.ModelInferRequest, served: ServedModel) -> list[tuple[Output, Span | None]]:
    """Return the outputs that a request wants, and where in shared memory.

    Raises:
        InvalidInput: There is no such output, or it shall be answered in a form that there is not.
    """
    return wanted_outputs([_asked(output) for output in request.outputs], served)


def key_of(request: pb.ModelInferRequest) -> str:
    """Return the parameter ``key`` of a request: who or what asks; empty when it has none."""
    if KEY not in request.parameters:  # a look would make one
        return ""
    key = request.parameters[KEY]
    return key.string_param or (str(key.int64_param) if key.WhichOneof("parameter_choice") == "int64_param" else "")


def encode_answer(
    request: pb.ModelInferRequest, served: ServedModel, answer: Answer, memory: Memory = NOTHING_SHARED
) -> pb.ModelInferResponse:
    """Return the response to a request: the outputs that it asked for, or all.

    Raises:
        InvalidInput: It asks for an output that there is not, or that does not go where it shall.
        NotFound: An output shall go into shared memory that is not registered.
    """
    is_typed = not request.raw_input_contents and any(tensor.HasField("contents") for tensor in request.inputs)
    is_usual = not (is_typed or request.outputs)
    response = pb.ModelInferResponse()
    response.CopyFrom(_outline(served, answer.frames) if is_usual else _signed(served))  # quicker than to make it
    if request.id:
        response.id = request.id
    response.parameters[LATENCY].int64_param = round(sum(answer.latency_us))
    if is_usual:
        response.raw_output_contents.extend([packed(one.take(answer), one.datatype) for one in served.usual])
        return response
    for output, span in asked_outputs(request, served):
        if span is not None:
            _place(response, output, answer, span, memory)
        elif is_typed:
            _add_typed(response, output, answer)
        else:
            _add_raw(response, output, answer)
    return response


def patience_s(request: pb.ModelInferRequest, remaining_s: float | None) -> float:
    """Return until when, as time.monotonic() tells it, a caller waits.

    Args:
        request: Its parameter ``timeout``, in microseconds, is the caller's limit for waiting, as with Triton.
        remaining_s: How much of the call's own deadline is left; None when it has none.

    Raises:
        InvalidInput: The timeout is no number of microseconds.
    """
    limits_s = [] if remaining_s is None else [remaining_s]
    if "timeout" in request.parameters:
        told = request.parameters["timeout"]
        limits_s.append(timeout_s(getattr(told, told.WhichOneof("parameter_choice") or "string_param")))
    return time.monotonic() + min(limits_s) if limits_s else float("inf")


def timeout_s(timeout_us: object) -> float:
    """Return a request's parameter ``timeout`` in seconds; 0 is no limit.

    Raises:
        InvalidInput: It is no number of microseconds.
    """
    if not isinstance(timeout_us, int) or isinstance(timeout_us, bool) or timeout_us < 0:
        raise InvalidInput("the parameter timeout is a number of microseconds", why=f"got {str(timeout_us)[:32]}")
    return timeout_us / 1e6 if timeout_us else float("inf")


def describe(served: ServedModel) -> pb.ModelMetadataResponse:
    """Return a model's metadata; -1 is the batch axis."""
    response = pb.ModelMetadataResponse(name=served.name, versions=[str(served.release)], platform=PLATFORM)
    for form in served.forms.values():
        response.inputs.add(name=form.name, datatype=form.datatypes[0], shape=[-1, *form.shape])
        response.properties.update(form.described.properties())
    for output in served.offered.values():
        response.outputs.add(name=output.name, datatype=output.datatype, shape=[-1, *output.shape])
    return response


def _signed(served: ServedModel) -> pb.ModelInferResponse:
    """Return what every answer of a bundle says."""
    response = pb.ModelInferResponse(model_name=served.name, model_version=str(served.release))
    response.parameters["digest"].string_param = served.digest
    response.parameters["release"].int64_param = served.release
    return response


def _outline(served: ServedModel, frames: int) -> pb.ModelInferResponse:
    """Return what every answer with a bundle's usual outputs for so many frames says, beside their raw values."""
    response = served.outlines.get(frames)
    if response is None:
        response = _signed(served)
        for one in served.usual:
            response.outputs.add(name=one.name, datatype=one.datatype, shape=[frames, *one.shape])
        served.outlines.keep(frames, response)
    return response


def _raw_count(request: pb.ModelInferRequest, found: int) -> InvalidInput:
    outside = sum(_span(tensor) is None for tensor in request.inputs)
    return InvalidInput(
        f"a request with {outside} inputs outside shared memory has as many raw contents", why=f"got {found}"
    )


def _given(tensor: _InputTensor, values: bytes | Sequence[Any] | Span, said: str) -> Given:
    return Given(tensor.name, tensor.datatype, tuple(tensor.shape), values, said)


def _said(request: pb.ModelInferRequest, tensor: _InputTensor) -> str:
    """Return what a request says of an input's form: the input's own parameter, or that of the whole request."""
    for parameters in (tensor.parameters, request.parameters):
        if parameters and FORM in parameters:
            return parameters[FORM].string_param
    return ""


def _typed(tensor: _InputTensor) -> Sequence[Any]:
    """Return the values as they lie in the message: a list of them is large, and whether they fit is not known yet."""
    if tensor.datatype not in _TYPED:
        raise InvalidInput(f"{tensor.datatype[:16]} values travel in raw_input_contents")
    found: Sequence[Any] = getattr(tensor.contents, _TYPED[tensor.datatype])
    return found


def _asked(output: _OutputTensor) -> Asked:
    if "classification" in output.parameters:
        raise InvalidInput("the classification extension is not offered", hint="ask for the outputs label and scores")
    return Asked(output.name, _span(output))


def _span(tensor: _InputTensor | _OutputTensor) -> Span | None:
    parameters = tensor.parameters
    if not parameters or REGION not in parameters:  # reading an absent key of a map would make it
        return None
    if SIZE not in parameters:
        raise InvalidInput(f"{tensor.name[:64]!r} is in shared memory, and its parameter {SIZE} is missing")
    offset = parameters[OFFSET].int64_param if OFFSET in parameters else 0
    return Span(parameters[REGION].string_param, parameters[SIZE].int64_param, offset)


def _place(response: pb.ModelInferResponse, output: Output, answer: Answer, span: Span, memory: Memory) -> None:
    values, shape = values_of(output, answer)
    data = packed(values, output.datatype)
    memory.get(span.region).write(span, data)
    tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    tensor.parameters[REGION].string_param = span.region
    tensor.parameters[SIZE].int64_param = len(data)
    if span.offset:
        tensor.parameters[OFFSET].int64_param = span.offset
    response.raw_output_contents.append(b"")  # clients count on an entry an output


def _add_raw(response: pb.ModelInferResponse, output: Output, answer: Answer) -> None:
    values, shape = values_of(output, answer)
    response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    response.raw_output_contents.append(packed(values, output.datatype))


def _add_typed(response: pb.ModelInferResponse, output: Output, answer: Answer) -> None:
    values, shape = values_of(output, answer)
    tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
    plain = values if isinstance(values, list) else values.ravel().tolist()
    getattr(tensor.contents, _TYPED[output.datatype]).extend(plain)
