"""The directive: what the controller wants one device to run, and what a device asks before it believes one. Pure.

It is a DSSE envelope, retained on the device's own topic. A hostile broker can forge, replay, misroute or hold back
what it delivers; each of these breaks one rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from dsops import dsse, strictjson
from dsops.bundle import sha256_hex
from dsops.clock import utc_text
from dsops.errors import (
    ExpiredDirective,
    ForeignDevice,
    ForeignFleet,
    LeapingDirective,
    MalformedDirective,
    ReplayedDirective,
    UnsignedDirective,
    UntrustedBundle,
)
from dsops.manifest import Frozen, Name, Sha256, first_problem
from dsops.modes import Mode
from dsops.rules import Rule, RuleResult, Verdict, enforce, explain_rules

PAYLOAD_TYPE = "application/vnd.dsops.directive.v1+json"
MAX_SEQ = 2**53 - 1
MAX_SAMPLES = 10_000
MAX_SAMPLE_REQUESTS = 16
MAX_LEAP = 2**20
"""How far a ``seq`` may be ahead of the one before: a thief of the director's key cannot use the numbers up at once."""


class DeltaOffer(Frozen):
    """A file from which the wanted bundle can be made on a device that holds ``base`` (:mod:`dsops.delta`).

    Nobody vouches for it but the director: what it makes counts only if it is, byte for byte, what the owners signed.
    """

    base: Sha256
    """The bundle that must be installed."""
    sha256: Sha256
    length_bytes: int = Field(gt=0)
    index: Sha256


class TransferLimits(Frozen):
    """How much a device may fetch at most, besides its own configuration; 0 sets no limit."""

    bytes_per_s: int = Field(default=0, ge=0, le=MAX_SEQ)
    bytes_per_day: int = Field(default=0, ge=0, le=MAX_SEQ)


class DesiredSlot(Frozen):
    """The bundle that a model's slot shall hold: a target of the trust metadata, and why it is wanted.

    Attributes:
        content_key: The key of a sealed bundle, wrapped for this device (:func:`dsops.sealing.wrap`).
        delta: How to make it of what the device has, if that saves enough.
        urgent: Whether the device's maintenance windows are passed over.
        changes_contract: Whether its inputs and outputs may be others than those of the bundle that is active.
    """

    path: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}/[1-9][0-9]{0,9}\.[a-z0-9._-]{1,32}\.bundle$")
    sha256: Sha256
    length_bytes: int = Field(gt=0)
    release: int = Field(ge=1)
    deployment: str = Field(max_length=64)
    content_key: str | None = Field(default=None, pattern=r"^[A-Za-z0-9+/]{107}=$", repr=False)
    delta: DeltaOffer | None = None
    urgent: bool = False
    changes_contract: bool = False

    def wants_same(self, other: "DesiredSlot") -> bool:
        """Return whether another slot wants the same for the same reason.

        A key is wrapped anew in every directive, and which delta is offered depends on what the device holds then.
        """
        return self == other.model_copy(update={"content_key": self.content_key, "delta": self.delta})


class Challenger(Frozen):
    """A second bundle of a model, which is compared with the one in the model's slot, the champion.

    Attributes:
        bundle: What to install beside the champion; its ``deployment`` is the salt of the split.
        mode: What it is asked.
        share: Of the requests (shadow) or of the keys (split).
        cpu_share: Time of a processor that a shadow may take, as a share of one core.
    """

    bundle: DesiredSlot
    mode: Mode
    share: float = Field(gt=0, le=1)
    cpu_share: float = Field(default=0.25, gt=0, le=1)


class SampleRequest(Frozen):
    """Frames that somebody wants of a model.

    Attributes:
        id: Its name; samples that are kept for it bear it.
        count: How many.
        until: After this moment none is kept for it.
    """

    id: str = Field(min_length=1, max_length=64)
    model: Name
    count: int = Field(ge=1, le=MAX_SAMPLES)
    until: AwareDatetime


