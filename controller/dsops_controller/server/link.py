"""One MQTT 5 session with a broker, kept alive by one thread that alone touches the client.

paho-mqtt is driven through its event-loop interface (``loop_read``, ``loop_write``, ``loop_misc``), with a fresh client
for every connection. So nothing of an old session is sent again, the window holds across reconnects, callbacks share no
lock with publishers, and sockets beyond the limit of ``select`` work.
"""

import logging
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dsops.bounded_mqtt import MAX_PACKET_BYTES, BoundedClient
from dsops.errors import BrokerUnreachable
from dsops_controller.server.limits import Limits, limits_of
from dsops_controller.server.suspicion import LATER, Suspicion

log = logging.getLogger(__name__)

WINDOW = 10
"""Unacknowledged messages at most; the smallest Receive Maximum among common brokers."""
QUEUE = 64
QUEUE_BYTES = 128 * 1024
"""The queue is full at so many bytes, too: what is news waits behind it, and behind the window."""
KEEPALIVE_S = 10
CONNECT_TIMEOUT_S = 5.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
RETAIN_NOT_SUPPORTED = 0x9A
"""Reason code of a CONNACK (MQTT 5.0, 3.2.2.2)."""
ALONE_S = 1.0
"""A suspected message waits so long at most for one that the broker does not answer."""
_OVERHEAD_BYTES = 32
_JITTER = random.SystemRandom()


@dataclass(frozen=True)
class Message:
    """One message to publish at QoS 1; the broker forgets it after ``expiry_s`` seconds, if that is not 0."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int = 0


@dataclass(frozen=True)
class LinkSettings:
    """Where the broker is, who this client is, what it hears, and what the broker says when it is gone.

    ``filters`` are pairs of topic filter and QoS; they must not overlap, for a broker may deliver once per filter.
    """

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    client_id: str
    filters: tuple[tuple[str, int], ...]
    will: Message | None = None


@dataclass
class LinkCounters:
    """What the link did since it was made."""

    connections: int = 0
    published: int = 0
    refused: int = 0
    received: int = 0


class Listener(Protocol):
    """Hears what the link has. Called on the link's thread: must return at once."""

    def connected(self) -> None:
        """A new session has begun; everything retained should be said again."""
        ...

    def disconnected(self) -> None:
        """The session has ended."""
        ...

    def message(self, topic: str, payload: bytes) -> None:
        """A message came."""
        ...


@dataclass
class _Session:
    """State of one connection; belongs to the link's thread."""

    client: mqtt.Client
    heard_s: float
    is_open: bool = False
    ended: str = ""
    limits: Limits = field(default_factory=Limits)
    in_flight: dict[int, str] = field(default_factory=dict)
    sent_s: dict[int, float] = field(default_factory=dict)

    def on_their_way(self, now_s: float) -> list[str]:
        """Return the topics of messages that the broker may still be about to answer."""
        return [topic for mid, topic in self.in_flight.items() if now_s - self.sent_s[mid] < ALONE_S]


