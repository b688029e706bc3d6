"""A device that connects to a broker once more, with the agent's own session, and what comes down to it then."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from dsops.clock import SystemClock
from dsops.errors import TransferFailed
from dsops.topics import Topics
from dsops_agent.identity import Identity
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from measure.broker import HOST, PREFIX, Keys, context
from measure.cable import cable

QUIET_S = 1.0
PATIENCE_S = 20.0
_TOPICS = Topics(PREFIX)


class Counter:
    """An inbox that counts payload bytes by topic."""

    def __init__(self) -> None:
        self.came: list[tuple[str, int]] = []

    def message(self, topic: str, payload: bytes) -> None:
        """Count one message."""
        self.came.append((topic, len(payload)))

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self) -> None:
        """Do nothing."""


@contextmanager
def session(identity: Identity, port: int, inbox: Counter, topics: tuple[str, ...]) -> Iterator[MqttSession]:
    """Run the agent's session with the broker."""
    numbers = count(1)
    settings = Settings(identity.device, f"{HOST}:{port}", partial(tls_context, identity), reconnect_max_s=0.1)
    life = Life(_TOPICS.connection(identity.device), lambda: next(numbers), lambda _seq, _online: b"{}")
    made = MqttSession(settings, life, inbox, SystemClock())
    for topic in topics:
        made.subscribe(topic, 1)
    threads = [threading.Thread(target=made.run)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop()
        for thread in threads:
            thread.join()


def reconnected(identity: Identity, port: int, topics: tuple[str, ...]) -> tuple[int, int]:
    """Return the payload bytes, and all bytes below TLS, that a device gets when it connects once more."""
    with session(identity, port, Counter(), topics) as first:
        _wait(lambda: first.is_connected)
        time.sleep(QUIET_S)
    inbox = Counter()
    with cable(port, None) as line, session(identity, line.port, inbox, topics):
        _wait(lambda: {topic for topic, _ in inbox.came} == set(topics))
        time.sleep(QUIET_S)
        return sum(size for _, size in inbox.came), line.down_bytes[0]


def _wait(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > ends_s:
            raise TransferFailed("the broker did not hand over what it retains")
        time.sleep(0.01)


def publish(keys: Keys, port: int, messages: Mapping[str, bytes]) -> None:
    """Leave retained messages with the broker, as the controller."""
    sender = Client(CallbackAPIVersion.VERSION2, client_id="controller", protocol=MQTTv5)
    sender.tls_set_context(context(keys.controller))
    sender.connect(HOST, port)
    sender.loop_start()
    for topic, payload in messages.items():
        sender.publish(topic, payload, qos=1, retain=True).wait_for_publish(PATIENCE_S)
    sender.disconnect()
    sender.loop_stop()
