"""Devices that receive a bundle: ours with the agent's own session and transfer, the peer with plain paho-mqtt."""

import itertools
import json
import threading
from functools import partial
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from typing_extensions import override

from dsops.bundle import sha256_hex
from dsops.clock import SystemClock
from dsops.errors import TransferFailed
from dsops.messages import Problem
from dsops.topics import Topics
from dsops_agent.identity import Identity
from dsops_agent.install.fetch import Pace, Transfer, Wanted
from dsops_agent.install.mailbox import ChunkCame, ChunkLost, Connected, Mailbox
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from dsops_agent.transport.ports import Inbox
from measure.broker import HOST, PREFIX
from measure.sender import SINGLE_TOPIC

PACE = Pace(window=16, timeout_s=5.0)
"""The agent's defaults."""
LAST_S = 10.0
"""A delivery takes a second or two; after so long it has stalled."""
_TOPICS = Topics(PREFIX)


class _Post(Inbox):
    """Leaves what comes in the install worker's mailbox, as the agent does; counts the chunks' bytes."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.up = threading.Event()
        self.payload_bytes = 0

    @override
    def message(self, topic: str, payload: bytes) -> None:
        digest = _TOPICS.parse_chunk(topic)
        if digest is not None:
            self.payload_bytes += len(payload)
            self.mailbox.put(ChunkCame(digest, payload))

    def lost(self, digest: str, problem: Problem) -> None:
        self.mailbox.put(ChunkLost(digest, problem))

    @override
    def connected(self) -> None:
        self.up.set()
        self.mailbox.put(Connected())

    @override
    def disconnected(self) -> None:
        return


class OurReceiver:
    """The agent's session, mailbox and transfer, with their threads."""

    def __init__(self, identity: Identity, port: int, staging: Path, wanted: Wanted) -> None:
        self._post = _Post()
        self._clock = SystemClock()
        self._stop = threading.Event()
        settings = Settings(
            identity.device, f"{HOST}:{port}", partial(tls_context, identity), keepalive_s=5, reconnect_max_s=0.1
        )
        life = Life(_TOPICS.connection(identity.device), partial(next, itertools.count(1)), _life_message)
        self._session = MqttSession(settings, life, self._post, self._clock)
        chunks = MqttChunks(self._session, _TOPICS, identity.device, self._post.lost)
        self._transfer = Transfer(staging, wanted, chunks, PACE)
        self._threads = [threading.Thread(target=self._session.run)]
        for thread in self._threads:
            thread.start()

    @property
    def payload_bytes(self) -> int:
        """Bytes of chunks that came, wanted or not."""
        return self._post.payload_bytes

    def wait_connected(self) -> None:
        """Wait for the session with the broker."""
        if not self._post.up.wait(LAST_S):
            raise TransferFailed("a receiver got no session", why=self._session.problem or "")

    def fetch(self) -> None:
        """Fetch the bundle onto the disk, checked and durable.

        Raises:
            TransferFailed: It did not come.
        """
        ends_s = self._clock.monotonic_s() + LAST_S
        self._post.mailbox.take(0.0)  # the first connection is no reason to ask twice
        self._transfer.start(self._clock.monotonic_s())
        while not self._transfer.done:
            for message in self._post.mailbox.take(0.5):
                now_s = self._clock.monotonic_s()
                if isinstance(message, ChunkCame):
                    self._transfer.arrived(message.digest, message.data, now_s)
                elif isinstance(message, ChunkLost):
                    self._transfer.lost(message.digest, message.problem, now_s)
                elif isinstance(message, Connected):
                    self._transfer.reconnected(now_s)
            self._transfer.tick(self._clock.monotonic_s())
            if self._clock.monotonic_s() > ends_s:
                raise TransferFailed("a receiver did not get the bundle in time")

    def close(self) -> None:
        """End the session and its threads."""
        self._transfer.close()
        self._session.stop()
        for thread in self._threads:
            thread.join()


class PlainReceiver:
    """A paho-mqtt client that gets the bundle in one message, checks it and writes it down."""

    def __init__(self, identity: Identity, port: int, staging: Path, wanted: Wanted) -> None:
        self._path = staging / wanted.sha256
        self._wanted = wanted
        self._up = threading.Event()
        self._came = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=identity.device, protocol=MQTTv5)
        self._client.tls_set_context(tls_context(identity))
        self._client.on_connect = self._subscribe
        self._client.on_message = self._take
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(HOST, port)
        self._client.loop_start()

    def wait_connected(self) -> None:
        """Wait for the session with the broker."""
        self._up.wait(LAST_S)

    def fetch(self) -> None:
        """Wait for the bundle.

        Raises:
            TransferFailed: It did not come.
        """
        if not self._came.wait(LAST_S):
            raise TransferFailed("a receiver did not get the bundle in time")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: Client, *_: object) -> None:
        client.subscribe(SINGLE_TOPIC, qos=1)
        self._up.set()

    def _take(self, _: Client, __: object, message: MQTTMessage) -> None:
        data = bytes(message.payload)
        if sha256_hex(data) == self._wanted.sha256:
            self._path.write_bytes(data)
            self._came.set()


Receiver = OurReceiver | PlainReceiver


def _life_message(seq: int, online: bool) -> bytes:
    return json.dumps({"seq": seq, "online": online}).encode()
