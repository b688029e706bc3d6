"""As much of the MQTT 5 wire format as light agents and the chaos proxy need: packets whole, messages in parts.

Source: MQTT Version 5.0, OASIS Standard (2019), sections 1.5, 2 and 3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_SHORT = struct.Struct(">H")
_CONTINUES = 0x80
CLEAN_START = 0x02
SESSION_EXPIRY, RECEIVE_MAXIMUM = 0x11, 0x21


class Kind(IntEnum):
    """Control packet types (2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True)
class Packet:
    """One control packet: the first byte, and what follows the length."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        """Its type."""
        return self.first >> 4

    def encode(self) -> bytes:
        """Return its bytes on the wire."""
        return bytes((self.first,)) + _number(len(self.body)) + self.body


@dataclass(frozen=True)
class Message:
    """A PUBLISH packet in parts; ``packet_id`` is 0 at QoS 0, ``start`` is where the payload begins in the body."""

    topic: str
    qos: int
    packet_id: int
    start: int


class Splitter:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Packet]:
        """Yield the packets that ``data`` completes."""
        self._buffer += data
        at = 0
        try:
            while (found := self._header(at)) is not None:
                start, length = found
                if len(self._buffer) < start + length:
                    break
                yield Packet(self._buffer[at], bytes(memoryview(self._buffer)[start : start + length]))
                at = start + length
        finally:
            del self._buffer[:at]

    def _header(self, at: int) -> tuple[int, int] | None:
        """Return where the body of the packet at ``at`` begins and how long it is; None when that has not come."""
        if len(self._buffer) < at + 2:
            return None
        return _read_number(self._buffer, at + 1)


def message_of(packet: Packet) -> Message:
    """Return the parts of a PUBLISH packet."""
    body, qos = packet.body, packet.first >> 1 & 3
    at = 2 + _SHORT.unpack_from(body)[0]
    topic = body[2:at].decode()
    packet_id = _SHORT.unpack_from(body, at)[0] if qos else 0
    found = _read_number(body, at + (2 if qos else 0))
    assert found is not None, "a packet is whole"
    return Message(topic, qos, packet_id, sum(found))


def connect(client: str, keepalive_s: int, expiry_s: int) -> bytes:
    """Return CONNECT to a session that is kept for ``expiry_s`` seconds; 0 begins a new one."""
    properties = struct.pack(">BIBH", SESSION_EXPIRY, expiry_s, RECEIVE_MAXIMUM, 16)
    head = _text("MQTT") + bytes((5, 0 if expiry_s else CLEAN_START)) + _SHORT.pack(keepalive_s)
    return Packet(Kind.CONNECT << 4, head + _number(len(properties)) + properties + _text(client)).encode()


def subscribe(packet_id: int, topics: list[str], qos: int) -> bytes:
    """Return SUBSCRIBE to some topics."""
    asked = b"".join(_text(topic) + bytes((qos,)) for topic in topics)
    return Packet(Kind.SUBSCRIBE << 4 | 2, _SHORT.pack(packet_id) + b"\0" + asked).encode()


def unsubscribe(packet_id: int, topics: list[str]) -> bytes:
    """Return UNSUBSCRIBE from some topics."""
    return Packet(Kind.UNSUBSCRIBE << 4 | 2, _SHORT.pack(packet_id) + b"\0" + b"".join(map(_text, topics))).encode()


def publish(packet_id: int, topic: str, payload: bytes, *, retain: bool = False) -> bytes:
    """Return PUBLISH at QoS 1."""
    body = _text(topic) + _SHORT.pack(packet_id) + b"\0" + payload
    return Packet(Kind.PUBLISH << 4 | 2 | retain, body).encode()


def puback(packet_id: int) -> bytes:
    """Return PUBACK."""
    return Packet(Kind.PUBACK << 4, _SHORT.pack(packet_id)).encode()


def pingreq() -> bytes:
    """Return PINGREQ."""
    return Packet(Kind.PINGREQ << 4, b"").encode()


def _text(text: str) -> bytes:
    data = text.encode()
    return _SHORT.pack(len(data)) + data


def _number(value: int) -> bytes:
    """Return a variable byte integer (1.5.5)."""
    made = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        made.append(low | (_CONTINUES if value else 0))
        if not value:
            return bytes(made)


def _read_number(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Return where a variable byte integer ends and its value; None when it is not whole yet."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & _CONTINUES:
            return at, value
    return None
