"""The table of who may join: each refusal by its own class, and what no combination of facts can bring about."""

import itertools

import pytest

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
from dsops_controller.fleet.decision import Claim, Facts, Life, Listed, Outcome, Token, Verdict, decide

ACCEPTED, PENDING = Device.ACCEPTED, Device.PENDING
GRANT, WAIT = Outcome.GRANT, Outcome.WAIT
BARRED = (Device.SUSPENDED, Device.REJECTED, Device.DECOMMISSIONED)

TABLE: list[tuple[str, Facts, Verdict]] = [
    ("a fresh token", Facts(token=Token.FRESH, state=PENDING), GRANT),
    ("a fresh token against a squatter", Facts(token=Token.FRESH, state=PENDING, claim=Claim.THEIRS), GRANT),
    ("a fresh token for a new key", Facts(token=Token.FRESH, state=ACCEPTED, claim=Claim.THEIRS), GRANT),
    ("a power cut after the answer", Facts(token=Token.SAME_KEY, state=ACCEPTED, claim=Claim.MINE), GRANT),
    ("a token used twice", Facts(token=Token.OTHER_KEY, state=ACCEPTED, claim=Claim.THEIRS), TokenUsed),
    ("a token for another name", Facts(token=Token.UNKNOWN, state=PENDING), TokenUnknown),
    ("a guess for a barred name", Facts(token=Token.UNKNOWN, state=Device.SUSPENDED), TokenUnknown),
    ("an old token", Facts(token=Token.EXPIRED, state=ACCEPTED, claim=Claim.MINE), TokenExpired),
    ("a token of a suspended device", Facts(token=Token.FRESH, state=Device.SUSPENDED), DeviceBarred),
    ("a stranger", Facts(), WAIT),
    ("a stranger that asks again", Facts(state=PENDING, claim=Claim.MINE, has_room=False), WAIT),
    ("one stranger too many", Facts(has_room=False), EnrolmentFull),
    ("a stranger under a claimed name", Facts(state=PENDING, claim=Claim.THEIRS), IdentityTaken),
    ("a stranger under a device's name", Facts(state=ACCEPTED, claim=Claim.THEIRS), IdentityTaken),
    ("a stranger under a suspended name", Facts(state=Device.SUSPENDED, claim=Claim.THEIRS), IdentityTaken),
    ("a rejected key", Facts(state=Device.REJECTED, claim=Claim.MINE), DeviceBarred),
    ("an accepted key", Facts(state=ACCEPTED, claim=Claim.MINE), GRANT),
    ("a listed key", Facts(listed=Listed.MINE, has_room=False), GRANT),
    ("a listed key against a squatter", Facts(state=PENDING, claim=Claim.THEIRS, listed=Listed.MINE), GRANT),
    ("another key under a listed name", Facts(listed=Listed.THEIRS), IdentityTaken),
    (
        "a listed key, but a token gave the name away",
        Facts(Token.NONE, ACCEPTED, Claim.THEIRS, Listed.MINE),
        IdentityTaken,
    ),
    ("a proof by the key before", Facts(state=ACCEPTED, claim=Claim.THEIRS, before=Life.GOOD), GRANT),
    ("a proof after the grace", Facts(state=ACCEPTED, claim=Claim.THEIRS, before=Life.OVER), GraceOver),
    ("the old key itself after the grace", Facts(state=ACCEPTED, claim=Claim.MINE, before=Life.OVER), GraceOver),
    ("a proof by a suspended device", Facts(state=Device.SUSPENDED, before=Life.GOOD), DeviceBarred),
    ("who was sent back waits", Facts(state=PENDING, claim=Claim.MINE, before=Life.OVER), WAIT),
]


@pytest.mark.parametrize(("facts", "verdict"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table(facts: Facts, verdict: Verdict) -> None:
    assert decide(facts) is verdict


def every() -> list[Facts]:
    states = (None, *Device)
    return [Facts(*row) for row in itertools.product(Token, states, Claim, Listed, Life, (True, False))]


def test_every_combination_has_a_verdict() -> None:
    verdicts = {decide(facts) for facts in every()}
    refusals = {TokenUnknown, TokenExpired, TokenUsed, IdentityTaken, DeviceBarred, EnrolmentFull, GraceOver}
    assert verdicts == {GRANT, WAIT, *refusals}
    assert all(issubclass(verdict, EnrolmentRefused) for verdict in refusals)


def test_who_is_barred_never_gets_a_certificate() -> None:
    assert not [facts for facts in every() if facts.state in BARRED and isinstance(decide(facts), Outcome)]


def test_without_token_list_or_proof_only_the_key_that_was_accepted_gets_one() -> None:
    granted = [facts for facts in every() if decide(facts) is GRANT]
    bare = [f for f in granted if f.token is Token.NONE and f.listed is not Listed.MINE and f.before is Life.NONE]
    assert {(facts.state, facts.claim) for facts in bare} == {(ACCEPTED, Claim.MINE)}


def test_another_key_takes_a_members_name_only_by_token_or_proof() -> None:
    granted = [f for f in every() if decide(f) is GRANT and f.state is ACCEPTED and f.claim is not Claim.MINE]
    assert all(f.token in {Token.FRESH, Token.SAME_KEY} or f.before is Life.GOOD for f in granted)


def test_a_full_list_stops_strangers_only() -> None:
    changed = [f for f in every() if f.has_room and decide(f) is not decide(Facts(*_without_room(f)))]
    assert {decide(f) for f in changed} == {WAIT}
    assert {(f.token, f.claim) for f in changed} == {(Token.NONE, Claim.FREE)}


def _without_room(facts: Facts) -> tuple[Token, Device | None, Claim, Listed, Life, bool]:
    return facts.token, facts.state, facts.claim, facts.listed, facts.before, False
