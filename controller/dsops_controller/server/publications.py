"""What the broker must hold, read from the database, the trust repository and the bundles when it is needed."""

import json
from collections.abc import Iterator
from typing import Protocol

from sqlalchemy import select

from dsops.clock import Clock, utc_text
from dsops.manifest import Frozen
from dsops.states import Device, Rollout
from dsops.strictjson import dumps
from dsops.topics import Topics
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas.files import Chunks
from dsops_controller.deltas.table import of_targets
from dsops_controller.server.link import Message
from dsops_controller.trust.repository import Offer

CHUNK_LIFE_S = 7 * 86_400
"""A broker forgets chunks after this time, also those of a controller that was never started again."""


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
    """Builds messages. Every method reads the newest state; none keeps any."""

    def __init__(self, db: Database, topics: Topics, trusted: Trusted, chunks: Chunks, clock: Clock) -> None:
        self._db = db
        self._topics = topics
        self._trusted = trusted
        self._chunks = chunks
        self._clock = clock

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
        query = select(tables.desired.c.envelope).where(tables.desired.c.device == device)
        with self._db.read() as connection:
            envelope = connection.execute(query).scalar()
            state = connection.execute(select(tables.device.c.state).where(tables.device.c.id == device)).scalar()
        if state == Device.DECOMMISSIONED:
            return Message(self._topics.desired(device), b"", retain=True)
        return Message(self._topics.desired(device), envelope, retain=True) if envelope else None

    def devices(self) -> list[str]:
        """Return the devices that have a directive, and those whose directive is to be deleted."""
        gone = select(tables.device.c.id).where(tables.device.c.state == Device.DECOMMISSIONED.value)
        with self._db.read() as connection:
            return sorted(connection.execute(select(tables.desired.c.device).union(gone)).scalars())

    def wanted(self) -> set[str]:
        """Return the bundles that a rollout under way or any device wants, and the deltas of rollouts under way.

        A device that comes back later asks for a delta's chunks itself; the broker need not hold them for years.
        """
        final = [state.value for state in Rollout if state.is_final]
        with self._db.read() as connection:
            query = select(tables.rollout.c.bundle_sha256).where(tables.rollout.c.state.not_in(final))
            rolled = set(connection.execute(query).scalars())
            deltas = set(of_targets(connection, rolled))
            slots = connection.execute(select(tables.desired.c.slots).distinct()).scalars().all()
        return rolled | deltas | {slot["sha256"] for text in slots for slot in json.loads(text).values()}

    def chunk(self, digest: str) -> Message | None:
        """Return one retained chunk or trust document, or None when nothing has that digest."""
        data = self._find(digest)
        return self._retained(digest, data) if data else None

    def answer(self, device: str, digest: str) -> Message | None:
        """Return a chunk or trust document addressed to one device: its digest (32 bytes), then its bytes."""
        data = self._find(digest)
        return Message(self._topics.chunk_answer(device), bytes.fromhex(digest) + data) if data else None

    def bundle(self, sha256: str) -> Iterator[Message]:
        """Yield the chunk index and chunks of a bundle, or of a delta."""
        index = self._chunks.index(sha256)
        yield self._retained(index.digest, index.encode())
        for digest in dict.fromkeys(index.digests):
            if message := self.chunk(digest):
                yield message

    def retirement(self, sha256: str) -> Iterator[Message]:
        """Yield the empty messages that take a file's chunks from the broker, but for chunks still wanted."""
        kept = {digest for other in self.wanted() for digest in self._digests(other)}
        for digest in self._digests(sha256):
            if digest not in kept:
                yield Message(self._topics.chunk(digest), b"", retain=True)

    def _find(self, digest: str) -> bytes | None:
        found = self._chunks.chunk(digest)
        offer = self.offer() if found is None else None
        return offer.documents.get(digest) if offer else found

    def _retained(self, digest: str, data: bytes) -> Message:
        return Message(self._topics.chunk(digest), data, retain=True, expiry_s=CHUNK_LIFE_S)

    def _digests(self, sha256: str) -> list[str]:
        index = self._chunks.index(sha256)
        return [index.digest, *dict.fromkeys(index.digests)]
