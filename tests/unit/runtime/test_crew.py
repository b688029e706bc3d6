"""Threads that take turns at waiting for connections: who serves whom, who hands over, who is relieved, and the end."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dsops_agent.runtime import crew
from dsops_agent.runtime.crew import SPARE, Crew, Lead

ENDLESS_S = 3600.0


@dataclass(eq=False)
class Line:
    """Both ends of a connection, and what becomes of a byte on it."""

    here: socket.socket
    there: socket.socket
    does: Callable[[Lead["Line"]], bool]
    served_by: list[int] = field(default_factory=list)
    inside: int = 0
    most_inside: int = 0
    unpollable: int | None = None

    def fileno(self) -> int:
        return self.here.fileno() if self.unpollable is None else self.unpollable

    def close(self) -> None:
        self.here.close()

    def ask(self) -> None:
        self.there.sendall(b"?")

    def answer(self) -> bytes:
        return self.there.recv(1)


class Stage:
    """A crew, its connections, and what holds some of them up."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.lines: list[Line] = []
        self.crew: Crew[Line] = Crew("crew", self.serve)
        self.crew.start()

    def line(self, does: Callable[[Lead[Line]], bool] = lambda _: True) -> Line:
        here, there = socket.socketpair()
        there.settimeout(20)
        line = Line(here, there, does)
        self.lines.append(line)
        self.crew.add(line)
        return line

    def serve(self, line: Line, lead: Lead[Line]) -> bool:
        line.inside += 1
        line.most_inside = max(line.most_inside, line.inside)
        line.served_by.append(threading.get_ident())
        if not line.here.recv(1):
            return False
        goes_on = line.does(lead)
        line.inside -= 1
        line.here.sendall(b"!")
        return goes_on

    def hangs(self, _: Lead[Line]) -> bool:
        return self.goes_on.wait(ENDLESS_S)

    def hands_over_and_hangs(self, lead: Lead[Line]) -> bool:
        lead.hand_over()
        lead.hand_over()  # once is enough
        return self.goes_on.wait(ENDLESS_S)

    def end(self) -> None:
        self.goes_on.set()
        for line in self.lines:
            line.there.close()
        self.crew.end()


@pytest.fixture
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.end()


