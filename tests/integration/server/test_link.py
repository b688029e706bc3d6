"""The MQTT session against a real mosquitto: window, limits, silence, loss."""

import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dsops.bounded_mqtt import MAX_PACKET_BYTES
from dsops_controller.server.link import QUEUE_BYTES, WINDOW, Link, LinkSettings, Message, _Session
from dsops_controller.server.tls import controller_credentials

pytestmark = pytest.mark.integration

TOPIC = "dsops/v1/c/x"


class Heard:
    """Notes what the link says; fails once when a test asks for it."""

    def __init__(self) -> None:
        self.sessions = 0
        self.ends = 0
        self.messages: list[tuple[str, bytes]] = []
        self.raises_at_connect = False

    def connected(self) -> None:
        self.sessions += 1
        if self.raises_at_connect:
            self.raises_at_connect = False
            raise RuntimeError("a listener that breaks its promise")

    def disconnected(self) -> None:
        self.ends += 1

    def message(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def link(site: Any, heard: Heard) -> Iterator[Link]:
    files = controller_credentials(site.folder)
    made = Link(
        LinkSettings(
            host="127.0.0.1",
            port=site.ports.broker,
            ca=files.ca,
            certificate=files.certificate,
            key=files.key,
            client_id="controller",
            filters=(("dsops/v1/d/+/up/#", 1),),
        ),
        heard,
    )
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), name="link")
    thread.start()
    yield made
    stop.set()
    made.wake()
    thread.join(10)
    assert not thread.is_alive()


