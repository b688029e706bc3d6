"""What a device believes: every way of forging, replaying or misrouting a directive is refused."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsops import dsse
from dsops.directive import DesiredSlot, Directive, Recipient, check_directive, target_path
from dsops.errors import UntrustedBundle

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


def test_an_honest_directive_is_believed_also_when_it_is_repeated() -> None:
    data = directive().sign(KEY)
    for last_seq in (0, 4, 5):
        assert check_directive(data, ME, last_seq=last_seq, now=NOW) == directive()


@pytest.mark.parametrize(
    ("data", "last_seq", "reason"),
    [
        (directive().sign(THIEF), 0, "not signed"),
        (directive(device="cam-2").sign(KEY), 0, "another device"),
        (directive(fleet="other").sign(KEY), 0, "another device"),
        (directive().sign(KEY), 6, "old"),
        (directive(expires=NOW).sign(KEY), 0, "expired"),
        (b"{}", 0, "not valid"),
        (b"\xff", 0, "strict JSON"),
        (b"x" * 70_000, 0, "too long"),
        (dsse.sign("application/other", b"{}", KEY).encode(), 0, "another type"),
        (dsse.sign("application/vnd.dsops.directive.v1+json", b"[]", KEY).encode(), 0, "not valid"),
    ],
)
def test_a_dishonest_one_is_refused_and_the_reason_named(data: bytes, last_seq: int, reason: str) -> None:
    with pytest.raises(UntrustedBundle, match=reason):
        check_directive(data, ME, last_seq=last_seq, now=NOW)


def test_a_changed_payload_is_refused() -> None:
    honest = dsse.decode(directive().sign(KEY))
    other = dsse.decode(directive(seq=99).sign(THIEF))
    with pytest.raises(UntrustedBundle, match="not signed"):
        check_directive(honest.model_copy(update={"payload": other.payload}).encode(), ME, last_seq=0, now=NOW)


def test_a_threshold_counts_distinct_keys() -> None:
    second = Ed25519PrivateKey.generate()
    two = Recipient("fleet", "cam-1", ring(KEY, second), threshold=2)
    assert check_directive(directive().sign(KEY, second), two, last_seq=0, now=NOW)
    for keys in ((KEY,), (KEY, KEY), (KEY, THIEF)):
        with pytest.raises(UntrustedBundle, match="1 of 2"):
            check_directive(directive().sign(*keys), two, last_seq=0, now=NOW)


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
