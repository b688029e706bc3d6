"""MQTT messages to the installer: pure routing by topic."""

import logging
from collections.abc import Callable
from typing import Protocol

from dsops.topics import Topics

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32


class Inbox(Protocol):
    """Takes what comes from the controller. No method blocks."""

    def on_directive(self, data: bytes) -> None:
        """Take a directive's envelope."""
        ...

    def on_trust_head(self, data: bytes) -> None:
        """Take the head of the trust metadata."""
        ...


class Commander:
    """Routes messages of one device.

    Args:
        topics: Spells the topics.
        device: This device.
        inbox: Takes the messages; the installer.
        chunks: Takes chunks, under the digest that they claim.
    """

    def __init__(self, topics: Topics, device: str, inbox: Inbox, chunks: Callable[[str, bytes], None]) -> None:
        self._topics = topics
        self._desired = topics.desired(device)
        self._answer = topics.chunk_answer(device)
        self._head = topics.trust()
        self._inbox = inbox
        self._chunks = chunks

    def on_message(self, topic: str, payload: bytes) -> bool:
        """Route one message; an empty one is the end of a retained message and says nothing.

        Returns:
            Whether the topic is one of the installer's.
        """
        digest = self._topics.parse_chunk(topic)
        if not payload:
            return topic in (self._desired, self._answer, self._head) or digest is not None
        if topic == self._desired:
            self._inbox.on_directive(payload)
        elif topic == self._answer:
            self._chunks(payload[:_DIGEST_BYTES].hex(), payload[_DIGEST_BYTES:])
        elif topic == self._head:
            self._inbox.on_trust_head(payload)
        elif digest is not None:
            self._chunks(digest, payload)
        else:
            logger.debug("no use for a message on %s", topic)
            return False
        return True