class Directive(Frozen):
    """Desired state of one device.

    Attributes:
        seq: Rises with every directive to the device; an agent refuses one that does not exceed the last accepted.
        expires: After this moment the directive must not be accepted any more.
        slots: Model name to the bundle wanted there. A model that is not named stays as it is; if a bundle of it is
            under way, and nothing was changed for it yet, that is cancelled.
        challengers: Model name to the challenger of what its slot holds. One that is not named is removed.
        pardoned: Bundles that are taken out of quarantine when the directive is accepted.
        transfer: How much may be fetched.
        samples: What somebody wants to see; within the device's own budget and rules, whatever is asked.
    """

    v: int = Field(default=1, ge=1, le=1)
    fleet: str = Field(max_length=64)
    device: str = Field(max_length=64)
    seq: int = Field(ge=1, le=MAX_SEQ)
    issued: AwareDatetime
    expires: AwareDatetime
    slots: dict[Name, DesiredSlot] = Field(max_length=16)
    challengers: dict[Name, Challenger] = Field(default={}, max_length=16)
    pardoned: tuple[Sha256, ...] = Field(default=(), max_length=16)
    transfer: TransferLimits = TransferLimits()
    samples: tuple[SampleRequest, ...] = Field(default=(), max_length=MAX_SAMPLE_REQUESTS)

    @model_validator(mode="after")
    def _has_champions(self) -> "Directive":
        for model, challenger in self.challengers.items():
            champion = self.slots.get(model)
            if champion is None or champion.sha256 == challenger.bundle.sha256:
                raise ValueError(f"the challenger of {model} needs another bundle as its champion")
        return self

    def sign(self, *keys: dsse.PrivateKey) -> bytes:
        """Return the signed envelope's bytes."""
        payload = strictjson.dumps(self.model_dump(mode="json"))
        return dsse.sign(PAYLOAD_TYPE, payload, *keys).encode()


def target_path(model: str, release: int, variant: str) -> str:
    """Return the name of a bundle in the trust metadata, for example ``digits/2.int8.bundle``."""
    return f"{model}/{release}.{variant}.bundle"


@dataclass(frozen=True)
class Recipient:
    """Who a directive must be for, and whom that device believes.

    Attributes:
        fleet: The fleet this device belongs to.
        device: This device.
        keys: The director's public keys by key id, as the trust metadata names them.
        threshold: Number of distinct director keys that must have signed.
    """

    fleet: str
    device: str
    keys: Mapping[str, dsse.PublicKey]
    threshold: int = 1


@dataclass(frozen=True)
class Received:
    """An envelope as it came, and what it is judged by.

    Attributes:
        data: The bytes.
        recipient: This device, and whom it believes.
        last_seq: ``seq`` of the directive accepted last; 0 before the first.
        now: Trusted time.
    """

    data: bytes
    recipient: Recipient
    last_seq: int
    now: datetime

    @cached_property
    def envelope(self) -> dsse.Envelope:
        """The envelope, not trusted; raises UntrustedBundle."""
        return dsse.decode(self.data, PAYLOAD_TYPE)

    @cached_property
    def directive(self) -> Directive:
        """What it says, not trusted; raises UntrustedBundle."""
        return _parsed(self.envelope.content())


def check_directive(data: bytes, recipient: Recipient, *, last_seq: int, now: datetime) -> Directive:
    """Return the directive in ``data`` if :data:`DIRECTIVE_RULES` allow this device to believe it.

    Args:
        data: A DSSE envelope.
        recipient: This device, and whom it believes.
        last_seq: ``seq`` of the directive accepted last. That very directive is no news: ask :func:`repeats` first.
        now: Trusted time.

    Raises:
        Refusal: The first broken rule's.
    """
    received = Received(data, recipient, last_seq, now)
    enforce(DIRECTIVE_RULES, received, "the directive")
    return received.directive


def explain_directive(data: bytes, recipient: Recipient, *, last_seq: int, now: datetime) -> list[RuleResult]:
    """Return what becomes of each rule of :data:`DIRECTIVE_RULES`; takes what :func:`check_directive` takes."""
    return explain_rules(DIRECTIVE_RULES, Received(data, recipient, last_seq, now))


