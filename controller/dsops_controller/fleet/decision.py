"""Whether a device that asks to join gets a certificate: one table over facts. Pure.

A token outranks everything, for an operator made it for this name. Without one, a name belongs to the key that claimed
it first; who shows another key learns only that. A key that an operator accepted, or listed before, is answered again
and again, because a device may lose power between the answer and its own disk.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from dsops.errors import (
    DeviceBarred,
    EnrolmentFull,
    EnrolmentRefused,
    GraceOver,
    IdentityTaken,
    TokenExpired,
    TokenUnknown,
    TokenUsed,
)
from dsops.states import Device


@dataclass(frozen=True)
class IdentityRules:
    """What an operator may choose about identities (``[identity]`` in controller.toml).

    Attributes:
        life: How long a device's certificate is valid.
        grace: So long after its end its key may still ask for the next one, and sign reports.
        pending_max: Strangers that may wait at once.
        pending_per_address: Those of one address.
        pending_life: A stranger that did not ask for so long is forgotten.
        retry_s: How often a waiting device shall ask.
        refusals_max: Refused requests to join of one hour that the audit trail records; not in the file.
    """

    life: timedelta = timedelta(days=90)
    grace: timedelta = timedelta(days=30)
    pending_max: int = 1000
    pending_per_address: int = 100
    pending_life: timedelta = timedelta(days=7)
    retry_s: int = 30
    refusals_max: int = 1000


class Token(StrEnum):
    """What a shown token is."""

    NONE = "none"  # no token was shown
    UNKNOWN = "unknown"  # there is no such token for this name
    EXPIRED = "expired"  # its time is over
    FRESH = "fresh"  # nobody used it yet
    SAME_KEY = "same key"  # used, for the very key that asks
    OTHER_KEY = "other key"  # used for another key


class Claim(StrEnum):
    """Whose the name is, seen from the key that asks."""

    FREE = "free"  # no key has claimed it
    MINE = "mine"  # this key has it
    THEIRS = "theirs"  # another key has it


class Listed(StrEnum):
    """Whether an operator listed the name beforehand."""

    NO = "no"
    MINE = "mine"  # for this key
    THEIRS = "theirs"  # for another key


class Life(StrEnum):
    """How the certificate is that the device had before. Its key is proved: it asks itself, or it signed the proof."""

    NONE = "none"  # there never was one, or no key of the device is proved
    GOOD = "good"  # in its life, or within the grace
    OVER = "over"  # ended longer ago


@dataclass(frozen=True)
class Facts:
    """Everything that decides."""

    token: Token = Token.NONE
    state: Device | None = None
    claim: Claim = Claim.FREE
    listed: Listed = Listed.NO
    before: Life = Life.NONE
    has_room: bool = True


class Outcome(StrEnum):
    """What happens, when nothing is refused."""

    GRANT = "grant"  # a certificate
    WAIT = "wait"  # an operator has to decide


Verdict = Outcome | type[EnrolmentRefused]

_BARRED = frozenset({Device.SUSPENDED, Device.REJECTED, Device.DECOMMISSIONED})
_TOKENS: dict[Token, Verdict] = {
    Token.UNKNOWN: TokenUnknown,
    Token.EXPIRED: TokenExpired,
    Token.FRESH: Outcome.GRANT,
    Token.SAME_KEY: Outcome.GRANT,
    Token.OTHER_KEY: TokenUsed,
}


def decide(facts: Facts) -> Verdict:
    """Return what a device is answered: a certificate, wait, or the class of the refusal."""
    if facts.token is not Token.NONE:
        return _by_token(facts)
    if facts.state in _BARRED:
        return DeviceBarred if facts.claim is Claim.MINE or facts.before is not Life.NONE else IdentityTaken
    if facts.state is Device.ACCEPTED:
        return _as_member(facts)
    return _as_stranger(facts)


def _by_token(facts: Facts) -> Verdict:
    verdict = _TOKENS[facts.token]
    # Only who holds a token that was good for this name learns that the device is shut out.
    is_known = facts.token not in {Token.UNKNOWN, Token.EXPIRED}
    return DeviceBarred if is_known and facts.state in _BARRED else verdict


def _as_member(facts: Facts) -> Verdict:
    """Answer for the name of a device that takes part."""
    if facts.before is Life.OVER:
        return GraceOver
    return Outcome.GRANT if facts.before is Life.GOOD or facts.claim is Claim.MINE else IdentityTaken


def _as_stranger(facts: Facts) -> Verdict:
    """Answer for a name that nobody has, or that waits; an operator's list outranks who came first."""
    if facts.listed is Listed.MINE:
        return Outcome.GRANT
    if facts.claim is Claim.THEIRS or facts.listed is Listed.THEIRS:
        return IdentityTaken
    return Outcome.WAIT if facts.claim is Claim.MINE or facts.has_room else EnrolmentFull
