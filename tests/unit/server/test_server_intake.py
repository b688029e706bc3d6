from collections.abc import Callable

import pytest

from dsops.clock import ManualClock
from dsops.errors import NoSpace, UntrustedBundle
from dsops.messages import MAX_MESSAGE_BYTES, Connection, Need, Observed
from dsops.topics import Topics
from dsops_controller.server.intake import NEED_BURST, Effects, Intake

TOPICS = Topics()
DIGEST = "ab" * 32
BIRTH = Connection(device="cam-1", online=True, boot_id="b", conn_seq=1)


class RecordedReports:
    """Takes reports into lists; refuses what a test tells it to."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.reports: list[tuple[str, bytes]] = []
        self.strangers: set[str] = set()

    def connection(self, message: Connection) -> bool:
        self.connections.append(message)
        return True

    def observed(self, device: str, data: bytes) -> Observed | None:
        if data == b"forged":
            raise UntrustedBundle("the envelope is not signed by trusted keys")
        if data == b"full":
            raise NoSpace("the state database cannot be written")
        self.reports.append((device, data))
        return None if data == b"old" else Observed(device=device, counter=1, time=ManualClock().now(), seq=0)

    def require_accepted(self, device: str) -> None:
        if device in self.strangers:
            raise UntrustedBundle(f"device {device} does not take part")


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.reports = RecordedReports()
        self.answers: list[tuple[str, Need]] = []
        self.recorded: list[tuple[str, str]] = []
        self.woken = 0
        effects = Effects(self._answer, self._wake, self._record)
        self.intake = Intake(TOPICS, self.reports, effects, self.clock)

    def _answer(self, device: str, need: Need) -> None:
        self.answers.append((device, need))

    def _wake(self) -> None:
        self.woken += 1

    def _record(self, device: str, why: str) -> None:
        self.recorded.append((device, why))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_birth_is_taken_and_the_driver_woken(bench: Bench) -> None:
    bench.intake.handle(TOPICS.connection("cam-1"), BIRTH.encode())
    assert bench.reports.connections == [BIRTH]
    assert bench.woken == 1


def test_a_report_that_was_taken_is_no_news(bench: Bench) -> None:
    for payload in (b"one", b"one", b"two", b"old"):
        bench.intake.handle(TOPICS.state("cam-1"), payload)
    assert bench.reports.reports == [("cam-1", b"one"), ("cam-1", b"two"), ("cam-1", b"old")]
    assert bench.woken == 2


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.connection, b"not json"),
        (TOPICS.connection, b"[" * 500),
        (TOPICS.connection, b'{"device":"cam-2","online":true,"boot_id":"b","conn_seq":1}'),
        (TOPICS.connection, b"x" * (MAX_MESSAGE_BYTES + 1)),
        (TOPICS.need, b'{"digests":[]}'),
        (TOPICS.need, b'{"digests":["../../etc/passwd"]}'),
    ],
)
def test_hostile_messages_are_counted_and_recorded(bench: Bench, topic: Callable[[str], str], payload: bytes) -> None:
    bench.intake.handle(topic("cam-1"), payload)
    assert bench.intake.counters["refused"] == 1
    assert [device for device, _ in bench.recorded] == ["cam-1"]
    assert (bench.woken, bench.answers, bench.reports.connections) == (0, [], [])


def test_what_the_register_refuses_is_counted_and_left_to_it_to_record(bench: Bench) -> None:
    bench.intake.handle(TOPICS.state("cam-1"), b"forged")
    assert (bench.intake.counters["refused"], bench.recorded, bench.woken) == (1, [], 0)


def test_a_report_that_could_not_be_stored_must_come_again(bench: Bench) -> None:
    assert bench.intake.handle(TOPICS.state("cam-1"), b"full") is False
    assert bench.intake.handle(TOPICS.state("cam-1"), b"full") is False
    assert bench.intake.handle(TOPICS.state("cam-1"), b"one") is True
    assert bench.intake.handle(TOPICS.state("cam-1"), b"forged") is True
    assert (bench.intake.counters["refused"], bench.intake.counters["state"]) == (1, 1)


def test_records_of_refusals_are_limited_per_device(bench: Bench) -> None:
    for device in ("cam-1", "cam-1", "cam-2"):
        bench.intake.handle(TOPICS.connection(device), b"{")
    assert [device for device, _ in bench.recorded] == ["cam-1", "cam-2"]
    assert bench.intake.counters["refused"] == 3
    bench.clock.advance(61)
    bench.intake.handle(TOPICS.connection("cam-1"), b"{")
    assert len(bench.recorded) == 3


@pytest.mark.parametrize("topic", ["dsops/v1/d/a b/up/conn", "dsops/v1/d/cam-1/up/other", "else", "dsops/v1/ctl/state"])
def test_foreign_topics_are_counted(bench: Bench, topic: str) -> None:
    assert bench.intake.route(topic) is None
    assert bench.intake.counters["foreign"] == 1


def test_requests_are_limited_per_device(bench: Bench) -> None:
    need = Need(digests=(DIGEST,))
    for device in ("cam-1",) * (NEED_BURST + 3) + ("cam-2",):
        bench.intake.handle(TOPICS.need(device), need.encode())
    assert bench.answers.count(("cam-1", need)) == NEED_BURST
    assert bench.answers.count(("cam-2", need)) == 1
    assert bench.intake.counters["need_limited"] == 3
    bench.clock.advance(1)
    bench.intake.handle(TOPICS.need("cam-1"), need.encode())
    assert bench.answers.count(("cam-1", need)) == NEED_BURST + 1


def test_a_stranger_gets_no_chunks(bench: Bench) -> None:
    bench.reports.strangers.add("cam-9")
    bench.intake.handle(TOPICS.need("cam-9"), Need(digests=(DIGEST,)).encode())
    assert bench.answers == []
    assert bench.intake.counters["refused"] == 1
