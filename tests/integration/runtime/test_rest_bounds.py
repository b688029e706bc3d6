"""What requests over REST may hold before they are answered, and for how long: by bytes on the socket."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from held_models import eventually
from rest_caller import UnixHttp
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness

from dsops.direct import MAX_BODY_BYTES
from dsops_agent.runtime import rest_intake
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.parsing import JSON_BYTES, MOST_PARTS, PLAIN_BYTES
from dsops_agent.runtime.rest import HEADER_LENGTH, RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
LARGE = 8 << 20
ROOM = 4 * LARGE
"""One user may hold three of the large requests."""
INFER = "/v2/models/compass/infer"
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Stage:
    path: Path
    room: Room
    service: RestService
    port: int = 0

    def connect(self, text: str = "", body: bytes = b"") -> socket.socket:
        connection = socket.socket(socket.AF_INET if self.port else socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", self.port) if self.port else str(self.path))
        connection.sendall(f"{HEAD}{text}\r\n".encode() + body)
        return connection

    def begin(self, length: int = LARGE) -> socket.socket:
        """Send the head of a request, and a byte of its body."""
        return self.connect(f"Content-Length: {length}\r\n{HEADER_LENGTH}: 2\r\n", b"{")

    def ask(self, body: bytes, *, json_size: int | None = None) -> tuple[int, str]:
        """Send a request, all of it before anything is read."""
        connection = UnixHttp(self.path)
        try:
            connection.request("POST", INFER, body, {} if json_size is None else {HEADER_LENGTH: str(json_size)})
            return said_in(connection.getresponse())
        finally:
            connection.close()

    def has(self, size: int) -> bool:
        """Return whether nobody holds so much of the room."""
        if not self.room.try_take(size, ""):
            return False
        self.room.give_back(size, "")
        return True

    def begin_three(self, open_: ExitStack) -> list[socket.socket]:
        """Begin as many large requests as there is room for."""
        begun = [open_.enter_context(self.begin()) for _ in range(3)]
        eventually(lambda: not self.has(LARGE + 1), "they take no room")
        return begun


@pytest.fixture
def stage(short_path: Path, tmp_path: Path) -> Iterator[Stage]:
    made = make_bundle(tmp_path)
    models = Models(1, lambda _: Witness())
    models.activate("compass", made.path, made.digest, 1)
    room, path = Room(ROOM, wait_s=0.1), short_path / "rest.sock"
    service = RestService(Dispatcher(models, Observers()), Regions(lambda _: True), room)
    server = RestServer(service, str(path), Access(), room)
    server.start()
    yield Stage(path, room, service)
    server.stop(5.0)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def said_in(response: http.client.HTTPResponse) -> tuple[int, str]:
    told = json.loads(response.read())
    return response.status, told.get("error", "")


def reply_on(connection: socket.socket) -> tuple[int, str]:
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    return said_in(response)


def small() -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 4, 4, 1], "data": frames(1).ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def large(size: int = LARGE) -> tuple[bytes, int]:
    """Return a body of so many bytes, nearly all of them raw, and the length of its JSON text."""
    raw = size - 200
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 4, 4, 1], "parameters": {"binary_data_size": raw}}
    head = json.dumps({"inputs": [tensor]}).encode().ljust(200)
    return head + bytes(raw), len(head)


def test_large_requests_have_so_much_room_together_and_small_ones_are_answered_meanwhile(stage: Stage) -> None:
    with ExitStack() as open_:
        stage.begin_three(open_)
        refused = open_.enter_context(stage.begin())
        status, text = reply_on(refused)
        assert (status, "too many bytes of requests are under way" in text) == (429, True)
        body, json_size = large()
        status, text = stage.ask(body, json_size=json_size)  # its caller reads nothing before all of it is sent
        assert (status, "too many bytes" in text) == (429, True)
        assert stage.ask(small()) == (200, "")
    eventually(lambda: stage.has(ROOM), "room is still held by who is gone")
    status, text = stage.ask(body, json_size=json_size)
    assert (status, "has 64 bytes" in text) == (400, True)  # it was received
    eventually(lambda: stage.has(ROOM), "room is still held by who was answered")


def test_one_user_over_loopback_has_three_quarters_of_the_room(stage: Stage) -> None:
    stage.port = free_port()
    server = RestServer(stage.service, f"127.0.0.1:{stage.port}", Access(), stage.room)
    server.start()
    try:
        with ExitStack() as open_:
            stage.begin_three(open_)
            assert stage.has(LARGE)
            status, text = reply_on(open_.enter_context(stage.begin()))
            assert (status, "too many bytes" in text) == (429, True)
    finally:
        server.stop(5.0)


def test_a_connection_whose_request_was_refused_goes_on_with_the_next(stage: Stage) -> None:
    with ExitStack() as open_:
        stage.begin_three(open_)
        connection = open_.enter_context(stage.begin())
        assert reply_on(connection)[0] == 429
        connection.sendall(bytes(LARGE - 1) + f"{HEAD}Content-Length: {len(small())}\r\n\r\n".encode() + small())
        assert reply_on(connection) == (200, "")


def test_a_request_waits_for_room_that_is_given_back_soon(stage: Stage) -> None:
    stage.room.wait_s = 60.0
    stage.room.take(ROOM, "")
    body, json_size = large()
    with stage.connect(
        f"Content-Length: {len(body)}\r\n{HEADER_LENGTH}: {json_size}\r\nExpect: 100-continue\r\n"
    ) as one:
        one.settimeout(0.5)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(60)
        stage.room.give_back(ROOM, "")
        assert one.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.sendall(body)
        assert reply_on(one)[0] == 400


def test_who_asks_before_it_sends_is_refused_without_being_told_to_go_on(stage: Stage) -> None:
    with stage.connect(f"Content-Length: {MAX_BODY_BYTES + 1}\r\nExpect: 100-continue\r\n") as one:
        status, text = reply_on(one)
        assert (status, f"at most {MAX_BODY_BYTES} bytes" in text) == (413, True)
        assert one.recv(1) == b""  # whether a body still comes nobody knows


def test_a_body_that_does_not_arrive_in_time_is_refused_and_its_room_given_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_intake, "BODY_S", 0.3)
    with ExitStack() as open_:
        begun = stage.begin_three(open_)
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(0.05):
                try:
                    begun[0].sendall(b"x")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        try:
            for connection in begun:
                status, text = reply_on(connection)
                assert (status, "did not arrive in time" in text) == (408, True)
        finally:
            over.set()
            trickling.join()
        eventually(lambda: stage.has(ROOM), "room is still held")


def test_a_head_that_does_not_arrive_in_time_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_intake, "STALLED_S", 0.2)
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(str(stage.path))
        one.sendall(HEAD.encode())
        status, text = reply_on(one)
        assert (status, "no head within" in text) == (408, True)


@pytest.mark.parametrize("length", [JSON_BYTES + 1, MAX_BODY_BYTES])
def test_json_of_more_than_four_mebibytes_is_refused_unread(stage: Stage, length: int) -> None:
    status, text = stage.ask(b" " * length)
    assert (status, f"up to {JSON_BYTES} bytes of JSON" in text, "binary data" in text) == (413, True, True)
    status, text = stage.ask(bytes(length), json_size=length)
    assert (status, f"up to {JSON_BYTES} bytes of JSON" in text) == (413, True)


def test_json_of_very_many_parts_is_refused_unread(stage: Stage) -> None:
    status, text = stage.ask(b"[" + b"{}," * MOST_PARTS + b"0]")
    assert (status, "flat lists" in text) == (413, True)


def test_a_body_of_32_mebibytes_may_find_room_and_one_byte_more_is_too_long(stage: Stage) -> None:
    status, text = stage.ask(bytes(MAX_BODY_BYTES), json_size=2)
    assert (status, "too many bytes" in text) == (429, True)  # one user has three quarters of this room
    status, text = stage.ask(bytes(MAX_BODY_BYTES + 1), json_size=2)
    assert (status, f"at most {MAX_BODY_BYTES} bytes" in text) == (413, True)


def test_a_body_of_unknown_length_has_a_mebibyte(stage: Stage) -> None:
    chunked = "Transfer-Encoding: chunked\r\n"
    with stage.connect(chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (len(small()), small())) as one:
        assert reply_on(one) == (200, "")
    endless = b"%x\r\n" % MAX_BODY_BYTES + bytes(2 * PLAIN_BYTES)
    for text in (chunked, f"{chunked}{HEADER_LENGTH}: 2\r\n"):
        with stage.connect(text, endless) as one:
            status, told = reply_on(one)
            assert (status, "does not tell its length" in told) == (413, True)
    eventually(lambda: stage.has(ROOM), "room is still held")


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"junk\r\n\r\n", 400, "Start line is invalid"),
        (f"{HEAD}x: {'x' * (70 << 10)}\r\n\r\n".encode(), 431, "exceeds max_header"),
    ],
)
def test_what_is_no_request_is_told_so_as_json(stage: Stage, sent: bytes, status: int, said: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(60)
        one.connect(str(stage.path))
        one.sendall(sent)
        found, text = reply_on(one)
        assert (found, said in text) == (status, True), text
        assert one.recv(1) == b"", "what comes after it can be no request either"


def test_who_leaves_within_its_body_leaves_its_room(stage: Stage) -> None:
    for _ in range(2):
        with ExitStack() as open_:
            stage.begin_three(open_)
        eventually(lambda: stage.has(ROOM), "room is still held by who is gone")
