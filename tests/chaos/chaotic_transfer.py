"""A device's session, mailbox and transfer, as the agent puts them together, for a courier that cannot be trusted."""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from typing_extensions import override

from dsops.bundle import sha256_hex
from dsops.clock import SystemClock
from dsops.errors import TransferFailed
from dsops.messages import Problem
from dsops.topics import Topics
from dsops_agent.commander import Commander
from dsops_agent.identity import Identity
from dsops_agent.install.fetch import Pace, Transfer, Wanted
from dsops_agent.install.mailbox import ChunkCame, ChunkLost, Connected, Mailbox, Receiving
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from dsops_agent.transport.ports import Inbox

T = Topics()
PATIENCE_S = 120.0
ATTEMPTS = 20
"""A transfer that was given up is tried again by the agent, without end; here the test ends some time."""


@dataclass
class Post(Inbox):
    """The inbox of the session: routes by the agent's own rules, leaves chunks in the mailbox."""

    device: str
    mailbox: Mailbox = field(default_factory=Mailbox)
    first: dict[str, str] = field(default_factory=dict)
    """The digest of what came first under each digest, right or wrong."""
    came: int = 0
    """Number of chunks that came, wanted or not."""

    def __post_init__(self) -> None:
        self._commander = Commander(T, self.device, self, self.chunk_arrived)

    @override
    def message(self, topic: str, payload: bytes) -> None:
        self._commander.on_message(topic, payload)

    @override
    def connected(self) -> None:
        self.mailbox.put(Connected())

    @override
    def disconnected(self) -> None:
        return

    def receiving(self) -> None:
        self.mailbox.put(Receiving())

    def chunk_arrived(self, digest: str, data: bytes) -> None:
        self.first.setdefault(digest, sha256_hex(data))
        self.came += 1
        self.mailbox.put(ChunkCame(digest, data))

    def chunk_lost(self, digest: str, problem: Problem) -> None:
        self.mailbox.put(ChunkLost(digest, problem))

    def on_directive(self, data: bytes) -> None:
        raise AssertionError("nobody sent a directive")

    def on_trust_head(self, data: bytes) -> None:
        raise AssertionError("nobody sent a head")


class Receiver:
    """A device that fetches one file; its thread runs between :meth:`start` and :meth:`stop`."""

    def __init__(self, identity: Identity, port: int, staging: Path, pace: Pace) -> None:
        self.attempts = 0
        self.wrong = 0
        self._post = Post(identity.device)
        self._clock = SystemClock()
        settings = Settings(
            identity.device,
            f"localhost:{port}",
            partial(tls_context, identity),
            keepalive_s=5,
            reconnect_max_s=0.2,
            receiving=self._post.receiving,
        )
        life = Life(T.connection(identity.device), partial(next, itertools.count(1)), _life_message)
        self.session = MqttSession(settings, life, self._post, self._clock)
        self.session.subscribe(T.down(identity.device), 1)
        self._chunks = MqttChunks(self.session, T, identity.device, self._post.chunk_lost)
        self._staging = staging
        self._pace = pace
        self._thread = threading.Thread(target=self.session.run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.session.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def fetch(self, wanted: Wanted, meanwhile: Callable[[], None]) -> Path:
        """Return where the file is, which came whole; ``meanwhile`` runs again and again."""
        ends_s = self._clock.monotonic_s() + PATIENCE_S
        while self.attempts < ATTEMPTS:
            self.attempts += 1
            transfer = Transfer(self._staging, wanted, self._chunks, self._pace)
            try:
                self._follow(transfer, meanwhile, ends_s)
                return transfer.path
            except TransferFailed:
                continue
            finally:
                self.wrong += transfer.wrong
                transfer.close()
        raise AssertionError("the transfer was given up again and again")

    @property
    def came(self) -> int:
        """Number of chunks that came, wanted or not."""
        return self._post.came

    @property
    def is_deceived(self) -> bool:
        """Whether a device that takes what comes for what it claims to be would have a wrong file."""
        return any(came != digest for digest, came in self._post.first.items())

    def _follow(self, transfer: Transfer, meanwhile: Callable[[], None], ends_s: float) -> None:
        transfer.start(self._clock.monotonic_s())
        while not transfer.done:
            assert self._clock.monotonic_s() < ends_s, f"{transfer.progress:.0%} came in {PATIENCE_S:g} s"
            for message in self._post.mailbox.take(0.02):
                now_s = self._clock.monotonic_s()
                match message:
                    case ChunkCame(digest=digest, data=data):
                        transfer.arrived(digest, data, now_s)
                    case ChunkLost(digest=digest, problem=problem):
                        transfer.lost(digest, problem, now_s)
                    case Connected():
                        transfer.reconnected(now_s)
                    case Receiving():
                        transfer.receiving(now_s)
            transfer.tick(self._clock.monotonic_s())
            meanwhile()


def _life_message(seq: int, online: bool) -> bytes:
    return json.dumps({"seq": seq, "online": online}).encode()
