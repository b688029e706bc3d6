"""A token for a certificate: once, for one name, for one key, in time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store
from sqlalchemy import select, update

from dsops.clock import ManualClock
from dsops.errors import Conflict, EnrolmentRefused, InvalidInput, TokenUnknown, TokenUsed
from dsops.messages import Connection, Inventory, Observed
from dsops.states import Device
from dsops_controller.audit import Audit
from dsops_controller.db.database import Database
from dsops_controller.db.tables import certificate as certificates
from dsops_controller.db.tables import enrolment_token
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.enrolment import Enrolment
from dsops_controller.fleet.issuer import device_of, key_text
from dsops_controller.fleet.registry import Registry

pytestmark = pytest.mark.integration

FACTS = {"hardware": "aarch64", "cpus": "4", "memory_bytes": "1000", "favourite_colour": "blue"}


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def refusals(db: Database, clock: ManualClock) -> list[str]:
    return [entry.detail for entry in Audit(db, clock).list() if entry.action == "enrolment.refused"]


def test_a_token_gives_a_certificate_that_the_ca_verifies(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    token = enrolment.new_token("cam-1")
    assert Registry(db, clock).get("cam-1").state is Device.PENDING
    reply = enrolment.enrol(Application("cam-1", request(new_key()), token, FACTS))
    leaf = x509.load_pem_x509_certificate(reply.certificate_pem)
    store = Store([x509.load_pem_x509_certificate(reply.ca_pem)])
    PolicyBuilder().store(store).time(clock.now()).build_client_verifier().verify(leaf, [])
    assert device_of(leaf) == "cam-1"
    assert (reply.fleet, reply.broker, reply.store, reply.topic_prefix) == (
        "lab",
        "broker:8883",
        "store:8443",
        "dsops/v1",
    )
    record = Registry(db, clock).get("cam-1")
    assert (record.state, record.serial) == (Device.ACCEPTED, f"{leaf.serial_number:x}")
    assert record.inventory == Inventory(hardware="aarch64", cpus=4, memory_bytes=1000)
    actions = [entry.action for entry in Audit(db, clock).list(subject="cam-1")]
    assert actions == ["enrolment.accepted", "token.created"]


def test_the_token_itself_is_nowhere_on_disk(enrolment: Enrolment, tmp_path: Path) -> None:
    token = enrolment.new_token("cam-1")
    enrolment.enrol(Application("cam-1", request(new_key()), token, {}))
    assert not any(token.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert len(token) >= 22  # 128 bits in base64


def test_the_same_key_is_answered_again_and_another_is_not(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    token, key = enrolment.new_token("cam-1"), new_key()
    enrolment.enrol(Application("cam-1", request(key), token, {}))
    again = enrolment.enrol(Application("cam-1", request(key), token, {}))
    assert device_of(x509.load_pem_x509_certificate(again.certificate_pem)) == "cam-1"
    with pytest.raises(EnrolmentRefused, match="another key"):
        enrolment.enrol(Application("cam-1", request(new_key()), token, {}))
    assert refusals(db, clock) == ["the token was used for another key"]


def test_an_expired_token_is_refused_also_for_the_same_key(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    token, key = enrolment.new_token("cam-1", ttl_s=60), new_key()
    clock.advance(59)
    enrolment.enrol(Application("cam-1", request(key), token, {}))
    clock.advance(1)
    with pytest.raises(EnrolmentRefused, match="expired"):
        enrolment.enrol(Application("cam-1", request(key), token, {}))
    assert refusals(db, clock) == ["the token has expired"]


def test_a_token_is_good_for_its_own_name_only(enrolment: Enrolment, db: Database, clock: ManualClock) -> None:
    token = enrolment.new_token("cam-1")
    enrolment.new_token("cam-2")
    for name, shown in (("cam-2", token), ("cam-3", token), ("cam-1", "guess"), ("cam-1", token[:-1])):
        with pytest.raises(EnrolmentRefused, match="no such token for this name"):
            enrolment.enrol(Application(name, request(new_key()), shown, {}))
    assert len(refusals(db, clock)) == 3  # once an hour for one name from one address
    assert Registry(db, clock).get("cam-2").public_key is None
    enrolment.enrol(Application("cam-1", request(new_key()), token, {}))


def test_a_new_token_replaces_the_key_and_the_old_token_is_spent(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    first, old = enrolment.new_token("cam-1"), new_key()
    enrolment.enrol(Application("cam-1", request(old), first, {}))
    registry = Registry(db, clock)
    registry.connection(Connection(device="cam-1", online=True, boot_id="a", conn_seq=90))
    report = Observed(device="cam-1", counter=500, time=clock.now(), seq=7)
    assert registry.observed("cam-1", report.sign(old)) == report
    second, new = enrolment.new_token("cam-1"), new_key()
    enrolment.enrol(Application("cam-1", request(new), second, {}))
    with pytest.raises(EnrolmentRefused):
        enrolment.enrol(Application("cam-1", request(old), first, {}))
    fresh = Observed(device="cam-1", counter=1, time=clock.now(), seq=0)
    assert registry.observed("cam-1", fresh.sign(new)) == fresh
    assert registry.connection(Connection(device="cam-1", online=True, boot_id="b", conn_seq=1)) is True


def test_an_older_token_that_nobody_used_takes_no_name_over(enrolment: Enrolment, db: Database) -> None:
    older, newer, key = enrolment.new_token("cam-1"), enrolment.new_token("cam-1"), new_key()
    other = enrolment.new_token("cam-2")
    with pytest.raises(TokenUnknown):
        enrolment.enrol(Application("cam-1", request(new_key()), older))
    enrolment.enrol(Application("cam-1", request(key), newer))
    with pytest.raises(TokenUnknown):
        enrolment.enrol(Application("cam-1", request(new_key()), older))
    enrolment.enrol(Application("cam-1", request(key), newer))  # the same key is still answered again
    enrolment.enrol(Application("cam-2", request(new_key()), other))
    with db.read() as connection:
        held = connection.execute(select(certificates.c.public_key).where(certificates.c.device == "cam-1")).scalars()
        assert set(held) == {key_text(key.public_key())}


def test_who_joins_by_a_token_voids_the_others_of_its_name(enrolment: Enrolment, db: Database) -> None:
    """Two controllers may make one each in the same moment."""
    older, newer = enrolment.new_token("cam-1"), enrolment.new_token("cam-2")
    with db.write() as connection:
        connection.execute(update(enrolment_token).values(device="cam-1"))
    enrolment.enrol(Application("cam-1", request(new_key()), newer))
    with pytest.raises(TokenUnknown):
        enrolment.enrol(Application("cam-1", request(new_key()), older))


def test_a_spent_token_shown_again_voids_no_newer_one(enrolment: Enrolment) -> None:
    spent, key = enrolment.new_token("cam-1"), new_key()
    enrolment.enrol(Application("cam-1", request(key), spent))
    newer = enrolment.new_token("cam-1")
    enrolment.enrol(Application("cam-1", request(key), spent))
    assert enrolment.enrol(Application("cam-1", request(new_key()), newer)).certificate_pem


def test_who_is_shut_out_gets_neither_token_nor_certificate(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    token, key = enrolment.new_token("cam-1"), new_key()
    enrolment.enrol(Application("cam-1", request(key), token, {}))
    Registry(db, clock).suspend("cam-1", "operator")
    with pytest.raises(EnrolmentRefused, match="suspended"):
        enrolment.enrol(Application("cam-1", request(key), token, {}))
    with pytest.raises(Conflict):
        enrolment.new_token("cam-1")
    assert refusals(db, clock) == ["the device is suspended"]


def test_malformed_requests_spend_nothing(enrolment: Enrolment) -> None:
    token = enrolment.new_token("cam-1")
    good = request(new_key())
    for name, shown, csr, facts in (
        ("../x", token, good, {}),
        ("cam-1", "x" * 1000, good, {}),
        ("cam-1", token, b"no request", {}),
        ("cam-1", token, good, {"cpus": "many"}),
    ):
        with pytest.raises(InvalidInput):
            enrolment.enrol(Application(name, csr, shown, facts))
    enrolment.enrol(Application("cam-1", good, token, {}))


@pytest.mark.parametrize("ttl", [0.0, -1.0, 31 * 86400.0, float("nan"), float("inf")])
def test_a_tokens_life_is_bounded(enrolment: Enrolment, ttl: float) -> None:
    with pytest.raises(InvalidInput):
        enrolment.new_token("cam-1", ttl)


def test_of_many_keys_that_show_one_token_at_once_one_wins(enrolment: Enrolment, db: Database) -> None:
    token = enrolment.new_token("cam-1")
    keys = [new_key() for _ in range(12)]

    def show(key: ec.EllipticCurvePrivateKey) -> bool:
        try:
            return bool(enrolment.enrol(Application("cam-1", request(key), token)).certificate_pem)
        except TokenUsed:
            return False

    with ThreadPoolExecutor(6) as threads:
        won = list(threads.map(show, keys))
    assert won.count(True) == 1
    with db.read() as connection:
        held = connection.execute(select(certificates.c.public_key)).scalars().all()
    assert held == [key_text(keys[won.index(True)].public_key())]
