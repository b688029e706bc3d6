"""What the agent needs of a broker, and what it offers to one."""

from typing import Protocol


class Broker(Protocol):
    """A session with the broker that comes and goes. No method blocks; all may be called from any thread."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment."""
        ...

    @property
    def retains(self) -> bool:
        """Whether the broker keeps retained messages, as far as is known."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send at least once (QoS 1), now or after the next connection.

        Of a retained topic only the newest message is kept while it waits; of others a bounded number.

        Raises:
            InvalidInput: The message is longer than the broker takes.
        """
        ...

    def subscribe(self, topic: str, qos: int) -> None:
        """Ask for a topic or filter, again when it is asked for already: a retained message comes once more.

        Filters that overlap would bring one copy a filter, so they must not.
        """
        ...

    def unsubscribe(self, topic: str) -> None:
        """Give a topic or filter up; one that was not asked for is no error."""
        ...


class Inbox(Protocol):
    """Told what comes from the broker, in order, by the thread that reads it: every method must return at once."""

    def message(self, topic: str, payload: bytes) -> None:
        """Handle one message; it may come more than once. What it raises is logged."""
        ...

    def connected(self) -> None:
        """A connection was made; what is subscribed comes (again) after this."""
        ...

    def disconnected(self) -> None:
        """The connection is lost."""
        ...
