"""What a service manager hears, at a real socket: from its parts, and from a real agent of which a thread hangs."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dsops_agent.heartbeats import Heartbeats
from dsops_agent.service_manager import MAX_STATUS_BYTES, NotifySocket, ServiceManager, watchdog_period_s

Eventually = Callable[..., None]

HANGING = str(Path(__file__).parents[2] / "e2e/hanging_agent.py")


class Manager:
    """The service manager's end of the protocol."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Return everything that was said so far, a line each."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.heard

    def forget(self) -> None:
        self.listen()
        self.heard.clear()

    def environment(self, watchdog_s: float = 60.0) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Manager]:
    made = Manager(str(short_path / "n") if request.param == "path" else f"@dsops-test-{os.getpid()}-{short_path.name}")
    yield made
    made.close()


def test_everything_is_said_once_and_the_watchdog_is_fed_twice_in_its_time(manager: Manager) -> None:
    service = ServiceManager(Heartbeats(), manager.environment(watchdog_s=60))
    service.turn(0.0, False, "starts")
    assert manager.listen() == ["STATUS=starts", "WATCHDOG=1"]
    manager.forget()
    service.turn(10.0, True, "answers digits/1;\n connected")
    assert manager.listen() == ["READY=1", "STATUS=answers digits/1; connected"]
    manager.forget()
    service.turn(29.0, True, "answers digits/1; connected")
    assert manager.listen() == []
    service.turn(30.0, False, "answers digits/1; connected")
    assert manager.listen() == ["WATCHDOG=1"]
    manager.forget()
    service.stopping()
    assert manager.listen() == ["STOPPING=1", "STATUS=the agent stops"]
    service.close()


def test_one_loop_that_hangs_is_enough_to_feed_it_no_more_and_is_named(manager: Manager) -> None:
    hearts = Heartbeats()
    hearts.expect("mqtt", 100.0, 0.0)
    hearts.expect("installer", 10.0, 0.0)
    service = ServiceManager(hearts, manager.environment(watchdog_s=20))
    service.turn(10.0, True, "well")
    manager.forget()
    service.turn(30.0, True, "well")
    assert manager.listen() == ["STATUS=installer has made no progress for 30 s"]
    hearts.beat("installer", 31.0)
    manager.forget()
    service.turn(31.0, True, "well")
    assert manager.listen() == ["STATUS=well", "WATCHDOG=1"]
    service.close()


def test_a_start_that_makes_progress_may_take_its_time(manager: Manager) -> None:
    hearts = Heartbeats()
    service = ServiceManager(hearts, manager.environment(watchdog_s=10_000))
    service.turn(0.0, False, "starts")
    assert "EXTEND_TIMEOUT_USEC=60000000" not in manager.listen(), "nobody would miss a loop that hangs"
    hearts.expect("installer", 100.0, 10.0)
    manager.forget()
    service.turn(10.0, False, "starts")
    service.turn(20.0, False, "starts")
    assert manager.listen() == ["EXTEND_TIMEOUT_USEC=60000000"]
    for now_s in (100.0, 200.0, 300.0):
        hearts.beat("installer", now_s)
        manager.forget()
        service.turn(now_s, False, "starts")
        assert manager.listen() == ["EXTEND_TIMEOUT_USEC=60000000"]
    manager.forget()
    service.turn(401.0, False, "starts")
    assert manager.listen() == ["STATUS=installer has made no progress for 101 s"]
    hearts.beat("installer", 402.0)
    manager.forget()
    service.turn(402.0, True, "starts")
    assert manager.listen() == ["READY=1", "STATUS=starts"]
    service.turn(450.0, True, "starts")
    assert manager.listen() == ["READY=1", "STATUS=starts"]
    service.close()


def test_a_line_is_cut_to_what_is_read_whole(manager: Manager) -> None:
    service = ServiceManager(Heartbeats(), manager.environment())
    service.turn(0.0, False, "é" * 1000)
    (line, _) = manager.listen()
    assert line == "STATUS=" + "é" * (MAX_STATUS_BYTES // 2)
    service.close()


def test_without_a_manager_and_with_one_that_is_gone_nothing_happens(manager: Manager) -> None:
    alone = NotifySocket({})
    assert not alone.is_there
    alone.send("READY=1")
    left = NotifySocket({"NOTIFY_SOCKET": manager.address + "-gone"})
    assert left.is_there
    left.send("READY=1")
    left.close()
    assert manager.listen() == []


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_that_of_this_process(environment: dict[str, str], period_s: float | None) -> None:
    assert watchdog_period_s(environment, 7) == period_s


@pytest.mark.integration
@pytest.mark.parametrize("thread", ["mqtt", "installer", "runtime"])
def test_an_agent_is_ready_when_it_answers_feeds_the_watchdog_and_stops_when_a_thread_hangs(
    agent: Any, short_path: Path, eventually: Eventually, thread: str
) -> None:
    manager = Manager(str(short_path / "n"))
    agent.start(HANGING, environment=manager.environment(watchdog_s=0.6))
    eventually(lambda: "READY=1" in manager.listen(), 60)
    before = manager.heard[: manager.heard.index("READY=1")]
    assert agent.status.enrolled
    assert not any(line.startswith("STATUS=answers") for line in before)
    eventually(lambda: "STATUS=answers no model yet; connected" in manager.listen(), 60)
    manager.forget()
    eventually(lambda: manager.listen().count("WATCHDOG=1") >= 3, 60)
    (agent.folder / "hangs").write_text(thread)
    eventually(lambda: any("has made no progress" in line for line in manager.listen()), 60)
    manager.forget()
    eventually(lambda: agent.log.count("the watchdog is not fed") >= 1, 60)
    assert "WATCHDOG=1" not in manager.listen()
    (agent.folder / "hangs").unlink()
    agent.signal(signal.SIGTERM)
    eventually(lambda: "STOPPING=1" in manager.listen(), 60)
    runtime = agent.status.runtime_pid
    agent.process.kill()  # the end in order would wait for the thread
    agent.process.wait(30)
    with suppress(ProcessLookupError):
        os.kill(runtime, signal.SIGKILL)
    manager.close()


@pytest.mark.integration
def test_a_device_that_nobody_has_accepted_yet_is_ready_and_says_why_it_does_not_answer(
    agent: Any, store: Any, short_path: Path, eventually: Eventually
) -> None:
    store.stop()
    manager = Manager(str(short_path / "n"))
    agent.start(environment=manager.environment())
    eventually(lambda: "READY=1" in manager.listen(), 60)
    eventually(lambda: any(line.startswith("STATUS=not enrolled: ") for line in manager.listen()), 60)
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert "STOPPING=1" in manager.listen()
    manager.close()
