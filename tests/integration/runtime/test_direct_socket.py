"""The direct socket: the protocol's messages in plain frames, and what becomes of callers that do not keep to them."""

import errno
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from held_models import eventually, hold, request
from rest_caller import UnixHttp
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness

from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.direct import LAST, MAX_BODY_BYTES, DirectChannel, Framed, Method
from dsops.errors import InvalidInput, NotServing, RuntimeCrashed, TimedOut
from dsops_agent.runtime import direct_server
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.crew import Crew
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.doors import end_together
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
STATUS = {code: code.value[0] for code in grpc.StatusCode}


@dataclass
class Stage:
    path: Path
    server: DirectServer
    dispatcher: Dispatcher
    witness: Witness
    channel: DirectChannel

    def hold(self) -> ExitStack:
        return hold(self.dispatcher)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.path))
        return connection

    def ask(self, request_id: str = "", timeout_s: float = 20.0) -> tuple[int, bytes]:
        return self.channel.call(Method.MODEL_INFER, request(request_id).SerializeToString(), timeout_s)


@pytest.fixture
def stage(short_path: Path, tmp_path: Path) -> Iterator[Stage]:
    witness, made = Witness(), make_bundle(tmp_path)
    models = Models(1, lambda _: witness)
    models.activate("compass", made.path, made.digest, 1)
    dispatcher = Dispatcher(models, Observers())
    path = short_path / "i.sock.direct"
    server = DirectServer(Calls(dispatcher, Regions(lambda _: True)).all(), path, Access())
    server.start()
    channel = DirectChannel(path)
    yield Stage(path, server, dispatcher, witness, channel)
    channel.close()
    server.stop(5.0)


def test_every_call_of_the_protocol_is_answered(stage: Stage) -> None:
    def call(method: Method, message: object) -> bytes:
        status, body = stage.channel.call(method, message.SerializeToString(), 20.0)  # type: ignore[attr-defined]
        assert status == 0, body
        return body

    assert pb.ServerLiveResponse.FromString(call(Method.SERVER_LIVE, pb.ServerLiveRequest())).live
    assert pb.ServerReadyResponse.FromString(call(Method.SERVER_READY, pb.ServerReadyRequest())).ready
    asked = pb.ModelReadyRequest(name="compass")
    assert pb.ModelReadyResponse.FromString(call(Method.MODEL_READY, asked)).ready
    assert pb.ServerMetadataResponse.FromString(call(Method.SERVER_METADATA, pb.ServerMetadataRequest())).name
    about = pb.ModelMetadataResponse.FromString(call(Method.MODEL_METADATA, pb.ModelMetadataRequest(name="compass")))
    assert about.inputs[0].name == "image"
    index = call(Method.REPOSITORY_INDEX, extensions.RepositoryIndexRequest())
    assert extensions.RepositoryIndexResponse.FromString(index).models[0].name == "compass"
    status = call(Method.SYSTEM_SHARED_MEMORY_STATUS, extensions.SystemSharedMemoryStatusRequest())
    assert not extensions.SystemSharedMemoryStatusResponse.FromString(status).regions
    code, body = stage.ask("r-1")
    answer = pb.ModelInferResponse.FromString(body)
    assert (code, answer.id, len(answer.raw_output_contents)) == (0, "r-1", len(answer.outputs))
    assert stage.witness.answers == 1


