"""Identities on SQLite and on PostgreSQL: what happens when two controllers, or two devices, act at the same moment."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from dsops.clock import SystemClock
from dsops.errors import IdentityTaken, TokenUsed
from dsops.states import Device
from dsops_controller.db.database import Database
from dsops_controller.db.migrate import upgrade
from dsops_controller.db.tables import certificate
from dsops_controller.fleet import certificates
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.standing import Changes

BOTH = pytest.mark.parametrize(
    "new_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)], indirect=True, scope="module"
)
CLOCK = SystemClock()


@pytest.fixture
def db(new_url: Callable[[Path], str], tmp_path: Path) -> Iterator[Database]:
    database = Database(new_url(tmp_path))
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def enrolment(db: Database, tmp_path: Path) -> Enrolment:
    authority = Authority.create(tmp_path / "ca", "lab", CLOCK)
    return Enrolment(db, authority, CLOCK, ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1"))


def request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def at_once(enrolment: Enrolment, applications: list[Application]) -> list[bool | None]:
    """Return for each whether it got a certificate; None for one that was refused."""

    def ask(application: Application) -> bool | None:
        try:
            return bool(enrolment.enrol(application).certificate_pem)
        except (TokenUsed, IdentityTaken):
            return None

    with ThreadPoolExecutor(6) as threads:
        return list(threads.map(ask, applications))


@BOTH
def test_of_many_keys_that_show_one_token_one_wins(enrolment: Enrolment, db: Database) -> None:
    token = enrolment.new_token("cam-1")
    answers = at_once(enrolment, [Application("cam-1", request(), token) for _ in range(12)])
    assert (answers.count(True), answers.count(None)) == (1, 11)
    with db.read() as connection:
        assert len(connection.execute(select(certificate.c.serial)).all()) == 1


@BOTH
def test_of_many_keys_that_claim_one_name_one_waits(enrolment: Enrolment, db: Database) -> None:
    asked = [Application("cam-1", request(), origin=f"192.0.2.{number}") for number in range(12)]
    answers = at_once(enrolment, asked)
    assert (answers.count(False), answers.count(None)) == (1, 11)
    (waiting,) = Registry(db, CLOCK).list(Device.PENDING)
    assert waiting.origin == f"192.0.2.{answers.index(False)}"


@BOTH
def test_another_controller_sees_who_is_shut_out(enrolment: Enrolment, db: Database) -> None:
    enrolment.enrol(Application("cam-1", request(), enrolment.new_token("cam-1")))
    other = Database(db.url)
    changes = Changes(other)
    changes.look()
    seen = changes.version
    Registry(db, CLOCK).suspend("cam-1")
    changes.look()
    assert changes.version > seen
    with other.read() as connection:
        assert certificates.barred(connection, CLOCK.now()) == ("cam-1",)
        assert len(certificates.revoked(connection, CLOCK.now())) == 1
    other.close()
