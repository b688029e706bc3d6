"""The key that a device sends when it enrols is kept, checked, and replaced when the device comes with another."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from dsops.errors import InvalidInput
from dsops.signing_request import make_request
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.enrolment import Enrolment

pytestmark = pytest.mark.integration


def request(content_public_key: bytes) -> bytes:
    """Return a signing request for a fresh key."""
    return make_request("cam-1", ec.generate_private_key(ec.SECP256R1()), content_public_key)


def stored(db: Database) -> bytes | None:
    with db.read() as connection:
        found = connection.execute(select(tables.device.c.content_public_key)).scalar()
    return None if found is None else bytes(found)


def public() -> bytes:
    return X25519PrivateKey.generate().public_key().public_bytes_raw()


def test_the_newest_key_is_kept_and_the_directive_written_anew(enrolment: Enrolment, db: Database) -> None:
    for raw in (public(), public(), b""):
        token = enrolment.new_token("cam-1")
        with db.write() as connection:
            upsert(connection, tables.desired, device="cam-1", seq=1, envelope=b"", slots="{}", updated_ms=9)
        enrolment.enrol(Application("cam-1", request(raw), token, content_public_key=raw))
        assert stored(db) == (raw or None)
        with db.read() as connection:
            assert connection.execute(select(tables.desired.c.updated_ms)).scalar_one() == 0


@pytest.mark.parametrize("raw", [bytes(32), b"\1" + bytes(31), bytes(31), bytes(33)])
def test_a_key_that_keeps_nothing_secret_is_refused(enrolment: Enrolment, db: Database, raw: bytes) -> None:
    token = enrolment.new_token("cam-1")
    with pytest.raises(InvalidInput, match="not a key to wrap"):
        enrolment.enrol(Application("cam-1", request(raw), token, content_public_key=raw))
    assert stored(db) is None
    good = public()
    enrolment.enrol(Application("cam-1", request(good), token, content_public_key=good))
