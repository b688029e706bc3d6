"""The direct socket's one leader: what it answers itself, and that no caller keeps another one waiting."""

import fcntl
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from held_models import eventually, hold, request
from runtime_bundles import make_bundle
from runtime_watches import Witness
from slow_models import Slow, replace_loaded
from typing_extensions import override

from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.direct import DirectChannel, Framed, Method
from dsops_agent.runtime import crew
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.pace import Pace
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access
from dsops_agent.runtime.swap import Models

pytestmark = pytest.mark.integration
LARGE = 1 << 20
ENDLESS_S = 3600.0
"""What holds one caller up does so until the test ends."""
PATIENCE_S = 20.0
"""Less than a connection that has stalled is borne."""


class Challenged(Duels):
    """The challengers of models, which take their time."""

    def __init__(self, goes_on: threading.Event) -> None:
        self.models: set[str] = set()
        self.goes_on, self.asked = goes_on, threading.Event()

    @override
    def has(self, model: str) -> bool:
        return model in self.models

    @override
    def draws(self, model: str) -> bool:
        return False

    @override
    def answer(self, *_: Any) -> None:
        self.asked.set()
        self.goes_on.wait(ENDLESS_S)


class Stage:
    """Two models, one of which does something before each frame once the test says so."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.before: Callable[[], None] = lambda: None
        self.holds_back: Callable[[Callable[[], None]], None] = lambda _: None
        self.threads: list[int] = []
        self.goes_on, self.until_end = threading.Event(), ExitStack()
        self.path, self.room = path, Room(3 * LARGE, wait_s=ENDLESS_S)
        self.models = Models(1, self._watch)
        for name in ("compass", "sextant"):
            made = make_bundle(folder, model=name)
            self.models.activate(name, made.path, made.digest, 1)
        self.duels = Challenged(self.goes_on)
        self.dispatcher = Dispatcher(self.models, Observers(), duels=self.duels, hold=self._hold)
        self.shm, self.opens_at_once = folder, True
        calls = Calls(self.dispatcher, Regions(self._may_share, folder), self.room).all()
        self.server = DirectServer(calls, path, Access(), self.room)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        return connection

    def send(self, body: bytes, method: Method = Method.MODEL_INFER) -> socket.socket:
        connection = self.connect()
        connection.sendall(struct.pack("<III", len(body), method, 0) + body)
        return connection

    def is_answered(self, model: str = "sextant") -> bool:
        channel = DirectChannel(self.path)
        try:
            return channel.call(Method.MODEL_INFER, request("r", model).SerializeToString(), PATIENCE_S)[0] == 0
        finally:
            channel.close()

    def _may_share(self, uid: int) -> bool:
        return self.opens_at_once or self.goes_on.wait(ENDLESS_S)

    def _hold(self, slowly: Callable[[], None]) -> None:
        self.holds_back(slowly)

    def _watch(self, served: ServedModel) -> Witness:
        if served.name == "compass":
            replace_loaded(served, Slow(served.loaded, self._run))
        return Witness()

    def _run(self) -> None:
        self.threads.append(threading.get_ident())
        self.before()


@pytest.fixture
def stage(tmp_path: Path, short_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path, short_path / "i.sock.direct")
    found.server.start()
    yield found
    found.goes_on.set()
    found.until_end.close()
    found.server.stop(20.0)


@pytest.fixture
def unrelieved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks after a leader that takes long, so that it has to hand over before."""
    monkeypatch.setattr(crew, "LOOK_S", ENDLESS_S)


def answered_by(stage: Stage, caller: Framed) -> int:
    """Ask, and return which thread answered."""
    caller.send(Method.MODEL_INFER, request().SerializeToString())
    assert (caller.receive() or (99,))[0] == 0
    return stage.threads[-1]


@pytest.mark.usefixtures("unrelieved")
def test_small_requests_of_many_callers_are_answered_by_one_thread(stage: Stage) -> None:
    with ExitStack() as open_:
        connections = [open_.enter_context(stage.connect()) for _ in range(4)]
        callers = [Framed(connection, 60.0) for connection in connections]
        # The first frame of a model may be a slow one.
        eventually(lambda: len({answered_by(stage, caller) for caller in callers}) == 1, "each keeps its thread")
        stage.threads.clear()
        for number in range(25):
            for caller in callers:
                caller.send(Method.MODEL_INFER, request(f"r-{number}").SerializeToString())
            replies = [caller.receive() or (99, 0, b"") for caller in callers]
            assert [pb.ModelInferResponse.FromString(reply[2]).id for reply in replies] == [f"r-{number}"] * 4
    assert (len(stage.threads), len(set(stage.threads))) == (100, 1)


