"""What a device believes: every way of forging, replaying or misrouting a directive is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dsops import dsse, strictjson
from dsops.directive import (
    DIRECTIVE_RULES,
    PAYLOAD_TYPE,
    DesiredSlot,
    Directive,
    Recipient,
    check_directive,
    explain_directive,
    payload_digest,
    repeats,
    target_path,
)
from dsops.errors import (
    ExpiredDirective,
    ForeignDevice,
    ForeignFleet,
    LeapingDirective,
    MalformedDirective,
    Refusal,
    ReplayedDirective,
    UnsignedDirective,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY, THIEF = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SLOT = DesiredSlot(path=target_path("digits", 2, "int8"), sha256="0" * 64, length_bytes=9, release=2, deployment="de-1")


def ring(*keys: dsse.PrivateKey) -> dict[str, dsse.PublicKey]:
    return {dsse.key_id(key.public_key()): key.public_key() for key in keys}


ME = Recipient("fleet", "cam-1", ring(KEY))


def directive(**changes: object) -> Directive:
    base = Directive(
        fleet="fleet", device="cam-1", seq=5, issued=NOW, expires=NOW + timedelta(days=1), slots={"digits": SLOT}
    )
    return Directive.model_validate(base.model_dump() | changes)


WIRE = directive().model_dump(mode="json")


def check(data: bytes, last_seq: int = 0, recipient: Recipient = ME) -> Directive:
    return check_directive(data, recipient, last_seq=last_seq, now=NOW)


def test_an_honest_directive_is_believed() -> None:
    assert [check(directive().sign(KEY), last_seq) for last_seq in (0, 4)] == [directive()] * 2
    assert check(directive(seq=4 + 2**20).sign(KEY), 4)


@pytest.mark.parametrize(
    ("data", "last_seq", "refusal"),
    [
        (directive().sign(THIEF), 0, UnsignedDirective),
        (directive(device="cam-2").sign(KEY), 0, ForeignDevice),
        (directive(fleet="other").sign(KEY), 0, ForeignFleet),
        (directive().sign(KEY), 5, ReplayedDirective),
        (directive().sign(KEY), 6, ReplayedDirective),
        (directive(seq=5 + 2**20).sign(KEY), 4, LeapingDirective),
        (directive(expires=NOW).sign(KEY), 0, ExpiredDirective),
        (b"{}", 0, MalformedDirective),
        (b"\xff", 0, MalformedDirective),
        (directive().sign(KEY) + b" " * 65_536, 0, MalformedDirective),
        (directive().sign(KEY).replace(b'"payload":"', '"payload":"ü'.encode()), 0, MalformedDirective),
        (dsse.sign("application/other", strictjson.dumps(WIRE), KEY).encode(), 0, MalformedDirective),
        (dsse.sign(PAYLOAD_TYPE, b"[]", KEY).encode(), 0, MalformedDirective),
        (dsse.sign(PAYLOAD_TYPE, b"\xff", KEY).encode(), 0, MalformedDirective),
    ],
)
def test_a_dishonest_one_is_refused_by_a_rule_of_its_own(data: bytes, last_seq: int, refusal: type[Refusal]) -> None:
    with pytest.raises(refusal) as caught:
        check(data, last_seq)
    assert type(caught.value) is refusal
    assert caught.value.details["rule"] in {rule.name for rule in DIRECTIVE_RULES}


def test_the_longest_envelope_is_still_read() -> None:
    data = directive().sign(KEY)
    assert check(data + b" " * (65_536 - len(data)))


def test_a_changed_payload_is_refused() -> None:
    honest = dsse.decode(directive().sign(KEY), PAYLOAD_TYPE)
    other = dsse.decode(directive(seq=99).sign(THIEF), PAYLOAD_TYPE)
    with pytest.raises(UnsignedDirective):
        check(honest.model_copy(update={"payload": other.payload}).encode())


def test_a_threshold_counts_distinct_keys() -> None:
    second = Ed25519PrivateKey.generate()
    two = Recipient("fleet", "cam-1", ring(KEY, second), threshold=2)
    assert check(directive().sign(KEY, second), recipient=two)
    for keys in ((KEY,), (KEY, KEY), (KEY, THIEF)):
        with pytest.raises(UnsignedDirective, match="1 of the director's keys signed, 2 are needed"):
            check(directive().sign(*keys), recipient=two)


def test_the_very_same_directive_repeats_whoever_signed_it_and_another_does_not() -> None:
    accepted = payload_digest(directive().sign(KEY))
    assert repeats(directive().sign(KEY), accepted)
    assert repeats(directive().sign(THIEF), accepted)
    for other in (directive(seq=6), directive(issued=NOW - timedelta(seconds=1))):
        assert not repeats(other.sign(KEY), accepted)
    assert not repeats(directive().sign(KEY), "")


def test_each_rule_is_explained_also_those_behind_a_broken_one() -> None:
    data = directive(device="cam-2", expires=NOW).sign(THIEF)
    results = explain_directive(data, ME, last_seq=9, now=NOW)
    assert [result.rule for result in results] == [rule.name for rule in DIRECTIVE_RULES]
    broken = {result.rule: result.code for result in results if result.ok is False}
    assert broken == {
        "signature": "trust.directive_unsigned",
        "device": "trust.wrong_device",
        "seq": "trust.directive_replayed",
        "expiry": "trust.directive_expired",
    }
    assert {result.rule: result.text for result in results}["seq"] == "seq 5, 9 was accepted before"


def test_what_is_no_envelope_leaves_nothing_to_ask() -> None:
    results = explain_directive(b"junk", ME, last_seq=0, now=NOW)
    assert [result.ok for result in results] == [False, *[None] * (len(DIRECTIVE_RULES) - 1)]


@given(st.binary(max_size=300) | st.binary(max_size=80).map(lambda b: dsse.sign(PAYLOAD_TYPE, b, KEY).encode()))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    with pytest.raises(Refusal):
        check(data)
    assert not all(result.ok for result in explain_directive(data, ME, last_seq=0, now=NOW))


def test_device_keys_on_p256_sign_too() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    data = dsse.sign("t", b"payload", key).encode()
    assert dsse.verify(data, "t", ring(key)) == b"payload"
    assert dsse.load_public_key(dsse.public_pem(key.public_key())) == key.public_key()


@pytest.mark.parametrize(
    "path", ["../x/1.int8.bundle", "digits/0.int8.bundle", "digits/1.bundle", "/digits/1.a.bundle"]
)
def test_a_target_path_has_one_form(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        DesiredSlot.model_validate(SLOT.model_dump() | {"path": path})
