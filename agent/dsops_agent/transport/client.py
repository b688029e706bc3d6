"""One MQTT connection by paho-mqtt: its settings, and its callbacks as events in a queue.

Callbacks run on the library's network thread, which must not wait and would die of an exception, so all they do is
enqueue. paho-mqtt neither sets TCP_NODELAY nor heeds the broker's Receive Maximum and Maximum Packet Size.

Source: MQTT Version 5.0, OASIS Standard (2019): 3.1.2.5 (will), 3.1.2.11 and 3.1.3.2 (properties).
"""

import queue
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from typing_extensions import override

from dsops_agent.identity import Identity

WINDOW = 10
"""Messages in flight: not more than the smallest Receive Maximum that brokers commonly have."""
SESSION_EXPIRY_S = 86_400
MAX_PACKET_BYTES = 128 * 1024
CONNECT_TIMEOUT_S = 15.0

_properties: Callable[[int], Properties] = Properties


@dataclass(frozen=True)
class Connected:
    """The broker answered CONNECT; ``refusal`` is empty when it accepted. ``max_packet_bytes`` 0 sets no limit."""

    refusal: str
    max_packet_bytes: int


@dataclass(frozen=True)
class Disconnected:
    """The connection is over."""

    reason: str


@dataclass(frozen=True)
class Acknowledged:
    """The broker answered a PUBLISH; ``refusal`` is empty when it took the message."""

    number: int
    refusal: str


@dataclass(frozen=True)
class Granted:
    """The broker answered a SUBSCRIBE; ``refusals`` names what it refused."""

    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Overflow:
    """A message had to be left unacknowledged, because too many wait; the broker gives it again after a reconnect."""


Event = Connected | Disconnected | Acknowledged | Granted | Overflow | None
"""None only wakes up the reader."""


@dataclass(frozen=True)
class Arrived:
    """A message, and the client that must acknowledge it."""

    client: Client
    number: int
    qos: int
    topic: str
    payload: bytes

    def acknowledge(self) -> None:
        """Tell the broker that the message was handled; does nothing for QoS 0 and after the connection's end."""
        self.client.ack(self.number, self.qos)


@dataclass(frozen=True)
class Will:
    """What the broker says for us when we are gone without a word."""

    topic: str
    payload: bytes
    delay_s: int


@dataclass(frozen=True)
class Callbacks:
    """Where a client's events go. None of them may wait or raise."""

    event: "queue.SimpleQueue[Event]"
    arrived: Callable[[Arrived], bool]
    """Takes a message; False when there is no room for it."""
    heard: Callable[[], None]
    """Called for every packet that comes in."""


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Return the context of mutual TLS: the server needs a certificate of our authority for its host name.

    Raises:
        OSError: The identity's files cannot be used (ssl.SSLError among others).
    """
    context = ssl.create_default_context(cafile=str(identity.ca_path))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


class BoundedClient(Client):
    """Ends the connection when a packet is longer than what we said in CONNECT that we take, before it is read."""

    @override
    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > MAX_PACKET_BYTES:
            raise ConnectionError(f"the broker sends a packet of {bufsize} bytes, {MAX_PACKET_BYTES} are taken")
        return super()._sock_recv(bufsize)


def make_client(name: str, tls: ssl.SSLContext | None, will: Will | None, callbacks: Callbacks) -> Client:
    """Return a client that is not connected yet and that will make one connection, without TLS if ``tls`` is None."""
    client = BoundedClient(
        CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5, reconnect_on_failure=False, manual_ack=True
    )
    client.suppress_exceptions = True
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(WINDOW)
    if tls:
        client.tls_set_context(tls)
    if will:
        will_properties = _properties(PacketTypes.WILLMESSAGE)
        will_properties.WillDelayInterval = will.delay_s
        client.will_set(will.topic, will.payload, qos=1, retain=True, properties=will_properties)
    _attach(client, callbacks)
    return client


def connect_properties() -> Properties:
    """Return what we say of ourselves in CONNECT."""
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    properties.ReceiveMaximum = 16
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def publish_properties(expiry_s: int) -> Properties | None:
    """Return what goes with a message that the broker forgets after a time; None when it has none."""
    if not expiry_s:
        return None
    properties = _properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = expiry_s
    return properties


def _attach(client: Client, callbacks: Callbacks) -> None:
    def on_socket_open(_: Client, __: object, sock: object) -> None:
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_message(sender: Client, _: object, message: MQTTMessage) -> None:
        arrived = Arrived(sender, message.mid, message.qos, message.topic, bytes(message.payload))
        if not callbacks.arrived(arrived) and message.qos:
            callbacks.event.put(Overflow())

    def on_log(_: Client, __: object, ___: int, text: str) -> None:
        if text.startswith("Received "):
            callbacks.heard()

    client.on_socket_open = on_socket_open
    client.on_message = on_message
    client.on_log = on_log
    _attach_events(client, callbacks.event)


def _attach_events(client: Client, events: "queue.SimpleQueue[Event]") -> None:
    def on_connect(_: Client, __: object, ___: ConnectFlags, reason: ReasonCode, properties: Properties | None) -> None:
        events.put(Connected(_refusal(reason), int(getattr(properties, "MaximumPacketSize", 0))))

    def on_disconnect(_: Client, __: object, ___: DisconnectFlags, reason: ReasonCode, ____: object) -> None:
        events.put(Disconnected(str(reason)))

    def on_publish(_: Client, __: object, number: int, reason: ReasonCode, ___: object) -> None:
        events.put(Acknowledged(number, _refusal(reason)))

    def on_subscribe(_: Client, __: object, ___: int, reasons: list[ReasonCode], ____: object) -> None:
        events.put(Granted(tuple(filter(None, map(_refusal, reasons)))))

    client.on_connect = on_connect
    client.on_disconnect = on_disconnect
    client.on_publish = on_publish
    client.on_subscribe = on_subscribe


def _refusal(reason: ReasonCode) -> str:
    """Return the name of a reason code from 0x80 on, an empty text for others."""
    return str(reason) if reason.is_failure else ""


def leave_for_now(client: Client) -> None:
    """Disconnect in order, but let the will stand (reason code 0x04), which the next connection takes back in time."""
    client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))


def break_off(client: Client) -> None:
    """End a connection at once, without a word, so that the will stands; then wait for the network thread."""
    sock = client.socket()
    if isinstance(sock, socket.socket):
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's own, which the reading thread trips over
        except OSError:
            client.disconnect()  # the socket was down already; this only lets the network thread end
    client.loop_stop()
