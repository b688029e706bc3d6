"""The site cache as a source: a broker near by, on which neighbours leave chunks. It vouches for nothing.

MQTT has no word for "there is no such message": a chunk that did not come after a while is taken for one that the site
does not have.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from dsops.clock import Clock
from dsops.errors import SourceLacks, SourceUnreachable
from dsops.topics import Topics
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.ports import Delivery

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


class SiteBroker(Protocol):
    """The session with the site's broker."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment."""
        ...

    @property
    def waiting(self) -> int:
        """Number of messages that the broker has not taken yet."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int = 0) -> None:
        """Send at least once."""
        ...

    def subscribe(self, topic: str, qos: int) -> None:
        """Ask for a topic."""
        ...

    def unsubscribe(self, topic: str) -> None:
        """Give a topic up."""
        ...


class SiteSource:
    """Asks the site's broker. Implements its inbox as well; :meth:`run` is a thread.

    Args:
        topics: Spells the topics.
        delivery: Takes what comes.
        clock: Time.
        wait_s: How long a chunk may take.
    """

    name = "site cache"
    is_near = True

    def __init__(self, topics: Topics, delivery: Delivery, clock: Clock, wait_s: float) -> None:
        self._topics = topics
        self._delivery = delivery
        self._clock = clock
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._late_s: dict[str, float] = {}
        self._is_over = False
        self.on_connected: Callable[[], None] = lambda: None
        """Called when there is a new connection."""

    def use(self, broker: SiteBroker) -> None:
        """Set the session; once, before anything is asked for."""
        self._broker = broker

    def request(self, chunk: Chunk) -> None:
        """Ask the site's broker."""
        with self._changed:
            wait_s = self._wait_s if self._broker.is_connected else 0.0
            self._late_s[chunk.digest] = self._clock.monotonic_s() + wait_s
            self._changed.notify()
        self._broker.subscribe(self._topics.chunk(chunk.digest), 0)

    def cancel(self, digest: str) -> None:
        """Do not wait for a chunk any more."""
        with self._changed:
            self._late_s.pop(digest, None)
        self._broker.unsubscribe(self._topics.chunk(digest))

    def message(self, topic: str, payload: bytes) -> None:
        """Take what the site's broker sends."""
        digest = self._topics.parse_chunk(topic)
        with self._changed:
            is_awaited = digest is not None and bool(payload) and self._late_s.pop(digest, None) is not None
        if is_awaited and digest:
            self._delivery.came(self.name, digest, payload)

    def connected(self) -> None:
        """Take note of a connection."""
        self.on_connected()

    def disconnected(self) -> None:
        """Take note of the loss of the connection; what is outstanding gets late."""

    def stop(self) -> None:
        """End :meth:`run` soon."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def run(self) -> None:
        """Tell what does not come, until :meth:`stop`."""
        while not self._is_over:
            with self._changed:
                self._changed.wait(self._rest_s())
                late = tuple(self._pop_late())
            if late and not self._broker.is_connected:
                self._delivery.lost(self.name, late, SourceUnreachable("there is no connection to the site's broker"))
            elif late:
                for digest in late:
                    self._delivery.lost(self.name, (digest,), SourceLacks("the site does not have it", why=digest))

    def _rest_s(self) -> float:
        next_s = min(self._late_s.values(), default=float("inf"))
        return min(_LOOK_S, max(0.0, next_s - self._clock.monotonic_s()))

    def _pop_late(self) -> list[str]:
        now_s = self._clock.monotonic_s()
        late = [digest for digest, late_s in self._late_s.items() if late_s <= now_s]
        for digest in late:
            del self._late_s[digest]
        return late
