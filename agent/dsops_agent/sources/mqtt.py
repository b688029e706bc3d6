"""Chunks from the broker: they come as messages of topics that are asked for."""

import logging
from collections.abc import Callable

from dsops.errors import DsopsError, SourceLacks
from dsops.messages import Need, Problem
from dsops.topics import Topics
from dsops_agent.install.ports import Chunk
from dsops_agent.install.steps import problem_of
from dsops_agent.transport.ports import Broker

logger = logging.getLogger(__name__)


class MqttChunks:
    """Asks for chunks: as retained messages by subscribing, else from the controller itself.

    Args:
        broker: The session.
        topics: Spells the topics.
        device: This device.
        lost: Told of a chunk that cannot come as a retained message, because the broker keeps none, and why.
    """

    name = "broker"
    is_near = False

    def __init__(self, broker: Broker, topics: Topics, device: str, lost: Callable[[str, Problem], None]) -> None:
        self._broker = broker
        self._topics = topics
        self._device = device
        self._lost = lost

    def request(self, chunk: Chunk) -> None:
        """Ask for the retained chunk. QoS 0: a chunk that is lost is asked for again, an acknowledgement is wasted."""
        if self._broker.retains:
            self._broker.subscribe(self._topics.chunk(chunk.digest), 0)
        else:
            self._lost(chunk.digest, problem_of(SourceLacks("the broker keeps no retained messages")))

    def cancel(self, digest: str) -> None:
        """Stop waiting for a chunk."""
        self._broker.unsubscribe(self._topics.chunk(digest))

    def has_near(self, chunk: Chunk) -> bool:
        """Return False: everything comes over the network."""
        return False

    def is_cut_off(self, chunk: Chunk) -> bool:
        """Return whether there is no connection to the broker."""
        return not self._broker.is_connected

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        """Ask the controller itself, and the broker no more, for the controller offers it what it sends, too."""
        for chunk in chunks:
            self.cancel(chunk.digest)
        numbers: dict[str, list[int]] = {}
        for chunk in (chunk for chunk in chunks if chunk.index):
            numbers.setdefault(chunk.index, []).append(chunk.number)
        digests = tuple(chunk.digest for chunk in chunks if not chunk.index)
        if digests:
            self._send(Need(digests=digests))
        for index, missing in numbers.items():
            self._send(Need.of(index, missing))

    def _send(self, need: Need) -> None:
        """Publish a request; one that cannot go out is logged, for the installer asks again."""
        try:
            self._broker.publish(self._topics.need(self._device), need.encode())
        except DsopsError as error:
            logger.warning("chunks were not asked for: %s", error)
