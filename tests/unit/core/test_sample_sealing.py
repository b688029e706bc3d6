"""Inputs of samples that only the data team can read."""

import pytest

from dsops.errors import InvalidInput, SampleSealed
from dsops.sample_sealing import (
    SEALED_EXTRA_BYTES,
    key_id,
    new_private_key,
    private_key,
    public_key,
    public_text,
    seal,
    unseal,
)

DIGEST = "ab" * 32
RECORD = (DIGEST, 1_767_225_600_000_000, "UINT8", [1, 2, 3])


def test_who_has_the_key_reads_what_was_sealed() -> None:
    own = private_key(new_private_key())
    to = public_key(public_text(own))
    sealed = seal(b"secret", to, *RECORD)
    assert len(sealed) == len(b"secret") + SEALED_EXTRA_BYTES
    assert b"secret" not in sealed
    assert seal(b"secret", to, *RECORD) != sealed
    assert unseal(sealed, own, *RECORD) == b"secret"
    assert key_id(to) == key_id(own.public_key())


@pytest.mark.parametrize(
    "other",
    [("cd" * 32, *RECORD[1:]), (DIGEST, 1, *RECORD[2:]), (*RECORD[:2], "INT8", [1, 2, 3]), (*RECORD[:3], [1, 3, 2])],
)
def test_beside_another_record_it_does_not_open(other: tuple[str, int, str, list[int]]) -> None:
    own = private_key(new_private_key())
    sealed = seal(b"secret", own.public_key(), *RECORD)
    with pytest.raises(SampleSealed, match="for another record"):
        unseal(sealed, own, *other)


def test_another_key_and_a_damaged_one_do_not_open_it() -> None:
    own, other = private_key(new_private_key()), private_key(new_private_key())
    sealed = seal(b"secret", own.public_key(), *RECORD)
    for key, data in ((other, sealed), (own, sealed[:-1]), (own, bytes([sealed[0] ^ 1]) + sealed[1:]), (own, b"")):
        with pytest.raises(SampleSealed):
            unseal(data, key, *RECORD)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no private key"):
        private_key(b"-----BEGIN PRIVATE KEY-----")
    for text in ("", "no base64!", "AAAA"):
        with pytest.raises(InvalidInput):
            public_key(text)
