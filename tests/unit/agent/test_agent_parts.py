"""Small parts of the control process: back-off, outbox, pace, deliveries, logging, threads, host."""

import inspect
import logging
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.errors import InvalidInput, NoSpace
from dsops_agent.backoff import Backoff
from dsops_agent.logs import OneLine
from dsops_agent.parts import Parts
from dsops_agent.supervisor import read_delivery
from dsops_agent.telemetry.upload import MAX_BATCH_BYTES, MIN_BATCH_BYTES, Pace
from dsops_agent.threads import Threads
from dsops_agent.transport.mqtt import refusal_backoff
from dsops_agent.transport.outbox import Outbox, Outgoing

HEAVY = ("numpy", "ai_edge_litert", "tflite_runtime", "fastapi", "sqlalchemy", "typer", "rich", "onnx", "tensorflow")


def test_the_control_process_imports_nothing_heavy() -> None:
    code = f"import sys, dsops_agent.app, dsops_agent.cli; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_back_off_doubles_to_its_bound_and_begins_anew() -> None:
    backoff = Backoff(1.0, 6.0, lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


@pytest.mark.parametrize("draw", [0.0, 0.999])
def test_a_refused_identity_asks_ever_less_and_once_in_five_minutes_at_last(draw: float) -> None:
    backoff = refusal_backoff(60.0, lambda: draw)
    waits = [backoff.next_s() for _ in range(12)]
    assert waits == sorted(waits)
    assert waits[0] >= 0.5
    assert 30 <= waits[-1] <= 300


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 100), st.integers(0, 40))
def test_back_off_is_never_nothing_and_never_too_much(draw: float, most_s: float, failures: int) -> None:
    backoff = Backoff(1.0, most_s, lambda: draw)
    for _ in range(failures):
        backoff.next_s()
    assert 0 < backoff.next_s() <= most_s


def message(topic: str, text: str, *, retain: bool = False) -> Outgoing:
    return Outgoing(topic, text.encode(), retain)


def fly(outbox: Outbox) -> list[str]:
    sent = []
    while (taken := outbox.take()) is not None:
        outbox.sent(len(sent) + 100, taken)
        sent.append(taken.payload.decode())
    return sent


def test_the_newest_retained_message_of_a_topic_replaces_what_waits() -> None:
    outbox = Outbox()
    for text in ("1", "2", "3"):
        outbox.put(message("state", text, retain=True))
        outbox.put(message("ack", text))
    assert fly(outbox) == ["1", "2", "3", "3"]


def test_the_window_bounds_what_is_in_flight() -> None:
    outbox = Outbox(window=2)
    for number in range(5):
        outbox.put(message("ack", str(number)))
    assert fly(outbox) == ["0", "1"]
    assert outbox.acknowledged(100) == message("ack", "0")
    assert outbox.acknowledged(100) is None
    assert fly(outbox) == ["2"]
    assert len(outbox) == 4


def test_a_disconnection_puts_back_what_was_in_flight_in_order() -> None:
    outbox = Outbox(window=3)
    outbox.put(message("state", "old", retain=True))
    outbox.put(message("ack", "a"))
    outbox.put(message("ack", "b"))
    fly(outbox)
    outbox.put(message("state", "new", retain=True))
    outbox.disconnected()
    assert len(outbox) == 3
    assert fly(outbox) == ["a", "b", "new"]


def test_a_full_outbox_drops_the_oldest_that_is_not_retained() -> None:
    outbox = Outbox(max_waiting=3)
    outbox.put(message("state", "kept", retain=True))
    for number in range(5):
        outbox.put(message("ack", str(number)))
    assert fly(outbox) == ["kept", "3", "4"]
    assert outbox.dropped == 3


def test_pace_halves_and_doubles_within_bounds() -> None:
    pace = Pace()
    for _ in range(20):
        pace.shrink()
    assert (pace.max_bytes, pace.max_records) == (MIN_BATCH_BYTES, 1)
    for _ in range(20):
        pace.grow()
    assert pace == Pace()
    assert pace.max_bytes == MAX_BATCH_BYTES


def test_a_delivery_is_cut_by_its_header() -> None:
    header = {
        "kinds": ["telemetry", "samples", "telemetry"],
        "sizes": [1, 2, 0],
        "lost": {"samples": {"lost": 3, "unredacted": 1}},
        "source": "s",
        "batch": 9,
    }
    delivery = read_delivery(header, b"abc")
    assert delivery.records == {"events": [], "telemetry": [b"a", b""], "samples": [b"bc"]}
    assert (delivery.lost, delivery.origin) == ({"samples": {"lost": 3, "unredacted": 1}}, ("s", 9))


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": [1]},
        {"sizes": [1, 3]},
        {"sizes": [-1, 4]},
        {"sizes": "ab"},
        {"kinds": ["telemetry", "gossip"]},
        {"kinds": [["telemetry"], "samples"]},
        {"kinds": None},
        {"lost": {"gossip": {"lost": 1}}},
        {"lost": {"samples": {"lost": -1}}},
        {"lost": {"samples": {"gossip": 1}}},
        {"lost": {"samples": 1}},
        {"batch": "1"},
        {"source": 5},
    ],
)
def test_a_header_that_does_not_describe_the_body_is_refused(change: dict[str, object]) -> None:
    header: dict[str, object] = {"kinds": ["telemetry", "samples"], "sizes": [1, 2], **change}
    with pytest.raises(InvalidInput):
        read_delivery(header, b"abc")


def test_a_log_record_is_one_line_also_with_a_traceback() -> None:
    def fail() -> None:
        raise ValueError("first\nsecond")

    try:
        fail()
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "it\nfailed", None, sys.exc_info())
    line = OneLine().format(record)
    assert "\n" not in line
    assert "ValueError: first | second" in line


def test_an_error_that_ends_a_thread_stops_the_agent_and_is_kept() -> None:
    stop = threading.Event()
    threads = Threads(stop)

    def fail() -> None:
        raise NoSpace("full")

    threads.start("failing", fail)
    threads.join(10.0, "failing", "never started")
    assert stop.is_set()
    assert isinstance(threads.failure, NoSpace)


def test_a_mistake_that_ends_a_thread_stops_the_agent_too() -> None:
    stop = threading.Event()
    threads = Threads(stop)

    def fail() -> None:
        int("x")

    threads.start("failing", fail)
    threads.join(10.0, "failing")
    assert stop.is_set()
    assert threads.failure is not None
    assert "ValueError" in threads.failure.why


def test_every_thread_of_the_parts_has_ended_before_their_files_are_closed() -> None:
    started = re.findall(r'(?:threads\.start\(|_watched\(threads, )"([a-z-]+)"', inspect.getsource(Parts.start))
    joined = re.findall(r'"([a-z-]+)"', inspect.getsource(Parts.stop))
    assert len(started) > 5
    assert set(started) <= set(joined)
