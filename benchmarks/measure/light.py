"""A light agent: fetches one bundle as the agent does, with the agent's own window, and keeps only what it must count.

It has no disk, no installer, no process of its own: five hundred of them run in one. What it holds over a kill is which
chunks it has, as a part file does.
"""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from dsops.bundle import sha256_hex
from dsops.chunks import ChunkIndex
from dsops.errors import TransferFailed
from dsops.topics import Topics
from dsops_agent.install.window import Action, Kind, Window
from dsops_agent.transport.client import SESSION_EXPIRY_S
from measure import packets
from measure.broker import PREFIX
from measure.line import Line
from measure.packets import Message, Packet
from measure.receivers import PACE

KEEPALIVE_S = 600
_TOPICS = Topics(PREFIX)


@dataclass(frozen=True)
class Errand:
    """What light agents fetch, and from where. ``context`` None is a connection without TLS.

    Attributes:
        address: Of the broker.
        context: For TLS.
        index: Digest of the chunk index.
        check_every: Of so many chunks the digest of one is checked.
    """

    address: tuple[str, int]
    context: ssl.SSLContext | None
    index: str
    check_every: int


class LightAgent:
    """One of them. The caller passes time in and calls :meth:`turn` when the line is ready."""

    def __init__(self, name: str, errand: Errand) -> None:
        self.name = name
        self.line: Line | None = None
        self.is_connected = False
        self.received_bytes = 0
        """Over all connections, what the network brought, TLS and headers included."""
        self.interruptions = 0
        self.done_s: float | None = None
        self._errand = errand
        self._index: ChunkIndex | None = None
        self._missing: dict[str, None] = {}
        self._asked: dict[str, None] = {}
        self._window = self._new_window()
        self._came = 0
        self._packet_id = 0

    @property
    def progress(self) -> float:
        """Share of the chunks that it has."""
        return 1 - len(self._missing) / len(self._index.digests) if self._index else 0.0

    @property
    def total_bytes(self) -> int:
        """Bytes that came over all connections up to now."""
        return self.received_bytes + (self.line.received_bytes if self.line else 0)

    def connect(self) -> Line:
        """Begin a connection."""
        self.line = Line(self._errand.address, self._errand.context)
        self.line.send(packets.connect(self.name, KEEPALIVE_S, SESSION_EXPIRY_S))
        return self.line

    def begin(self, now_s: float) -> None:
        """Ask for the first chunks."""
        self._do(self._window.fill(now_s))

    def turn(self, now_s: float) -> None:
        """Take what came.

        Raises:
            OSError: The connection is lost.
            TransferFailed: The window gave up.
        """
        assert self.line is not None
        for packet in self._packets(self.line):
            if packet.kind == packets.Kind.PUBLISH:
                self._take(packet, packets.message_of(packet), now_s)
            elif packet.kind == packets.Kind.CONNACK:
                self._greeted(packet, now_s)

    def tick(self, now_s: float) -> None:
        """Ask again for what is late."""
        if self.is_connected and self._window.next_s is not None and self._window.next_s <= now_s:
            self._do(self._window.tick(now_s))

    def interrupt(self, *, kill: bool) -> None:
        """Lose the connection; a killed process also forgets what it has asked for."""
        assert self.line is not None
        self.received_bytes += self.line.received_bytes
        self.line.close()
        self.line, self.is_connected = None, False
        self.interruptions += 1
        if kill:
            self._asked.clear()
            self._window = self._new_window()

    def _new_window(self) -> Window:
        wanted = self._missing if self._index else {self._errand.index: None}
        return Window(tuple(wanted), limit=PACE.window if self._index else 1, timeout_s=PACE.timeout_s)

    def _packets(self, line: Line) -> Iterator[Packet]:
        yield from line.turn()
        while line.has_decrypted:
            yield from line.turn()

    def _greeted(self, packet: Packet, now_s: float) -> None:
        if packet.body[1]:
            raise ConnectionRefusedError(f"the broker refused {self.name} with code {packet.body[1]:#x}")
        self.is_connected = True
        if self.interruptions:
            self._window.reconnected(now_s)
            self._ask(list(self._asked))
            self.begin(now_s)

    def _take(self, packet: Packet, message: Message, now_s: float) -> None:
        digest = _TOPICS.parse_chunk(message.topic) or ""
        if self.done_s is not None or digest not in self._asked:
            return
        payload = packet.body[message.start :] if self._is_looked_at() else b""
        good = not payload or sha256_hex(payload) == digest
        actions = self._window.arrived(digest, good=good, now_s=now_s)
        if self._index is None and good:
            self._keep_index(ChunkIndex.decode(payload))
            self._ask_no_more(digest)
            self._do(self._window.fill(now_s))
            return
        self._do(actions)
        if not self._missing:
            self.done_s = now_s

    def _is_looked_at(self) -> bool:
        self._came += 1
        return self._index is None or self._came % self._errand.check_every == 0

    def _keep_index(self, index: ChunkIndex) -> None:
        self._index = index
        self._missing = dict.fromkeys(index.digests)
        self._window = self._new_window()

    def _do(self, actions: list[Action]) -> None:
        ask: list[str] = []
        for action in actions:
            match action.kind:
                case Kind.STORE:
                    self._missing.pop(action.digests[0], None)
                case Kind.CANCEL:
                    self._ask_no_more(action.digests[0])
                case Kind.REQUEST | Kind.NEED:  # no controller listens here, so what is late is asked for once more
                    ask += action.digests
                case Kind.FAIL:
                    raise TransferFailed("a light agent did not get the bundle", why=action.reason)
        self._ask(ask)

    def _ask(self, digests: list[str]) -> None:
        self._asked.update(dict.fromkeys(digests))
        if digests and self.line:
            self.line.send(packets.subscribe(self._next_id(), [_TOPICS.chunk(digest) for digest in digests], 0))

    def _ask_no_more(self, digest: str) -> None:
        self._asked.pop(digest, None)
        if self.line:
            self.line.send(packets.unsubscribe(self._next_id(), [_TOPICS.chunk(digest)]))

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id