def payload_digest(data: bytes) -> str:
    """Return the SHA-256 (hex) of an envelope's payload, whoever signed it.

    Raises:
        UntrustedBundle: It is no envelope of a directive.
    """
    return sha256_hex(dsse.decode(data, PAYLOAD_TYPE).content())


def repeats(data: bytes, accepted: str) -> bool:
    """Return whether ``data`` holds the very directive that was accepted last, as a broker brings it at each reconnect.

    Whether it is signed, or has expired meanwhile, does not matter: nothing follows from it.

    Args:
        data: A DSSE envelope.
        accepted: :func:`payload_digest` of the directive accepted last; empty before the first.

    Raises:
        UntrustedBundle: It is no envelope of a directive.
    """
    return payload_digest(data) == accepted


def claimed_seq(data: bytes) -> int:
    """Return the ``seq`` that an envelope claims, whoever signed it; more than any can have when it claims none."""
    try:
        return _parsed(dsse.decode(data, PAYLOAD_TYPE).content()).seq
    except UntrustedBundle:
        return MAX_SEQ + 1


def _parsed(payload: bytes) -> Directive:
    try:
        return Directive.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle("the payload is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle("the payload is not a directive", why=first_problem(error)) from error


def _is_envelope(case: Received) -> Verdict:
    try:
        content = case.envelope.content()
    except UntrustedBundle as error:
        return Verdict(ok=False, text=str(error))
    return Verdict(ok=True, text=f"{len(case.data)} bytes, {len(content)} of them payload")


def _is_signed(case: Received) -> Verdict:
    good = len(dsse.signers(case.envelope, case.recipient.keys))
    text = f"{good} of the director's keys signed, {case.recipient.threshold} are needed"
    return Verdict(good >= case.recipient.threshold, text)


def _is_directive(case: Received) -> Verdict:
    try:
        return Verdict(ok=True, text=f"{len(case.directive.slots)} models, issued {utc_text(case.directive.issued)}")
    except UntrustedBundle as error:
        return Verdict(ok=False, text=str(error))


def _is_of_fleet(case: Received) -> Verdict:
    said, mine = case.directive.fleet, case.recipient.fleet
    return Verdict(said == mine, f"it is for fleet {said}, the device is of {mine}")


def _is_for_device(case: Received) -> Verdict:
    said, mine = case.directive.device, case.recipient.device
    return Verdict(said == mine, f"it is for {said}, the device is {mine}")


def _is_newer(case: Received) -> Verdict:
    return Verdict(case.directive.seq > case.last_seq, f"seq {case.directive.seq}, {case.last_seq} was accepted before")


def _is_near(case: Received) -> Verdict:
    leap = case.directive.seq - case.last_seq
    return Verdict(leap <= MAX_LEAP, f"seq {case.directive.seq} is {leap} ahead, {MAX_LEAP} are allowed")


def _is_alive(case: Received) -> Verdict:
    said = case.directive.expires
    return Verdict(case.now < said, f"it expires {utc_text(said)}, trusted time is {utc_text(case.now)}")


DIRECTIVE_RULES: tuple[Rule[Received], ...] = (
    Rule(
        "envelope",
        "it is a DSSE envelope of a directive, of at most 64 KiB",
        MalformedDirective,
        _is_envelope,
        is_ground=True,
    ),
    Rule("signature", "enough of the director's keys signed it", UnsignedDirective, _is_signed),
    Rule("content", "its payload is a directive", MalformedDirective, _is_directive, is_ground=True),
    Rule("fleet", "it is for the device's fleet", ForeignFleet, _is_of_fleet),
    Rule("device", "it is for the device", ForeignDevice, _is_for_device),
    Rule("seq", "its seq exceeds that of every directive accepted before", ReplayedDirective, _is_newer),
    Rule("leap", "its seq is at most 2^20 ahead of theirs", LeapingDirective, _is_near),
    Rule("expiry", "it has not expired by trusted time", ExpiredDirective, _is_alive),
)
"""What a device asks of a directive, in order. The director's keys come from the trust metadata."""
