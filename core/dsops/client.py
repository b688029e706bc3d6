"""Asks the agent of this device for inference: NumPy arrays in, NumPy arrays out.

    from dsops.client import Inference

    with Inference("/run/dsops/inference.sock", "digits") as digits:
        answer = digits.infer(frame[None])
        print(answer["label"], answer.release)

It speaks the Open Inference Protocol over the agent's direct socket (:mod:`dsops.direct`), or over gRPC while there is
none; every other client of that protocol works as well. It needs NumPy and, for the latter, gRPC:
``pip install 'dsops[inference]'``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.client_memory import SharedInputs
from dsops.client_place import place_of
from dsops.client_transport import agent_uid, reach
from dsops.direct import Method, limit_ms_of
from dsops.errors import InvalidInput, NotFound, RuntimeCrashed

TIMEOUT_S = 10.0
Array: TypeAlias = NDArray[Any]
_TYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}


@dataclass(frozen=True)
class Answer(Mapping[str, Array]):
    """The outputs of a model by name, each [n, ...]; those of text are arrays of str.

    Attributes:
        outputs: The outputs.
        release: The release that answered.
        digest: SHA-256 of its bundle.
    """

    outputs: Mapping[str, Array]
    release: int
    digest: str

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


class Inference:
    """One model of the agent on this device. Safe to call from several threads, unless it shares memory.

    Args:
        address: Path of the agent's inference socket, beside which the direct one is, or a loopback address, host:port;
            a text without a slash is a path only where such a socket is.
        model: Name of the model.
        timeout_s: How long an answer may take; more than 0.
        shared_memory: Whether inputs go through memory that is shared with the agent instead of through the socket,
            which is faster from about 100 KB on.

    Raises:
        InvalidInput: Nobody can wait for ``timeout_s``, or the address is neither, for example another host's.
    """

    def __init__(
        self, address: str | Path, model: str, *, timeout_s: float = TIMEOUT_S, shared_memory: bool = False
    ) -> None:
        limit_ms_of(timeout_s)
        place = place_of(address)
        self._model = _text("the name of a model", model)
        self._transport = reach(place, float(timeout_s))
        self._shared = SharedInputs(self._transport, lambda: agent_uid(place)) if shared_memory else None
        self._metadata: pb.ModelMetadataResponse | None = None

    def __enter__(self) -> "Inference":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and give shared memory back."""
        if self._shared:
            self._shared.close()
        self._transport.close()

    def metadata(self) -> pb.ModelMetadataResponse:
        """Return what the agent says of the model: its inputs and outputs, their types and shapes.

        Raises:
            NotFound: The model is not active.
            DsopsError: See :meth:`infer`.
        """
        asked = pb.ModelMetadataRequest(name=self._model)
        return self._transport.call(Method.MODEL_METADATA, asked, pb.ModelMetadataResponse)

    def infer(
        self,
        frames: Array | Mapping[str, Array] | None = None,
        *,
        form: str = "",
        key: str = "",
        request_id: str = "",
        outputs: tuple[str, ...] = (),
        **inputs: Array,
    ) -> Answer:
        """Ask the model.

        Args:
            frames: The input [n, ...] of a model with one input, or inputs by name, each [n, ...].
            form: What the values are: ``raw`` frames as a sensor gives them, of which the device makes the input;
                ``real`` ones; or ``stored`` ones, as the payload has them. Empty where type and shape tell.
            key: Who or what asks: a user, a machine, a line. While two releases are compared by a split, requests of
                one key are answered by one of them. Empty: each request by itself, by its id.
            request_id: What you call the request; a sample that the agent keeps of it bears it.
            outputs: Which outputs are wanted; none named is the model's own choice.
            inputs: Inputs by name, likewise; one that is called as an argument is can be given in ``frames``.

        Raises:
            InvalidInput: The inputs are not the model's.
            NotFound: The model is not active.
            NotServing: No model is active, or no agent is there.
            QueueFull: Too many requests wait.
            TimedOut: No answer came in time.
            Forbidden: You may not do this.
            NoMemory: There is no room in the memory that is to be shared.
            RuntimeCrashed: The agent failed.
        """
        request = pb.ModelInferRequest(model_name=self._model, id=_text("a request_id", request_id))
        for name, text in (("form", form), ("key", key)):
            if _text(f"a {name}", text):
                request.parameters[name].string_param = text
        for name in _names(outputs):
            request.outputs.add(name=name)
        ready = [(_text("an input's name", name), _plain(name, values)) for name, values in self._named(frames, inputs)]
        for name, values in ready:
            request.inputs.add(name=name, datatype=_NAMES[values.dtype], shape=values.shape)
        response = self._ask(request, [values for _, values in ready])
        if request_id and response.id != request_id:
            raise RuntimeCrashed("the agent answered another request", why=f"{response.id!r} instead of {request_id!r}")
        return _answer(response)

    def kpi(
        self,
        name: str,
        value: float,
        *,
        unit: str = "",
        model: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Report a figure that you measured, for example parts rejected; it goes to the controller with the telemetry.

        Args:
            name: 1 to 64 of ``A-Z a-z 0-9 _ . -``.
            value: A finite number.
            unit: UCUM code, for example ``s``, ``%`` or ``{parts}``.
            model: The model that it is about, this one unless it is given; empty for none. The figure bears the release
                that serves it now.
            tags: What tells figures of one name apart: at most 16, 128 characters each.

        Raises:
            InvalidInput: A name, the value, the unit or a tag is not valid.
            NotFound: The model is not active.
            QueueFull: Too many figures were reported on this device lately; this one was not taken.
            DsopsError: See :meth:`infer`.
        """
        about = self._model if model is None else model
        try:
            asked = extensions.KpiReportRequest(name=name, value=value, unit=unit, model=about, tags=tags or {})
        except (TypeError, ValueError, OverflowError) as error:
            hint = "a value is a finite number, the rest are texts, of characters that UTF-8 has"
            raise InvalidInput(f"figure {name!r} cannot be reported", why=str(error), hint=hint) from error
        self._transport.call(Method.KPI_REPORT, asked, extensions.KpiReportResponse)

    def _ask(self, request: pb.ModelInferRequest, tensors: list[Array]) -> pb.ModelInferResponse:
        if not (self._shared and sum(values.nbytes for values in tensors)):  # of nothing, nothing can be shared
            request.raw_input_contents.extend(values.tobytes() for values in tensors)
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)
        self._shared.put(request, tensors)
        try:
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)
        except NotFound:  # perhaps the region: a new runtime knows none, and any program may have all forgotten
            self._shared.close()
            self._shared.put(request, tensors)
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)

    def _named(
        self, frames: Array | Mapping[str, Array] | None, inputs: Mapping[str, Array]
    ) -> Iterable[tuple[str, Array]]:
        if frames is None:
            return inputs.items()
        by_name = frames if isinstance(frames, Mapping) else {self._only_input(): frames}
        return {**by_name, **inputs}.items()

    def _only_input(self) -> str:
        if self._metadata is None:
            self._metadata = self.metadata()
        names = [tensor.name for tensor in self._metadata.inputs]
        if len(names) != 1:
            raise InvalidInput(f"model {self._model} has the inputs {', '.join(names)}", hint="give each by its name")
        return names[0]


def _text(what: str, told: object) -> str:
    """Return a text that a message can bear."""
    if not isinstance(told, str):
        raise InvalidInput(f"{what} is a text", why=f"got {told!r}", hint="str() makes a text of what is none")
    try:
        told.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} is a text of characters that UTF-8 has", why=f"got {told!r}") from error
    return told


def _names(outputs: object) -> Iterator[str]:
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise InvalidInput("outputs are several names", why=f"got {outputs!r}", hint='of one: outputs=("label",)')
    return (_text("an output's name", name) for name in outputs)


def _plain(name: str, values: object) -> Array:
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # of NumPy, or of whoever made what is to be an array
        raise InvalidInput(
            f"input {name!r} is no array", why=str(error), hint="give a NumPy array; rows of a list are equally long"
        ) from error
    if found.dtype == np.float64:
        found = found.astype(np.float32)
    if found.dtype not in _NAMES:
        raise InvalidInput(
            f"input {name!r} cannot be of type {found.dtype}",
            hint=f"types are {', '.join(str(dtype) for dtype in _NAMES)}; astype() makes another of one",
        )
    return np.ascontiguousarray(found)


def _answer(response: pb.ModelInferResponse) -> Answer:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    found = {output.name: _array(output.datatype, raw).reshape(tuple(output.shape)) for output, raw in pairs}
    parameters = response.parameters
    return Answer(found, parameters["release"].int64_param, parameters["digest"].string_param)


def _array(datatype: str, raw: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(raw, _TYPES[datatype])
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(texts, dtype=np.str_)
