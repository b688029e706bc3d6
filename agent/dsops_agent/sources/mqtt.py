"""Chunks from the broker: they come as messages of topics that are asked for."""

import logging

from dsops.errors import DsopsError
from dsops.messages import Need
from dsops.topics import Topics
from dsops_agent.install.ports import Chunk
from dsops_agent.transport.ports import Broker

logger = logging.getLogger(__name__)


class MqttChunks:
    """Asks for chunks: as retained messages by subscribing, else from the controller itself."""

    name = "broker"

    def __init__(self, broker: Broker, topics: Topics, device: str) -> None:
        self._broker = broker
        self._topics = topics
        self._device = device

    def request(self, chunk: Chunk) -> None:
        """Ask for the retained chunk. QoS 0: a chunk that is lost is asked for again, an acknowledgement is wasted."""
        self._broker.subscribe(self._topics.chunk(chunk.digest), 0)

    def cancel(self, digest: str) -> None:
        """Stop waiting for a chunk."""
        self._broker.unsubscribe(self._topics.chunk(digest))

    def need(self, digests: tuple[str, ...]) -> None:
        """Ask the controller itself; a request that cannot go out is logged, for the installer asks again."""
        try:
            self._broker.publish(self._topics.need(self._device), Need(digests=digests).encode())
        except DsopsError as error:
            logger.warning("chunks were not asked for: %s", error)
