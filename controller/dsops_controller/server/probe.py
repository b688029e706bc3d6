"""Tries a broker out, as a client that touches nobody's topics: what it allows, how fast it is, what it keeps.

Its name has a certificate for some minutes and a topic of its own below the prefix (:mod:`.mosquitto`), so it neither
disturbs the controller's session nor is ever taken for a device.
"""

import contextlib
import ipaddress
import os
import select
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dsops.chunks import DEFAULT_CHUNK_BYTES
from dsops.errors import BrokerUnreachable
from dsops_controller.fleet.ca import Issued
from dsops_controller.server.limits import SESSION_S, Limits, Measured, limits_of
from dsops_controller.server.mosquitto import PROBE

LIFE = timedelta(minutes=10)
TIMEOUT_S = 5.0
ROUND_TRIPS = 5
EXPIRY_S = 1
_SMALL_BYTES = 200

_properties: Callable[[int], Properties] = Properties


@dataclass(frozen=True)
class ProbeSettings:
    """Which broker, and who the probe is.

    Attributes:
        host: The broker's address.
        port: Its port.
        ca: File of the authority that the broker's certificate comes from.
        topic_prefix: First levels of every topic.
        issue: Makes the probe's certificate, for so long.
    """

    host: str
    port: int
    ca: Path
    topic_prefix: str
    issue: Callable[[str, timedelta], Issued]


def probe(settings: ProbeSettings) -> tuple[Limits, Measured]:
    """Try the broker out; takes some seconds.

    Raises:
        BrokerUnreachable: It does not answer, or lets the probe not in.
    """
    try:
        with _connected(settings) as session:
            limits = limits_of(session.connack)
            measured = _Trial(session, f"{settings.topic_prefix}/probe", limits).run()
            return limits, replace(measured, is_near=_is_near(session.client.socket()))
    except (OSError, ValueError) as error:
        raise BrokerUnreachable(f"the broker {settings.host}:{settings.port} is not reached", why=str(error)) from error


@dataclass
class _Session:
    """One connection, driven by the caller's thread; paho's own loop would fail beyond 1024 open files."""

    client: mqtt.Client
    connack: Properties | None = None
    refusal: str | None = None
    heard: list[mqtt.MQTTMessage] = field(default_factory=list)
    codes: dict[int, ReasonCode] = field(default_factory=dict)
    granted: dict[int, ReasonCode] = field(default_factory=dict)

    def wait(self, holds: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
        """Serve the connection until something holds; return whether it did.

        Raises:
            BrokerUnreachable: The connection is lost.
        """
        ends_s = time.monotonic() + timeout_s
        while not holds() and (left_s := ends_s - time.monotonic()) > 0:
            self._turn(min(left_s, 0.5))
        return holds()

    def _turn(self, timeout_s: float) -> None:
        connection = self.client.socket()
        if connection is None:
            raise BrokerUnreachable("the broker closed the connection", why=self.refusal or "")
        poller = select.poll()
        poller.register(connection, select.POLLIN | (select.POLLOUT if self.client.want_write() else 0))
        has_more = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        ready = dict(poller.poll(0 if has_more else timeout_s * 1000))
        if has_more or ready.get(connection.fileno(), 0) & ~select.POLLOUT:
            self.client.loop_read()
        if self.client.want_write():
            self.client.loop_write()
        self.client.loop_misc()

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool = False, expiry_s: int = 0) -> str:
        """Publish, and return why the broker refused it; empty when it took it.

        Raises:
            BrokerUnreachable: The connection is lost.
        """
        properties = None
        if expiry_s:
            properties = _properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = expiry_s
        mid = self.client.publish(topic, payload, qos, retain, properties).mid
        if not self.wait(lambda: mid in self.codes):
            return "no acknowledgement"
        return str(self.codes[mid]) if self.codes[mid].is_failure else ""

    def subscribe(self, topic: str, qos: int) -> str:
        """Subscribe, and return why the broker refused it; empty when it took it."""
        mid = self.client.subscribe(topic, qos)[1]
        if mid is None or not self.wait(lambda: mid in self.granted):
            return "no acknowledgement"
        return str(self.granted[mid]) if self.granted[mid].is_failure else ""

    def next(self) -> mqtt.MQTTMessage | None:
        """Return the next message; None when none comes in time."""
        return self.heard.pop(0) if self.wait(lambda: bool(self.heard)) else None


