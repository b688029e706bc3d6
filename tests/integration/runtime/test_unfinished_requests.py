"""Requests that begin and do not end, over each of the servers: what they may hold, and for how long."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from held_models import eventually, hold, request
from rest_caller import UnixHttp
from runtime_bundles import make_bundle
from runtime_watches import Witness
from serving_runtime import serving
from unfinished_calls import UnfinishedCall

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.call_status import CallStatus
from dsops.direct import LAST, MAX_BODY_BYTES, DirectChannel, Framed, Method
from dsops_agent.runtime import direct_server, parsing
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.intake import PLACES
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.rest import HEADER_LENGTH
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.server import start_server
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
LARGE = 8 << 20
ROOM = 4 * LARGE
"""One user may hold three of the large requests."""
OWN = [("grpc.use_local_subchannel_pool", 1)]
"""A connection of its own."""


@dataclass
class Stage:
    path: Path
    dispatcher: Dispatcher
    room: Room

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
    yield Stage(path, dispatcher, room)
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


def test_what_waits_for_its_turn_is_weighed_until_it_is_answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "PLAIN_BYTES", MAX_BODY_BYTES)
    with hold(stage.dispatcher), ExitStack() as open_:
        for number in range(3):
            message = request(f"r-{number}")
            message.parameters["padding"].string_param = "x" * (LARGE - 4096)
            body = message.SerializeToString()
            connection = open_.enter_context(stage.connect())
            connection.sendall(struct.pack("<III", len(body), Method.MODEL_INFER, 0) + body)
        eventually(lambda: stage.dispatcher.admission.places("compass") == 4, "the requests do not wait")
        code, _, text = reply_on(open_.enter_context(begun(stage)))
        assert (code, "too many bytes" in text) == (CallStatus.RESOURCE_EXHAUSTED, True)


def test_programs_at_the_grpc_socket_leave_room_to_others(
    stage: Stage, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "PLAIN_BYTES", MAX_BODY_BYTES)
    message = request()
    message.parameters["padding"].string_param = "x" * (LARGE - 4096)
    path = short_path / "g.sock"
    calls = Calls(stage.dispatcher, Regions(lambda _: True), stage.room).all()
    server = start_server(calls, path, Access(), room=stage.room)
    try:
        with ExitStack() as open_:
            channels = [open_.enter_context(grpc.insecure_channel(f"unix:{path}", options=OWN)) for _ in range(4)]
            *stubs, last = map(rpc.GRPCInferenceServiceStub, channels)
            with hold(stage.dispatcher):
                waiting = [stub.ModelInfer.future(message, timeout=60) for stub in stubs]
                eventually(lambda: stage.dispatcher.admission.places("compass") == 4, "the requests do not wait")
                with pytest.raises(grpc.RpcError) as refused:
                    last.ModelInfer(message, timeout=60)
                other = open_.enter_context(begun(stage))
                other.settimeout(1.0)
                with pytest.raises(TimeoutError):  # it is waited for, so that it has room
                    other.recv(1)
            assert [call.result().model_name for call in waiting] == ["compass"] * 3
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too many bytes of requests" in refused.value.details()
    finally:
        server.stop(5.0)


MIB = 1 << 20


def peak_bytes(pid: int) -> int:
    """Return how much memory a process ever had at once."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_answered(socket_: Path) -> bool:
    with grpc.insecure_channel(f"unix:{socket_}") as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request(), timeout=60, wait_for_ready=True).model_name == "compass"


@pytest.mark.slow
def test_unfinished_requests_of_all_connections_take_a_bounded_memory(short_path: Path, tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    with serving(short_path, made) as process:
        assert is_answered(short_path / "inference.sock")
        before, most = peak_bytes(process.pid), 400 * MIB
        head = struct.pack("<III", MAX_BODY_BYTES, Method.MODEL_INFER, 0)
        connections = [_begun_on(short_path / "inference.sock.direct", head) for _ in range(64)]
        sent = _send_all(connections, lambda: peak_bytes(process.pid) - before > most)
        grown = peak_bytes(process.pid) - before
        print(f"direct: {sent / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown")
        assert MAX_BODY_BYTES < grown < most  # the attack did what it should
        for connection in connections:
            connection.close()
        assert is_answered(short_path / "inference.sock")


@pytest.mark.slow
def test_unfinished_requests_over_rest_take_a_bounded_memory(short_path: Path, tmp_path: Path) -> None:
    made, rest = make_bundle(tmp_path), short_path / "rest.sock"
    head = f"POST /v2/models/compass/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY_BYTES}\r\n"
    with serving(short_path, made, rest=str(rest)) as process:
        assert is_answered(short_path / "inference.sock")
        before, most = peak_bytes(process.pid), 400 * MIB
        connections = [_begun_on(rest, f"{head}{HEADER_LENGTH}: 2\r\n\r\n".encode()) for _ in range(64)]
        sent = _send_all(connections, lambda: peak_bytes(process.pid) - before > most)
        grown = peak_bytes(process.pid) - before
        print(f"REST: {sent / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown")
        assert MAX_BODY_BYTES < grown < most
        for connection in connections:
            connection.close()
        with closing(UnixHttp(rest)) as http:
            http.request("GET", "/v2/models/compass/ready")
            assert http.getresponse().status == 200


@pytest.mark.slow
def test_unfinished_calls_over_grpc_take_a_bounded_memory_and_others_are_answered(
    short_path: Path, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path)
    with serving(short_path, made) as process:
        inference = short_path / "inference.sock"
        assert is_answered(inference)
        before, most = peak_bytes(process.pid), (PLACES + 2) * MAX_BODY_BYTES
        calls = [UnfinishedCall(inference, MAX_BODY_BYTES) for _ in range(24)]  # of 64 that there may be
        rests_since = time.monotonic()
        while time.monotonic() < rests_since + 2.0 and peak_bytes(process.pid) - before < most:
            if sum(call.go_on() for call in calls):
                rests_since = time.monotonic()
        grown = peak_bytes(process.pid) - before
        print(f"gRPC: {sum(call.sent for call in calls) / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown")
        assert MAX_BODY_BYTES < grown < most  # the attack did what it should
        calls += [UnfinishedCall(inference, MAX_BODY_BYTES) for _ in range(12)]
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(is_answered, inference)
            while not asked.done():
                for call in calls:
                    call.go_on()
            assert asked.result()
        grown = peak_bytes(process.pid) - before
        print(f"gRPC: {sum(call.sent for call in calls) / MIB:.0f} MiB sent, {grown / MIB:.0f} MiB grown")
        assert grown < most
        for call in calls:
            call.close()


def _begun_on(path: Path, head: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    connection.sendall(head)
    connection.setblocking(False)
    return connection


def _send_all(connections: list[socket.socket], is_enough: Callable[[], bool]) -> int:
    """Send all but the end of each body, as far as it is taken; return how many bytes were."""
    left = dict.fromkeys(connections, MAX_BODY_BYTES - 1)
    piece, sent, rests_since = bytes(1 << 18), 0, time.monotonic()
    while left and not is_enough() and time.monotonic() < rests_since + 2.0:
        for connection in list(left):
            try:
                done = connection.send(piece[: left[connection]])
            except BlockingIOError:
                continue
            except OSError:
                del left[connection]
                continue
            sent, left[connection], rests_since = sent + done, left[connection] - done, time.monotonic()
            if not left[connection]:
                del left[connection]
    return sent
