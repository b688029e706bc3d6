"""Reports: signed, counted, only while connected, the newest state."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.clock import SystemClock
from dsops.errors import NoSpace
from dsops.messages import ModelState, Problem, check_observed
from dsops.states import Install
from dsops_agent.reporter import Reporter, Signer

KEY = ec.generate_private_key(ec.SECP256R1())


class Source:
    def __init__(self) -> None:
        self.models: dict[str, ModelState] = {}

    def observed(self) -> Mapping[str, ModelState]:
        return self.models

    def seq(self) -> int:
        return 5

    def refused(self) -> Problem | None:
        return Problem(code="bundle.untrusted")

    def clock_suspect(self) -> bool:
        return True


class Broker:
    retains = True

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_connected = True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert (topic, retain) == ("state", True)
        self.sent.append(payload)

    def subscribe(self, topic: str, qos: int) -> None:
        raise AssertionError(topic, qos)

    def unsubscribe(self, topic: str) -> None:
        raise AssertionError(topic)


class Setup:
    def __init__(self) -> None:
        self.source, self.broker, self.stop = Source(), Broker(), threading.Event()
        self.counter = 0
        self.disk_is_full = False
        signer = Signer("cam-1", "state", lambda: KEY, self.next)
        self.reporter = Reporter(
            signer, lambda: self.source, self.broker, lambda: self.broker.is_connected, SystemClock()
        )
        self.thread = threading.Thread(target=self.reporter.run, args=(self.stop,))

    def next(self, compose: Callable[[int, str | None], bytes]) -> bytes:
        if self.disk_is_full:
            raise NoSpace("full")
        self.counter += 1
        return compose(self.counter, "0" * 64 if self.counter > 1 else None)


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.stop.set()
    if setup.thread.ident is not None:
        setup.thread.join(10)
        assert not setup.thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_report_is_signed_and_whole(setup: Setup) -> None:
    setup.source.models["digits"] = ModelState(install=Install.PROBATION)
    setup.reporter.report()
    observed = check_observed(setup.broker.sent[0], (KEY.public_key(),), "cam-1").observed
    assert (observed.counter, observed.seq, observed.previous) == (1, 5, None)
    assert observed.models["digits"].install is Install.PROBATION
    assert observed.refused == Problem(code="bundle.untrusted")
    assert observed.clock_suspect


def test_many_changes_become_few_reports_and_the_newest_wins(setup: Setup) -> None:
    setup.thread.start()
    for release in range(1, 200):
        setup.source.models = {"digits": ModelState(active_release=release)}
        setup.reporter.changed()
        time.sleep(0.001)

    def newest() -> int:
        observed = check_observed(setup.broker.sent[-1], (KEY.public_key(),), "cam-1").observed
        return observed.models["digits"].active_release

    eventually(lambda: bool(setup.broker.sent) and newest() == 199)
    assert len(setup.broker.sent) < 50


def test_nothing_is_reported_without_a_connection_and_everything_after_it(setup: Setup) -> None:
    setup.broker.is_connected = False
    setup.thread.start()
    setup.reporter.changed()
    time.sleep(0.3)
    assert setup.counter == 0
    setup.broker.is_connected = True
    setup.reporter.changed()
    eventually(lambda: len(setup.broker.sent) == 1)


def test_what_changed_last_is_reported_at_the_end(setup: Setup) -> None:
    setup.stop.set()
    setup.reporter.changed()
    setup.reporter.run(setup.stop)
    assert len(setup.broker.sent) == 1


def test_a_full_disk_ends_nothing(setup: Setup) -> None:
    setup.disk_is_full = True
    setup.reporter.changed()
    setup.stop.set()
    setup.reporter.run(setup.stop)
    assert setup.broker.sent == []
