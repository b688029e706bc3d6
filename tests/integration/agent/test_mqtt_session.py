"""The MQTT session against a real mosquitto: mutual TLS, restarts, will, retained messages, at least once."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import Clock, ManualClock, SystemClock
from dsops.errors import InvalidInput
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.mqtt import STEADY_S, Life, MqttSession, Settings

pytestmark = pytest.mark.integration

Eventually = Callable[[Callable[[], bool]], None]


class Recorder:
    """An inbox that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.log: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def message(self, topic: str, payload: bytes) -> None:
        self.gate.wait()
        self.messages.append((topic, payload))

    def connected(self) -> None:
        self.log.append("connected")

    def disconnected(self) -> None:
        self.log.append("disconnected")


class Device:
    """A session with its threads."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.inbox = Recorder()
        numbers = count(1)
        life = Life(f"dsops/v1/d/{settings.device}/up/conn", lambda: next(numbers), _life_message)
        self.session = MqttSession(settings, life, self.inbox, clock or SystemClock())
        self.threads = [threading.Thread(target=self.session.run)]

    def start(self) -> MqttSession:
        for thread in self.threads:
            thread.start()
        return self.session

    def stop(self) -> None:
        self.inbox.gate.set()
        self.session.stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(15)
        assert not any(thread.is_alive() for thread in self.threads)


def _life_message(seq: int, online: bool) -> bytes:
    return json.dumps({"seq": seq, "online": online}).encode()


@pytest.fixture
def make_device(tmp_path: Path, pki: Any, broker: Any) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def make(name: str = "cam-1", clock: Clock | None = None, **changes: Any) -> Device:
        identity = pki.identity(tmp_path / f"identity-{len(made)}", name, broker.address, "localhost:1")
        values = {"keepalive_s": 5, "reconnect_max_s": 0.5, "will_delay_s": 0, **changes}
        settings = Settings(name, broker.address, partial(tls_context, identity), **values)
        made.append(Device(settings, clock))
        return made[-1]

    yield make
    for device in made:
        device.stop()


def test_a_retained_message_comes_after_connecting_and_again_after_a_reconnect(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    controller.put("dsops/v1/d/cam-1/dn/desired", b"first")
    device = make_device()
    device.session.subscribe("dsops/v1/d/cam-1/dn/#", 1)
    device.start()
    eventually(lambda: device.inbox.messages == [("dsops/v1/d/cam-1/dn/desired", b"first")])
    assert device.inbox.log == ["connected"]


def test_birth_and_ordered_death_are_retained(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    device = make_device()
    device.start()
    eventually(lambda: controller.got("dsops/v1/d/cam-1/up/conn") == [b'{"seq": 1, "online": true}'])
    device.stop()
    eventually(lambda: controller.got("dsops/v1/d/cam-1/up/conn")[1:] == [b'{"seq": 1, "online": false}'])


def test_the_will_of_the_same_connection_stands_when_the_device_vanishes(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    device = make_device()
    session = device.start()
    topic = "dsops/v1/d/cam-1/up/conn"
    eventually(lambda: len(controller.got(topic)) == 1)
    connection = session._connection
    assert connection is not None
    sock = connection.client.socket()
    assert isinstance(sock, socket.socket)
    socket.socket.shutdown(sock, socket.SHUT_RDWR)
    eventually(lambda: len(controller.got(topic)) == 3)
    assert controller.got(topic)[1:] == [b'{"seq": 1, "online": false}', b'{"seq": 2, "online": true}']


def test_everything_is_sent_once_the_broker_is_back(
    make_device: Callable[..., Device], broker: Any, controller: Any, eventually: Eventually
) -> None:
    device = make_device()
    device.session.subscribe("dsops/v1/d/cam-1/dn/#", 1)
    device.start()
    eventually(lambda: device.session.figures.published == 1)  # the birth
    broker.kill()
    eventually(lambda: not device.session.is_connected)
    for number in range(40):
        device.session.publish("dsops/v1/d/cam-1/up/ack", b"%d" % number)
    device.session.publish("dsops/v1/d/cam-1/up/state", b"old", retain=True)
    device.session.publish("dsops/v1/d/cam-1/up/state", b"new", retain=True)
    eventually(lambda: device.session.problem is not None)
    broker.start()
    eventually(lambda: device.session.figures.published >= 43)
    eventually(lambda: device.session.is_connected and device.session.problem is None)
    controller.put("dsops/v1/d/cam-1/dn/desired", b"after")
    eventually(lambda: ("dsops/v1/d/cam-1/dn/desired", b"after") in device.inbox.messages)
    eventually(lambda: controller.got("dsops/v1/d/cam-1/up/state")[-1:] == [b"new"])
    assert b"old" not in controller.got("dsops/v1/d/cam-1/up/state")
    assert device.inbox.log[:3] == ["connected", "disconnected", "connected"]


def test_a_frozen_broker_is_noticed_and_left_behind(
    make_device: Callable[..., Device], broker: Any, eventually: Eventually
) -> None:
    device = make_device(keepalive_s=1)
    device.start()
    eventually(lambda: device.session.is_connected)
    broker.process.send_signal(signal.SIGSTOP)
    eventually(lambda: not device.session.is_connected)
    broker.process.send_signal(signal.SIGCONT)
    eventually(lambda: device.session.is_connected and device.session.figures.connections == 2)


def test_a_chunk_topic_comes_each_time_it_is_asked_for_and_not_after_it_was_given_up(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    controller.put("dsops/v1/c/aa", b"chunk")
    device = make_device()
    session = device.start()
    session.subscribe("dsops/v1/c/aa", 0)
    eventually(lambda: len(device.inbox.messages) == 1)
    session.subscribe("dsops/v1/c/aa", 0)
    eventually(lambda: len(device.inbox.messages) == 2)
    session.unsubscribe("dsops/v1/c/aa")
    session.subscribe("dsops/v1/c/bb", 0)
    controller.put("dsops/v1/c/aa", b"chunk again")
    controller.put("dsops/v1/c/bb", b"other")
    eventually(lambda: ("dsops/v1/c/bb", b"other") in device.inbox.messages)
    assert ("dsops/v1/c/aa", b"chunk again") not in device.inbox.messages


def test_an_inbox_that_is_slow_misses_nothing(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    device = make_device()
    session = device.start()
    session.subscribe("dsops/v1/d/cam-1/dn/#", 1)
    eventually(lambda: session.is_connected)
    controller.put("dsops/v1/d/cam-1/dn/cmd", b"ready")
    eventually(lambda: len(device.inbox.messages) == 1)
    device.inbox.gate.clear()
    for number in range(60):
        controller.put("dsops/v1/d/cam-1/dn/cmd", b"%d" % number, retain=False)
    device.inbox.gate.set()
    eventually(lambda: {b"%d" % n for n in range(60)} <= {payload for _, payload in device.inbox.messages})


def test_an_exception_in_the_inbox_ends_nothing(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    class Failing(Recorder):
        def message(self, topic: str, payload: bytes) -> None:
            super().message(topic, payload)
            if payload == b"bad":
                raise ValueError("a handler's mistake")

    device = make_device()
    device.session._inbox = inbox = Failing()
    session = device.start()
    session.subscribe("dsops/v1/d/cam-1/dn/#", 1)
    eventually(lambda: session.is_connected)
    controller.put("dsops/v1/d/cam-1/dn/cmd", b"bad")  # retained: the subscription may still be on its way
    eventually(lambda: len(inbox.messages) == 1)
    controller.put("dsops/v1/d/cam-1/dn/cmd", b"good", retain=False)
    eventually(lambda: [payload for _, payload in inbox.messages] == [b"bad", b"good"])


def test_what_the_broker_refuses_is_counted_and_does_not_block_what_follows(
    make_device: Callable[..., Device], controller: Any, eventually: Eventually
) -> None:
    session = make_device().start()
    session.publish("dsops/v1/d/somebody-else/up/ack", b"forged")
    session.publish("dsops/v1/d/cam-1/up/ack", b"mine")
    eventually(lambda: controller.got("dsops/v1/d/cam-1/up/ack") == [b"mine"])
    eventually(lambda: session.figures.refused == 1)
    assert controller.got("dsops/v1/d/somebody-else/up/ack") == []


def test_a_message_over_the_limit_is_refused_here(make_device: Callable[..., Device]) -> None:
    with pytest.raises(InvalidInput, match="too long"):
        make_device().session.publish("dsops/v1/d/cam-1/up/ack", bytes(64 * 1024))


def test_a_server_that_has_no_certificate_for_its_name_is_not_talked_to(
    tmp_path: Path, pki: Any, broker: Any, eventually: Eventually
) -> None:
    stranger = type(pki)(tmp_path, pki.key, pki.name)
    (tmp_path / "ca.crt").write_bytes(stranger.issue("another authority", pki.key.public_key(), ca=True))
    identity = pki.identity(tmp_path / "identity", "cam-1", broker.address, "localhost:1")
    address = f"127.0.0.2:{broker.port}"
    device = Device(Settings("cam-1", address, partial(tls_context, identity), reconnect_max_s=0.2))
    device.start()
    eventually(lambda: device.session.problem is not None)
    device.stop()
    assert device.session.figures.connections == 0


def test_from_a_broker_that_retains_nothing_a_device_is_heard_all_the_same_and_retained_once_it_does(
    make_device: Callable[..., Device], broker: Any, controller: Any, eventually: Eventually
) -> None:
    topic = "dsops/v1/d/cam-1/up/conn"
    broker.configure("retain_available false")
    eventually(controller.client.is_connected)
    session = make_device().start()
    eventually(lambda: session.is_connected)
    assert session.figures.connections == 1, "the connection whose will was to be retained was refused"
    assert not session.retains
    eventually(lambda: controller.got(topic) == [b'{"seq": 2, "online": true}'])
    session.publish("dsops/v1/d/cam-1/up/state", b"news", retain=True)
    eventually(lambda: controller.got("dsops/v1/d/cam-1/up/state") == [b"news"])
    connection = session._connection
    assert connection is not None
    sock = connection.client.socket()
    assert isinstance(sock, socket.socket)
    socket.socket.shutdown(sock, socket.SHUT_RDWR)
    eventually(lambda: controller.got(topic)[1:2] == [b'{"seq": 2, "online": false}'])
    broker.configure("retain_available true")
    eventually(lambda: session.is_connected and session.retains)
    late = type(controller)(controller.pki, broker.port)
    eventually(lambda: len(late.got(topic)) == 1)
    late.client.disconnect()
    late.client.loop_stop()


def test_first_contacts_are_spread_and_those_after_a_steady_connection(
    make_device: Callable[..., Device], broker: Any, eventually: Eventually
) -> None:
    clock = ManualClock()
    drawn: list[float] = []

    def draw() -> float:
        drawn.append(0.5)
        return 0.5

    device = make_device(clock=clock, keepalive_s=30, first_contact_max_s=10_000.0, draw=draw)
    session = device.start()
    eventually(lambda: drawn == [0.5])
    time.sleep(0.5)
    assert session.problem is None
    assert session.figures.connections == 0, "it waits for its turn"
    session.reconnect(broker.address)
    eventually(lambda: session.is_connected)
    broker.configure("")
    eventually(lambda: session.figures.connections == 2)  # it did not last: it is made again without waiting for a turn
    eventually(lambda: session.is_connected)
    clock.advance(STEADY_S + 1)
    before = len(drawn)
    broker.configure("")
    eventually(lambda: len(drawn) >= before + 2)
    time.sleep(0.5)
    assert session.figures.connections == 2, "a fleet that lost its broker does not come back at once"
    session.reconnect(broker.address)
    eventually(lambda: session.figures.connections == 3)


def test_only_the_first_contact_of_a_new_device_does_not_wait(
    make_device: Callable[..., Device], broker: Any, eventually: Eventually
) -> None:
    clock = ManualClock()
    device = make_device(clock=clock, keepalive_s=30, first_contact_max_s=10_000.0, is_awaited=True, draw=lambda: 0.5)
    session = device.start()
    eventually(lambda: session.is_connected)
    clock.advance(STEADY_S + 1)
    broker.configure("")
    eventually(lambda: not session.is_connected)
    time.sleep(1.5)  # longer than the first wait of the back-off
    assert session.figures.connections == 1, "later it takes its turn as every other device does"
    session.reconnect(broker.address)
    eventually(lambda: session.figures.connections == 2)
