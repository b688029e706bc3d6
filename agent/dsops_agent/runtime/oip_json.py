"""The Open Inference Protocol, version 2, as JSON: requests to tensors, answers to bodies.

Tensors travel as JSON numbers, in shared memory, or as raw bytes after the JSON text: Triton's extension for binary
tensor data, where the header ``Inference-Header-Content-Length`` tells how long the JSON text is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dsops.errors import InvalidInput
from dsops.manifest import first_problem
from dsops_agent.runtime.answer import Answer, Output, Values
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.oip import FORM, KEY, OFFSET, PLATFORM, REGION, SIZE
from dsops_agent.runtime.parsing import check_json
from dsops_agent.runtime.shared_memory import Span
from dsops_agent.runtime.tensors import MAX_OUTPUTS, Asked, Given, Memory, packed, values_of, wanted_outputs

BINARY_SIZE = "binary_data_size"
MAX_INPUTS = 64
Parameters = Mapping[str, Any]
_Name = Annotated[str, Field(max_length=256)]


class _Read(BaseModel):
    """What the protocol leaves open is passed over: an unknown parameter or member is no error (its section 2.1)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Input(_Read):
    name: _Name
    datatype: _Name
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 40)]], Field(max_length=16)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(_Read):
    name: _Name
    parameters: dict[str, Any] = {}


class _Request(_Read):
    id: _Name = ""
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[_Input], Field(max_length=MAX_INPUTS)]
    outputs: Annotated[list[_Output], Field(max_length=MAX_OUTPUTS)] = []


@dataclass(frozen=True)
class Request:
    """A request for inference.

    Attributes:
        id: What the caller calls it.
        key: The parameter ``key``, who or what asks; empty when there is none.
        timeout_us: The parameter ``timeout``, unchecked; 0 for none.
        given: Its inputs.
        asked: The outputs that it names.
        binary: Which of those it wants as raw bytes.
        is_binary: Whether it wants raw bytes of an output of which it does not say.
    """

    id: str
    key: str
    timeout_us: object
    given: tuple[Given, ...]
    asked: tuple[Asked, ...]
    binary: Mapping[str, bool]
    is_binary: bool


def read_request(body: bytes, json_size: int | None) -> Request:
    """Return the request that a body holds.

    Args:
        body: The JSON text, and after it the raw bytes of inputs in their order.
        json_size: Length of the JSON text; None when it is all of the body.

    Raises:
        InvalidInput: It is no request of the protocol.
    """
    if json_size is not None and not 0 <= json_size <= len(body):
        raise InvalidInput("Inference-Header-Content-Length is longer than the body", why=f"{json_size} of {len(body)}")
    told = _parsed(body if json_size is None else body[:json_size])
    tail = memoryview(body)[len(body) if json_size is None else json_size :]
    given = []
    for tensor in told.inputs:
        values, tail = _values(tensor, tail)
        said = _said(tensor.parameters) or _said(told.parameters)
        given.append(Given(tensor.name, tensor.datatype, tuple(tensor.shape), values, said))
    if len(tail):
        raise InvalidInput("the body goes on after the last input", why=f"by {len(tail)} bytes")
    return Request(
        id=told.id,
        key=_key(told.parameters),
        timeout_us=told.parameters.get("timeout", 0),
        given=tuple(given),
        asked=tuple(_asked(output) for output in told.outputs),
        binary={output.name: _flag(output.parameters, "binary_data") for output in told.outputs},
        is_binary=_flag(told.parameters, "binary_data_output"),
    )


def _said(parameters: Parameters) -> str:
    """Return what parameters say of an input's form; empty when nothing."""
    said = parameters.get(FORM, "")
    if not isinstance(said, str):
        raise InvalidInput(f"the parameter {FORM} is a text", why=f"got {type(said).__name__}")
    return said


def _key(parameters: Parameters) -> str:
    key = parameters.get(KEY, "")
    return str(key) if isinstance(key, str | int) and not isinstance(key, bool) else ""


