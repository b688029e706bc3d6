"""What the broker must hold, read from the database, the trust repository and the bundles when it is needed."""

import logging
from collections.abc import Iterator
from typing import Protocol

from sqlalchemy import select

from dsops.chunks import ChunkIndex
from dsops.clock import Clock, utc_text
from dsops.errors import BundleError, MalformedBundle, NotFound
from dsops.manifest import Frozen
from dsops.states import Deployment, Device
from dsops.strictjson import dumps
from dsops.topics import Topics
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas.files import Chunks
from dsops_controller.server.answers import Answer
from dsops_controller.server.link import Message
from dsops_controller.server.offers import CHUNK_LIFE_S, Offers
from dsops_controller.trust.repository import Offer

log = logging.getLogger(__name__)

INDEXES = 16


class Trusted(Protocol):
    """The trust repository, as far as it is published."""

    @property
    def is_established(self) -> bool:
        """Whether there is trust metadata at all."""
        ...

    def offer(self) -> Offer:
        """Return the head of the trust metadata and every document that it leads to."""
        ...


class ControllerState(Frozen):
    """Whether the controller is there. Agents show it and never wait for it."""

    online: bool
    time: str

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return dumps(self.model_dump(mode="json"))


def controller_message(topics: Topics, clock: Clock, *, online: bool) -> Message:
    """Return the controller's state as it is published, or left with the broker as its will."""
    state = ControllerState(online=online, time=utc_text(clock.now()))
    return Message(topics.controller(), state.encode(), retain=True)


class Publications:
    """Builds messages. Every method reads the newest state; only what indexes say, which never changes, is kept."""

    def __init__(self, db: Database, topics: Topics, trusted: Trusted, chunks: Chunks, clock: Clock) -> None:
        self._db = db
        self._offers = Offers(db, clock)
        self._topics = topics
        self._trusted = trusted
        self._chunks = chunks
        self._clock = clock
        self._named: dict[str, tuple[str, ...]] = {}

    def controller(self, *, online: bool) -> Message:
        """Return the controller's state."""
        return controller_message(self._topics, self._clock, online=online)

    def offer(self) -> Offer | None:
        """Return the trust metadata, or None before the ceremony."""
        return self._trusted.offer() if self._trusted.is_established else None

    def head(self, offer: Offer) -> Message:
        """Return the head of the trust metadata; every document must be with the broker before."""
        return Message(self._topics.trust(), offer.head, retain=True)

    def document(self, digest: str, data: bytes) -> Message:
        """Return a document of the trust metadata as it is retained; an empty one takes it from the broker."""
        return self._retained(digest, data) if data else Message(self._topics.chunk(digest), b"", retain=True)

    def desired(self, device: str) -> Message | None:
        """Return a device's newest directive, or None when it has none.

        For a device that is gone for good it is the empty message that deletes the one before.
        """
        known, want = tables.device, tables.desired
        joined = select(known.c.state, want.c.envelope).outerjoin_from(known, want, want.c.device == known.c.id)
        with self._db.read() as connection:
            row = connection.execute(joined.where(known.c.id == device)).one_or_none()
        if row is not None and row.state == Device.DECOMMISSIONED:
            return Message(self._topics.desired(device), b"", retain=True)
        return Message(self._topics.desired(device), row.envelope, retain=True) if row and row.envelope else None

    def devices(self) -> list[str]:
        """Return the devices that have a directive, and those whose directive is to be deleted.

        Those that a rollout waits for come first, then those that are connected.
        """
        device, part = tables.device.c, tables.deployment.c
        gone = select(device.id).where(device.state == Device.DECOMMISSIONED.value)
        with self._db.read() as connection:
            named = set(connection.execute(select(tables.desired.c.device).union(gone)).scalars())
            awaited = select(part.device).where(part.state == Deployment.IN_PROGRESS.value)
            first = set(connection.execute(awaited).scalars())
            online = set(connection.execute(select(device.id).where(device.online)).scalars())
        return sorted(named, key=lambda name: (name not in first, name not in online, name))

    def chunk(self, digest: str) -> Message | None:
        """Return one retained chunk or trust document, or None when nothing has that digest."""
        data = self._find(digest)
        return self._retained(digest, data) if data else None

    def asked_for(self, asked: Answer) -> str | None:
        """Return the digest of the chunk that a device asked for; None when there is no such chunk."""
        if asked.number < 0:
            return asked.digest
        if asked.digest not in self._named:
            data = self._chunks.chunk(asked.digest)
            if data is None:
                return None
            if len(self._named) >= INDEXES:
                del self._named[next(iter(self._named))]
            self._named[asked.digest] = _digests_in(data)
        digests = self._named[asked.digest]
        return digests[asked.number] if asked.number < len(digests) else None

    def answer(self, device: str, digest: str) -> Message | None:
        """Return a chunk or trust document addressed to one device: its digest (32 bytes), then its bytes."""
        data = self._find(digest)
        return Message(self._topics.chunk_answer(device), bytes.fromhex(digest) + data) if data else None

    def digests(self, sha256: str) -> tuple[str, ...]:
        """Return what a device fetches of a file: what it needs, its chunk index, then each of its chunks once.

        Raises:
            NotFound: There is no such file.
            DigestMismatch: It is no longer what was pushed.
        """
        return self._chunks.digests(sha256)

    def file(self, sha256: str) -> Iterator[Message]:
        """Yield a file's chunk index and chunks, after it was noted that they are offered."""
        self._offers.begin(sha256, self._chunks.index(sha256).length_bytes)
        for digest in self.digests(sha256):
            if message := self.chunk(digest):
                yield message

    def retirement(self, sha256: str) -> Iterator[Message]:
        """Yield the empty messages that take a file's chunks from the broker, but for those that wanted files share."""
        leaving = self._readable(sha256)
        kept = {digest for other in self._offers.wanted() for digest in self._readable(other)} if leaving else set()
        for digest in leaving:
            if digest not in kept:
                yield Message(self._topics.chunk(digest), b"", retain=True)

    def _readable(self, sha256: str) -> tuple[str, ...]:
        """Return a file's digests; none of one that cannot be read any more, whose chunks expire by themselves."""
        try:
            return self.digests(sha256)
        except (NotFound, BundleError) as error:
            log.warning("the chunks of %s cannot be named any more: %s", sha256, error)
            return ()

    def _find(self, digest: str) -> bytes | None:
        found = self._chunks.chunk(digest)
        offer = self.offer() if found is None else None
        return offer.documents.get(digest) if offer else found

    def _retained(self, digest: str, data: bytes) -> Message:
        return Message(self._topics.chunk(digest), data, retain=True, expiry_s=CHUNK_LIFE_S)


def _digests_in(data: bytes) -> tuple[str, ...]:
    """Return what an index names; nothing if it is not one, for a device may take any chunk for an index."""
    try:
        return ChunkIndex.decode(data).digests
    except MalformedBundle:
        return ()
