"""Answers programs on the device: the Open Inference Protocol, version 2, over gRPC on a Unix socket.

Beside the protocol's calls it answers those of Triton's extensions for the index of models and for shared memory, under
the same service name, because clients of Triton make them there.
"""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from typing_extensions import override

import dsops
from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.errors import DsopsError, NotFound, NotServing, PortBusy
from dsops_agent.runtime import oip, refusals
from dsops_agent.runtime.admission import Caller
from dsops_agent.runtime.dispatch import CAPACITY, Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.sent import SentInputs
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access, make_room

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
WORKERS = CAPACITY + 8
"""Threads, made when needed. A call that waits holds one; those above the capacity answer what does not wait."""
MAX_REQUEST_BYTES = 32 << 20

Result = TypeVar("Result")
_Work = Callable[[Any, grpc.ServicerContext], Any]


class InferenceService(open_inference_grpc_pb2_grpc.GRPCInferenceServiceServicer):
    """The six calls of the protocol over the models that are active."""

    def __init__(self, dispatcher: Dispatcher, regions: Regions) -> None:
        self._dispatcher = dispatcher
        self._regions = regions

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
        except (NotFound, NotServing):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @override
    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Tell name, version and extensions of the server."""
        return pb.ServerMetadataResponse(name="dsops", version=dsops.__version__, extensions=oip.EXTENSIONS)

    @override
    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Describe a model."""
        return _guarded(context, lambda: oip.describe(self._dispatcher.find(request.name, request.version).model))

    @override
    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Answer frames."""
        return _guarded(context, lambda: self._infer(request, context))

    def _infer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        def decode(served: ServedModel) -> SentInputs:
            oip.asked_outputs(request, served)  # a name that there is not must not cost an inference
            return oip.decode_inputs(request, served, self._regions)

        caller = Caller(oip.patience_s(request, context.time_remaining()), lambda: not context.is_active())
        answered = self._dispatcher.infer(
            request.model_name, request.model_version, request.id, decode, key=oip.key_of(request), caller=caller
        )
        return oip.encode_answer(request, answered.served, answered.answer, self._regions)


class ExtensionService:
    """The calls of Triton's extensions: the index of models, and shared memory."""

    def __init__(self, dispatcher: Dispatcher, regions: Regions) -> None:
        self._dispatcher = dispatcher
        self._regions = regions

    def handlers(self) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """Return a handler a call."""
        return {
            "RepositoryIndex": _handler(extensions.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": _handler(extensions.RepositoryModelRequest, self._refuse),
            "RepositoryModelUnload": _handler(extensions.RepositoryModelRequest, self._refuse),
            "SystemSharedMemoryStatus": _handler(extensions.SystemSharedMemoryStatusRequest, self._status),
            "SystemSharedMemoryRegister": _handler(extensions.SystemSharedMemoryRegisterRequest, self._register),
            "SystemSharedMemoryUnregister": _handler(extensions.SystemSharedMemoryUnregisterRequest, self._unregister),
        }

    def _index(self, request: extensions.RepositoryIndexRequest) -> extensions.RepositoryIndexResponse:
        response = extensions.RepositoryIndexResponse()
        for served in self._dispatcher.models():
            response.models.add(name=served.name, version=str(served.release), state="READY")
        return response

    def _refuse(self, request: extensions.RepositoryModelRequest) -> extensions.RepositoryModelResponse:
        raise refusals.only_control(request.model_name)

    def _status(
        self, request: extensions.SystemSharedMemoryStatusRequest
    ) -> extensions.SystemSharedMemoryStatusResponse:
        response = extensions.SystemSharedMemoryStatusResponse()
        for region in self._regions.status(request.name):
            shown = response.regions[region.name]
            shown.name, shown.key, shown.offset, shown.byte_size = region.name, region.key, region.offset, region.size
        return response

    def _register(
        self, request: extensions.SystemSharedMemoryRegisterRequest
    ) -> extensions.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return extensions.SystemSharedMemoryRegisterResponse()

    def _unregister(
        self, request: extensions.SystemSharedMemoryUnregisterRequest
    ) -> extensions.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return extensions.SystemSharedMemoryUnregisterResponse()


def _handler(kind: type[Message], work: Callable[[Any], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        lambda request, context: _guarded(context, lambda: work(request)),
        request_deserializer=kind.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )


def _guarded(context: grpc.ServicerContext, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns, or end the call with the status that fits its error."""
    try:
        return work()
    except DsopsError as error:
        context.abort(refusals.grpc_status(error), refusals.text_of(error))
    except Exception:  # the border to a caller: it gets a status, the log the traceback
        logger.exception("a call failed")
        context.abort(grpc.StatusCode.INTERNAL, refusals.FAILED)


def start_server(dispatcher: Dispatcher, regions: Regions, path: Path, access: Access, tcp: str = "") -> grpc.Server:
    """Start answering on a Unix socket; a stale socket file is replaced.

    Args:
        dispatcher: Answers requests.
        regions: Shared memory.
        path: The socket.
        access: Who may connect to it.
        tcp: A loopback address, host:port, to answer on as well; empty for none.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: A process listens there, or an address cannot be bound.
    """
    make_room(path)
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="inference")
    options = [
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
        ("grpc.so_reuseport", 0),  # two runtimes on one TCP port would share its callers
    ]
    server = grpc.server(workers, options=options, maximum_concurrent_rpcs=WORKERS)
    open_inference_grpc_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        InferenceService(dispatcher, regions), server
    )
    more = grpc.method_handlers_generic_handler(SERVICE, ExtensionService(dispatcher, regions).handlers())
    server.add_generic_rpc_handlers((more,))
    before = os.umask(0o777 & ~access.first_mode)
    try:
        _bind(server, f"unix:{path.resolve()}", str(path))
        if tcp:
            _bind(server, tcp, tcp)
        server.start()
    finally:
        os.umask(before)
    access.grant(path)
    return server


def _bind(server: grpc.Server, address: str, name: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortBusy(f"cannot listen on {name}", why=str(error)) from error