def test_more_messages_than_the_window_are_all_acknowledged(
    mosquitto: Any, link: Link, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    assert all(link.publish(Message(TOPIC, b"%d" % number)) for number in range(30 * WINDOW))
    assert link.flush(20)
    assert (link.counters.published, link.counters.refused) == (30 * WINDOW, 0)


def test_a_message_beyond_the_limit_is_refused_here_and_the_session_lives(
    mosquitto: Any, link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    link.publish(Message(TOPIC, b"x" * MAX_PACKET_BYTES))
    link.publish(Message(TOPIC, b"small"))
    eventually(lambda: link.counters.published == 1, "the next message is taken")
    assert (link.counters.refused, heard.sessions, link.is_connected) == (1, 1, True)


def test_what_the_access_control_refuses_is_counted(
    mosquitto: Any, link: Link, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    link.publish(Message("dsops/v1/d/cam-1/up/state", b"forged"))
    eventually(lambda: link.counters.refused == 1, "the refusal is counted")


def test_an_absent_broker_is_told_once_and_found_when_it_comes(
    site: Any, link: Link, heard: Heard, eventually: Callable[..., None], caplog: pytest.LogCaptureFixture,
    late_mosquitto: Any,
) -> None:  # fmt: skip
    assert link.publish(Message(TOPIC, b"lost")) is False
    with caplog.at_level(logging.WARNING):
        threading.Event().wait(2.0)
        late_mosquitto.start()
        eventually(lambda: link.is_connected, "the session opens")
    told = [record for record in caplog.records if record.name == "dsops_controller.server.link"]
    assert len(told) <= 1
    assert heard.sessions == 1


def test_a_killed_broker_ends_the_session_and_the_next_begins_anew(
    mosquitto: Any, link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    mosquitto.kill()
    eventually(lambda: heard.ends == 1, "the end is told")
    assert link.publish(Message(TOPIC, b"x")) is False
    mosquitto.start()
    eventually(lambda: heard.sessions == 2, "a new session opens")
    assert link.publish(Message(TOPIC, b"x"))
    assert link.flush(20)


def test_a_listener_that_raises_costs_one_session_only(
    late_mosquitto: Any, link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    heard.raises_at_connect = True
    late_mosquitto.start()
    eventually(lambda: heard.sessions == 2, "a new session opens")
    eventually(lambda: link.publish(Message(TOPIC, b"x")), "it publishes")


def test_a_message_that_ends_the_session_is_found_and_left_out(
    site: Any, link: Link, heard: Heard, eventually: Callable[..., None], late_mosquitto: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with (site.folder / "mosquitto" / "mosquitto.conf").open("a") as configuration:
        configuration.write("max_qos 0\n")  # mosquitto ends the session at any message of QoS 1
    late_mosquitto.start()
    eventually(lambda: link.is_connected, "the session opens")
    link.publish(Message(TOPIC, b"poison"))
    eventually(lambda: heard.ends == 1 and link.is_connected, "the session ended, and there is another one")
    assert [record for record in caplog.records if TOPIC in record.getMessage() and "left out" in record.getMessage()]
    link.publish(Message(TOPIC, b"poison"))
    eventually(lambda: link.counters.refused == 1, "it is not sent any more")
    assert (heard.ends, link.is_connected) == (1, True)


def test_of_several_messages_each_that_ends_the_session_is_found(
    site: Any, link: Link, heard: Heard, eventually: Callable[..., None], late_mosquitto: Any
) -> None:
    with (site.folder / "mosquitto" / "mosquitto.conf").open("a") as configuration:
        configuration.write("max_qos 0\n")
    late_mosquitto.start()
    topics = [f"{TOPIC}{number}" for number in range(3)]

    def say_everything() -> bool:
        """Publish as after each resynchronisation; return whether every message is left out by now."""
        refused = link.counters.refused
        queued = all(link.publish(Message(topic, b"poison")) for topic in topics)
        return queued and link.flush(1) and link.counters.refused == refused + len(topics)

    eventually(say_everything, "each of them is found")
    assert link.is_connected
    assert heard.ends <= 2 * len(topics), "and at little cost"


def test_what_was_left_out_is_tried_again_and_goes_when_the_broker_bears_it(
    site: Any, link: Link, heard: Heard, eventually: Callable[..., None], late_mosquitto: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("dsops_controller.server.suspicion.LEAVE_OUT_S", 2.0)
    configuration = site.folder / "mosquitto" / "mosquitto.conf"
    before = configuration.read_text()
    configuration.write_text(before + "max_qos 0\n")
    late_mosquitto.start()
    eventually(lambda: link.is_connected, "the session opens")
    link.publish(Message(TOPIC, b"poison"))
    eventually(lambda: heard.ends == 1 and link.is_connected, "the session ended, and there is another one")
    late_mosquitto.kill()
    configuration.write_text(before)
    late_mosquitto.start()

    def goes() -> bool:
        published = link.counters.published
        return link.publish(Message(TOPIC, b"poison")) and link.flush(5) and link.counters.published > published

    eventually(goes, "the broker takes it by now")


def test_after_a_lost_session_messages_go_side_by_side_again(
    mosquitto: Any, link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    topics = [f"{TOPIC}{number}" for number in range(WINDOW)]
    link._suspicion.ended(topics, 0x80, 0.0)
    most = 0
    for _ in range(2):
        assert all(link.publish(Message(topic, b"x")) for topic in topics)
        assert link.flush(20)
    for _ in range(40 * WINDOW):
        assert link.publish(Message(TOPIC, b"x"))
        most = max(most, link._in_flight)
    assert link.flush(20)
    assert most > 1


def test_a_message_that_the_broker_never_answers_holds_up_no_suspect(
    mosquitto: Any, link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    eventually(lambda: link.is_connected, "the session opens")
    link._suspicion.ended([TOPIC], 0x80, 0.0)
    stuck = _Session(link._make().client, heard_s=0.0, in_flight={1: "other"}, sent_s={1: time.monotonic()})
    suspect = Message(TOPIC, b"x")
    assert not link._may_send(stuck, suspect)
    eventually(lambda: link._may_send(stuck, suspect), "it goes all the same")


@pytest.fixture
def flood(site: Any) -> Iterator[Callable[[bytes], list[int]]]:
    """Return what lets a broker with the right certificate send the same bytes without end, and counts what it sent."""
    listeners: list[socket.socket] = []

    def behave(sock: socket.socket, context: ssl.SSLContext, piece: bytes, sent: list[int]) -> None:
        try:
            with context.wrap_socket(sock, server_side=True) as secure:
                secure.recv(4096)
                secure.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK (MQTT 5.0, 3.2)
                while sent[-1] < 64 << 20:
                    sent[-1] += secure.send(piece)
        except OSError:
            sent.append(0)

    def start(piece: bytes) -> list[int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(site.folder / "ca" / "server.crt", site.folder / "ca" / "server.key")
        listener, sent = socket.create_server(("127.0.0.1", site.ports.broker)), [0]
        listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    behave(listener.accept()[0], context, piece, sent)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        return sent

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"\x30\xff\xff\xff\x7f" + bytes(60_000), id="a packet of 256 MB"),
        pytest.param(b"\x34\x90\x4e\x00\x01t\x00\x01\x00" + bytes(9994), id="QoS 2"),
    ],
)
def test_of_what_a_broker_sends_without_end_nothing_is_kept(
    piece: bytes, flood: Callable[[bytes], list[int]], link: Link, heard: Heard, eventually: Callable[..., None]
) -> None:
    sent = flood(piece)
    eventually(lambda: heard.ends >= 1, "the session is ended")
    eventually(lambda: len(sent) > 1, "the broker notices")
    assert sent[0] < 16 << 20, "more than sockets hold was read"
    assert heard.messages == []
    assert not link.counters.received


def test_what_waits_for_a_slow_broker_is_a_few_chunks_so_that_news_do_not_wait_long(
    site: Any, link: Link, late_mosquitto: Any, eventually: Callable[..., None]
) -> None:
    late_mosquitto.start()
    eventually(lambda: link.is_connected, "the session opens")
    chunk = Message(TOPIC, bytes(32 * 1024), retain=True)
    broker = int((site.folder / "mosquitto" / "mosquitto.pid").read_text())
    os.kill(broker, signal.SIGSTOP)
    taken = 0
    while link.publish(chunk, timeout_s=0.5):
        taken += 1
    os.kill(broker, signal.SIGCONT)
    assert taken * len(chunk.payload) <= QUEUE_BYTES + WINDOW * len(chunk.payload) + len(chunk.payload)
    assert link.flush(20)
    assert link.counters.published == taken
    assert link.publish(chunk)
