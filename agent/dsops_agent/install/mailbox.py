"""Where callbacks of other threads leave messages for the install worker. Bounded; callbacks never block."""

import threading
from collections import deque
from dataclasses import dataclass

from dsops.errors import DsopsError
from dsops.messages import Problem
from dsops_agent.install.apart import Errand
from dsops_agent.install.ports import Death
from dsops_agent.install.proving import Proof

_MAX_CHUNKS = 64
_MAX_BYTES = 1024 * 1024
"""Twice what a transfer has outstanding at most (:data:`dsops_agent.install.fetch.MAX_OUTSTANDING_BYTES`)."""


@dataclass(frozen=True)
class DirectiveCame:
    """A directive's envelope."""

    data: bytes


@dataclass(frozen=True)
class HeadCame:
    """The head of the trust metadata."""

    data: bytes


@dataclass(frozen=True)
class ChunkCame:
    """A chunk, under the digest that it claims."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class ChunkLost:
    """A source does not have a chunk, or cannot bring it; why."""

    digest: str
    problem: Problem


@dataclass(frozen=True)
class ChunkWasted:
    """Bytes of a chunk came for nothing; it is fetched once more."""

    digest: str


@dataclass(frozen=True)
class Connected:
    """There is a new session with the broker."""


@dataclass(frozen=True)
class Receiving:
    """Bytes of something long come."""


@dataclass(frozen=True)
class RuntimeRestarted:
    """The inference process is a new one, which serves nothing yet.

    ``challenger`` names the model of whose challenger's process that is true; empty for that of the champions.
    ``has_ended`` tells whether one before it ended by itself.
    """

    challenger: str = ""
    has_ended: bool = True


@dataclass(frozen=True, eq=False)
class RuntimeDied:
    """The inference process ended though nobody asked for it."""

    death: Death


@dataclass(frozen=True, eq=False)
class ProofEnded:
    """A throw-away process ended; ``error`` is what it found, None when the candidate was proved."""

    proof: Proof
    error: DsopsError | None


@dataclass(frozen=True, eq=False)
class ErrandEnded:
    """Something that was done for a challenger beside the worker has ended."""

    errand: Errand


Message = (
    DirectiveCame
    | HeadCame
    | ChunkCame
    | ChunkLost
    | ChunkWasted
    | Connected
    | Receiving
    | RuntimeRestarted
    | RuntimeDied
    | ProofEnded
    | ErrandEnded
)


class Mailbox:
    """Keeps the newest directive, the newest head, and a few chunks; more chunks are dropped.

    A dropped chunk is asked for again by the transfer. Thread-safe.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._signals: dict[Message, None] = {}
        self._head: HeadCame | None = None
        self._directive: DirectiveCame | None = None
        self._chunks: deque[ChunkCame | ChunkLost | ChunkWasted] = deque()
        self._bytes = 0

    def put(self, message: Message) -> bool:
        """Leave a message; return whether there was room for it."""
        with self._ready:
            kept = self._keep(message)
            self._ready.notify()
            return kept

    def _keep(self, message: Message) -> bool:
        match message:
            case DirectiveCame():
                self._directive = message
            case HeadCame():
                self._head = message
            case ChunkCame() | ChunkLost() | ChunkWasted():
                return self._keep_chunk(message)
            case _:
                self._signals[message] = None
        return True

    def _keep_chunk(self, message: ChunkCame | ChunkLost | ChunkWasted) -> bool:
        size = len(message.data) if isinstance(message, ChunkCame) else 0
        if len(self._chunks) >= _MAX_CHUNKS or self._bytes + size > _MAX_BYTES:
            return False
        self._chunks.append(message)
        self._bytes += size
        return True

    def take(self, timeout_s: float) -> list[Message]:
        """Return everything that came, at the latest after ``timeout_s``."""
        with self._ready:
            if not self._any():
                self._ready.wait(timeout_s)
            came: list[Message] = [*self._signals]
            came += [self._directive] if self._directive else []
            came += [self._head] if self._head else []
            came += self._chunks
            self._signals.clear()
            self._chunks.clear()
            self._bytes = 0
            self._directive = self._head = None
            return came

    def _any(self) -> bool:
        return bool(self._signals or self._head or self._directive or self._chunks)
