"""What a bad courier does to MQTT messages, seeded. Pure: packets go in, bytes come out."""

import random
from collections import Counter
from dataclasses import dataclass

from measure.packets import Kind, Packet, message_of

DUP = 0x08


@dataclass(frozen=True)
class Ills:
    """How often each thing happens to a message, as a share; and what happens to connections.

    Attributes:
        duplicate: It comes twice.
        drop: It does not come.
        reorder: It comes after the message behind it.
        corrupt: One of its payload's bits is flipped.
        reset_after: Mean number of messages after which a connection is reset; 0 never resets.
        reset_after_s: Mean seconds after which a connection is reset; 0 never resets. Without it a quiet connection
            on which a message was dropped stays as it is for good.
        bytes_per_s: Rate of a direction of a connection; 0 sets none.
        pieces: Whether bytes go out in pieces of random length.
    """

    duplicate: float = 0.0
    drop: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    reset_after: int = 0
    reset_after_s: float = 0.0
    bytes_per_s: float = 0.0
    pieces: bool = False


class ConnectionReset(Exception):
    """The connection is to be reset now."""


class Chaos:
    """What befalls the messages of one direction of one connection."""

    def __init__(self, ills: Ills, draw: random.Random, done: "Counter[str]") -> None:
        self._ills = ills
        self._draw = draw
        self._done = done
        self._held: list[bytes] = []
        self._left = ills.reset_after * draw.uniform(0.5, 1.5) if ills.reset_after else float("inf")

    @property
    def holds(self) -> bool:
        """Whether a message waits to be overtaken."""
        return bool(self._held)

    def release(self) -> list[bytes]:
        """Return what was held, for nothing overtook it in time."""
        held, self._held = self._held, []
        return held

    def take(self, packet: Packet) -> list[bytes]:
        """Return what goes out for a packet.

        Raises:
            ConnectionReset: Nothing does, and the connection ends.
        """
        if packet.kind != Kind.PUBLISH:
            return [packet.encode(), *self.release()]
        self._left -= 1
        if self._left < 0:
            self._count("reset")
            raise ConnectionReset
        self._count("message")
        if self._happens("drop"):
            return self.release()
        packet = self._corrupted(packet) if self._happens("corrupt") else packet
        made = [packet.encode()]
        if self._happens("duplicate"):
            again = Packet(packet.first | DUP, packet.body) if message_of(packet).qos else packet
            made.append(again.encode())
        if not self._held and self._happens("reorder"):
            self._held = made
            return []
        return [*made, *self.release()]

    def pieces(self, data: bytes) -> list[bytes]:
        """Cut bytes as a bad network does."""
        if not self._ills.pieces:
            return [data]
        cut: list[bytes] = []
        while data:
            size = self._draw.choice((1, 7, 100, 1460, 20_000))
            cut.append(data[:size])
            data = data[size:]
        return cut

    def _happens(self, ill: str) -> bool:
        happens = self._draw.random() < getattr(self._ills, ill)
        if happens:
            self._count(ill)
        return happens

    def _corrupted(self, packet: Packet) -> Packet:
        start, body = message_of(packet).start, bytearray(packet.body)
        if start < len(body):
            body[self._draw.randrange(start, len(body))] ^= 1 << self._draw.randrange(8)
        return Packet(packet.first, bytes(body))

    def _count(self, what: str) -> None:
        self._done[what] += 1
