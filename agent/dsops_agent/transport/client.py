"""One MQTT connection by paho-mqtt: its settings, its callbacks as events in a queue, and its turns.

paho-mqtt is driven through its event-loop interface by the one thread that owns the session: a chunk that arrives costs
no change of threads before it is in the installer's hands, and sockets beyond the limit of ``select`` work. paho-mqtt
neither sets TCP_NODELAY nor heeds the broker's Receive Maximum and Maximum Packet Size.

Source: MQTT Version 5.0, OASIS Standard (2019): 3.1.2.5 (will), 3.1.2.11 and 3.1.3.2 (properties).
"""

import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dsops.bounded_mqtt import MAX_PACKET_BYTES, BoundedClient
from dsops_agent.identity import Identity

WINDOW = 10
"""Messages in flight: not more than the smallest Receive Maximum that brokers commonly have."""
SESSION_EXPIRY_S = 86_400
CONNECT_TIMEOUT_S = 15.0
RETAIN_NOT_SUPPORTED = 0x9A
"""How a broker that retains nothing refuses a CONNECT whose will is to be retained (MQTT 5.0, 3.2.2.2)."""

_properties: Callable[[int], Properties] = Properties


@dataclass(frozen=True)
class Connected:
    """The broker answered CONNECT; ``refusal`` is empty when it accepted. ``max_packet_bytes`` 0 sets no limit."""

    refusal: str
    max_packet_bytes: int
    retains: bool


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


Event = Connected | Disconnected | Acknowledged | Granted


@dataclass(frozen=True)
class Will:
    """What the broker says for us when we are gone without a word."""

    topic: str
    payload: bytes
    delay_s: int
    retain: bool = True


@dataclass(frozen=True)
class Callbacks:
    """Where a client's events and messages go, within :func:`turn`."""

    events: deque[Event]
    message: Callable[[str, bytes], None]
    """Takes topic and payload; must not raise. A message is acknowledged afterwards."""


def tls_context(identity: Identity) -> ssl.SSLContext:
    """Return the context of mutual TLS: the server needs a certificate of our authority for its host name.

    Raises:
        OSError: The identity's files cannot be used (ssl.SSLError among others).
    """
    context = ssl.create_default_context(cafile=str(identity.ca_path))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def make_client(name: str, tls: ssl.SSLContext | None, will: Will | None, callbacks: Callbacks) -> Client:
    """Return a client that is not connected yet and that will make one connection; without TLS if there is none."""
    client = BoundedClient(
        CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5, reconnect_on_failure=False, manual_ack=True
    )
    client.suppress_exceptions = True
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(WINDOW)
    if tls is not None:
        client.tls_set_context(tls)
    if will is not None:
        will_properties = _properties(PacketTypes.WILLMESSAGE)
        will_properties.WillDelayInterval = will.delay_s
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain, properties=will_properties)
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
        callbacks.message(message.topic, bytes(message.payload))
        sender.ack(message.mid, message.qos)

    client.on_socket_open = on_socket_open
    client.on_message = on_message
    _attach_events(client, callbacks.events)


def _attach_events(client: Client, events: deque[Event]) -> None:
    def on_connect(_: Client, __: object, ___: ConnectFlags, reason: ReasonCode, properties: Properties | None) -> None:
        most_bytes = int(getattr(properties, "MaximumPacketSize", 0))
        retains = bool(getattr(properties, "RetainAvailable", 1)) and reason.value != RETAIN_NOT_SUPPORTED
        events.append(Connected(_refusal(reason), most_bytes, retains))

    def on_disconnect(_: Client, __: object, ___: DisconnectFlags, reason: ReasonCode, ____: object) -> None:
        events.append(Disconnected(str(reason)))

    def on_publish(_: Client, __: object, number: int, reason: ReasonCode, ___: object) -> None:
        events.append(Acknowledged(number, _refusal(reason)))

    def on_subscribe(_: Client, __: object, ___: int, reasons: list[ReasonCode], ____: object) -> None:
        events.append(Granted(tuple(filter(None, map(_refusal, reasons)))))

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
    """End a connection at once, without a word, so that the will stands."""
    sock = client.socket()
    if isinstance(sock, socket.socket):
        sock.close()


class Bell:
    """Wakes the thread that waits in :func:`turn`; rung by any thread, any number of times."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._has_rung = False

    def ring(self) -> None:
        """Let the present wait, or the next one, end at once."""
        if self._has_rung:
            return  # whoever hears that looks at what we left, too
        self._has_rung = True
        try:
            self._outside.send(b"r")
        except BlockingIOError:
            return  # so many rings wait already that one more says nothing

    def fileno(self) -> int:
        """Return what poll(2) waits for."""
        return self._inside.fileno()

    def hear(self) -> None:
        """Forget the rings so far."""
        self._inside.recv(4096)
        self._has_rung = False  # only now: a ring before this may have sent nothing, and is heard by what follows


def turn(client: Client, bell: Bell, timeout_s: float) -> bool:
    """Wait until something comes, can go out, or the bell rings, and let the client do its part.

    Returns:
        Whether anything came from the broker.
    """
    sock = client.socket()
    if not isinstance(sock, socket.socket):
        return False
    poller = select.poll()
    poller.register(bell, select.POLLIN)
    poller.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
    ready = dict(poller.poll(max(0.0, timeout_s) * 1000))
    if bell.fileno() in ready:
        bell.hear()
    has_come = bool(ready.get(sock.fileno(), 0) & ~select.POLLOUT)
    if has_come:
        _read(client)
    if client.want_write():
        client.loop_write()
    client.loop_misc()
    return has_come


def _read(client: Client) -> None:
    """Read a packet, and those that TLS has decrypted already, which poll(2) cannot see."""
    while client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS:
        sock = client.socket()
        if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return
