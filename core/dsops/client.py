"""Asks the agent of this device for inference: NumPy arrays in, NumPy arrays out.

    from dsops.client import Inference

    with Inference("/run/dsops/inference.sock", "digits") as digits:
        answer = digits.infer(frame[None])
        print(answer["label"], answer.release)

It speaks the Open Inference Protocol over the agent's direct socket (:mod:`dsops.direct`), or over gRPC while there is
none; every other client of that protocol works as well. This module alone of its package needs NumPy and, for the
latter, gRPC: ``pip install 'dsops[inference]'``.
"""

import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsops import access_list
from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.client_place import place_of
from dsops.client_transport import Transport, agent_uid, reach
from dsops.direct import Method, limit_ms_of
from dsops.errors import (
    DsopsError,
    InvalidInput,
    NotFound,
    RuntimeCrashed,
)

TIMEOUT_S = 10.0
Array: TypeAlias = NDArray[Any]
_SHM = Path("/dev", "shm")
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
        self._transport = reach(place, float(timeout_s))
        self._model = model
        self._shared = _Shared(self._transport, lambda: agent_uid(place)) if shared_memory else None
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
            RuntimeCrashed: The agent failed.
        """
        request = pb.ModelInferRequest(model_name=self._model, id=request_id)
        for name, text in (("form", form), ("key", key)):
            if text:
                request.parameters[name].string_param = text
        for name in outputs:
            request.outputs.add(name=name)
        ready = [(name, _plain(name, values)) for name, values in self._named(frames, inputs).items()]
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
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"figure {name!r} cannot be reported", why=str(error)) from error
        self._transport.call(Method.KPI_REPORT, asked, extensions.KpiReportResponse)

    def _ask(self, request: pb.ModelInferRequest, tensors: list[Array]) -> pb.ModelInferResponse:
        if not self._shared:
            request.raw_input_contents.extend(values.tobytes() for values in tensors)
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)
        self._shared.put(request, tensors)
        try:
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)
        except NotFound:  # perhaps the region: a new runtime knows none, and any program may have all forgotten
            self._shared.close()
            self._shared.put(request, tensors)
            return self._transport.call(Method.MODEL_INFER, request, pb.ModelInferResponse)

    def _named(self, frames: Array | Mapping[str, Array] | None, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if frames is None:
            return inputs
        return {**frames, **inputs} if isinstance(frames, Mapping) else {self._only_input(): frames, **inputs}

    def _only_input(self) -> str:
        if self._metadata is None:
            self._metadata = self.metadata()
        names = [tensor.name for tensor in self._metadata.inputs]
        if len(names) != 1:
            raise InvalidInput(f"model {self._model} has the inputs {', '.join(names)}", hint="give each by its name")
        return names[0]


class _Shared:
    """A region of shared memory that inputs are put into, made anew when it is too small, or belongs to a parent."""

    def __init__(self, transport: Transport, agent_uid: Callable[[], int]) -> None:
        self._transport = transport
        self._agent_uid = agent_uid
        self._name = ""
        self._pid = 0
        self._memory: mmap.mmap | None = None

    def put(self, request: pb.ModelInferRequest, tensors: list[Array]) -> None:
        """Put the values of a request's inputs into the region, and say in the request where they are."""
        memory = self._with_room(sum(values.nbytes for values in tensors))
        at = 0
        for tensor, values in zip(request.inputs, tensors, strict=True):
            np.frombuffer(memory, values.dtype, values.size, at).reshape(values.shape)[...] = values
            tensor.parameters["shared_memory_region"].string_param = self._name
            tensor.parameters["shared_memory_offset"].int64_param = at
            tensor.parameters["shared_memory_byte_size"].int64_param = values.nbytes
            at += values.nbytes

    def close(self) -> None:
        """Give the region back, also when the agent is gone."""
        if self._memory is None or self._pid != os.getpid():  # a program that was forked leaves it to its parent
            self._memory = None
            return
        wanted = extensions.SystemSharedMemoryUnregisterRequest(name=self._name)
        with suppress(DsopsError):
            self._transport.call(
                Method.SYSTEM_SHARED_MEMORY_UNREGISTER, wanted, extensions.SystemSharedMemoryUnregisterResponse
            )
        self._memory = None

    def _with_room(self, size: int) -> mmap.mmap:
        if self._memory is not None and self._pid == os.getpid() and len(self._memory) >= size:
            return self._memory
        self.close()
        name = f"dsops-{os.getpid()}-{secrets.token_hex(8)}"
        path = _SHM / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            agent_uid = self._agent_uid()
            if agent_uid not in (0, os.geteuid()):
                os.setxattr(descriptor, access_list.ATTRIBUTE, access_list.for_users([agent_uid]))
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # as long as the mapping: it tells that its owner lives
            os.posix_fallocate(descriptor, 0, size)  # a full memory is an error here, not a signal later
            memory = mmap.mmap(descriptor, size)
            wanted = extensions.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=size)
            self._transport.call(
                Method.SYSTEM_SHARED_MEMORY_REGISTER, wanted, extensions.SystemSharedMemoryRegisterResponse
            )
        finally:
            os.close(descriptor)
            path.unlink()  # both sides have it open; nothing is left behind, however this process ends
        self._name, self._memory, self._pid = name, memory, os.getpid()
        return memory


def _plain(name: str, values: Array) -> Array:
    found = np.asarray(values)
    if found.dtype == np.float64:
        found = found.astype(np.float32)
    if found.dtype not in _NAMES:
        raise InvalidInput(f"input {name!r} cannot be of type {found.dtype}")
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