@contextlib.contextmanager
def _connected(settings: ProbeSettings) -> Iterator[_Session]:
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=PROBE, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    session = _Session(client)
    _attach(session)
    client.connect_timeout = TIMEOUT_S
    client.tls_set_context(_context(settings))
    asked = _properties(PacketTypes.CONNECT)
    asked.SessionExpiryInterval = SESSION_S
    client.connect(settings.host, settings.port, keepalive=30, clean_start=True, properties=asked)
    try:
        if not session.wait(lambda: session.refusal is not None) or session.refusal:
            raise BrokerUnreachable("the broker does not let the probe in", why=session.refusal or "it does not answer")
        yield session
    finally:
        leave = _properties(PacketTypes.DISCONNECT)
        leave.SessionExpiryInterval = 0  # it leaves nothing behind
        client.disconnect(properties=leave)
        with contextlib.suppress(BrokerUnreachable, OSError, ValueError):
            session.wait(lambda: not client.want_write(), 1.0)
        if isinstance(connection := client.socket(), socket.socket):
            connection.close()


def _attach(session: _Session) -> None:
    client = session.client

    def on_connect(_c: object, _d: object, _f: object, reason: ReasonCode, properties: Properties | None) -> None:
        session.connack, session.refusal = properties, str(reason) if reason.is_failure else ""

    def on_disconnect(_c: object, _d: object, _f: object, reason: ReasonCode, _p: object) -> None:
        session.refusal = str(reason)

    def on_publish(_c: object, _d: object, mid: int, reason: ReasonCode, _p: object) -> None:
        session.codes[mid] = reason

    def on_subscribe(_c: object, _d: object, mid: int, reasons: list[ReasonCode], _p: object) -> None:
        session.granted[mid] = reasons[0]

    def on_socket_open(_c: object, _d: object, connection: object) -> None:
        assert isinstance(connection, socket.socket)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    client.on_connect, client.on_disconnect = on_connect, on_disconnect
    client.on_publish, client.on_subscribe = on_publish, on_subscribe
    client.on_message = lambda _c, _d, message: session.heard.append(message)
    client.on_socket_open = on_socket_open


def _context(settings: ProbeSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.ca))
    issued = settings.issue(PROBE, LIFE)
    with tempfile.TemporaryDirectory(prefix="dsops-") as folder:  # OpenSSL reads keys only from files
        issued.save(Path(folder), PROBE)
        context.load_cert_chain(Path(folder) / f"{PROBE}.crt", Path(folder) / f"{PROBE}.key")
    return context


@dataclass
class _Trial:
    """The messages of a trial, in topics below ``topic``."""

    session: _Session
    topic: str
    limits: Limits

    def run(self) -> Measured:
        """Try what the limits allow; a broker that ends the connection meanwhile refuses the trial."""
        try:
            return self._run()
        except BrokerUnreachable as error:
            return Measured(refusal=str(error))

    def _run(self) -> Measured:
        holds = self.limits.holds_chunks
        begun_s = time.monotonic()
        if holds:
            expiring = f"{self.topic}/expiry"
            refusal = self._write(expiring, expiry_s=EXPIRY_S)
            if refusal:
                return Measured(refusal=refusal)
        refusal, round_trips = self._round_trips()
        if refusal or not holds:
            return Measured(round_trips, refusal=refusal)
        kept = f"{self.topic}/kept"
        written = os.urandom(DEFAULT_CHUNK_BYTES)
        refusal = self._write(kept, written)
        keeps = not refusal and self._retained(kept) == written
        refusal = self._write(kept, b"")
        deletes = not refusal and self._retained(kept) is None
        self.session.wait(lambda: time.monotonic() - begun_s > EXPIRY_S + 1.5, 2 * TIMEOUT_S)
        expires = self._retained(expiring) is None
        self._write(expiring, b"")
        return Measured(round_trips, keeps=keeps, deletes=deletes, expires=expires)

    def _write(self, topic: str, payload: bytes = b"probe", expiry_s: int = 0) -> str:
        return self.session.publish(topic, payload, 1, retain=True, expiry_s=expiry_s)

    def _round_trips(self) -> tuple[str, tuple[float, ...]]:
        qos = min(1, self.limits.max_qos)
        topic, payload = f"{self.topic}/echo", bytes(_SMALL_BYTES)
        if refusal := self.session.subscribe(topic, qos):
            return refusal, ()
        taken = []
        for _ in range(ROUND_TRIPS):
            sent_s = time.monotonic()
            refusal = self.session.publish(topic, payload, qos)
            if refusal or self.session.next() is None:
                return refusal or "a message did not come back", ()
            taken.append(time.monotonic() - sent_s)
        self.session.client.unsubscribe(topic)
        return "", tuple(taken)

    def _retained(self, topic: str) -> bytes | None:
        """Return what is retained there. A message of now, which comes after it, shows that there is nothing."""
        if self.session.subscribe(topic, 1):
            return None
        self.session.publish(topic, b"now", 1)
        found = None
        while (message := self.session.next()) is not None and message.payload != b"now":
            found = bytes(message.payload)
        self.session.client.unsubscribe(topic)
        return found


def _is_near(connection: object) -> bool:
    if not isinstance(connection, socket.socket):
        return False
    address = ipaddress.ip_address(str(connection.getpeername()[0]).partition("%")[0])
    return address.is_private or address.is_loopback or address.is_link_local
