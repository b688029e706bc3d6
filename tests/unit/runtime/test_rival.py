"""What a split does when its challenger cannot be asked, or finds fault with one request."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from runtime_bundles import frames, make_bundle

from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops.modes import Mode
from dsops_agent.rival import Rival
from dsops_agent.runtime.duel import REST_S, Duel
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.rival import RivalClient, RivalUnavailable
from dsops_agent.runtime.server import SERVICE


class Challenger:
    """Refuses every request."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.INVALID_ARGUMENT
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked += 1
        self.goes_on.wait(30)
        context.abort(self.code, "no")


@pytest.fixture
def challenger(short_path: Path) -> Iterator[Challenger]:
    made, server = Challenger(), grpc.server(ThreadPoolExecutor(2))
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(made.answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{short_path / 'c.sock'}")
    server.start()
    yield made
    server.stop(None).wait()


@pytest.fixture
def rival(short_path: Path) -> Rival:
    return Rival(
        socket=str(short_path / "c.sock"),
        pid=1,
        digest="c" * 64,
        release=2,
        mode=Mode.SPLIT,
        share=1.0,
        cpu_share=1.0,
        salt="de-7",
    )


@pytest.fixture
def champion(tmp_path: Path) -> ServedModel:
    made = make_bundle(tmp_path)
    return load_bundle(Bundle.open(made.path), made.digest, 1)


@pytest.fixture
def ask(rival: Rival, champion: ServedModel) -> Iterator[Callable[..., object]]:
    """Ask as a caller of the champion's does whose key is the challenger's; time stands still."""
    duel = Duel(rival, lambda *_: None, 10.0, 20.0, ManualClock(datetime(2026, 5, 1, tzinfo=UTC)), lambda: 0.0)
    yield lambda left_s=math.inf: duel.answer(champion, {"image": frames(1)}, "line-4", "", left_s)
    duel.stop()
    duel.run()


def test_a_request_that_the_challenger_finds_fault_with_moves_no_other_key(
    challenger: Challenger, ask: Callable[..., object]
) -> None:
    assert ask() is None
    assert ask() is None
    assert challenger.asked == 2, f"nobody's keys went to the challenger for {REST_S:g} s"


def test_a_challenger_that_cannot_be_asked_rests(challenger: Challenger, ask: Callable[..., object]) -> None:
    challenger.code = grpc.StatusCode.UNAVAILABLE
    assert ask() is None
    assert ask() is None
    assert challenger.asked == 1


def test_a_request_that_comes_while_another_challenger_takes_over_is_the_champions(
    rival: Rival, champion: ServedModel
) -> None:
    client = RivalClient(rival)
    client.close()
    with pytest.raises(RivalUnavailable):
        client.ask(champion, {"image": frames(1)}, "", ["scores"], 1.0)


def test_half_of_a_callers_time_is_left_to_the_champion(challenger: Challenger, ask: Callable[..., object]) -> None:
    challenger.goes_on.clear()
    began_s = time.monotonic()
    assert ask(1.0) is None
    assert time.monotonic() - began_s < 0.9, "the caller's deadline passes while it waits for the challenger"
    challenger.goes_on.set()
