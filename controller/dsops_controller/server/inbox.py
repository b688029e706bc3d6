"""Messages from devices between the network thread and the worker: bounded, fair, the newest win.

A slot per topic holds the last few messages, and slots are served in turn. So a device that floods overwrites only what
it said itself, and a slow database never stops the network thread.
"""

import threading
from collections import deque

PER_TOPIC = 4
"""More than one, because a death that comes late must not hide the birth before it."""


class Inbox:
    """One slot per topic; put by one thread, taken by another."""

    def __init__(self, topics: int = 100_000) -> None:
        self._topics = topics
        self._slots: dict[str, deque[bytes]] = {}
        self._changed = threading.Condition()
        self.overwritten = 0

    def put(self, topic: str, payload: bytes) -> None:
        """Store a message; drop the topic's oldest, or the message when there are too many topics."""
        with self._changed:
            slot = self._slots.get(topic)
            if slot is None and len(self._slots) >= self._topics:
                self.overwritten += 1
                return
            if slot is None:
                slot = self._slots[topic] = deque(maxlen=PER_TOPIC)
            self.overwritten += len(slot) == PER_TOPIC
            slot.append(payload)
            self._changed.notify()

    def put_back(self, topic: str, payloads: tuple[bytes, ...]) -> None:
        """Store messages that could not be handled again, before those of their topic that came meanwhile."""
        with self._changed:
            newer = self._slots.get(topic, ())
            self._slots[topic] = deque((*payloads, *newer), maxlen=PER_TOPIC)
            self._changed.notify()

    def take(self, timeout_s: float) -> tuple[str, tuple[bytes, ...]] | None:
        """Return the topic that has waited longest and its messages, oldest first; None after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._slots, timeout_s)
            if not self._slots:
                return None
            topic = next(iter(self._slots))
            return topic, tuple(self._slots.pop(topic))
