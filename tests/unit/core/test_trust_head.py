"""What the head of the trust metadata says of itself, before anybody verified it."""

from datetime import UTC, datetime

import pytest

from dsops import strictjson
from dsops.errors import MalformedMetadata
from dsops.head import expires


def head(**signed: object) -> bytes:
    return strictjson.dumps({"signatures": [], "signed": signed})


def test_it_says_until_when_it_may_be_accepted() -> None:
    assert expires(head(expires="2026-11-27T09:00:00Z")) == datetime(2026, 11, 27, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"signed": []}',
        b'{"signed": {"expires": "2026-11-27T09:00:00Z", "expires": "2026-11-28T09:00:00Z"}}',
        head(),
        head(expires=1),
        head(expires="soon"),
        head(expires="2026-11-27T09:00:00"),  # of which time zone?
    ],
)
def test_one_that_does_not_say_so_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMetadata, match="head of the trust metadata"):
        expires(data)