@pytest.mark.usefixtures("unrelieved")
def test_a_connection_whose_requests_are_quick_again_is_the_leaders_again(stage: Stage) -> None:
    with stage.connect() as mine, stage.connect() as others:
        callers = [Framed(mine, 60.0), Framed(others, 60.0)]

        with hold(stage.dispatcher):
            callers[0].send(Method.MODEL_INFER, request().SerializeToString())
            eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
        assert (callers[0].receive() or (99,))[0] == 0
        eventually(lambda: answered_by(stage, callers[0]) == answered_by(stage, callers[1]), "it keeps its thread")


def half_a_head(stage: Stage) -> socket.socket:
    connection = stage.connect()
    connection.sendall(b"\1\2")
    return connection


def half_a_body(stage: Stage) -> socket.socket:
    connection = stage.connect()
    connection.sendall(struct.pack("<III", 100, Method.MODEL_INFER, 0) + b"x")
    return connection


def half_a_large_body(stage: Stage) -> socket.socket:
    connection = stage.connect()
    connection.sendall(struct.pack("<III", LARGE, Method.MODEL_INFER, 0) + b"x")
    return connection


def a_large_body_without_room(stage: Stage) -> socket.socket:
    stage.until_end.enter_context(stage.room.held(3 * LARGE))
    return half_a_large_body(stage)


def large_shared_memory_without_room(stage: Stage) -> socket.socket:
    stage.until_end.enter_context(stage.room.held(3 * LARGE))
    message = request()
    message.ClearField("raw_input_contents")
    message.inputs[0].parameters["shared_memory_region"].string_param = "r"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = LARGE
    return stage.send(message.SerializeToString())


def answers_that_nobody_takes(stage: Stage) -> socket.socket:
    connection = stage.connect()
    framed = Framed(connection, PATIENCE_S)
    while True:  # one by one, each whole when it is looked at
        before, answered = readable(connection), len(stage.threads)
        framed.send(Method.MODEL_INFER, request().SerializeToString())
        eventually(lambda answered=answered: len(stage.threads) > answered, "the request is not answered")
        if not until(lambda before=before: readable(connection) > before, 0.5):
            return connection


def readable(connection: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)


def until(condition: Callable[[], bool], most_s: float) -> bool:
    ends_s = time.monotonic() + most_s
    while not condition() and time.monotonic() < ends_s:
        time.sleep(0.0005)
    return condition()


def a_held_instance(stage: Stage) -> socket.socket:
    stage.until_end.enter_context(hold(stage.dispatcher))
    connection = stage.send(request().SerializeToString())
    eventually(lambda: stage.dispatcher.admission.places("compass") == 2, "the request does not wait")
    return connection


def a_request_held_back(stage: Stage) -> socket.socket:
    def wait(slowly: Callable[[], None]) -> None:
        stage.holds_back = lambda _: None  # the others are not
        slowly()
        inside.set()
        stage.goes_on.wait(ENDLESS_S)

    inside, stage.holds_back = threading.Event(), wait
    connection = stage.send(request().SerializeToString())
    assert inside.wait(60)
    return connection


def a_challenger_that_is_waited_for(stage: Stage) -> socket.socket:
    stage.duels.models.add("compass")
    connection = stage.send(request().SerializeToString())
    assert stage.duels.asked.wait(60)
    return connection


def a_call_that_asks_the_system(stage: Stage) -> socket.socket:
    (stage.shm / "object").write_bytes(bytes(64))
    stage.opens_at_once = False
    asked = extensions.SystemSharedMemoryRegisterRequest(name="r", key="/object", byte_size=64)
    return stage.send(asked.SerializeToString(), Method.SYSTEM_SHARED_MEMORY_REGISTER)


def a_model_known_to_be_slow(stage: Stage) -> socket.socket:
    slow = Pace()
    slow.took([1e6])
    vars(stage.dispatcher.find("compass").model).update(pace=slow)
    return a_frame_that_hangs(stage)


def a_frame_that_hangs(stage: Stage) -> socket.socket:
    inside = threading.Event()
    stage.before = lambda: inside.set() or (stage.goes_on.wait(ENDLESS_S) and None)
    connection = stage.send(request().SerializeToString())
    assert inside.wait(60)
    return connection


FORESEEN = (
    half_a_head,
    half_a_body,
    half_a_large_body,
    a_large_body_without_room,
    large_shared_memory_without_room,
    answers_that_nobody_takes,
    a_held_instance,
    a_request_held_back,
    a_challenger_that_is_waited_for,
    a_call_that_asks_the_system,
    a_model_known_to_be_slow,
)


@pytest.mark.usefixtures("unrelieved")
@pytest.mark.parametrize("begin", FORESEEN, ids=lambda begin: begin.__name__)
def test_nobody_waits_for_another_callers(stage: Stage, begin: Callable[[Stage], socket.socket]) -> None:
    with begin(stage):
        assert [stage.is_answered() for _ in range(3)] == [True] * 3


def test_nobody_waits_for_a_frame_that_hangs_although_its_model_is_quick(stage: Stage) -> None:
    assert stage.is_answered("compass")
    with a_frame_that_hangs(stage):
        assert [stage.is_answered() for _ in range(3)] == [True] * 3
