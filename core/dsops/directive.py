"""The directive: what the controller wants one device to run. A DSSE envelope, retained on the device's own topic."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime, Field, ValidationError

from dsops import dsse, strictjson
from dsops.errors import UntrustedBundle
from dsops.manifest import Frozen, Name, Sha256, first_problem

PAYLOAD_TYPE = "application/vnd.dsops.directive.v1+json"


class DesiredSlot(Frozen):
    """The bundle that a model's slot shall hold: a target of the trust metadata, and why it is wanted.

    ``content_key`` is the key of a sealed bundle, wrapped for this device (:func:`dsops.sealing.wrap`).
    """

    path: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}/[1-9][0-9]{0,9}\.[a-z0-9._-]{1,32}\.bundle$")
    sha256: Sha256
    length_bytes: int = Field(gt=0)
    release: int = Field(ge=1)
    deployment: str = Field(max_length=64)
    content_key: str | None = Field(default=None, pattern=r"^[A-Za-z0-9+/]{107}=$", repr=False)

    def wants_same(self, other: "DesiredSlot") -> bool:
        """Return whether another slot wants the same for the same reason; a key is wrapped anew in every directive."""
        return self == other.model_copy(update={"content_key": self.content_key})


class Directive(Frozen):
    """Desired state of one device.

    Attributes:
        seq: Rises with every directive to the device; an agent refuses one that does not exceed the last accepted.
        expires: After this moment the directive must not be accepted any more.
        slots: Model name to the bundle wanted there. A model that is not named stays as it is.
    """

    v: int = Field(default=1, ge=1, le=1)
    fleet: str = Field(max_length=64)
    device: str = Field(max_length=64)
    seq: int = Field(ge=1)
    issued: AwareDatetime
    expires: AwareDatetime
    slots: dict[Name, DesiredSlot] = Field(max_length=16)

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


def check_directive(data: bytes, recipient: Recipient, *, last_seq: int, now: datetime) -> Directive:
    """Return the directive in ``data`` if this device must believe it.

    Args:
        data: A DSSE envelope.
        recipient: This device, and whom it believes.
        last_seq: The highest ``seq`` that the device accepted so far; the same one again is accepted, for it is a
            repetition of what is already journalled.
        now: Trusted time.

    Raises:
        UntrustedBundle: A rule refuses it; the text names the rule.
    """
    payload = dsse.verify(data, PAYLOAD_TYPE, recipient.keys, recipient.threshold)
    try:
        directive = Directive.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle("the directive is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle("the directive is not valid", why=first_problem(error)) from error
    mine = (recipient.fleet, recipient.device)
    if (directive.fleet, directive.device) != mine:
        raise UntrustedBundle(
            "the directive is for another device", why=f"{directive.fleet}/{directive.device}, not {'/'.join(mine)}"
        )
    if directive.seq < last_seq:
        raise UntrustedBundle("the directive is old", why=f"seq {directive.seq}, {last_seq} was already accepted")
    if directive.expires <= now:
        raise UntrustedBundle("the directive has expired", why=f"at {directive.expires.isoformat()}")
    return directive