@pytest.fixture
def unrelieved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks after the leader."""
    monkeypatch.setattr(crew, "LOOK_S", ENDLESS_S)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("crew")]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the limit only ends a test that would fail anyway."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.005)


@pytest.mark.usefixtures("unrelieved")
def test_what_is_quick_is_served_by_one_thread_whoever_asks(stage: Stage) -> None:
    lines = [stage.line() for _ in range(4)]
    for _ in range(50):
        for line in lines:
            line.ask()
        assert [line.answer() for line in lines] == [b"!"] * 4
    assert {thread for line in lines for thread in line.served_by} == {lines[0].served_by[0]}


@pytest.mark.usefixtures("unrelieved")
def test_who_hands_over_keeps_nobody_waiting(stage: Stage) -> None:
    slow = [stage.line(stage.hands_over_and_hangs) for _ in range(3)]
    quick = stage.line()
    for line in slow:
        line.ask()
    for _ in range(5):
        quick.ask()
        assert quick.answer() == b"!"
    stage.goes_on.set()
    assert [line.answer() for line in slow] == [b"!"] * 3


def test_who_hangs_without_a_word_is_relieved(stage: Stage) -> None:
    hanging, quick = [stage.line(stage.hangs) for _ in range(2)], stage.line()
    for line in hanging:
        line.ask()
    quick.ask()
    assert quick.answer() == b"!"
    stage.goes_on.set()
    assert [line.answer() for line in hanging] == [b"!"] * 2


def test_who_hangs_after_a_long_rest_is_relieved_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_QUIET_S", 0.0)
    eventually(lambda: not stage.crew._looks)
    hanging, quick = stage.line(stage.hangs), stage.line()
    hanging.ask()
    quick.ask()
    assert quick.answer() == b"!"


def test_a_connection_is_served_by_one_thread_at_a_time_and_goes_on_afterwards(stage: Stage) -> None:
    slow, quick = stage.line(stage.hands_over_and_hangs), stage.line()
    slow.ask()
    slow.ask()  # can be read while the first is served
    for _ in range(5):
        quick.ask()
        assert quick.answer() == b"!"
    stage.goes_on.set()
    assert [slow.answer(), slow.answer()] == [b"!"] * 2
    assert (slow.most_inside, len(slow.served_by)) == (1, 2)


def test_who_takes_long_to_close_keeps_nobody_waiting(stage: Stage, unrelieved: None) -> None:
    held, other = stage.line(lambda _: False), stage.line()
    closes = held.close

    def close_late() -> None:
        stage.goes_on.wait(ENDLESS_S)
        closes()

    held.close = close_late  # type: ignore[method-assign]
    held.ask()
    assert held.answer() == b"!"
    other.ask()
    assert other.answer() == b"!"


def test_whoever_hands_over_puts_nobody_back(stage: Stage, unrelieved: None) -> None:
    """The kernel names those that are ready in their old order: who stands last would wait for the first again."""
    order: list[str] = []

    def noted(name: str) -> Callable[[Lead[Line]], bool]:
        def does(lead: Lead[Line]) -> bool:
            order.append(name)
            if name == "slow":
                lead.hand_over()
            return True

        return does

    gate = stage.line(lambda _: stage.goes_on.wait(ENDLESS_S))
    lines = [stage.line(noted(name)) for name in ("first", "slow", "last")]
    gate.ask()
    eventually(lambda: gate.inside == 1)
    for line in lines:
        line.ask()
        line.ask()  # it is ready again at once
    stage.goes_on.set()
    eventually(lambda: len(order) == 6)
    assert order[:3] == ["first", "slow", "last"]


def test_one_connection_that_fails_ends_no_other(stage: Stage) -> None:
    failing, quick = stage.line(lambda _: bool(1 // 0)), stage.line()
    failing.ask()
    assert failing.answer() == b""
    quick.ask()
    assert quick.answer() == b"!"


def test_threads_that_nobody_needs_any_more_end(stage: Stage) -> None:
    slow = [stage.line(stage.hands_over_and_hangs) for _ in range(SPARE + 6)]
    for line in slow:
        line.ask()
    eventually(lambda: len(threads()) >= SPARE + 6)
    stage.goes_on.set()
    assert [line.answer() for line in slow] == [b"!"] * len(slow)
    eventually(lambda: len(threads()) <= SPARE + 2)  # the leader, and who looks after it


def test_where_no_further_thread_can_be_had_the_leader_goes_on_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    line = stage.line(lambda lead: lead.hand_over() or lead.is_held)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    line.ask()
    assert line.answer() == b"!"
    line.ask()
    assert line.answer() == b"!"


def test_that_no_further_thread_can_be_had_is_said_once_until_one_can(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, allowed = threading.Thread.start, threading.Event()

    def start_if_allowed(thread: threading.Thread) -> None:
        if not allowed.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    def asks_for_help(lead: Lead[Line]) -> bool:
        for _ in range(5):
            lead.hand_over()
        return True

    line, slow = stage.line(asks_for_help), stage.line(stage.hands_over_and_hangs)
    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)
    line.ask()
    assert line.answer() == b"!"
    allowed.set()
    slow.ask()
    eventually(lambda: slow.inside == 1)
    allowed.clear()
    line.ask()
    assert line.answer() == b"!"
    said = [record.message for record in caplog.records]
    assert said == ["no further thread can be had: can't start new thread"] * 2


def test_who_cannot_be_waited_for_again_is_closed_and_nobody_else(stage: Stage, tmp_path: Path) -> None:
    def hands_over_and_is_refused(lead: Lead[Line]) -> bool:
        lead.hand_over()
        slow.unpollable = file  # epoll_ctl(2) takes none
        return True

    file = os.open(tmp_path / "file", os.O_CREAT)
    slow, quick = stage.line(hands_over_and_is_refused), stage.line()
    slow.ask()
    assert [slow.answer(), slow.answer()] == [b"!", b""]
    quick.ask()
    assert quick.answer() == b"!"
    os.close(file)
    stage.crew.end()
    quick.there.close()
    eventually(lambda: not threads())  # it is not counted as one that is left


def test_at_the_end_what_is_under_way_is_served_and_every_thread_goes() -> None:
    stage = Stage()
    slow, idle = stage.line(stage.hands_over_and_hangs), stage.line()
    slow.ask()
    eventually(lambda: slow.inside == 1)
    stage.crew.end()
    idle.there.close()
    stage.goes_on.set()
    assert slow.answer() == b"!"
    slow.there.close()
    eventually(lambda: not threads())