@pytest.mark.parametrize(
    ("method", "body", "code", "text"),
    [
        (Method.MODEL_INFER, b"\xff" * 40, grpc.StatusCode.INVALID_ARGUMENT, "cannot be read"),
        (Method.MODEL_INFER, b"", grpc.StatusCode.NOT_FOUND, "is not active"),
        (Method.REPOSITORY_MODEL_UNLOAD, b"", grpc.StatusCode.PERMISSION_DENIED, "only the agent changes models"),
        (99, b"", grpc.StatusCode.UNIMPLEMENTED, "there is no call 99"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_and_the_next_is_not(
    stage: Stage, method: Method, body: bytes, code: grpc.StatusCode, text: str
) -> None:
    found, said = stage.channel.call(method, body, 20.0)
    assert found == STATUS[code]
    assert text in said.decode() or "no model" in said.decode()
    assert stage.ask()[0] == 0


def test_requests_behind_each_other_are_answered_in_their_order(stage: Stage) -> None:
    with stage.connect() as connection:
        connection.setblocking(True)
        framed = Framed(connection, 20.0)
        for number in range(20):
            framed.send(Method.MODEL_INFER, request(f"r-{number}").SerializeToString())
        replies = [framed.receive() for _ in range(20)]
    ids = [pb.ModelInferResponse.FromString(reply[2]).id for reply in replies if reply]
    assert ids == [f"r-{number}" for number in range(20)]


def test_a_request_in_small_pieces_and_one_of_many_megabytes_arrive_whole(stage: Stage) -> None:
    data = request("pieces").SerializeToString()
    with stage.connect() as connection:
        for byte in struct.pack("<III", len(data), Method.MODEL_INFER, 0) + data:
            connection.send(bytes([byte]))
        connection.setblocking(True)
        reply = Framed(connection, 20.0).receive()
    assert reply is not None
    assert pb.ModelInferResponse.FromString(reply[2]).id == "pieces"
    large = pb.ModelInferRequest(model_name="compass")
    large.inputs.add(name="image", datatype="FP32", shape=[100_000, 4, 4, 1])
    large.raw_input_contents.append(bytes(6_400_000))
    status, said = stage.channel.call(Method.MODEL_INFER, large.SerializeToString(), 20.0)
    assert (status, "n from 1 to" in said.decode()) == (STATUS[grpc.StatusCode.INVALID_ARGUMENT], True)


def test_what_is_no_message_ends_its_connection_and_no_other(stage: Stage) -> None:
    with stage.connect() as connection:
        connection.sendall(struct.pack("<III", MAX_BODY_BYTES + 1, Method.MODEL_INFER, 0))
        reply = Framed(connection, 20.0)
        connection.setblocking(True)
        code, _, text = reply.receive() or (0, 0, b"")
        assert (code, b"a message has up to" in text) == (STATUS[grpc.StatusCode.INVALID_ARGUMENT], True)
        assert reply.receive() is None
    with stage.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"a message has up to" in connection.recv(1 << 16)
        eventually(lambda: _has_ended(connection), "the connection is still there")
    with stage.connect() as connection:
        connection.sendall(struct.pack("<II", 10, Method.MODEL_INFER))  # and is gone
    assert stage.ask()[0] == 0


def test_the_callers_limit_is_kept_while_it_waits_for_its_turn(stage: Stage) -> None:
    with stage.hold():
        code, said = stage.ask("late", timeout_s=0.2)
        assert (code, "deadline passed" in said.decode()) == (STATUS[grpc.StatusCode.DEADLINE_EXCEEDED], True)
    assert stage.ask()[0] == 0
    assert stage.witness.answers == 1


def test_a_request_whose_caller_goes_away_is_not_run(stage: Stage) -> None:
    with stage.hold():
        with stage.connect() as connection:
            connection.setblocking(True)
            Framed(connection, 20.0).send(Method.MODEL_INFER, request("gone").SerializeToString())
            eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
        eventually(lambda: stage.dispatcher.admission.places("compass") == 1, "the request still waits")
    assert stage.witness.answers == 0


def test_who_finds_no_room_is_told_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_server, "CONNECTIONS", 3)  # two of them for one user
    with ThreadPoolExecutor() as pool, stage.hold():
        busy = [pool.submit(stage.ask) for _ in range(2)]
        eventually(lambda: stage.dispatcher.admission.places("compass") == 3, "the requests do not wait")
        code, said = stage.ask()
        assert (code, "too many programs" in said.decode()) == (STATUS[grpc.StatusCode.RESOURCE_EXHAUSTED], True)
    assert [done.result(20)[0] for done in busy] == [0, 0]
    assert stage.ask()[0] == 0


def one_that_lingers() -> tuple[socket.socket, socket.socket]:
    """Return a connection whose last close takes until its other end, the second, goes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        lingers = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    lingers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    lingers.setblocking(False)
    with suppress(BlockingIOError):
        while True:  # the end comes after all this, and nobody takes it
            lingers.send(bytes(1 << 16))
    return lingers, other


def test_one_that_is_turned_away_and_whose_end_takes_long_keeps_nobody_out(
    stage: Stage, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = short_path / "second"
    server = DirectServer(Calls(stage.dispatcher, Regions(lambda _: True)).all(), path, Access())
    lingers, other = one_that_lingers()
    with other, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with lingers:
            socket.send_fds(connection, [b"x"], [lingers.fileno()])  # closed with this connection
        monkeypatch.setattr(direct_server, "CONNECTIONS", 0)
        server.start()
        assert b"too many programs" in connection.recv(1 << 16)
        monkeypatch.undo()
        channel = DirectChannel(path)
        assert channel.call(Method.MODEL_INFER, request().SerializeToString(), 20.0)[0] == 0
        channel.close()
    server.stop(5.0)


def test_a_connection_that_cannot_be_waited_for_again_leaves_its_place(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space for another watch")

    with stage.hold() as held, ThreadPoolExecutor() as pool:
        asks = pool.submit(stage.ask)
        eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
        monkeypatch.setattr(Crew, "_listen", refuse)
        held.close()
        assert asks.result(20)[0] == 0
        # After a slow request its thread stays until one was quick.
        eventually(lambda: bool(stage.ask()) and not stage.server._open, "it keeps its place")
    monkeypatch.undo()
    assert stage.ask()[0] == 0


def test_programs_that_ask_nothing_keep_nobody_out_and_go_on_when_they_ask(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_server, "CONNECTIONS", 3)  # two of them for one user
    assert stage.ask("first")[0] == 0
    with stage.connect() as silent, stage.connect() as half:
        half.sendall(struct.pack("<II", 10, Method.MODEL_INFER))
        others = [DirectChannel(stage.path) for _ in range(3)]
        for number in range(12):  # more programs than there is room for, in turns
            status, body = others[number % 3].call(Method.MODEL_INFER, request(f"r-{number}").SerializeToString(), 20.0)
            assert (status, pb.ModelInferResponse.FromString(body).id) == (0, f"r-{number}")
        assert _has_ended(silent)
        assert _has_ended(half)
        for other in others:
            other.close()
    assert stage.ask("again")[0] == 0


def test_a_connection_whose_answer_has_arrived_can_go_for_another_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_server, "CONNECTIONS", 3)
    send, sent, go_on = Framed.send, [], threading.Event()

    def slow_to_return(framed: Framed, code: int, body: bytes, *more: Any) -> None:
        send(framed, code, body, *more)
        if threading.current_thread().name == "direct-call" and len(sent) < 2:  # as when it is others' turn to run
            sent.append(code)
            go_on.wait(60)

    monkeypatch.setattr(Framed, "send", slow_to_return)
    others = [DirectChannel(stage.path) for _ in range(3)]
    try:
        found = []
        for number, other in enumerate(others):
            found.append(other.call(Method.MODEL_INFER, request().SerializeToString(), 20.0)[0])
            eventually(lambda number=number: len(sent) == min(number + 1, 2), "the connection's thread has gone on")
    finally:
        go_on.set()
        for other in others:
            other.close()
    assert found == [0, 0, 0]


FORKS = """
import os, sys
from pathlib import Path
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.direct import DirectChannel, Method

def wrong(who):
    found = 0
    for number in range(100):
        message = pb.ModelInferRequest.FromString(request)
        message.id = f"{who}-{number}"
        status, body = channel.call(Method.MODEL_INFER, message.SerializeToString(), 20.0)
        found += pb.ModelInferResponse.FromString(body).id != message.id
    return found

channel, request = DirectChannel(Path(sys.argv[1])), bytes.fromhex(sys.argv[2])
assert wrong("before") == 0
children = []
for who in "ab":
    children.append(os.fork())
    if not children[-1]:
        os._exit(min(wrong(who), 99))
found = wrong("parent")
print(found, [os.waitpid(child, 0)[1] for child in children])
"""


def test_a_forked_program_gets_no_answers_of_others(stage: Stage) -> None:
    command = [sys.executable, "-c", FORKS, str(stage.path), request().SerializeToString().hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0 [0, 0]"


def test_the_end_waits_for_what_is_under_way_and_takes_nothing_more(stage: Stage) -> None:
    stage.ask()
    with ThreadPoolExecutor() as pool, stage.hold() as held:
        waiting = pool.submit(stage.ask, "last")
        eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
        end = threading.Thread(target=stage.server.stop, args=(20.0,))
        end.start()
        eventually(lambda: _refuses(stage.path), "it still listens")
        held.close()
        code, body = waiting.result(20)
        end.join(20)
    assert (code, pb.ModelInferResponse.FromString(body).id) == (0, "last")
    with pytest.raises(NotServing, match="no agent listens"):
        stage.ask()


def test_what_was_sent_before_the_end_is_answered_in_order(stage: Stage) -> None:
    with stage.connect() as connection:
        connection.setblocking(True)
        framed = Framed(connection, 20.0)
        with stage.hold() as held:
            for number in range(5):
                framed.send(Method.MODEL_INFER, request(f"r-{number}").SerializeToString())
            eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
            stage.server.end()
            with pytest.raises(BrokenPipeError):
                framed.send(Method.MODEL_INFER, request("late").SerializeToString())
            held.close()
        replies = [framed.receive() for _ in range(5)]
        assert framed.receive() is None
    found = [(reply[0], reply[1]) for reply in replies if reply]
    unavailable = STATUS[grpc.StatusCode.UNAVAILABLE]
    assert found == [(0, 0)] + [(unavailable, 0)] * 3 + [(unavailable, LAST)]


def test_every_server_takes_no_more_before_one_is_waited_for(stage: Stage, short_path: Path) -> None:
    service = RestService(stage.dispatcher, Regions(lambda _: True))
    rest = RestServer(service, str(short_path / "rest.sock"), Access())
    rest.start()
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 4, 4, 1], "data": frames(1).ravel().tolist()}
    http = UnixHttp(short_path / "rest.sock")
    with ThreadPoolExecutor() as pool, stage.hold() as held:
        http.request("POST", "/v2/models/compass/infer", json.dumps({"inputs": [tensor]}))
        waiting = pool.submit(stage.ask, "last")
        eventually(lambda: stage.dispatcher.admission.places("compass") == 3, "the requests do not wait")
        ended = pool.submit(end_together, [rest, stage.server], 60.0)
        eventually(lambda: _refuses(stage.path), "it still listens, while the other is waited for")
        held.close()
        assert waiting.result(20)[0] == 0
        response = http.getresponse()
        assert (response.status, b"scores" in response.read()) == (200, True)
        ended.result(60)
    http.close()


def test_who_asks_while_it_ends_gets_an_answer_or_is_told_that_nobody_serves(stage: Stage) -> None:
    def ask_until_the_end() -> tuple[int, bytes]:
        while True:
            status, said = stage.ask()
            if status:
                return status, said

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_until_the_end) for _ in range(4)]
        eventually(lambda: stage.witness.answers > 8, "nothing is answered")
        stage.server.stop(20.0)
        for one in asking:
            try:
                assert one.result(20)[0] == STATUS[grpc.StatusCode.UNAVAILABLE]
            except NotServing:
                continue


def test_a_thread_that_is_being_started_does_not_disturb_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    start, starting, go_on = threading.Thread.start, threading.Event(), threading.Event()

    def slow(thread: threading.Thread) -> None:
        if thread.name == "direct-call":
            starting.set()
            go_on.wait(20)
        start(thread)

    with stage.connect() as connection, ThreadPoolExecutor(1) as pool, stage.hold() as held:
        monkeypatch.setattr(threading.Thread, "start", slow)
        connection.setblocking(True)
        framed = Framed(connection, 20.0)
        framed.send(Method.MODEL_INFER, request("last").SerializeToString())
        assert starting.wait(20)
        monkeypatch.undo()
        stopped = pool.submit(stage.server.stop, 20.0)
        eventually(lambda: _refuses(stage.path), "it still listens")
        go_on.set()
        held.close()
        assert (framed.receive() or (99,))[0] == 0
        stopped.result(20)


def test_a_caller_that_says_it_sends_no_more_gets_its_answer(stage: Stage) -> None:
    with stage.connect() as connection:
        connection.setblocking(True)
        framed = Framed(connection, 20.0)
        with stage.hold():
            framed.send(Method.MODEL_INFER, request("only").SerializeToString())
            connection.shutdown(socket.SHUT_WR)
            eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
        code, _, body = framed.receive() or (99, 0, b"")
        assert (code, pb.ModelInferResponse.FromString(body).id) == (0, "only")
        assert framed.receive() is None


def _has_ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionResetError:  # it ended before everything was read
        return True


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def served(path: Path, answers: Callable[[socket.socket], None]) -> threading.Thread:
    """Listen once, and let ``answers`` have the connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
        with connection:
            answers(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_server_that_says_nothing_is_given_up_and_one_that_ends_is_told_apart(short_path: Path) -> None:
    silent = served(short_path / "silent", lambda connection: connection.recv(1 << 16) and connection.recv(1) and None)
    channel = DirectChannel(short_path / "silent")
    with pytest.raises(TimedOut, match=r"0\.1 s have passed"):
        channel.call(Method.SERVER_LIVE, b"", 0.1)
    silent.join(20)
    ending = served(short_path / "ending", lambda connection: connection.recv(1 << 16) and None)
    with pytest.raises(RuntimeCrashed, match="ended before the answer"):
        DirectChannel(short_path / "ending").call(Method.SERVER_LIVE, b"", 20.0)
    ending.join(20)
    with pytest.raises(InvalidInput, match="a request has up to"):
        channel.call(Method.MODEL_INFER, bytes(MAX_BODY_BYTES + 1), 1.0)


def test_a_server_that_closes_before_it_has_read_a_request_has_not_answered_it(short_path: Path) -> None:
    closing = served(short_path / "closing", lambda connection: connection.recv(1) and None)
    with pytest.raises(NotServing, match="takes no more requests"):
        DirectChannel(short_path / "closing").call(Method.MODEL_INFER, bytes(100_000), 20.0)
    closing.join(20)


def test_a_channel_that_is_closed_while_it_connects_leaves_nothing_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, made = socket.socket.connect, []

    def connect_late(connection: socket.socket, path: str) -> None:
        connect(connection, path)
        made.append(connection)
        stage.channel.close()

    monkeypatch.setattr(socket.socket, "connect", connect_late)
    with pytest.raises(NotServing, match="was closed"):
        stage.ask()
    assert [connection.fileno() for connection in made] == [-1]
    assert stage.witness.answers == 0


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("inf"), float("nan"), None])
def test_a_time_that_nobody_can_wait_for_is_refused(stage: Stage, timeout_s: float) -> None:
    with pytest.raises(InvalidInput, match="a time to wait is a number, more than 0"):
        stage.ask(timeout_s=timeout_s)


def test_threads_have_connections_of_their_own_and_a_new_server_is_found(stage: Stage) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: stage.ask(f"r-{number}"), range(200)))
    assert [pb.ModelInferResponse.FromString(body).id for _, body in found] == [f"r-{n}" for n in range(200)]
    stage.server.stop(5.0)
    stage.path.unlink()
    again = DirectServer(Calls(stage.dispatcher, Regions(lambda _: True)).all(), stage.path, Access())
    again.start()
    assert stage.ask()[0] == 0
    again.stop(5.0)
