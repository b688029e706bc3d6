"""What a broker allows and how it behaves, and what follows from that for deliveries. Pure.

Sources: MQTT Version 5.0, OASIS Standard (2019), section 3.2.2.3 (properties of CONNACK); mosquitto.conf(5).
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from dsops.chunks import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES
from dsops.messages import MAX_MESSAGE_BYTES

ENVELOPE_BYTES = 256
"""What a packet has besides its payload: header, topic of at most 160 bytes, properties, the digest of an answer."""
CHUNK_PACKET_BYTES = DEFAULT_CHUNK_BYTES + ENVELOPE_BYTES
LARGEST_PACKET_BYTES = MAX_MESSAGE_BYTES + ENVELOPE_BYTES
WINDOW = 10
SESSION_S = 86_400
"""For how long agents ask the broker to keep their session."""
SLOW_S = 0.03


class Level(StrEnum):
    """How bad a finding is: ``ok``; ``warning``, it works but not well; ``error``, something does not work."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What it is about.
        level: How bad it is.
        text: What was found.
        advice: What to do; empty if there is nothing to do.
    """

    name: str
    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Limits:
    """What the broker says in CONNACK; what it leaves out has the standard's default.

    Attributes:
        max_packet_bytes: Longest packet; 0 sets no limit.
        receive_maximum: Messages that may be on their way to the broker unacknowledged.
        retain: Whether it keeps retained messages.
        max_qos: Highest quality of service.
        topic_aliases: How many it understands.
        wildcards: Whether filters with ``+`` and ``#`` are possible.
        shared: Whether shared subscriptions are.
        session_s: For how long it keeps the session, after having been asked for :data:`SESSION_S`.
        keepalive_s: Keep-alive that it prescribes; 0 if it takes the client's.
    """

    max_packet_bytes: int = 0
    receive_maximum: int = 65_535
    retain: bool = True
    max_qos: int = 2
    topic_aliases: int = 0
    wildcards: bool = True
    shared: bool = True
    session_s: int = SESSION_S
    keepalive_s: int = 0

    def fits(self, packet_bytes: int) -> bool:
        """Return whether the broker takes a packet of that length."""
        return not self.max_packet_bytes or packet_bytes <= self.max_packet_bytes

    @property
    def holds_chunks(self) -> bool:
        """Whether chunks can be left with the broker."""
        return self.retain and self.max_qos > 0 and self.fits(CHUNK_PACKET_BYTES)


def limits_of(connack: object) -> Limits:
    """Return what the properties of a broker's CONNACK say."""

    def said(name: str, default: int) -> int:
        return int(getattr(connack, name, default))

    return Limits(
        max_packet_bytes=said("MaximumPacketSize", 0),
        receive_maximum=said("ReceiveMaximum", 65_535),
        retain=bool(said("RetainAvailable", 1)),
        max_qos=said("MaximumQoS", 2),
        topic_aliases=said("TopicAliasMaximum", 0),
        wildcards=bool(said("WildcardSubscriptionAvailable", 1)),
        shared=bool(said("SharedSubscriptionAvailable", 1)),
        session_s=said("SessionExpiryInterval", SESSION_S),
        keepalive_s=said("ServerKeepAlive", 0),
    )


@dataclass(frozen=True)
class Measured:
    """What was tried with the broker. None: it could not be tried.

    Attributes:
        round_trips_s: How long small messages took to come back.
        is_near: Whether the broker is on this machine or in a private network.
        keeps: Whether a retained message of a chunk's length came back as it was.
        deletes: Whether it was gone after the empty message.
        expires: Whether a retained message was gone after its time.
        refusal: Why the broker did not take part in the trial; empty if it did.
    """

    round_trips_s: tuple[float, ...] = ()
    is_near: bool = False
    keeps: bool | None = None
    deletes: bool | None = None
    expires: bool | None = None
    refusal: str = ""

    @property
    def round_trip_s(self) -> float | None:
        """The median of the round trips."""
        return statistics.median(self.round_trips_s) if self.round_trips_s else None


def judge(limits: Limits, measured: Measured) -> tuple[Finding, ...]:
    """Return what was found, in the order in which it matters."""
    return (*_of_limits(limits), *_of_trial(limits, measured))


def _of_limits(limits: Limits) -> Iterator[Finding]:
    yield _qos(limits)
    yield _packets(limits)
    yield _retention(limits)
    yield _window(limits)
    yield _wildcards(limits)
    yield _session(limits)
    extras = f"{limits.topic_aliases} topic aliases, shared subscriptions {'yes' if limits.shared else 'no'}"
    yield Finding("extras", Level.OK, f"{extras}; dsops needs neither")


