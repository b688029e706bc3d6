"""Ways to ask for an inference: straight from the interpreter, or from a server of the Open Inference Protocol."""

import math
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from google.protobuf.message import Message
from numpy.typing import NDArray

from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.direct import DirectChannel, Method
from dsops.errors import RuntimeCrashed

Floats = NDArray[np.float32]
Frames = NDArray[np.float32] | NDArray[np.int8]
Ask = Callable[[Frames], Floats]
TIMEOUT_S = 60.0
_DATATYPES = {"int8": "INT8", "float32": "FP32"}
_OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)]


class Loop:
    """A model in one interpreter on one thread, frame by frame, stored values in: the limit of what a server can do."""

    def __init__(self, payload: Path) -> None:
        self._interpreter = Interpreter(model_content=payload.read_bytes(), num_threads=1)
        self._interpreter.allocate_tensors()
        self._in = self._interpreter.get_input_details()[0]
        self._out = self._interpreter.get_output_details()[0]
        self.shape, self.dtype = tuple(self._in["shape"]), np.dtype(self._in["dtype"])
        self.size = math.prod(self.shape)

    def __call__(self, frames: Frames) -> Floats:
        """Return real scores [n, C]."""
        rows = []
        for number in range(len(frames)):
            self._interpreter.set_tensor(self._in["index"], frames[number : number + 1])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._out["index"]))
        scale, zero = self._out["quantization"]
        scores: Floats = np.concatenate(rows).astype(np.float32)
        return (scores - np.float32(zero)) * np.float32(scale) if scale else scores

    def warm_up(self) -> None:
        """Answer some frames of zeros."""
        self(np.zeros((20, *self._in["shape"][1:]), self._in["dtype"]))


Send = Callable[[pb.ModelInferRequest], pb.ModelInferResponse]


@contextmanager
def over_grpc(address: str, model: str, output: str, most_bytes: int = 0) -> Iterator[Ask]:
    """Ask a server over gRPC; frames travel in the request."""
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        yield _raw(lambda request: stub.ModelInfer(request, timeout=TIMEOUT_S, wait_for_ready=True), model, output)


@contextmanager
def over_direct(path: str, model: str, output: str, most_bytes: int = 0) -> Iterator[Ask]:
    """Ask our data process over its direct socket; frames travel in the request."""
    channel = DirectChannel(Path(path))
    try:
        yield _raw(partial(_send, channel), model, output)
    finally:
        channel.close()


@contextmanager
def shared_memory(path: str, model: str, output: str, most_bytes: int) -> Iterator[Ask]:
    """Ask our data process over its direct socket; frames are written to shared memory, as Triton's clients do."""
    key = f"/dsops-bench-{secrets.token_hex(4)}"
    file = Path(f"/dev/shm{key}")
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    channel = DirectChannel(Path(path))
    try:
        os.ftruncate(descriptor, most_bytes)
        with mmap.mmap(descriptor, most_bytes) as area:
            wanted = extensions.SystemSharedMemoryRegisterRequest(name=key, key=key, byte_size=most_bytes)
            _reply(channel, Method.SYSTEM_SHARED_MEMORY_REGISTER, wanted)

            def ask(frames: Frames) -> Floats:
                np.frombuffer(area, np.uint8, frames.nbytes)[:] = frames.reshape(-1).view(np.uint8)
                request = pb.ModelInferRequest(model_name=model)
                tensor = request.inputs.add(name="image", datatype=_DATATYPES[frames.dtype.name], shape=frames.shape)
                tensor.parameters["shared_memory_region"].string_param = key
                tensor.parameters["shared_memory_byte_size"].int64_param = frames.nbytes
                return _scores(_send(channel, request), output, len(frames))

            yield ask
    finally:
        channel.close()
        os.close(descriptor)
        file.unlink()


WAYS = {"grpc": over_grpc, "direct": over_direct, "shared": shared_memory}
"""How a server is asked; each is opened with its address, the model, the output that counts, and how many bytes of
frames a request has at most."""


def _raw(send: Send, model: str, output: str) -> Ask:
    def ask(frames: Frames) -> Floats:
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="image", datatype=_DATATYPES[frames.dtype.name], shape=frames.shape)
        request.raw_input_contents.append(frames.tobytes())
        return _scores(send(request), output, len(frames))

    return ask


def _send(channel: DirectChannel, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return pb.ModelInferResponse.FromString(_reply(channel, Method.MODEL_INFER, request))


def _reply(channel: DirectChannel, method: Method, request: Message) -> bytes:
    status, body = channel.call(method, request.SerializeToString(), TIMEOUT_S)
    if status:
        raise RuntimeCrashed("the data process refused", why=body.decode())
    return body


def _scores(response: pb.ModelInferResponse, output: str, count: int) -> Floats:
    position = [tensor.name for tensor in response.outputs].index(output)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[position], np.float32).reshape(count, -1)
    found = np.array(response.outputs[position].contents.fp32_contents, np.float32)
    return found.reshape(count, math.prod(found.shape) // count)
