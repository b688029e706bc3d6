"""The session with the broker: MQTT 5 over mutual TLS, made again whenever it is lost.

Each connection gets a new client, so a message is resent from our own outbox, within the window, and never by the
library, which would resend everything at once and a message that the broker refuses for ever. One thread drives the
connections and hands messages to the inbox; the others only leave a note and ring.
"""

import logging
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from paho.mqtt.client import Client, topic_matches_sub
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from dsops.clock import Clock
from dsops.errors import BrokerUnreachable, DsopsError, IdentityRefused, InvalidInput
from dsops.messages import MAX_MESSAGE_BYTES
from dsops_agent.backoff import Backoff
from dsops_agent.heartbeats import Beat, unwatched
from dsops_agent.transport.client import (
    Acknowledged,
    Bell,
    Callbacks,
    Connected,
    Disconnected,
    Event,
    Granted,
    Will,
    break_off,
    connect_properties,
    leave_for_now,
    make_client,
    publish_properties,
    turn,
)
from dsops_agent.transport.outbox import Outbox, Outgoing
from dsops_agent.transport.ports import Inbox

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
STEADY_S = 10.0
"""A connection that lasted so long begins the back-off anew."""
ANSWER_S = 30.0
"""How long the broker may take to answer CONNECT."""
GOODBYE_S = 2.0
LONGEST_TURN_S = 1.0
TELL_S = 0.25
REFUSED_FIRST_S = 5.0
REFUSED_MOST = 5
"""A broker that refuses our identity is asked this many times less often than one that does not answer."""
FILTERS_A_PACKET = 8
_PACKET_OVERHEAD_BYTES = 64
IDENTITY_REFUSALS = frozenset({"Not authorized", "Bad user name or password", "Banned"})
"""Names of CONNACK reason codes 0x87, 0x86 and 0x8A (MQTT 5.0, 3.2.2.2)."""


@dataclass(frozen=True)
class Life:
    """Birth, death and will of each connection.

    Attributes:
        topic: Where they are retained.
        next_seq: Gives the next connection's number, durably.
        message: Returns the message of a connection: its number, and whether it is a birth.
    """

    topic: str
    next_seq: Callable[[], int]
    message: Callable[[int, bool], bytes]


def _ignore() -> None:
    return


@dataclass(frozen=True)
class Settings:
    """Where and how to connect; ``address`` is ``host:port``.

    Attributes:
        first_contact_max_s: The first connection, and the one after a loss, wait a random time up to this: a broker
            that comes back meets its whole fleet at once.
        is_awaited: Whether somebody waits for the first connection, so that this one is made at once.
        tls: Called for each connection; returns None where there is no TLS.
        draw: Returns a number in ``[0, 1)``, for every wait.
        accepted: Called when the broker took what ``tls`` gave last.
        refused: Called when it refused that.
        beat: Is told of each turn.
        receiving: Called while bytes of a message come that is not whole, at most once in :data:`TELL_S`.
    """

    device: str
    address: str
    tls: Callable[[], ssl.SSLContext | None]
    keepalive_s: int = 30
    first_contact_max_s: float = 0.0
    is_awaited: bool = False
    reconnect_max_s: float = 60.0
    will_delay_s: int = 10
    draw: Callable[[], float] = random.SystemRandom().random
    accepted: Callable[[], None] = _ignore
    refused: Callable[[], None] = _ignore
    beat: Beat = unwatched
    receiving: Callable[[], None] = _ignore


@dataclass
class _Connection:
    """What belongs to one connection."""

    client: Client
    seq: int
    events: deque[Event]
    began_s: float
    heard_s: float
    told_s: float
    max_packet_bytes: int = 0
    is_up: bool = False


@dataclass
class Figures:
    """What the session did since the start of the process."""

    connections: int = 0
    published: int = 0
    refused: int = 0
    received: int = 0


@dataclass
class _Wishes:
    """Subscriptions: all that are wanted, and what the broker must still be told of them."""

    wanted: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int | None] = field(default_factory=dict)
    """The newest wish for each topic; None gives it up."""

    def wants(self, topic: str) -> bool:
        """Return whether a topic was asked for, by its name or by a filter."""
        return topic in self.wanted or any(
            topic_matches_sub(wanted, topic) for wanted in self.wanted if wanted.endswith(("#", "+"))
        )

    def take(self, len_at_least: int) -> tuple[list[tuple[str, int]], list[str]]:
        """Take out what to subscribe to, and what to unsubscribe from if that is so much."""
        asked = [(topic, qos) for topic, qos in self.changes.items() if qos is not None]
        given_up = [topic for topic, qos in self.changes.items() if qos is None]
        if len(given_up) >= len_at_least:
            self.changes.clear()
            return asked, given_up
        self.changes = dict.fromkeys(given_up)
        return asked, []


