"""Messages on their way to the broker: what waits, what is in flight, and what newer messages replace."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Outgoing:
    """One message; the broker forgets it after ``expiry_s`` seconds, unless that is 0."""

    topic: str
    payload: bytes
    retain: bool
    expiry_s: int = 0


class Outbox:
    """Keeps messages until they are acknowledged. Not thread-safe.

    Args:
        max_waiting: How many messages may wait; then the oldest one that is not retained is dropped.
        window: How many may be in flight at once.
    """

    def __init__(self, max_waiting: int = 256, window: int = 10) -> None:
        self._max_waiting = max_waiting
        self._window = window
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: dict[int, Outgoing] = {}
        self.dropped = 0

    def __len__(self) -> int:
        """Return how many messages are not acknowledged."""
        return len(self._waiting) + len(self._in_flight)

    def put(self, message: Outgoing) -> None:
        """Add a message; a retained one replaces what waits for the same topic."""
        if message.retain:
            self._waiting = deque(m for m in self._waiting if not (m.retain and m.topic == message.topic))
        self._waiting.append(message)
        if len(self._waiting) > self._max_waiting:
            self._drop_one()

    def _drop_one(self) -> None:
        victim = next((m for m in self._waiting if not m.retain), self._waiting[0])
        self._waiting.remove(victim)
        self.dropped += 1

    def take(self) -> Outgoing | None:
        """Take the next message out, or None when there is none or the window is full; then call :meth:`sent`."""
        if not self._waiting or len(self._in_flight) >= self._window:
            return None
        return self._waiting.popleft()

    def sent(self, number: int, message: Outgoing) -> None:
        """Note that a message is in flight under a packet number."""
        self._in_flight[number] = message

    def acknowledged(self, number: int) -> Outgoing | None:
        """Forget a message that was answered, and return it; None when the number is not known."""
        return self._in_flight.pop(number, None)

    def disconnected(self) -> None:
        """Put what was in flight back to the front, in its order, except where a newer one waits for its topic."""
        newer = {m.topic for m in self._waiting if m.retain}
        back = [m for m in self._in_flight.values() if not (m.retain and m.topic in newer)]
        self._in_flight.clear()
        self._waiting.extendleft(reversed(back))
