"""Who may stay connected to REST when many are: by real connections of two users."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from held_models import eventually

from dsops.errors import QueueFull
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_connections import MOST_LEAVING
from dsops_agent.runtime.rest_crowd import PLACES, makes_way
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.shares import most_of
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models
from dsops_controller.demo.ports import free_ports

pytestmark = pytest.mark.integration
MOST = most_of(PLACES)
BEGUN = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
"""A request that does not go on."""
ASKED = BEGUN + b"\r\n"
NOBODYS_UID = 65534
ASKS_AS = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
connection = socket.socket()
connection.settimeout(60)
connection.connect(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.argv[3].encode())
print(connection.recv(4096).split()[1].decode())
"""


@dataclass(frozen=True)
class Guest:
    user: str
    rests_since_s: float | None = None


def guests(count: int, user: str, since_s: float | None = None) -> list[Guest]:
    return [Guest(user, since_s and since_s + number) for number in range(count)]


def test_while_a_quarter_is_left_nobody_has_to_go_and_no_user_is_asked_for() -> None:
    class Unknown(Guest):
        @property
        def user(self) -> str:  # type: ignore[override]
            raise AssertionError("to find out takes milliseconds")

        def __init__(self) -> None:
            pass

    assert makes_way(Unknown(), [Unknown()] * 47, places=64) is None


def test_who_has_its_share_gives_one_of_its_own_and_when_all_are_taken_whoever_rests_longest_does() -> None:
    others = [*guests(48, "a", 100.0), *guests(8, "b", 50.0)]
    assert makes_way(Guest("a"), others, places=64) == Guest("a", 100.0)
    assert makes_way(Guest("b"), others, places=64) is None
    full = [*others, *guests(8, "c", 80.0)]
    assert makes_way(Guest("b"), full, places=64) == Guest("b", 50.0)
    assert makes_way(Guest("d"), full, places=64) == Guest("b", 50.0)


def test_where_all_ask_the_newcomer_has_to_go() -> None:
    with pytest.raises(QueueFull, match="a has 48 of 64"):
        makes_way(Guest("a"), [*guests(48, "a"), *guests(2, "b", 1.0)], places=64)
    with pytest.raises(QueueFull, match="64 are, and ask"):
        makes_way(Guest("c"), [*guests(40, "a"), *guests(24, "b")], places=64)


@dataclass
class Stage:
    path: Path
    port: int
    server: RestServer

    def connect(self, sent: bytes = b"", *, is_tcp: bool = False) -> socket.socket:
        one = socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX)
        one.settimeout(60)
        one.connect(("127.0.0.1", self.port) if is_tcp else str(self.path))
        one.sendall(sent)
        return one


@pytest.fixture
def stage(short_path: Path) -> Iterator[Stage]:
    service = RestService(Dispatcher(Models(1, lambda _: pytest.fail("none is activated")), Observers()), Regions(bool))
    (port,) = free_ports(1)
    path = short_path / "r.sock"
    servers = [RestServer(service, where, Access()) for where in (str(path), f"127.0.0.1:{port}")]
    for server in servers:
        server.start()
    yield Stage(path, port, servers[0])
    for server in servers:
        server.stop(5.0)


def reply_on(connection: socket.socket) -> tuple[int, str, str]:
    """Return status, error, and what the reply says of the connection."""
    response = http.client.HTTPResponse(connection, method="GET")
    response.begin()
    text = response.read()
    return response.status, json.loads(text)["error"] if text else "", response.getheader("Connection", "")


def is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("is_tcp", [False, True])
def test_connections_on_which_nothing_is_asked_keep_nobody_out(stage: Stage, *, is_tcp: bool) -> None:
    with ExitStack() as open_:
        kept = [open_.enter_context(stage.connect(is_tcp=is_tcp)) for _ in range(PLACES)]
        asking = open_.enter_context(stage.connect(ASKED, is_tcp=is_tcp))
        assert reply_on(asking) == (200, "", "")
        eventually(lambda: sum(map(is_ended, kept)) == PLACES + 1 - MOST, "those of one user have a bound")
        assert not is_ended(kept[-1])


def test_who_rested_longest_goes_first_and_who_asks_stays(stage: Stage) -> None:
    with ExitStack() as open_:
        first = open_.enter_context(stage.connect(BEGUN))
        kept = [open_.enter_context(stage.connect()) for _ in range(MOST - 1)]
        kept[0].sendall(ASKED)
        assert reply_on(kept[0])[0] == 200
        open_.enter_context(stage.connect())
        eventually(lambda: is_ended(kept[1]), "nobody went")
        first.sendall(b"\r\n")
        assert reply_on(first)[0] == 200
        assert [number for number, one in enumerate(kept) if is_ended(one)] == [1]


def test_who_finds_no_place_is_told_so_and_what_it_sends_is_let_go(stage: Stage) -> None:
    body = bytes(4 << 20)
    head = f"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ExitStack() as open_:
        asking = [open_.enter_context(stage.connect(BEGUN)) for _ in range(MOST)]
        for sent in (ASKED, head + body):
            refused = open_.enter_context(stage.connect(sent))
            status, text, connection = reply_on(refused)
            assert (status, connection.lower()) == (429, "close")
            assert f"has {MOST} of {PLACES}, and asks on each" in text
            assert refused.recv(1) == b""
        for one in asking[:2]:
            one.sendall(bytes(1 << 10))  # whoever closes with more on the way is gone all the same
            one.close()
        eventually(lambda: reply_on(open_.enter_context(stage.connect(ASKED)))[0] == 200, "its place is kept")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_one_user_who_asks_on_every_connection_leaves_places_to_others(stage: Stage) -> None:
    with ExitStack() as open_:
        for _ in range(MOST + 4 * MOST_LEAVING):  # what finds no place says nothing, so that it waits to be told so
            open_.enter_context(stage.connect(BEGUN, is_tcp=True))
        assert reply_on(open_.enter_context(stage.connect(ASKED, is_tcp=True)))[0] == 429
        command = [sys.executable, "-c", ASKS_AS, str(stage.port), str(NOBODYS_UID), ASKED.decode()]
        other = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (other.stdout.strip(), other.returncode) == ("200", 0), other.stderr