def write_answer(request: Request, served: ServedModel, answer: Answer, memory: Memory) -> tuple[bytes, int | None]:
    """Return the body that answers a request, and the length of its JSON text when raw bytes follow.

    Raises:
        InvalidInput: An output does not go where it shall, or has a value that JSON cannot say.
        NotFound: An output shall go into shared memory that is not registered.
    """
    outputs: list[dict[str, object]] = []
    tail: list[bytes] = []
    for output, span in wanted_outputs(request.asked, served):
        values, shape = values_of(output, answer)
        told: dict[str, object] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        if span is not None:
            data = packed(values, output.datatype)
            memory.get(span.region).write(span, data)
            told["parameters"] = {REGION: span.region, SIZE: len(data), OFFSET: span.offset}
        elif request.binary.get(output.name, request.is_binary):
            tail.append(packed(values, output.datatype))
            told["parameters"] = {BINARY_SIZE: len(tail[-1])}
        else:
            told["data"] = _plain(output, values)
        outputs.append(told)
    text = written(
        {
            "model_name": served.name,
            "model_version": str(served.release),
            "id": request.id,
            "parameters": {"digest": served.digest, "release": served.release},
            "outputs": outputs,
        }
    )
    return (text + b"".join(tail), len(text)) if tail else (text, None)


def describe(served: ServedModel) -> dict[str, object]:
    """Return a model's metadata; -1 is the batch axis."""
    forms = [(form.name, form.datatypes[0], form.shape) for form in served.forms.values()]
    offered = [(output.name, output.datatype, output.shape) for output in served.offered.values()]
    return {
        "name": served.name,
        "versions": [str(served.release)],
        "platform": PLATFORM,
        "inputs": [{"name": name, "datatype": kind, "shape": [-1, *shape]} for name, kind, shape in forms],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1, *shape]} for name, kind, shape in offered],
    }


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; an empty body is an empty one.

    Raises:
        InvalidInput: It is something else.
    """
    found = _loaded(body) if body else {}
    if not isinstance(found, dict):
        raise InvalidInput("the body is not a JSON object")
    return found


def written(value: object) -> bytes:
    """Return a value as JSON text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _parsed(text: bytes) -> _Request:
    try:
        return _Request.model_validate(read_object(text))
    except ValidationError as error:
        raise InvalidInput("the body is no inference request", why=first_problem(error)) from error


def _loaded(text: bytes) -> object:
    check_json(text)
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON", why=str(error)[:120]) from error


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _values(tensor: _Input, tail: memoryview) -> tuple[memoryview | list[Any] | Span, memoryview]:
    """Return a tensor's values, and what is left of the raw bytes."""
    span = _span(tensor.name, tensor.parameters)
    if span is not None:
        return span, tail
    if BINARY_SIZE in tensor.parameters:
        size = _number(tensor.parameters, BINARY_SIZE)
        if size > len(tail):
            raise InvalidInput(f"input {tensor.name!r} has {size} raw bytes", why=f"{len(tail)} are left of the body")
        return tail[:size], tail[size:]
    if tensor.data is None:
        raise InvalidInput(f"input {tensor.name!r} has neither data, {BINARY_SIZE} nor {REGION}")
    return _flat(tensor), tail


def _flat(tensor: _Input) -> list[Any]:
    """Return JSON numbers, which may be nested as the shape is, one after the other."""
    wanted = bool if tensor.datatype == "BOOL" else int if "INT" in tensor.datatype else (int, float)
    found: list[Any] = []
    waiting = [iter(tensor.data or ())]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, list) and len(waiting) <= len(tensor.shape):
                waiting.append(iter(value))
                break
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise InvalidInput(f"input {tensor.name!r} holds a value that is no {tensor.datatype}")
            found.append(value)
        else:
            waiting.pop()
    return found


def _asked(output: _Output) -> Asked:
    if "classification" in output.parameters:
        raise InvalidInput("the classification extension is not offered", hint="ask for the outputs label and scores")
    return Asked(output.name, _span(output.name, output.parameters))


def _span(name: str, parameters: Parameters) -> Span | None:
    if REGION not in parameters:
        return None
    region = parameters[REGION]
    if not isinstance(region, str):
        raise InvalidInput(f"the parameter {REGION} of {name!r} is no name")
    return Span(region, _number(parameters, SIZE), _number(parameters, OFFSET, 0))


def _number(parameters: Parameters, name: str, default: int | None = None) -> int:
    value = parameters.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise InvalidInput(f"the parameter {name} is a number of bytes", why=f"got {str(value)[:32]}")
    return value


def _flag(parameters: Parameters, name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"the parameter {name} is true or false", why=f"got {str(value)[:32]}")
    return value


def _plain(output: Output, values: Values) -> list[object]:
    if isinstance(values, list):
        return [text.decode() for text in values]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InvalidInput(f"output {output.name!r} holds a value that JSON cannot say", hint="ask for binary_data")
    found: list[object] = values.ravel().tolist()
    return found
