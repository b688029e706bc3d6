"""Answers programs on the device: the Open Inference Protocol, version 2, over gRPC on a Unix socket."""

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
from typing_extensions import override

import dsops
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.errors import DsopsError, InvalidInput, NotFound, PortBusy
from dsops_agent.runtime import oip
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.sockets import make_room

logger = logging.getLogger(__name__)

WORKERS = 4
MAX_WAITING_REQUESTS = 256
MAX_REQUEST_BYTES = 32 << 20
SOCKET_MODE = 0o660

Result = TypeVar("Result")


class InferenceService(open_inference_grpc_pb2_grpc.GRPCInferenceServiceServicer):
    """The six calls of the protocol over the models that are active."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @override
    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Tell that the process answers."""
        return pb.ServerLiveResponse(live=True)

    @override
    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Tell whether any model is active."""
        return pb.ServerReadyResponse(ready=bool(self._dispatcher.names()))

    @override
    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Tell whether a model is active, in the version that is named, if one is."""
        try:
            self._dispatcher.find(request.name, request.version)
        except NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @override
    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Tell name and version of the server."""
        return pb.ServerMetadataResponse(name="dsops", version=dsops.__version__)

    @override
    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Describe a model."""
        return self._guarded(context, lambda: self._describe(request))

    @override
    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Answer frames."""
        return self._guarded(context, lambda: self._infer(request))

    def _describe(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return oip.describe(self._dispatcher.find(request.name, request.version).model)

    def _infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        def decode(served: ServedModel) -> Mapping[str, Array]:
            oip.wanted_outputs(request, served)  # a name that there is not must not cost an inference
            return oip.decode_inputs(request, served)

        answered = self._dispatcher.infer(
            request.model_name, request.model_version, request.id, decode, oip.key_of(request)
        )
        return oip.encode_answer(request, answered.served, answered.answer)

    def _guarded(self, context: grpc.ServicerContext, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, or end the call with the status that fits its error."""
        try:
            return work()
        except DsopsError as error:
            context.abort(self._status_of(error), _text(error))

    def _status_of(self, error: DsopsError) -> grpc.StatusCode:
        if isinstance(error, NotFound):
            return grpc.StatusCode.NOT_FOUND if self._dispatcher.names() else grpc.StatusCode.UNAVAILABLE
        if isinstance(error, InvalidInput):
            return grpc.StatusCode.INVALID_ARGUMENT
        return grpc.StatusCode.INTERNAL


def _text(error: DsopsError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def start_server(dispatcher: Dispatcher, path: Path) -> grpc.Server:
    """Start answering on a Unix socket; a stale socket file is replaced.

    Raises:
        InvalidConfig: The path cannot be a socket.
        PortBusy: A process listens there, or the socket cannot be bound.
    """
    make_room(path)
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="inference")
    options = [
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ]
    server = grpc.server(workers, options=options, maximum_concurrent_rpcs=MAX_WAITING_REQUESTS)
    open_inference_grpc_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(dispatcher), server)
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        server.add_insecure_port(f"unix:{path.resolve()}")
        server.start()
    except RuntimeError as error:
        raise PortBusy(f"cannot listen on {path}", why=str(error)) from error
    finally:
        os.umask(before)
    path.chmod(SOCKET_MODE)
    return server
