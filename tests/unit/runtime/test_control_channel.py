"""The control channel over a real socket pair."""

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dsops.errors import DsopsError, GoldenMismatch, InvalidInput, NotFound, RuntimeCrashed
from dsops_agent.runtime import channel as channel_module
from dsops_agent.runtime.channel import Channel, encode_frame, read_frame

Pair = tuple[Channel, Channel]
Handle = Callable[[str, dict[str, Any], bytes], tuple[dict[str, Any], bytes]]


def echo(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    if op == "fail":
        raise GoldenMismatch("3 of 8 differ", why="first: want 7, got 1", hint="build again")
    if op == "bug":
        raise ZeroDivisionError("a bug")
    return {"op_was": op, **header}, body[::-1]


@pytest.fixture
def connect() -> Iterator[Callable[[Handle, Handle], Pair]]:
    made: list[Channel] = []

    def make(left: Handle, right: Handle) -> Pair:
        a, b = socket.socketpair()
        pair = Channel(a, left), Channel(b, right)
        for end in pair:
            end.start()
            made.append(end)
        return pair

    yield make
    for end in made:
        end.close()


def test_a_call_returns_the_peers_header_and_body(connect: Callable[[Handle, Handle], Pair]) -> None:
    left, right = connect(echo, echo)
    assert left.call("turn", b"abc", model="digits", n=3) == ({"op_was": "turn", "model": "digits", "n": 3}, b"cba")
    assert right.call("back") == ({"op_was": "back"}, b"")


def test_an_error_of_the_tree_arrives_as_itself(connect: Callable[[Handle, Handle], Pair]) -> None:
    left, _ = connect(echo, echo)
    with pytest.raises(GoldenMismatch) as caught:
        left.call("fail")
    assert (caught.value.what, caught.value.why, caught.value.hint) == (
        "3 of 8 differ",
        "first: want 7, got 1",
        "build again",
    )


def test_a_bug_in_a_handler_is_told_and_survived(connect: Callable[[Handle, Handle], Pair]) -> None:
    left, _ = connect(echo, echo)
    with pytest.raises(DsopsError, match="failed inside"):
        left.call("bug")
    assert left.call("next")[0] == {"op_was": "next"}


def test_a_handler_may_call_back(connect: Callable[[Handle, Handle], Pair]) -> None:
    ends: list[Channel] = []

    def ask_back(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        answer, data = ends[1].call("inner", body)
        return {"inner": answer["op_was"]}, data

    ends.extend(connect(echo, ask_back))
    assert ends[0].call("outer", b"xy") == ({"inner": "inner"}, b"yx")


def test_a_long_handler_does_not_hold_up_another(connect: Callable[[Handle, Handle], Pair]) -> None:
    release = threading.Event()

    def slow(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if op == "slow":
            assert release.wait(10)
        return {"op_was": op}, b""

    left, _ = connect(echo, slow)
    answers: list[dict[str, Any]] = []
    long_call = threading.Thread(target=lambda: answers.append(left.call("slow")[0]))
    long_call.start()
    assert left.call("status")[0] == {"op_was": "status"}
    assert answers == []
    release.set()
    long_call.join(10)
    assert answers == [{"op_was": "slow"}]


def test_many_callers_get_their_own_answers(connect: Callable[[Handle, Handle], Pair]) -> None:
    left, _ = connect(echo, echo)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for step in range(20):
            header, body = left.call("n", f"{number}.{step}".encode(), value=number)
            if header["value"] != number or body[::-1] != f"{number}.{step}".encode():
                wrong.append(number)

    callers = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert wrong == []


def test_a_silent_peer_is_a_crashed_one(connect: Callable[[Handle, Handle], Pair]) -> None:
    release = threading.Event()

    def silent(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        release.wait(10)
        return {}, b""

    left, _ = connect(echo, silent)
    with pytest.raises(RuntimeCrashed, match="was silent"):
        left.call("status", timeout_s=0.05)
    release.set()
    assert left.call("status") == ({}, b"")  # the late answer to the first call disturbs nothing


def test_the_end_of_the_peer_ends_calls_under_way(connect: Callable[[Handle, Handle], Pair]) -> None:
    ends: list[Channel] = []

    def vanish(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        ends[1].close()
        return {}, b""

    ends.extend(connect(echo, vanish))
    with pytest.raises(RuntimeCrashed):
        ends[0].call("status")
    assert ends[0].closed.wait(5)
    assert ends[1].closed.is_set()
    with pytest.raises(RuntimeCrashed, match="gone"):
        ends[0].call("status")


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<II", 1 << 30, 0),
        struct.pack("<II", 2, 1 << 31),
        struct.pack("<II", 3, 0) + b"{x}",
        struct.pack("<II", 2, 0) + b"[]",
        struct.pack("<II", 2, 0) + b"{}",
        struct.pack("<II", 50, 0) + b"{",
        encode_frame({"id": "one", "op": "status"}),
    ],
    ids=["long-header", "long-body", "no-json", "no-object", "no-op", "cut", "id-type"],
)
def test_bytes_that_are_no_frame_end_the_channel(data: bytes) -> None:
    a, b = socket.socketpair()
    end = Channel(a, echo)
    end.start()
    with b:
        b.sendall(data)
        b.shutdown(socket.SHUT_WR)
        assert end.closed.wait(5)
        assert b.recv(1) == b""


def test_a_message_that_is_too_long_is_refused_and_the_channel_lives(connect: Callable[[Handle, Handle], Pair]) -> None:
    left, _ = connect(echo, echo)
    with pytest.raises(InvalidInput, match="too long"):
        left.call("big", bytes(channel_module.MAX_BODY_BYTES + 1))
    assert left.call("small")[0] == {"op_was": "small"}


def test_a_flood_of_requests_is_refused_not_stored() -> None:
    release = threading.Event()

    def wait(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        release.wait(10)
        return {}, b""

    a, b = socket.socketpair()
    end = Channel(a, wait)
    end.start()
    total = channel_module.MAX_WAITING_REQUESTS + channel_module.WORKERS + 5
    with b:
        for number in range(total):
            b.sendall(encode_frame({"id": number, "op": "status"}))
        first = read_frame(b)
        assert first is not None
        assert first[0]["error"]["code"] == "request.conflict"
        release.set()
        others = [read_frame(b) for _ in range(total - 1)]
        assert sum(frame is not None and frame[0]["ok"] for frame in others) >= channel_module.MAX_WAITING_REQUESTS
    end.close()


def test_an_unknown_error_code_is_still_an_error(connect: Callable[[Handle, Handle], Pair]) -> None:
    def refuse(op: str, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        raise NotFound("no model 'x'")

    left, _ = connect(echo, refuse)
    with pytest.raises(NotFound, match="no model"):
        left.call("check", model="x")


def test_the_control_process_does_not_load_numpy_with_it() -> None:
    heavy = ("numpy", "grpc", "google.protobuf", "ai_edge_litert")
    code = f"import sys, dsops_agent.runtime.channel; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
