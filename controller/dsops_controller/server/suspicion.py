"""Finds the message that makes a broker end the session: said again after each reconnect, it would silence the fleet.

What was on its way when a session ended is suspected, and sent with nothing else on its way until it is acknowledged.
A message that ends a session alone, for a reason that lies in the message, is left out for a time that doubles; then it
is tried again, for brokers are configured anew. Everything else goes on at full width. Pure.
"""

from collections.abc import Collection

LEAVE_OUT_S, LONGEST_S = 300.0, 6 * 3600.0
"""How long a message is left out at first, and at most."""
MOST_SUSPECTS = 64
"""As many topics are suspected at once; one that is forgotten is suspected again when it does harm again."""
POISONED = frozenset({0x81, 0x82, 0x90, 0x95, 0x99, 0x9A, 0x9B})
"""Reason codes of a DISCONNECT (MQTT 5.0, 3.14.2.1) by which a broker answers one message that it does not bear."""
LATER = frozenset({0x89, 0x96, 0x97})
"""Reason codes that ask for patience, whatever was sent: server busy, message rate too high, quota exceeded."""


class Suspicion:
    """What is known of topics whose messages end sessions. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._suspects: dict[str, None] = {}
        self._left_out: dict[str, tuple[float, float]] = {}
        """Until when a topic is left out, and how long that is."""

    def is_left_out(self, topic: str, now_s: float) -> bool:
        """Return whether a message is not to be sent now."""
        until_s, _ = self._left_out.get(topic, (now_s, 0.0))
        return now_s < until_s

    def may_send(self, topic: str, in_flight: Collection[str]) -> bool:
        """Return whether a message may join those that are on their way: a suspect goes alone."""
        return not in_flight or not self._suspects.keys() & {topic, *in_flight}

    def acknowledged(self, topic: str) -> None:
        """Take note that the broker answered a message, and the session lives."""
        self._suspects.pop(topic, None)
        self._left_out.pop(topic, None)

    def ended(self, topics: Collection[str], reason: int, now_s: float) -> str | None:
        """Take note of what was on its way when a session ended; return the topic that is left out from now on."""
        for topic in topics:
            self._suspects.pop(topic, None)
            self._suspects[topic] = None
        while len(self._suspects) > MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        if len(topics) != 1 or reason not in POISONED:
            return None
        (topic,) = topics
        _, before_s = self._left_out.get(topic, (0.0, 0.0))
        wait_s = min(2 * before_s or LEAVE_OUT_S, LONGEST_S)
        self._left_out[topic] = (now_s + wait_s, wait_s)
        return topic