class MqttSession:
    """Keeps a session with the broker. Implements :class:`dsops_agent.transport.ports.Broker`.

    :meth:`run` is the body of the one thread that touches the network; :meth:`stop` ends it. Without a ``life`` there
    are no births and deaths.
    """

    def __init__(self, settings: Settings, life: Life | None, inbox: Inbox, clock: Clock) -> None:
        self._settings = settings
        self._life = life
        self._inbox = inbox
        self._clock = clock
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._wishes = _Wishes()
        self._connection: _Connection | None = None
        self._address = settings.address
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        """Set when the present connection, or the wait for the next one, has to end."""
        self._bell = Bell()
        self._max_packet_bytes = MAX_MESSAGE_BYTES
        self._retains = True
        self.figures = Figures()
        self.problem: str | None = None
        """Why there is no connection; None while there is one."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection at this moment."""
        connection = self._connection
        return connection is not None and connection.is_up

    @property
    def waiting(self) -> int:
        """Number of messages that the broker has not taken yet."""
        with self._lock:
            return len(self._outbox)

    @property
    def retains(self) -> bool:
        """Whether the broker keeps retained messages, as far as is known."""
        return self._retains

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int = 0) -> None:
        """Send at least once; see :meth:`dsops_agent.transport.ports.Broker.publish`."""
        size = len(topic.encode()) + len(payload) + _PACKET_OVERHEAD_BYTES
        if size > self._max_packet_bytes:
            raise InvalidInput(
                f"a message for {topic} is too long", why=f"{size} bytes, {self._max_packet_bytes} are possible"
            )
        with self._lock:
            self._outbox.put(Outgoing(topic, payload, retain, expiry_s))
        self._bell.ring()

    def subscribe(self, topic: str, qos: int) -> None:
        """Ask for a topic or filter; see :meth:`dsops_agent.transport.ports.Broker.subscribe`."""
        with self._lock:
            self._wishes.wanted[topic] = qos
            self._wishes.changes[topic] = qos
        self._bell.ring()

    def unsubscribe(self, topic: str) -> None:
        """Give a topic or filter up; the broker is told with others, at the latest when nothing else happens."""
        with self._lock:
            if self._wishes.wanted.pop(topic, None) is not None:
                self._wishes.changes[topic] = None

    def reconnect(self, address: str) -> None:
        """Make the connection anew, with the identity of now. The broker keeps the session; nothing is lost.

        Should the new connection fail, the will of the one before says that we are gone.
        """
        self._address = address
        self._hurry.set()
        self._bell.ring()

    def stop(self) -> None:
        """End the thread soon; a death is published first when there is a connection."""
        self._stopping.set()
        self._hurry.set()
        self._bell.ring()

    # The thread that drives connections.

    def run(self) -> None:
        """Connect, and again when the connection is lost, until :meth:`stop`."""
        draw, most_s = self._settings.draw, self._settings.reconnect_max_s
        failures, refusals = Backoff(FIRST_WAIT_S, most_s, draw), refusal_backoff(most_s, draw)
        self._rest(0.0 if self._settings.is_awaited else draw() * self._settings.first_contact_max_s)
        while not self._is_over():
            began_s, before = self._clock.monotonic_s(), self.figures.connections
            refused = self._one_connection()
            if not refused:
                refusals.reset()
            spread_s = 0.0
            if self.figures.connections > before and self._clock.monotonic_s() - began_s > STEADY_S:
                failures.reset()
                spread_s = draw() * self._settings.first_contact_max_s
            self._rest(max(spread_s, (refusals if refused else failures).next_s()))

    def _rest(self, wait_s: float) -> None:
        self._settings.beat(wait_s)
        self._hurry.wait(wait_s)

    def _is_over(self) -> bool:
        """Return whether to stop; what changed before this is heeded by the connection that follows."""
        self._hurry.clear()  # before the look, or a stop in between would be forgotten
        return self._stopping.is_set()

    def _one_connection(self) -> bool:
        """Make one connection and follow it to its end; return whether it ended because the identity was refused."""
        connection: _Connection | None = None
        try:
            connection = self._connect()
            self._follow(connection)
        except IdentityRefused as error:
            self.problem = str(error)
            logger.warning("%s (%s)", error, error.hint)
            self._settings.refused()
            return True
        except (DsopsError, OSError, ValueError) as error:  # ValueError: host names that are none
            self.problem = str(error)
            logger.warning("no connection to the broker at %s: %s", self._address, error)
        except Exception as error:
            self.problem = str(error)
            logger.exception("the connection to the broker failed")
        finally:
            self._connection = None
            if connection is not None:
                self._end(connection)
        return False

    def _connect(self) -> _Connection:
        """Begin a connection.

        Raises:
            IdentityRefused: The broker said no in the handshake (TLS 1.2; in TLS 1.3 it does so afterwards).
            OSError: It was not reached, or has no certificate of our authority.
        """
        life = self._life
        seq = life.next_seq() if life else 0
        events: deque[Event] = deque()
        now_s = self._clock.monotonic_s()
        delay_s, retains = self._settings.will_delay_s, self._retains
        will = Will(life.topic, life.message(seq, False), delay_s, retains) if life else None
        client = make_client(self._settings.device, self._settings.tls(), will, Callbacks(events, self._take))
        connection = _Connection(client, seq, events, now_s, now_s, now_s)
        host, _, port = self._address.rpartition(":")
        try:
            client.connect(
                host.strip("[]"),
                int(port),
                keepalive=self._settings.keepalive_s,
                clean_start=False,
                properties=connect_properties(),
            )
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None) or ""  # an error of our own, about dates, has none
            if "ALERT" not in reason:
                raise
            raise _refused(reason) from error
        self._connection = connection
        return connection

    def _follow(self, connection: _Connection) -> None:
        """Handle one connection's events until the session stops or the connection is lost (BrokerUnreachable)."""
        while not self._hurry.is_set():
            is_idle = not self._turn(connection, LONGEST_TURN_S)
            self._watch(connection)
            if connection.is_up:
                self._tell_subscriptions(connection.client, is_idle=is_idle)
                self._send(connection.client)
        if connection.is_up and self._stopping.is_set():
            self._say_goodbye(connection)
        elif connection.is_up:
            leave_for_now(connection.client)
            self._await_end(connection, self._clock.monotonic_s() + GOODBYE_S)

    def _turn(self, connection: _Connection, timeout_s: float) -> bool:
        """Wait for something to happen on a connection, and handle it; return whether anything came."""
        self._settings.beat(0.0)
        received = self.figures.received
        has_come = turn(connection.client, self._bell, timeout_s)
        if has_come:
            connection.heard_s = self._clock.monotonic_s()
            if self.figures.received == received and not connection.events:
                self._tell_of_bytes(connection)
        while connection.events:
            self._handle(connection, connection.events.popleft())
        if connection.client.socket() is None:
            raise BrokerUnreachable("the connection to the broker was lost")
        return has_come

    def _tell_of_bytes(self, connection: _Connection) -> None:
        if connection.heard_s - connection.told_s >= TELL_S:
            connection.told_s = connection.heard_s
            self._guarded(self._settings.receiving)

    def _take(self, topic: str, payload: bytes) -> None:
        """Hand a message over; what is left over from before is given up, for the session outlives the process."""
        self.figures.received += 1
        with self._lock:
            is_wanted = self._wishes.wants(topic)
            if not is_wanted:
                self._wishes.changes[topic] = None
        if is_wanted:
            self._guarded(partial(self._inbox.message, topic, payload))

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            logger.exception("handling what the broker sent failed")

    def _handle(self, connection: _Connection, event: Event) -> None:
        match event:
            case Connected(refusal="", max_packet_bytes=limit, retains=retains):
                self._retains = retains
                self._begin(connection, limit)
            case Connected(refusal=refusal) if refusal in IDENTITY_REFUSALS:
                raise _refused(refusal)
            case Connected(refusal=refusal, retains=retains):
                self._retains = retains  # the next connection's will asks for no more than the broker can do
                raise BrokerUnreachable("the broker refused the connection", why=refusal)
            case Disconnected() if not connection.is_up:
                raise _refused("it ended the connection before it answered, which gives no reason")
            case Disconnected(reason=reason):
                raise BrokerUnreachable("the connection to the broker was lost", why=reason)
            case Acknowledged(number=number, refusal=refusal):
                self._acknowledged(number, refusal)
            case Granted(refusals=refusals) if refusals:
                logger.warning("the broker refused a subscription: %s", ", ".join(refusals))

    def _begin(self, connection: _Connection, max_packet_bytes: int) -> None:
        logger.info("connected to the broker at %s (connection %d)", self._address, connection.seq)
        connection.is_up = True
        self._settings.accepted()
        self.problem = None
        self.figures.connections += 1
        self._max_packet_bytes = min(MAX_MESSAGE_BYTES, max_packet_bytes or MAX_MESSAGE_BYTES)
        with self._lock:
            self._put_life(connection, online=True)
            # All of them, also when the broker kept the session: only a SUBSCRIBE brings retained messages again.
            self._wishes.changes = dict(self._wishes.wanted)
        self._guarded(self._inbox.connected)

    def _put_life(self, connection: _Connection, *, online: bool) -> None:
        if self._life:
            self._outbox.put(Outgoing(self._life.topic, self._life.message(connection.seq, online), retain=True))

    def _acknowledged(self, number: int, refusal: str) -> None:
        with self._lock:
            message = self._outbox.acknowledged(number)
        self.figures.published += 1
        if refusal and message is not None:
            self.figures.refused += 1
            logger.warning("the broker refused a message for %s: %s", message.topic, refusal)

    def _watch(self, connection: _Connection) -> None:
        """Give up a connection on which nothing comes any more, whatever the library believes."""
        now_s = self._clock.monotonic_s()
        if not connection.is_up and now_s - connection.began_s > ANSWER_S:
            raise BrokerUnreachable("the broker does not answer", why=f"no CONNACK in {ANSWER_S:g} s")
        silence_s = now_s - connection.heard_s
        if connection.is_up and silence_s > 2 * self._settings.keepalive_s + 5:
            raise BrokerUnreachable("the connection to the broker is dead", why=f"silent for {silence_s:.0f} s")

    def _tell_subscriptions(self, client: Client, *, is_idle: bool) -> None:
        """Tell the broker what is wanted at once, and what is given up in full packets or when there is time."""
        with self._lock:
            asked, given_up = self._wishes.take(len_at_least=1 if is_idle else FILTERS_A_PACKET)
        for first in range(0, len(given_up), FILTERS_A_PACKET):
            client.unsubscribe(given_up[first : first + FILTERS_A_PACKET])
        options = [(topic, SubscribeOptions(qos=qos)) for topic, qos in asked]
        for first in range(0, len(options), FILTERS_A_PACKET):
            client.subscribe(options[first : first + FILTERS_A_PACKET])

    def _send(self, client: Client) -> None:
        with self._lock:
            while (message := self._outbox.take()) is not None:
                retain, properties = message.retain and self._retains, publish_properties(message.expiry_s)
                info = client.publish(message.topic, message.payload, 1, retain, properties)
                self._outbox.sent(info.mid, message)
                if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:  # the disconnection is on its way to us
                    return

    def _say_goodbye(self, connection: _Connection) -> None:
        """Publish the death and disconnect in order; gives up after ``GOODBYE_S`` seconds."""
        with self._lock:
            self._put_life(connection, online=False)
        ends_s = self._clock.monotonic_s() + GOODBYE_S
        try:
            while len(self._outbox) and (left_s := ends_s - self._clock.monotonic_s()) > 0:
                self._send(connection.client)
                self._turn(connection, left_s)
        except BrokerUnreachable as error:
            logger.debug("end of the connection: %s", error)
        connection.client.disconnect()
        self._await_end(connection, ends_s)

    def _await_end(self, connection: _Connection, ends_s: float) -> None:
        try:
            while (left_s := ends_s - self._clock.monotonic_s()) > 0:
                self._turn(connection, left_s)
        except BrokerUnreachable as error:
            logger.debug("end of the connection: %s", error)

    def _end(self, connection: _Connection) -> None:
        was_up, connection.is_up = connection.is_up, False
        break_off(connection.client)
        with self._lock:
            self._outbox.disconnected()
        if was_up:
            self._guarded(self._inbox.disconnected)


def refusal_backoff(most_s: float, draw: Callable[[], float]) -> Backoff:
    """Return the waits after refusals; ``most_s`` is the longest wait for a broker that does not answer."""
    return Backoff(REFUSED_FIRST_S, REFUSED_MOST * most_s, draw)


def _refused(why: str) -> IdentityRefused:
    return IdentityRefused("identity refused by the broker", why=why)
