"""What the broker of a device may do to it besides its work: flood it, trickle, keep it waiting."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fake_broker import FakeBroker, accept
from memory_peak import MemoryPeak

from dsops.clock import SystemClock
from dsops_agent.transport.mqtt import MqttSession, Settings

pytestmark = pytest.mark.integration

MESSAGES = 400
GROWTH_BYTES = 16 << 20
"""A third of what the broker sends: whatever keeps it exceeds this."""


class Quiet:
    """An inbox that keeps nothing but how long messages were."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def message(self, _topic: str, payload: bytes) -> None:
        self.lengths.append(len(payload))

    def connected(self) -> None:
        return

    def disconnected(self) -> None:
        return


class Stage:
    """A session with a broker that behaves in its own way."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.inbox = Quiet()
        self.told_s: list[float] = []
        self.broker = FakeBroker(behave)
        settings = Settings("cam-1", self.broker.address, lambda: None, reconnect_max_s=0.05, receiving=self._tell)
        self.session = MqttSession(settings, None, self.inbox, SystemClock())
        self.session.subscribe("t", 0)
        self._thread = threading.Thread(target=self.session.run)
        self._thread.start()

    def _tell(self) -> None:
        self.told_s.append(time.monotonic())

    def wait(self, condition: Callable[[], bool]) -> None:
        ends_s = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < ends_s, "waited in vain"
            time.sleep(0.005)

    def close(self) -> None:
        self.session.stop()
        self._thread.join(15)
        assert not self._thread.is_alive()
        self.broker.close()


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(behave: Callable[[socket.socket], None]) -> Stage:
        made.append(Stage(behave))
        return made[-1]

    yield make
    for one in made:
        one.close()


def publish(qos: int, number: int, payload: bytes) -> bytes:
    """Return a PUBLISH packet of the topic ``t`` (MQTT 5.0, 3.3)."""
    body = struct.pack("!H", 1) + b"t" + (struct.pack("!H", number) if qos else b"") + b"\0" + payload
    length, digits = len(body), b""
    while length:
        length, digit = divmod(length, 128)
        digits += bytes([digit | (0x80 if length else 0)])
    return bytes([0x30 | qos << 1]) + digits + body


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_that_nobody_waits_for_are_not_kept(qos: int, stage: Callable[..., Stage]) -> None:
    def flood(sock: socket.socket) -> None:
        accept(sock)
        for number in range(MESSAGES):
            sock.sendall(publish(qos, number + 1, bytes(120_000)))
        time.sleep(60)

    peak = MemoryPeak(os.getpid())
    one = stage(flood)
    one.wait(lambda: len(one.inbox.lengths) == MESSAGES)
    assert peak.growth_bytes() <= GROWTH_BYTES


def test_messages_of_qos_2_which_nobody_asks_for_are_not_kept(stage: Callable[..., Stage]) -> None:
    sent = [0]

    def flood(sock: socket.socket) -> None:
        accept(sock)
        for number in range(MESSAGES):
            sock.sendall(publish(2, number + 1, bytes(120_000)))
            sent[0] += 1
        sent[0] = MESSAGES
        time.sleep(60)

    peak = MemoryPeak(os.getpid())
    one = stage(flood)
    one.wait(lambda: one.broker.connections >= 2 or sent[0] >= MESSAGES)
    assert one.broker.connections >= 2, "the connection is ended, and made anew"
    assert "QoS 2" in (one.session.problem or "QoS 2")
    assert peak.growth_bytes() <= GROWTH_BYTES
    assert one.inbox.lengths == []


def test_bytes_of_a_long_message_are_told_of_while_they_come(stage: Callable[..., Stage]) -> None:
    whole = threading.Event()

    def trickle(sock: socket.socket) -> None:
        accept(sock)
        packet = publish(0, 1, bytes(20_000))
        for start in range(0, len(packet), 1000):
            sock.sendall(packet[start : start + 1000])
            time.sleep(0.1)
        whole.set()
        time.sleep(60)

    one = stage(trickle)
    one.wait(lambda: one.inbox.lengths == [20_000])
    assert whole.wait(5)
    assert len(one.told_s) >= 2
    told = len(one.told_s)
    time.sleep(0.6)
    assert len(one.told_s) == told, "nothing comes any more"
