"""A device's certificates from the first to the last: renewed, superseded, expired while it was away, revoked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select, update

from dsops import dsse, strictjson
from dsops.bundle import sha256_hex
from dsops.clock import ManualClock
from dsops.errors import (
    DeviceBarred,
    EnrolmentFull,
    EnrolmentRefused,
    Forbidden,
    GraceOver,
    IdentityTaken,
    InvalidInput,
    Overloaded,
    Unauthorized,
    UnsignedReport,
)
from dsops.messages import Observed
from dsops.renewal import prove
from dsops.states import Device
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.fleet import certificates
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.enrolment import ISSUE_BURST, Enrolment, ReplySettings
from dsops_controller.fleet.issuer import serial_of
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.standing import Changes
from dsops_controller.server.identity import Admission, Peer

pytestmark = pytest.mark.integration

Key = ec.EllipticCurvePrivateKey
DAY_S = 86400.0


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: Key) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def peer(device: str, certificate_pem: bytes) -> Peer:
    leaf = x509.load_pem_x509_certificate(certificate_pem)
    return Peer(device, serial_of(leaf), leaf.not_valid_after_utc)  # type: ignore[arg-type]


class Fleet:
    """Enrolment, renewal, register and admission over one database."""

    def __init__(self, db: Database, clock: ManualClock, enrolment: Enrolment, authority: Authority) -> None:
        self.db, self.clock, self.enrolment = db, clock, enrolment
        settings = ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1")
        self.renewal = Renewal(db, authority, clock, settings)
        self.registry = Registry(db, clock)
        self.admission = Admission(db)

    def enrol(self, name: str, key: Key) -> Peer:
        reply = self.enrolment.enrol(Application(name, request(key), self.enrolment.new_token(name)))
        return peer(name, reply.certificate_pem)

    def renew(self, name: str, key: Key) -> Peer:
        return peer(name, self.renewal.renew(name, request(key)).certificate_pem)

    def prove(self, name: str, new: Key, old: Key) -> Peer:
        csr = request(new)
        proof = prove(name, csr, old, self.clock.now())
        return peer(name, self.enrolment.enrol(Application(name, csr, proof=proof)).certificate_pem)

    def use(self, caller: Peer) -> None:
        self.admission.check(caller, self.clock.now())

    def reasons(self, name: str) -> dict[str, str]:
        with self.db.read() as connection:
            rows = connection.execute(select(tables.certificate).where(tables.certificate.c.device == name))
            return {row.serial: row.reason for row in rows}

    def count(self) -> int:
        with self.db.read() as connection:
            return connection.execute(select(func.count()).select_from(tables.certificate)).scalar() or 0

    def revoked(self) -> set[str]:
        with self.db.read() as connection:
            return {one.serial for one in certificates.revoked(connection, self.clock.now())}


@pytest.fixture
def fleet(db: Database, clock: ManualClock, enrolment: Enrolment, authority: Authority) -> Fleet:
    return Fleet(db, clock, enrolment, authority)


def test_a_renewed_certificate_supersedes_the_old_one_at_its_first_use(fleet: Fleet) -> None:
    first = fleet.enrol("cam-1", new_key())
    fleet.use(first)
    fleet.clock.advance(60 * DAY_S)
    second = fleet.renew("cam-1", new_key())
    fleet.use(first)  # the answer may be lost: until the new one is used, the old one counts
    assert fleet.revoked() == set()
    fleet.use(second)
    with pytest.raises(Unauthorized, match="revoked"):
        fleet.use(first)
    assert fleet.reasons("cam-1") == {first.serial: "superseded", second.serial: ""}
    assert fleet.revoked() == {first.serial}
    assert second.expires - fleet.clock.now() == timedelta(days=90)
    actions = [entry.action for entry in Audit(fleet.db, fleet.clock).list(subject="cam-1")]
    assert actions[0] == "certificate.renewed"


def test_a_lost_answer_is_given_again_and_leaves_nothing_behind(fleet: Fleet) -> None:
    first, key = fleet.enrol("cam-1", new_key()), new_key()
    fleet.use(first)
    lost, kept = fleet.renew("cam-1", key), fleet.renew("cam-1", key)
    fleet.use(kept)
    assert fleet.revoked() == {first.serial, lost.serial}


def test_each_certificate_needs_a_new_key(fleet: Fleet) -> None:
    first, second = new_key(), new_key()
    fleet.use(fleet.enrol("cam-1", first))
    with pytest.raises(InvalidInput, match="new key"):
        fleet.renew("cam-1", first)
    fleet.use(fleet.renew("cam-1", second))
    for used in (first, second):
        with pytest.raises(InvalidInput, match="new key"):
            fleet.renew("cam-1", used)


def test_renewals_are_limited_for_each_device(fleet: Fleet) -> None:
    for name in ("cam-1", "cam-2"):
        fleet.use(fleet.enrol(name, new_key()))
    for _ in range(int(ISSUE_BURST)):
        fleet.renew("cam-1", new_key())
    with pytest.raises(Overloaded):
        fleet.renew("cam-1", new_key())
    fleet.renew("cam-2", new_key())
    fleet.clock.advance(3600)
    fleet.renew("cam-1", new_key())


Flood = Callable[[Fleet, Key, str], Application]
FLOODS: dict[str, Flood] = {
    "by the key": lambda _fleet, key, _token: Application("cam-1", request(key)),
    "by the spent token": lambda _fleet, key, token: Application("cam-1", request(key), token),
    "by proofs for new keys": lambda fleet, key, _token: proved(fleet, key),
}


def proved(fleet: Fleet, old: Key) -> Application:
    csr = request(new_key())
    return Application("cam-1", csr, proof=prove("cam-1", csr, old, fleet.clock.now()))


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_one_device_brings_it_no_more_than_a_few_certificates(fleet: Fleet, flood: Flood) -> None:
    token, key = fleet.enrolment.new_token("cam-1"), new_key()
    fleet.enrolment.enrol(Application("cam-1", request(key), token))
    refused = 0
    for number in range(40):
        try:
            fleet.enrolment.enrol(flood(fleet, key, token))
        except EnrolmentFull:
            refused += 1
        if number == 30:
            fleet.enrol("cam-2", new_key())
    assert refused == 40 - ISSUE_BURST
    assert fleet.count() == ISSUE_BURST + 2
    fleet.enrol("cam-1", new_key())  # the operator's new token counts whatever the device did
    fleet.clock.advance(3600)
    again = fleet.enrolment.new_token("cam-2")
    assert fleet.enrolment.enrol(Application("cam-2", request(new_key()), again)).certificate_pem


def test_of_many_that_show_a_fresh_token_at_once_few_get_a_certificate(fleet: Fleet) -> None:
    token, csr = fleet.enrolment.new_token("cam-1"), request(new_key())

    def show(_number: int) -> bool:
        try:
            return bool(fleet.enrolment.enrol(Application("cam-1", csr, token)).certificate_pem)
        except EnrolmentFull:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(show, range(24))) == fleet.count() == ISSUE_BURST + 1


def test_who_was_shut_out_meanwhile_gets_no_certificate(fleet: Fleet) -> None:
    first = fleet.enrol("cam-1", new_key())
    fleet.registry.suspend("cam-1")
    with pytest.raises(Forbidden, match="suspended"):
        fleet.use(first)
    with pytest.raises(DeviceBarred):
        fleet.renew("cam-1", new_key())
    assert fleet.count() == 1
    assert fleet.revoked() == {first.serial}
    fleet.registry.accept("cam-1")
    assert fleet.revoked() == set()
    fleet.use(first)


def test_an_expired_certificate_is_not_admitted_on_an_open_connection(fleet: Fleet) -> None:
    first = fleet.enrol("cam-1", new_key())
    fleet.use(first)
    fleet.clock.advance(90 * DAY_S)
    with pytest.raises(Unauthorized, match="expired"):
        fleet.use(first)


def test_a_device_that_was_away_comes_back_by_its_old_key(fleet: Fleet) -> None:
    old, new = new_key(), new_key()
    first = fleet.enrol("cam-1", old)
    fleet.use(first)
    fleet.clock.advance(119 * DAY_S)
    second = fleet.prove("cam-1", new, old)
    fleet.use(second)
    assert fleet.reasons("cam-1") == {first.serial: "superseded", second.serial: ""}
    assert fleet.registry.get("cam-1").state is Device.ACCEPTED
    with pytest.raises(IdentityTaken):  # the old key proves nothing any more
        fleet.prove("cam-1", new_key(), old)


def test_after_the_grace_an_operator_has_to_accept_it_again(fleet: Fleet) -> None:
    old, new = new_key(), new_key()
    first = fleet.enrol("cam-1", old)
    fleet.use(first)
    fleet.clock.advance(121 * DAY_S)
    with pytest.raises(GraceOver):
        fleet.prove("cam-1", new, old)
    assert fleet.registry.get("cam-1").state is Device.PENDING
    assert fleet.enrolment.enrol(Application("cam-1", request(new))).pending
    with pytest.raises(IdentityTaken):
        fleet.enrolment.enrol(Application("cam-1", request(new_key())))
    fleet.registry.accept("cam-1", "ann")
    second = peer("cam-1", fleet.enrolment.enrol(Application("cam-1", request(new))).certificate_pem)
    fleet.use(second)
    assert fleet.reasons("cam-1")[first.serial] == "replaced"


def test_who_is_sent_back_to_wait_is_noticed_here_and_by_other_processes(fleet: Fleet, authority: Authority) -> None:
    here, elsewhere, old = Changes(fleet.db), Changes(fleet.db), new_key()
    settings = ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1")
    enrolment = Enrolment(fleet.db, authority, fleet.clock, settings, changes=here)
    fleet.use(fleet.enrol("cam-1", old))
    fleet.clock.advance(121 * DAY_S)
    elsewhere.look()
    seen = here.version, elsewhere.version
    assert enrolment.enrol(Application("cam-2", request(new_key()))).pending
    elsewhere.look()
    assert (here.version, elsewhere.version) == seen, "a stranger makes nobody look"
    with pytest.raises(GraceOver):
        enrolment.enrol(proved(fleet, old))
    elsewhere.look()
    assert here.version > seen[0]
    assert elsewhere.version > seen[1]


Forge = Callable[[str, bytes, Key, Key], bytes]
FORGERIES: dict[str, Forge] = {
    "by a stranger's key": lambda name, csr, _old, stranger: prove(name, csr, stranger, datetime.now(UTC)),
    "for another request": lambda name, _csr, old, stranger: prove(name, request(stranger), old, datetime.now(UTC)),
    "for another device": lambda _name, csr, old, _stranger: prove("cam-2", csr, old, datetime.now(UTC)),
    "of another type": lambda _name, csr, old, _stranger: dsse.sign("text/plain", csr, old).encode(),
    "of no form": lambda _name, _csr, old, _s: dsse.sign("application/vnd.dsops.renewal.v1+json", b"[]", old).encode(),
    "no envelope": lambda _name, _csr, _old, _stranger: b"\xff" * 5000,
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_proof_proves_nothing(fleet: Fleet, forge: Forge) -> None:
    old, stranger = new_key(), new_key()
    fleet.use(fleet.enrol("cam-1", old))
    fleet.enrol("cam-2", new_key())
    fleet.clock.advance(100 * DAY_S)
    csr = request(stranger)
    with pytest.raises(IdentityTaken):
        fleet.enrolment.enrol(Application("cam-1", csr, proof=forge("cam-1", csr, old, stranger)))
    assert fleet.count() == 2


def test_a_recorded_proof_brings_its_thief_no_certificate_of_his_own(fleet: Fleet) -> None:
    old, new = new_key(), new_key()
    fleet.use(fleet.enrol("cam-1", old))
    fleet.clock.advance(100 * DAY_S)
    csr = request(new)
    seen = Application("cam-1", csr, proof=prove("cam-1", csr, old, fleet.clock.now()))
    for _ in range(2):
        leaf = x509.load_pem_x509_certificate(fleet.enrolment.enrol(seen).certificate_pem)
        assert leaf.public_key() == new.public_key()


def test_a_token_for_another_key_ends_the_certificates_before(fleet: Fleet) -> None:
    first = fleet.enrol("cam-1", new_key())
    fleet.use(first)
    second = fleet.enrol("cam-1", new_key())
    with pytest.raises(Unauthorized, match="revoked"):
        fleet.use(first)
    assert fleet.reasons("cam-1") == {first.serial: "replaced", second.serial: ""}


def test_a_certificate_of_another_device_is_not_admitted_under_this_name(fleet: Fleet) -> None:
    mine = fleet.enrol("cam-1", new_key())
    fleet.enrol("cam-2", new_key())
    with pytest.raises(Unauthorized, match="not known"):
        fleet.use(Peer("cam-2", mine.serial, mine.expires))  # type: ignore[arg-type]


def report(fleet: Fleet, counter: int, key: Key) -> bytes:
    return Observed(device="cam-1", counter=counter, time=fleet.clock.now(), seq=0).sign(key)


def test_reports_count_by_the_keys_of_every_certificate_that_counts(fleet: Fleet) -> None:
    old, new = new_key(), new_key()
    first = fleet.enrol("cam-1", old)
    assert fleet.registry.observed("cam-1", report(fleet, 10, old)) is not None
    second = fleet.renew("cam-1", new)
    assert fleet.registry.observed("cam-1", report(fleet, 20, old)) is not None
    assert fleet.registry.observed("cam-1", report(fleet, 30, new)) is not None  # is a use: it supersedes the old one
    assert fleet.reasons("cam-1") == {first.serial: "superseded", second.serial: ""}
    with pytest.raises(UnsignedReport):
        fleet.registry.observed("cam-1", report(fleet, 40, old))
    fleet.clock.advance(119 * DAY_S)  # expired, within the grace
    with fleet.db.read() as connection:
        keys = certificates.report_keys(connection, "cam-1", fleet.clock.now())
    assert list(keys) == [dsse.key_id(new.public_key())]
    assert fleet.registry.observed("cam-1", report(fleet, 50, new)) is not None
    fleet.clock.advance(2 * DAY_S)
    with pytest.raises(UnsignedReport, match="no key"):
        fleet.registry.observed("cam-1", report(fleet, 60, new))


def test_the_stored_report_is_no_attack_when_its_key_was_superseded(fleet: Fleet) -> None:
    """A broker hands out the retained report at every connection of the controller."""
    old, new = new_key(), new_key()
    fleet.enrol("cam-1", old)
    retained = report(fleet, 1, old)
    assert fleet.registry.observed("cam-1", retained) is not None
    payload = Observed(device="cam-1", counter=1, time=fleet.clock.now(), seq=0).model_dump(mode="json")
    with fleet.db.write() as connection:
        digest = sha256_hex(strictjson.dumps(payload))
        connection.execute(update(tables.observed).values(digest=digest))
    fleet.use(fleet.renew("cam-1", new))
    assert fleet.registry.observed("cam-1", retained) is None
    with pytest.raises(UnsignedReport):
        fleet.registry.observed("cam-1", report(fleet, 20, old))
    assert [entry.action for entry in Audit(fleet.db, fleet.clock).list(subject="cam-1")].count("report.refused") == 1


def test_who_is_decommissioned_leaves_nothing_usable(fleet: Fleet) -> None:
    key = new_key()
    first = fleet.enrol("cam-1", key)
    spare = fleet.enrolment.new_token("cam-1")
    with fleet.db.write() as connection:
        row = {"device": "cam-1", "seq": 1, "envelope": b"e", "slots": "{}", "updated_ms": 0}
        connection.execute(tables.desired.insert().values(**row))
    fleet.registry.decommission("cam-1", "ann")
    assert fleet.reasons("cam-1") == {first.serial: "decommissioned"}
    with fleet.db.read() as connection:
        for table in (tables.desired, tables.enrolment_token):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0
    for token in (spare, ""):
        with pytest.raises(EnrolmentRefused):
            fleet.enrolment.enrol(Application("cam-1", request(key), token))
    assert fleet.revoked() == {first.serial}
    fleet.clock.advance(91 * DAY_S)
    assert fleet.revoked() == set(), "an expired certificate need not be listed"
