"""What callers are told when more ask than can be answered: over gRPC and REST, with the model held by the test."""

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from held_models import eventually, hold, request
from rest_caller import UnixHttp
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops_agent.runtime import server as grpc_server
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.server import start_server
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
QUEUE = 2
DEADLINE_S = 20.0


@dataclass
class Heard:
    """Which requests were answered."""

    witness: Witness
    observers: Observers

    @property
    def ids(self) -> list[str]:
        assert self.observers.settle(DEADLINE_S)
        return self.witness.requests + ["failed"] * self.witness.failures


@dataclass
class Stage:
    dispatcher: Dispatcher
    heard: Heard
    stub: rpc.GRPCInferenceServiceStub
    rest: Path

    def hold(self, model: str = "compass") -> ExitStack:
        return hold(self.dispatcher, model)

    def ask(
        self, request_id: str, model: str = "compass", timeout: float = 30.0
    ) -> "grpc.Future[pb.ModelInferResponse]":
        return self.stub.ModelInfer.future(request(request_id, model), timeout=timeout)


@pytest.fixture
def stage(short_path: Path, tmp_path: Path) -> Iterator[Stage]:
    heard = Heard(Witness(), Observers())
    observe = threading.Thread(target=heard.observers.run, daemon=True)
    observe.start()
    models = Models(1, lambda _: heard.witness)
    for name in ("compass", "sextant"):
        made = make_bundle(tmp_path, model=name)
        models.activate(name, made.path, made.digest, 1)
    dispatcher, regions = Dispatcher(models, heard.observers, queue=QUEUE), Regions(lambda _: True)
    path = short_path / "i.sock"
    server = start_server(Calls(dispatcher, regions).all(), path, Access())
    rest = RestServer(RestService(dispatcher, regions), str(short_path / "rest.sock"), Access())
    rest.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        yield Stage(dispatcher, heard, rpc.GRPCInferenceServiceStub(channel), short_path / "rest.sock")
    rest.stop(1.0)
    server.stop(1.0)
    heard.observers.stop()
    observe.join(DEADLINE_S)


class Http(UnixHttp):
    def ask(self, timeout_us: int = 0) -> tuple[int, dict[str, object]]:
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 4, 4, 1], "data": frames(1).ravel().tolist()}
        body = {"id": "rest", "inputs": [tensor], "parameters": {"timeout": timeout_us}}
        super().request("POST", "/v2/models/compass/infer", json.dumps(body))
        response = self.getresponse()
        return response.status, json.loads(response.read())


def test_who_finds_the_queue_full_is_told_so_and_other_models_answer(stage: Stage) -> None:
    with stage.hold():
        waiting = [stage.ask(f"w{number}") for number in range(QUEUE)]
        eventually(lambda: places(stage, "compass") == QUEUE + 1, "the requests do not wait")
        with pytest.raises(grpc.RpcError) as refused:
            stage.ask("more").result()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "model compass has too many requests" in refused.value.details()
        status, told = Http(stage.rest).ask()
        assert (status, "too many requests" in str(told["error"])) == (429, True)
        assert stage.ask("other", "sextant").result().model_name == "sextant"
        assert stage.stub.ServerLive(pb.ServerLiveRequest(), timeout=30).live
    assert {one.result().id for one in waiting} == {"w0", "w1"}
    assert sorted(stage.heard.ids) == ["other", "w0", "w1"]
    assert stage.dispatcher.admission.shed == 2


def test_a_deadline_that_passes_while_waiting_saves_the_inference(stage: Stage) -> None:
    with stage.hold():
        with pytest.raises(grpc.RpcError) as refused:
            stage.ask("late", timeout=0.2).result()
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        message = request("by its parameter", "compass")
        message.parameters["timeout"].int64_param = 50_000
        with pytest.raises(grpc.RpcError) as refused:
            stage.stub.ModelInfer(message, timeout=30)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the deadline passed before the answer" in refused.value.details()
        status, told = Http(stage.rest).ask(timeout_us=50_000)
        assert (status, "deadline" in str(told["error"])) == (504, True)
        eventually(lambda: places(stage, "compass") == 1, "a place is still taken")
    assert stage.ask("after").result().id == "after"
    assert stage.heard.ids == ["after"]


def test_a_call_that_is_cancelled_while_it_waits_is_not_run(stage: Stage) -> None:
    with stage.hold():
        call = stage.ask("gone")
        eventually(lambda: places(stage, "compass") == 2, "the request does not wait")
        call.cancel()
        eventually(lambda: places(stage, "compass") == 1, "its place is still taken")
        caller = Http(stage.rest)
        asking = threading.Thread(target=_cut_off, args=(caller,))
        asking.start()
        eventually(lambda: places(stage, "compass") == 2, "the request over REST does not wait")
        assert caller.sock is not None
        caller.sock.shutdown(socket.SHUT_RDWR)
        asking.join()
        eventually(lambda: places(stage, "compass") == 1, "its place is still taken")
    assert stage.ask("after").result().id == "after"
    assert stage.heard.ids == ["after"]


def _cut_off(caller: Http) -> None:
    with pytest.raises((http.client.HTTPException, OSError)):
        caller.ask()


def places(stage: Stage, model: str) -> int:
    return stage.dispatcher.admission.places(model)


def test_one_user_over_loopback_leaves_calls_to_others(
    stage: Stage, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "WORKERS", 5)  # three of them for one user
    regions = Regions(lambda _: True)
    server = start_server(Calls(stage.dispatcher, regions).all(), short_path / "j.sock", Access(), "127.0.0.1:0")
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.tcp_port}") as loopback,
        grpc.insecure_channel(f"unix:{short_path / 'j.sock'}") as local,
    ):
        stubs = [rpc.GRPCInferenceServiceStub(channel) for channel in (loopback, local)]
        with stage.hold("compass"), stage.hold("sextant"):
            models = ["compass", "compass", "sextant"]
            held = [stubs[0].ModelInfer.future(request("held", model), timeout=60) for model in models]
            eventually(lambda: places(stage, "compass") + places(stage, "sextant") == 5, "the requests do not wait")
            with pytest.raises(grpc.RpcError) as refused:
                stubs[0].ServerLive(pb.ServerLiveRequest(), timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"uid {os.geteuid()} has as many as one may have" in refused.value.details()
            assert stubs[1].ServerLive(pb.ServerLiveRequest(), timeout=60).live
        assert {call.result().id for call in held} == {"held"}
        assert stubs[0].ServerLive(pb.ServerLiveRequest(), timeout=60).live
    server.stop(5.0)