def _qos(limits: Limits) -> Finding:
    text = f"highest quality of service {limits.max_qos}"
    if limits.max_qos >= 1:
        return Finding("qos", Level.OK, text)
    advice = "allow QoS 1 (mosquitto: remove max_qos 0 from the listener)"
    return Finding("qos", Level.ERROR, f"{text}: neither the controller nor agents can connect, they need 1", advice)


def _packets(limits: Limits) -> Finding:
    text = f"packets of up to {limits.max_packet_bytes} bytes" if limits.max_packet_bytes else "packets of any length"
    advice = "raise it to 131072 (mosquitto: max_packet_size)"
    if not limits.fits(CHUNK_PACKET_BYTES):
        lost = (
            f"a chunk has {DEFAULT_CHUNK_BYTES}: nothing is offered, and agents that ask for chunks get none over MQTT"
        )
        return Finding("packets", Level.ERROR, f"{text}; {lost}, only from other sources", advice)
    if not limits.fits(LARGEST_PACKET_BYTES):
        lost = f"large bundles have chunks and an index of up to {MAX_CHUNK_BYTES}, reports up to {MAX_MESSAGE_BYTES}"
        return Finding("packets", Level.WARNING, f"{text}; {lost}", advice)
    return Finding("packets", Level.OK, text)


def _retention(limits: Limits) -> Finding:
    if limits.retain:
        return Finding("retain", Level.OK, "retained messages are kept")
    text = (
        "no retained messages: nothing is offered, every agent pulls its chunks from the controller, and one that was "
        "away gets its directive only when the controller repeats it"
    )
    return Finding("retain", Level.ERROR, text, "allow them (mosquitto: retain_available true)")


def _window(limits: Limits) -> Finding:
    text = f"{limits.receive_maximum} messages may be unacknowledged"
    if limits.receive_maximum >= WINDOW:
        return Finding("window", Level.OK, text)
    advice = f"allow {WINDOW} (mosquitto: max_inflight_messages 20)"
    return Finding("window", Level.WARNING, f"{text}: bundles are offered slowly", advice)


def _wildcards(limits: Limits) -> Finding:
    if limits.wildcards:
        return Finding("wildcards", Level.OK, "filters with wildcards are possible")
    text = "no filters with wildcards: the controller hears no device"
    return Finding("wildcards", Level.ERROR, text, "allow wildcard subscriptions")


def _session(limits: Limits) -> Finding:
    text = f"sessions are kept {limits.session_s} s"
    if limits.session_s >= SESSION_S:
        return Finding("session", Level.OK, text)
    more = f"{text}, agents ask for {SESSION_S}: one that was away longer loses what was not retained"
    return Finding(
        "session", Level.WARNING, more, "let sessions live for a day (mosquitto: persistent_client_expiration)"
    )


def _of_trial(limits: Limits, measured: Measured) -> Iterator[Finding]:
    if measured.refusal:
        advice = "let the user controller-probe read and write PREFIX/probe/# (docs/how-to/brokers.md)"
        yield Finding("trial", Level.WARNING, f"the trial was not possible: {measured.refusal}", advice)
        return
    if (median_s := measured.round_trip_s) is not None:
        yield _delay(median_s, is_near=measured.is_near)
    if limits.holds_chunks:
        yield _kept(measured)
        yield _expiry(measured)


def _delay(median_s: float, *, is_near: bool) -> Finding:
    text = f"a message takes {median_s * 1000:.1f} ms to come back"
    if is_near and median_s > SLOW_S:
        advice = "have the broker send at once (mosquitto: set_tcp_nodelay true)"
        return Finding("delay", Level.WARNING, f"{text}, from a broker that is near", advice)
    return Finding("delay", Level.OK, text)


def _kept(measured: Measured) -> Finding:
    if measured.keeps and measured.deletes:
        return Finding("trial", Level.OK, "a retained message of a chunk's length was kept, read and deleted")
    if measured.keeps:
        text = "a retained message could not be deleted: chunks that nobody wants stay until they expire"
        return Finding("trial", Level.WARNING, text, "let an empty retained message delete the one before")
    text = "a retained message of a chunk's length did not come back: agents have to pull their chunks"
    return Finding("trial", Level.ERROR, text, "look at the broker's limits for retained messages, and its log")


def _expiry(measured: Measured) -> Finding:
    if measured.expires:
        return Finding("expiry", Level.OK, "messages expire in time")
    text = "a retained message outlived its expiry: chunks of a controller that is gone for good stay for ever"
    return Finding("expiry", Level.WARNING, text, "switch message expiry on, or clear the broker by hand")