class Link:
    """Keeps one session with the broker and publishes what is queued.

    ``publish`` and ``flush`` may be called from any thread but the link's own.
    """

    def __init__(self, settings: LinkSettings, listener: Listener) -> None:
        self.counters = LinkCounters()
        self.limits = Limits()
        """What the broker allowed in the newest session."""
        self._settings = settings
        self._listener = listener
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._in_flight = 0
        self._is_open = False
        self._changed = threading.Condition()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._told = ""
        self._suspicion = Suspicion()
        self._was_put_off = False
        """Whether the broker ended the newest session for want of capacity."""
        self._will_stays = True
        """Whether the will is retained; a broker that retains nothing refuses a CONNECT whose will is."""

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self._is_open

    def publish(self, message: Message, timeout_s: float = 30.0) -> bool:
        """Queue one message; wait while the queue is full.

        Returns:
            Whether it was queued. False means that there is no session, or that the broker took nothing for
            ``timeout_s``. What is retained is said again when a session begins.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or not self._is_full, timeout_s)
            if not self._is_open or self._is_full:
                return False
            self._queue.append(message)
            self._queued_bytes += len(message.payload)
        self.wake()
        return True

    @property
    def _is_full(self) -> bool:
        return len(self._queue) >= QUEUE or self._queued_bytes >= QUEUE_BYTES

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything that was queued; return whether it did."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or not (self._queue or self._in_flight), timeout_s)
            return self._is_open and not (self._queue or self._in_flight)

    def wake(self) -> None:
        """Have the thread look at its queue and at its stop event now."""
        try:
            self._wake_in.send(b"w")
        except BlockingIOError:
            return  # full of wake-ups, so the thread will look anyway

    def run(self, stop: threading.Event) -> None:
        """Connect, serve, and connect again, until ``stop`` is set."""
        wait_s = FIRST_WAIT_S
        while not stop.is_set():
            before = self.counters.connections
            self._attempt(stop)
            if self.counters.connections > before and not self._was_put_off:
                wait_s = FIRST_WAIT_S
            stop.wait(wait_s * _JITTER.uniform(0.5, 1.0))
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _attempt(self, stop: threading.Event) -> None:
        where = f"{self._settings.host}:{self._settings.port}"
        try:
            self._serve(stop)
        except (OSError, ValueError, BrokerUnreachable) as error:
            self._tell(f"no session with the broker {where}: {error}")
        except Exception:  # the thread must outlive every surprise, or the fleet is deaf until a restart
            log.exception("the session with the broker %s broke", where)
        finally:
            self._close()

    def _tell(self, text: str, about: str = "") -> None:
        """Log a change of state once; ``about`` says when two texts tell the same."""
        if (about or text) != self._told:
            log.warning(text)
        self._told = about or text

    def _serve(self, stop: threading.Event) -> None:
        session = self._make()
        client = session.client
        try:
            client.connect(
                self._settings.host,
                self._settings.port,
                keepalive=KEEPALIVE_S,
                clean_start=True,
                properties=_connect_properties(),
            )
            poller = select.poll()
            poller.register(self._wake_out, select.POLLIN)
            while not stop.is_set():
                self._turn(session, poller)
            client.disconnect()
        finally:
            if (connection := client.socket()) is not None:
                connection.close()

    def _make(self) -> _Session:
        settings = self._settings
        client = BoundedClient(
            CallbackAPIVersion.VERSION2, client_id=settings.client_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(settings.ca))
        context.load_cert_chain(settings.certificate, settings.key)
        client.tls_set_context(context)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(WINDOW)
        if settings.will:
            client.will_set(
                settings.will.topic, settings.will.payload, qos=1, retain=settings.will.retain and self._will_stays
            )
        session = _Session(client, heard_s=time.monotonic())
        self._attach(session)
        return session

    def _attach(self, session: _Session) -> None:
        client = session.client
        client.on_socket_open = _without_delay
        client.on_connect = _guarded(session, lambda *args: self._on_connect(session, args[3], args[4]))
        client.on_disconnect = _guarded(session, lambda *args: self._on_disconnect(session, args[3]))
        client.on_subscribe = _guarded(session, lambda *args: self._on_subscribe(args[3]))
        client.on_publish = _guarded(session, lambda *args: self._on_publish(session, args[2], args[3]))
        client.on_message = _guarded(session, lambda *args: self._on_message(args[2]))

    def _turn(self, session: _Session, poller: select.poll) -> None:
        """Wait for something to do at most one second, and do it.

        Raises:
            BrokerUnreachable: The session is over.
        """
        client = session.client
        connection = client.socket()
        if connection is None or session.ended:
            raise BrokerUnreachable("the session ended", why=session.ended)
        poller.register(connection, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        ready = dict(poller.poll(1000))
        if self._wake_out.fileno() in ready:
            self._wake_out.recv(4096)
        events = ready.get(connection.fileno(), 0)
        if events & ~select.POLLOUT:
            session.heard_s = time.monotonic()
            _read_all(client)
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        self._send_queued(session)
        if time.monotonic() - session.heard_s > 2.5 * KEEPALIVE_S:
            raise BrokerUnreachable("the broker is silent", why=f"nothing heard for {2.5 * KEEPALIVE_S:g} s")

    def _send_queued(self, session: _Session) -> None:
        window = min(WINDOW, session.limits.receive_maximum)
        while session.is_open and len(session.in_flight) < window:
            with self._changed:
                if not self._queue or not self._may_send(session, self._queue[0]):
                    return
                message = self._queue.popleft()
                self._queued_bytes -= len(message.payload)
                self._in_flight = len(session.in_flight) + 1
                self._changed.notify_all()
            self._send(session, message)
            with self._changed:
                self._in_flight = len(session.in_flight)
                self._changed.notify_all()

    def _may_send(self, session: _Session, message: Message) -> bool:
        return self._suspicion.may_send(message.topic, session.on_their_way(time.monotonic()))

    def _send(self, session: _Session, message: Message) -> None:
        size = len(message.topic.encode()) + len(message.payload) + _OVERHEAD_BYTES
        if size > MAX_PACKET_BYTES or not session.limits.fits(size):
            # The broker would close the session, and again after every reconnect.
            self.counters.refused += 1
            log.error("a message of %d bytes to %s exceeds the broker's limit", size, message.topic)
            return
        if self._suspicion.is_left_out(message.topic, time.monotonic()):
            self.counters.refused += 1
            return
        retain = message.retain and session.limits.retain
        if message.retain and not retain and not message.payload:
            return  # there is nothing to delete, and whoever listens would take it for a message
        properties = _publish_properties(message) if message.expiry_s else None
        info = session.client.publish(message.topic, message.payload, 1, retain, properties)
        session.in_flight[info.mid] = message.topic
        session.sent_s[info.mid] = time.monotonic()

    def _on_connect(self, session: _Session, reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._will_stays = reason.value != RETAIN_NOT_SUPPORTED
            _end(session, f"the broker refused it: {reason}")
            return
        session.limits = self.limits = limits_of(properties)
        session.client.subscribe(list(self._settings.filters))
        session.is_open = True
        self._was_put_off = False
        self.counters.connections += 1
        with self._changed:
            self._is_open = True
            self._changed.notify_all()
        self._told = ""
        log.info("session with the broker %s:%d", self._settings.host, self._settings.port)
        self._listener.connected()

    def _on_publish(self, session: _Session, mid: int, reason: ReasonCode) -> None:
        topic = session.in_flight.pop(mid, "")
        session.sent_s.pop(mid, None)
        self._suspicion.acknowledged(topic)
        if reason.is_failure:
            self.counters.refused += 1
            self._tell(f"the broker refuses messages, such as one to {topic}: {reason}", about=str(reason))
        else:
            self.counters.published += 1
        with self._changed:
            self._in_flight = len(session.in_flight)
            self._changed.notify_all()

    def _on_disconnect(self, session: _Session, reason: ReasonCode) -> None:
        _end(session, f"the broker closed it ({reason})")
        self._was_put_off = reason.value in LATER
        topics = set(session.in_flight.values())
        left_out = self._suspicion.ended(topics, reason.value, time.monotonic())
        if left_out:
            log.error("the broker ends the session at a message to %s, which is left out now: %s", left_out, reason)

    def _on_subscribe(self, reasons: list[ReasonCode]) -> None:
        for (topic, _), reason in zip(self._settings.filters, reasons, strict=False):
            if reason.is_failure:
                log.error("the broker refuses the subscription to %s: %s", topic, reason)

    def _on_message(self, message: mqtt.MQTTMessage) -> None:
        self.counters.received += 1
        self._listener.message(message.topic, bytes(message.payload))

    def _close(self) -> None:
        with self._changed:
            was_open, self._is_open = self._is_open, False
            self._queue.clear()
            self._queued_bytes = self._in_flight = 0
            self._changed.notify_all()
        if was_open:
            self._listener.disconnected()


_properties: Callable[[int], Properties] = Properties


def _publish_properties(message: Message) -> Properties:
    properties = _properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = message.expiry_s
    return properties


def _connect_properties() -> Properties:
    properties = _properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 100
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def _without_delay(_client: mqtt.Client, _userdata: object, connection: object) -> None:
    # Nagle's algorithm and delayed acknowledgements together cost 40 ms a round trip.
    assert isinstance(connection, socket.socket)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _guarded(session: _Session, callback: Callable[..., None]) -> Callable[..., None]:
    """Return a callback that ends the session instead of raising into the MQTT library, which would then hang."""

    def run(*args: object) -> None:
        try:
            callback(*args)
        except Exception as error:
            log.exception("a callback of the broker's session failed")
            _end(session, str(error))

    return run


def _end(session: _Session, why: str) -> None:
    session.ended = session.ended or why


def _read_all(client: mqtt.Client) -> None:
    """Read what has come, also what TLS has already decrypted and poll cannot see.

    Raises:
        BrokerUnreachable: The connection is lost.
    """
    while (connection := client.socket()) is not None:
        code = client.loop_read()
        if code != mqtt.MQTT_ERR_SUCCESS:
            raise BrokerUnreachable("the connection was lost", why=mqtt.error_string(code))
        if not _has_decrypted(connection):
            return


def _has_decrypted(connection: object) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
