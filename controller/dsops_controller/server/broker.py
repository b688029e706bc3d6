"""The controller's side of MQTT: publishes what the broker must hold, takes in what devices say.

Threads: ``link`` (the network, :mod:`dsops_controller.server.link`), ``intake`` (database work for what came) and
``publisher`` (what goes out). The broker is a courier that may lose everything: each new session says it all again.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops.messages import MAX_MESSAGE_BYTES
from dsops_controller.server.answers import Answer
from dsops_controller.server.inbox import Inbox
from dsops_controller.server.intake import Intake
from dsops_controller.server.link import Link, LinkSettings, Message
from dsops_controller.server.outbox import Desired, Outbox, Resync, Retire, Seed, Trust, Work
from dsops_controller.server.publications import CHUNK_LIFE_S, Publications

log = logging.getLogger(__name__)

BYTES_IN = "$SYS/broker/bytes/received"
BYTES_OUT = "$SYS/broker/bytes/sent"
UPKEEP_S = 5.0
RETRY_S = 1.0
RESEED_S = 60.0
"""A chunk that devices ask for is published again, retained, at most so often."""


@dataclass(frozen=True)
class BrokerFigures:
    """What the courier did: this side's messages, and the broker's own count of bytes since its start."""

    connected: bool
    connections: int
    published: int
    received: int
    refused: int
    foreign: int
    overwritten: int
    bytes_in: int | None
    bytes_out: int | None


class Broker:
    """Runs the three threads' work; the composition root starts them."""

    def __init__(
        self, settings: LinkSettings, outbox: Outbox, publications: Publications, intake: Intake, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._publications = publications
        self._intake = intake
        self._clock = clock
        self._inbox = Inbox()
        self._link = Link(settings, self)
        self._bytes: dict[str, int] = {}
        self._bulk: deque[Iterator[Message]] = deque()
        self._seeded_s: dict[str, float] = {}
        self._head = b""
        self._documents: frozenset[str] = frozenset()
        self._offered_s = clock.monotonic_s()
        self._reseeded_s: dict[str, float] = {}
        self._upkept_s = clock.monotonic_s()

    def connected(self) -> None:
        """Say everything again."""
        self._outbox.resync()

    def disconnected(self) -> None:
        """Nothing to do: what waits is dropped, and the next session says everything again."""

    def message(self, topic: str, payload: bytes) -> None:
        """Queue what a device said."""
        if topic in (BYTES_IN, BYTES_OUT):
            self._count(topic, payload)
        elif self._intake.route(topic) is not None:
            # One byte more than allowed is enough to be refused by the worker.
            self._inbox.put(topic, payload[: MAX_MESSAGE_BYTES + 1])

    def link(self, stop: threading.Event) -> None:
        """Keep the session with the broker until ``stop`` is set."""
        self._link.run(stop)

    def intake(self, stop: threading.Event) -> None:
        """Take in what devices say until ``stop`` is set."""
        while not stop.is_set():
            found = self._inbox.take(timeout_s=0.5)
            if found and not self._handle(*found):
                stop.wait(RETRY_S)

    def publisher(self, stop: threading.Event) -> None:
        """Publish what is noted until ``stop`` is set."""
        while not stop.is_set():
            try:
                self._publish_next()
            except DsopsError as error:
                log.warning("not published: %s", error)
            except Exception:  # one message must not end the publishing of all others
                log.exception("a message could not be published")

    def say_goodbye(self, timeout_s: float = 2.0) -> None:
        """Tell devices that the controller stops; before the link's thread is stopped."""
        if self._link.publish(self._publications.controller(online=False), timeout_s):
            self._link.flush(timeout_s)

    def wake(self) -> None:
        """Have the link look at its stop event now."""
        self._link.wake()

    def figures(self) -> BrokerFigures:
        """Return what the courier did so far."""
        counters = self._link.counters
        return BrokerFigures(
            connected=self._link.is_connected,
            connections=counters.connections,
            published=counters.published,
            received=counters.received,
            refused=counters.refused + self._intake.counters["refused"],
            foreign=self._intake.counters["foreign"],
            overwritten=self._inbox.overwritten,
            bytes_in=self._bytes.get(BYTES_IN),
            bytes_out=self._bytes.get(BYTES_OUT),
        )

    def _handle(self, topic: str, payloads: tuple[bytes, ...]) -> bool:
        for number, payload in enumerate(payloads):
            try:
                is_done = self._intake.handle(topic, payload)
            except Exception:  # one message must not end the intake of all others
                log.exception("a message could not be taken in")
                is_done = True
            if not is_done:
                self._inbox.put_back(topic, payloads[number:])
                return False
        return True

    def _count(self, topic: str, payload: bytes) -> None:
        if payload.isdigit() and len(payload) < 20:
            self._bytes[topic] = int(payload)

    def _publish_next(self) -> None:
        work = self._outbox.take(0 if self._bulk else 0.5)
        if work is not None:
            self._do(work)
        elif self._bulk:
            self._next_of_bulk()
        if self._clock.monotonic_s() - self._upkept_s >= UPKEEP_S:
            self._upkept_s = self._clock.monotonic_s()
            self._upkeep()

    def _next_of_bulk(self) -> None:
        messages = self._bulk[0]
        try:
            message = next(messages, None)
        except DsopsError:
            self._bulk.popleft()
            raise
        if message is None:
            self._bulk.popleft()
        else:
            self._send(message)

    def _do(self, work: Work) -> None:
        match work:
            case Resync():
                self._resync()
            case Trust(everything):
                self._offer(everything=everything)
            case Desired(device):
                self._send(self._publications.desired(device))
            case Answer():
                self._reply(work)
            case Seed(sha256):
                self._seeded_s[sha256] = self._clock.monotonic_s()
                self._bulk.append(self._publications.bundle(sha256))
            case Retire(sha256):
                self._bulk.append(self._publications.retirement(sha256))

    def _resync(self) -> None:
        self._bulk.clear()
        self._send(self._publications.controller(online=True))
        self._outbox.trust(everything=True)
        for device in self._publications.devices():
            self._outbox.desired(device)
        for sha256 in sorted(self._publications.wanted()):
            self._outbox.chunks(sha256)

    def _offer(self, *, everything: bool) -> None:
        """Publish the trust metadata: first what the head leads to, then the head; what no head names leaves last."""
        offer = self._publications.offer()
        if offer is None:
            return
        before = self._documents
        self._head, self._documents = offer.head, frozenset(offer.documents)
        for digest, data in offer.documents.items():
            if everything or digest not in before:
                self._send(self._publications.document(digest, data))
        self._send(self._publications.head(offer))
        for digest in sorted(before - self._documents):
            self._send(self._publications.document(digest, b""))
        if everything:
            self._offered_s = self._clock.monotonic_s()

    def _reply(self, asked: Answer) -> None:
        """Send a device a chunk, and offer it to all others again."""
        digest = self._publications.asked_for(asked)
        if digest is None:
            return
        self._send(self._publications.answer(asked.device, digest))
        now_s = self._clock.monotonic_s()
        if now_s - self._reseeded_s.get(digest, -RESEED_S) < RESEED_S:
            return
        self._reseeded_s = {known: at for known, at in self._reseeded_s.items() if now_s - at < RESEED_S}
        self._reseeded_s[digest] = now_s
        self._send(self._publications.chunk(digest))

    def _upkeep(self) -> None:
        """Publish trust metadata that changed on disk; retire bundles that nobody wants, refresh the others in time."""
        wanted = self._publications.wanted()
        now_s = self._clock.monotonic_s()
        offer = self._publications.offer()
        is_due = now_s - self._offered_s > CHUNK_LIFE_S / 2
        if offer and (is_due or offer.head != self._head):
            self._outbox.trust(everything=is_due)
        for sha256, since_s in list(self._seeded_s.items()):
            if sha256 not in wanted:
                del self._seeded_s[sha256]
                self._outbox.retire(sha256)
            elif now_s - since_s > CHUNK_LIFE_S / 2:
                self._outbox.chunks(sha256)

    def _send(self, message: Message | None) -> None:
        if message is not None and not self._link.publish(message):
            self._bulk.clear()
