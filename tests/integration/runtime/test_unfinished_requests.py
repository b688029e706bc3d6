"""Requests that begin and do not end, over the direct socket and over gRPC: what they may hold, and for how long."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from held_models import eventually, hold, request
from runtime_bundles import make_bundle
from runtime_watches import Witness

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.call_status import CallStatus
from dsops.direct import LAST, DirectChannel, Framed, Method
from dsops_agent.runtime import direct_server
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
LARGE = 8 << 20
ROOM = 4 * LARGE
"""One user may hold three of the large requests."""


@dataclass
class Stage:
    path: Path
    dispatcher: Dispatcher

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        return connection

    def ask(self, message: pb.ModelInferRequest | None = None) -> tuple[int, str]:
        channel = DirectChannel(self.path)
        try:
            status, body = channel.call(Method.MODEL_INFER, (message or request()).SerializeToString(), 60.0)
        finally:
            channel.close()
        return status, body.decode(errors="replace")


@pytest.fixture
def stage(short_path: Path, tmp_path: Path) -> Iterator[Stage]:
    made = make_bundle(tmp_path)
    models = Models(1, lambda _: Witness())
    models.activate("compass", made.path, made.digest, 1)
    dispatcher, room, path = Dispatcher(models, Observers()), Room(ROOM, wait_s=0.1), short_path / "i.sock.direct"
    server = DirectServer(Calls(dispatcher, Regions(lambda _: True), room).all(), path, Access(), room)
    server.start()
    yield Stage(path, dispatcher)
    server.stop(5.0)


def begun(stage: Stage, length: int = LARGE) -> socket.socket:
    """Send the head of a request, and a byte of its body."""
    connection = stage.connect()
    connection.sendall(struct.pack("<III", length, Method.MODEL_INFER, 0) + b"x")
    return connection


def reply_on(connection: socket.socket) -> tuple[int, int, str]:
    code, last, body = Framed(connection, 60.0).receive() or (99, 0, b"")
    return code, last, body.decode()


def large(size: int = LARGE) -> pb.ModelInferRequest:
    message = request()
    message.raw_input_contents[0] = bytes(size)
    return message


def test_large_requests_have_so_much_room_together_and_small_ones_are_answered_meanwhile(stage: Stage) -> None:
    with ExitStack() as open_:
        for _ in range(3):
            open_.enter_context(begun(stage))
        refused = open_.enter_context(begun(stage))
        code, last, text = reply_on(refused)
        assert (code, last) == (CallStatus.RESOURCE_EXHAUSTED, LAST)
        assert "too many bytes of requests are under way" in text
        assert stage.ask(large())[0] == CallStatus.RESOURCE_EXHAUSTED  # although all of it is being sent
        assert stage.ask()[0] == CallStatus.OK
    eventually(lambda: stage.ask(large())[0] == CallStatus.INVALID_ARGUMENT, "room is still held")


def test_a_body_that_does_not_arrive_in_time_is_refused_and_its_room_given_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_server, "BODY_S", 0.2)
    with ExitStack() as open_:
        begun_ = [open_.enter_context(begun(stage)) for _ in range(3)]
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(0.05):
                try:
                    begun_[0].sendall(b"x")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            for connection in begun_:
                code, last, text = reply_on(connection)
                assert (code, last) == (CallStatus.DEADLINE_EXCEEDED, LAST)
                assert "did not arrive in time" in text
        finally:
            over.set()
            trickling.join()
    status, text = stage.ask(large())
    assert (status, "has 64 bytes" in text) == (CallStatus.INVALID_ARGUMENT, True)  # it was received


def test_what_waits_for_its_turn_is_weighed_until_it_is_answered(stage: Stage) -> None:
    with hold(stage.dispatcher), ExitStack() as open_:
        for number in range(3):
            message = request(f"r-{number}")
            message.parameters["padding"].string_param = "x" * (LARGE - 4096)
            body = message.SerializeToString()
            connection = open_.enter_context(stage.connect())
            connection.sendall(struct.pack("<III", len(body), Method.MODEL_INFER, 0) + body)
        eventually(lambda: stage.dispatcher.admission.places("compass") == 3, "the requests do not wait")
        code, _, text = reply_on(open_.enter_context(begun(stage)))
        assert (code, "too many bytes" in text) == (CallStatus.RESOURCE_EXHAUSTED, True)
