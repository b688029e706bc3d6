"""The calls that programs make, whatever they come by: a message and its caller in, a message out.

They are those of the Open Inference Protocol, version 2, those of Triton's extensions for the index of models and for
shared memory, and one of our own, by which a program reports a figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

import dsops
from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.direct import Method
from dsops.errors import NotFound, NotServing
from dsops_agent.runtime import oip, refusals
from dsops_agent.runtime.admission import Caller, at_leisure
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.kpis import Figure, Kpis
from dsops_agent.runtime.room import SMALL_BYTES, Room
from dsops_agent.runtime.sent import SentInputs
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.shares import NOBODY


@dataclass(frozen=True)
class Asking:
    """Who asks, as a transport knows it.

    Attributes:
        remaining_s: How long it waits from now on; None when it set no limit.
        is_gone: Tells whether it no longer waits.
        user: Who it is, if that is known.
        slowly: Is called before something that may take long.
    """

    remaining_s: float | None
    is_gone: Callable[[], bool]
    user: str = NOBODY
    slowly: Callable[[], None] = at_leisure


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        name: The protocol's name of it.
        method: The direct socket's number of it.
        request: What it is asked with.
        work: Answers it, or raises a DsopsError.
    """

    name: str
    method: Method
    request: type[Message]
    work: Callable[[Any, Asking], Message]


class Calls:
    """Answers the calls over the models that are active. Safe to call from several threads."""

    def __init__(
        self, dispatcher: Dispatcher, regions: Regions, room: Room | None = None, kpis: Kpis | None = None
    ) -> None:
        self._kpis = kpis
        self._room = room or Room()
        self._dispatcher = dispatcher
        self._regions = regions

    def all(self) -> tuple[Call, ...]:
        """Return every call."""
        refuse = self._refuse
        return (
            Call("ServerLive", Method.SERVER_LIVE, pb.ServerLiveRequest, self._live),
            Call("ServerReady", Method.SERVER_READY, pb.ServerReadyRequest, self._ready),
            Call("ModelReady", Method.MODEL_READY, pb.ModelReadyRequest, self._model_ready),
            Call("ServerMetadata", Method.SERVER_METADATA, pb.ServerMetadataRequest, self._about),
            Call("ModelMetadata", Method.MODEL_METADATA, pb.ModelMetadataRequest, self._describe),
            Call("ModelInfer", Method.MODEL_INFER, pb.ModelInferRequest, self._infer),
            Call("RepositoryIndex", Method.REPOSITORY_INDEX, extensions.RepositoryIndexRequest, self._index),
            Call("RepositoryModelLoad", Method.REPOSITORY_MODEL_LOAD, extensions.RepositoryModelRequest, refuse),
            Call("RepositoryModelUnload", Method.REPOSITORY_MODEL_UNLOAD, extensions.RepositoryModelRequest, refuse),
            Call(
                "SystemSharedMemoryStatus",
                Method.SYSTEM_SHARED_MEMORY_STATUS,
                extensions.SystemSharedMemoryStatusRequest,
                self._status,
            ),
            Call(
                "SystemSharedMemoryRegister",
                Method.SYSTEM_SHARED_MEMORY_REGISTER,
                extensions.SystemSharedMemoryRegisterRequest,
                self._register,
            ),
            Call(
                "SystemSharedMemoryUnregister",
                Method.SYSTEM_SHARED_MEMORY_UNREGISTER,
                extensions.SystemSharedMemoryUnregisterRequest,
                self._unregister,
            ),
            *([Call("KpiReport", Method.KPI_REPORT, extensions.KpiReportRequest, self._kpi)] if self._kpis else []),
        )

    def _live(self, request: pb.ServerLiveRequest, asking: Asking) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _ready(self, request: pb.ServerReadyRequest, asking: Asking) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=bool(self._dispatcher.names()))

    def _model_ready(self, request: pb.ModelReadyRequest, asking: Asking) -> pb.ModelReadyResponse:
        try:
            self._dispatcher.check(request.name, request.version)
        except (NotFound, NotServing):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def _about(self, request: pb.ServerMetadataRequest, asking: Asking) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="dsops", version=dsops.__version__, extensions=oip.EXTENSIONS)

    def _describe(self, request: pb.ModelMetadataRequest, asking: Asking) -> pb.ModelMetadataResponse:
        return oip.describe(self._dispatcher.find(request.name, request.version).model)

    def _infer(self, request: pb.ModelInferRequest, asking: Asking) -> pb.ModelInferResponse:
        def decode(served: ServedModel) -> SentInputs:
            if request.outputs:
                oip.asked_outputs(request, served)  # a name that there is not must not cost an inference
            return oip.decode_inputs(request, served, self._regions)

        caller = Caller(oip.patience_s(request, asking.remaining_s), asking.is_gone, asking.slowly)
        size = oip.tensor_bytes(request)
        if size > SMALL_BYTES:  # room may have to be waited for
            asking.slowly()
        with self._room.held(size, asking.user):
            answered = self._dispatcher.infer(
                request.model_name, request.model_version, request.id, decode, key=oip.key_of(request), caller=caller
            )
            return oip.encode_answer(request, answered.served, answered.answer, self._regions)

    def _index(self, request: extensions.RepositoryIndexRequest, asking: Asking) -> extensions.RepositoryIndexResponse:
        response = extensions.RepositoryIndexResponse()
        for served in self._dispatcher.models():
            response.models.add(name=served.name, version=str(served.release), state="READY")
        return response

    def _refuse(self, request: extensions.RepositoryModelRequest, asking: Asking) -> Message:
        raise refusals.only_control(request.model_name)

    def _status(
        self, request: extensions.SystemSharedMemoryStatusRequest, asking: Asking
    ) -> extensions.SystemSharedMemoryStatusResponse:
        response = extensions.SystemSharedMemoryStatusResponse()
        for region in self._regions.status(request.name):
            shown = response.regions[region.name]
            shown.name, shown.key, shown.offset, shown.byte_size = region.name, region.key, region.offset, region.size
        return response

    def _register(
        self, request: extensions.SystemSharedMemoryRegisterRequest, asking: Asking
    ) -> extensions.SystemSharedMemoryRegisterResponse:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return extensions.SystemSharedMemoryRegisterResponse()

    def _kpi(self, request: extensions.KpiReportRequest, asking: Asking) -> extensions.KpiReportResponse:
        assert self._kpis is not None
        self._kpis.report(Figure(request.name, request.value, request.unit, request.model, dict(request.tags)))
        return extensions.KpiReportResponse()

    def _unregister(
        self, request: extensions.SystemSharedMemoryUnregisterRequest, asking: Asking
    ) -> extensions.SystemSharedMemoryUnregisterResponse:
        self._regions.unregister(request.name)
        return extensions.SystemSharedMemoryUnregisterResponse()
