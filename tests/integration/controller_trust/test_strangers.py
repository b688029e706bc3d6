"""Devices without a token: they wait, bounded, and an operator accepts exactly the key that was shown."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from dsops.clock import ManualClock
from dsops.errors import (
    Conflict,
    DeviceBarred,
    EnrolmentFull,
    IdentityTaken,
    InvalidInput,
    TokenUnknown,
    UntrustedBundle,
)
from dsops.signing_request import make_request
from dsops.states import Device
from dsops_controller.audit import Audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.fleet.applications import Application
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.decision import IdentityRules
from dsops_controller.fleet.enrolment import CLAIM_BURST, STRANGER_BURST, WRONG_BURST, Enrolment, ReplySettings
from dsops_controller.fleet.issuer import device_of, key_sha256, key_text
from dsops_controller.fleet.registry import Registry
from dsops_controller.listing import Line, parse

pytestmark = pytest.mark.integration

HOME = "192.0.2.7"
Ask = Callable[..., bool]


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    return key_sha256(key_text(key.public_key()))


def ask(enrolment: Enrolment, name: str, key: ec.EllipticCurvePrivateKey, origin: str = HOME) -> bytes:
    """Return the certificate; empty when the device has to wait."""
    reply = enrolment.enrol(Application(name, request(key), origin=origin))
    assert reply.pending is (reply.certificate_pem == b"")
    assert (reply.retry_s > 0) is reply.pending
    return reply.certificate_pem


def waiting(db: Database) -> int:
    with db.read() as connection:
        state = tables.device.c.state == Device.PENDING.value
        return connection.execute(select(func.count()).select_from(tables.device).where(state)).scalar() or 0


def refused(db: Database, clock: ManualClock) -> list[str]:
    return [entry.subject for entry in Audit(db, clock).list(1000) if entry.action == "enrolment.refused"]


@pytest.fixture
def registry(db: Database, clock: ManualClock) -> Registry:
    return Registry(db, clock)


def test_a_stranger_waits_until_its_very_key_is_accepted(
    enrolment: Enrolment, registry: Registry, db: Database, clock: ManualClock
) -> None:
    key, thief = new_key(), new_key()
    assert ask(enrolment, "cam-1", key) == b""
    assert ask(enrolment, "cam-1", key) == b""
    shown = registry.get("cam-1")
    assert (shown.state, shown.origin, shown.key_sha256) == (Device.PENDING, HOME, fingerprint(key))
    assert registry.accept("cam-1", "ann", fingerprint(key)).state is Device.ACCEPTED
    with pytest.raises(IdentityTaken):
        ask(enrolment, "cam-1", thief)
    for _ in range(2):  # the answer may be lost on its way
        leaf = x509.load_pem_x509_certificate(ask(enrolment, "cam-1", key))
        assert (device_of(leaf), leaf.public_key()) == ("cam-1", key.public_key())
    trail = [entry.action for entry in Audit(db, clock).list(subject="cam-1")]
    assert trail[:2] == ["enrolment.accepted"] * 2
    assert "device.accepted" in trail
    assert "enrolment.pending" in trail


def test_a_claimed_name_is_not_taken_over_by_another_key(enrolment: Enrolment, registry: Registry) -> None:
    first, second = new_key(), new_key()
    ask(enrolment, "cam-1", first)
    with pytest.raises(IdentityTaken):
        ask(enrolment, "cam-1", second, "198.51.100.1")
    assert registry.get("cam-1").key_sha256 == fingerprint(first)
    with pytest.raises(Conflict, match="another key"):
        registry.accept("cam-1", "ann", fingerprint(second))
    assert registry.get("cam-1").state is Device.PENDING


def test_nobody_is_accepted_without_a_key(enrolment: Enrolment, registry: Registry) -> None:
    enrolment.new_token("cam-1")
    with pytest.raises(Conflict, match="no key"):
        registry.accept("cam-1")


def test_a_rejected_key_is_told_so_and_a_token_frees_the_name(enrolment: Enrolment, registry: Registry) -> None:
    squatter, right = new_key(), new_key()
    ask(enrolment, "cam-1", squatter)
    registry.reject("cam-1", "ann")
    with pytest.raises(DeviceBarred, match="rejected"):
        ask(enrolment, "cam-1", squatter)
    with pytest.raises(IdentityTaken):
        ask(enrolment, "cam-1", right)
    token = enrolment.new_token("cam-1")
    assert enrolment.enrol(Application("cam-1", request(right), token)).certificate_pem
    with pytest.raises(IdentityTaken):
        ask(enrolment, "cam-1", squatter)


@pytest.mark.slow
def test_one_address_cannot_fill_the_list(enrolment: Enrolment, db: Database, clock: ManualClock) -> None:
    key = new_key()
    refused = 0
    for number in range(300):
        try:
            ask(enrolment, f"flood-{number}", key)
        except EnrolmentFull:
            refused += 1
    assert waiting(db) == CLAIM_BURST
    assert refused == 300 - CLAIM_BURST
    ask(enrolment, "cam-1", new_key(), "198.51.100.1")  # from elsewhere one still may
    for number in range(2000):  # and patience does not help
        clock.advance(2)
        try:
            ask(enrolment, f"slow-{number}", key)
        except EnrolmentFull:
            refused += 1
    assert waiting(db) == IdentityRules().pending_per_address + 1


def test_a_flood_from_everywhere_stops_at_the_cap_and_members_go_on(
    tmp_path: Path, db: Database, clock: ManualClock
) -> None:
    rules = IdentityRules(pending_max=50, refusals_max=10)
    settings = ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1")
    authority = Authority.create(tmp_path / "flooded", "lab", clock)
    enrolment = Enrolment(db, authority, clock, settings, rules)
    token, waits, listed = enrolment.new_token("cam-1"), new_key(), new_key()
    Registry(db, clock).preauthorise([Line(parse(f"cam-2,{fingerprint(listed)}")[0].device, fingerprint(listed))])
    ask(enrolment, "cam-3", waits)
    flood = request(new_key())
    for number in range(400):
        try:
            enrolment.enrol(Application(f"flood-{number}", flood, origin=f"2001:db8:{number:x}::/64"))
        except EnrolmentFull:
            continue
    assert waiting(db) - 2 == 50  # the two of the operator's lists do not count
    assert ask(enrolment, "cam-3", waits) == b"", "who waits already may ask again"
    assert enrolment.enrol(Application("cam-1", request(new_key()), token)).certificate_pem
    assert ask(enrolment, "cam-2", listed)
    assert len(refused(db, clock)) <= 10, "a flood fills no audit trail"


def wrong_token(enrolment: Enrolment, name: str, origin: str = HOME) -> None:
    enrolment.enrol(Application(name, request(new_key()), "a guess", origin=origin))


def test_wrong_tokens_of_one_address_are_few_and_good_ones_count(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    good = enrolment.new_token("cam-1")
    for number in range(int(WRONG_BURST)):
        with pytest.raises(TokenUnknown):
            wrong_token(enrolment, f"guess-{number}")
    for number in range(100):
        with pytest.raises(EnrolmentFull, match="wrong tokens"):
            wrong_token(enrolment, f"more-{number}")
    assert len(refused(db, clock)) == WRONG_BURST
    with pytest.raises(TokenUnknown):
        wrong_token(enrolment, "cam-1", "198.51.100.1")
    assert enrolment.enrol(Application("cam-1", request(new_key()), good, origin=HOME)).certificate_pem


def test_a_wrong_token_shown_again_is_recorded_once_an_hour(
    enrolment: Enrolment, db: Database, clock: ManualClock
) -> None:
    for _ in range(5):
        with pytest.raises(TokenUnknown):
            wrong_token(enrolment, "cam-1")
    assert refused(db, clock) == ["cam-1"]
    with pytest.raises(TokenUnknown):
        wrong_token(enrolment, "cam-1", "198.51.100.1")
    clock.advance(3600)
    with pytest.raises(TokenUnknown):
        wrong_token(enrolment, "cam-1")
    assert refused(db, clock) == ["cam-1"] * 3


def test_a_flood_of_wrong_tokens_from_everywhere_silences_no_other_refusal(
    tmp_path: Path, db: Database, clock: ManualClock
) -> None:
    rules = IdentityRules(refusals_max=10)
    authority = Authority.create(tmp_path / "flooded", "lab", clock)
    enrolment = Enrolment(db, authority, clock, ReplySettings("lab", "broker:8883", "store:8443", "dsops/v1"), rules)
    for number in range(40):
        with pytest.raises(TokenUnknown):
            wrong_token(enrolment, f"guess-{number}", f"2001:db8:{number:x}::/64")
    with pytest.raises(UntrustedBundle):
        Registry(db, clock).observed("ghost", b"")
    assert len(refused(db, clock)) == 10
    actions = [entry.action for entry in Audit(db, clock).list()]
    assert actions[:2] == ["report.refused", "refusals.left_out"]


def test_an_address_has_a_limit_before_anything_is_parsed(enrolment: Enrolment, clock: ManualClock) -> None:
    key = new_key()
    ask(enrolment, "cam-1", key)
    for _ in range(int(STRANGER_BURST) - 1):
        with pytest.raises(InvalidInput):
            enrolment.enrol(Application("../x", b"junk", origin=HOME))
    with pytest.raises(EnrolmentFull):  # no name, no request: the limit is looked at first
        enrolment.enrol(Application("../x", b"junk", origin=HOME))
    token = enrolment.new_token("cam-2")
    assert enrolment.enrol(Application("cam-2", request(new_key()), token, origin=HOME)).certificate_pem
    clock.advance(1)
    assert ask(enrolment, "cam-1", key) == b""


def test_a_flood_of_who_waits_holds_up_no_listed_device(
    enrolment: Enrolment, registry: Registry, clock: ManualClock
) -> None:
    waits, listed = new_key(), new_key()
    registry.preauthorise(parse(f"cam-2,{fingerprint(listed)}"))
    ask(enrolment, "cam-1", waits)
    again = request(waits)
    for number in range(int(STRANGER_BURST) - 1):
        enrolment.enrol(Application("cam-1", again, origin=f"198.51.100.{number % 100}"))
    with pytest.raises(EnrolmentFull):
        ask(enrolment, "cam-1", waits)
    assert ask(enrolment, "cam-2", listed)
    clock.advance(1)
    assert ask(enrolment, "cam-1", waits) == b""


def test_who_no_longer_asks_is_forgotten(enrolment: Enrolment, registry: Registry, clock: ManualClock) -> None:
    gone, there = new_key(), new_key()
    ask(enrolment, "gone", gone)
    ask(enrolment, "there", there)
    enrolment.new_token("named", ttl_s=86400.0)
    clock.advance(6 * 86400)
    ask(enrolment, "there", there)
    clock.advance(2 * 86400)
    assert enrolment.forget_silent() == 1
    assert [record.id for record in registry.list()] == ["named", "there"]
    ask(enrolment, "gone", new_key())  # the name is free again


def test_a_listed_key_joins_without_a_word_and_another_does_not(
    enrolment: Enrolment, registry: Registry, db: Database
) -> None:
    right, other = new_key(), new_key()
    ask(enrolment, "cam-1", other)  # a squatter came first
    registry.preauthorise(parse(f"device,key_sha256\n# batch 7\ncam-1,{fingerprint(right)}\n\ncam-2,{'ab' * 32}\n"))
    assert x509.load_pem_x509_certificate(ask(enrolment, "cam-1", right)).public_key() == right.public_key()
    for name in ("cam-1", "cam-2"):
        with pytest.raises(IdentityTaken):
            ask(enrolment, name, other)
    with db.read() as connection:
        used = dict(connection.execute(select(tables.preauthorised.c.device, tables.preauthorised.c.used_ms)).all())
    assert used["cam-1"] is not None
    assert used["cam-2"] is None


def test_a_list_is_taken_whole_or_not_at_all(enrolment: Enrolment, registry: Registry, db: Database) -> None:
    member = new_key()
    enrolment.enrol(Application("cam-1", request(member), enrolment.new_token("cam-1")))
    good = "ab" * 32
    with pytest.raises(Conflict, match="cam-1 is accepted"):
        registry.preauthorise(parse(f"cam-0,{good}\ncam-1,{good}\n"))
    with pytest.raises(InvalidInput) as caught:
        parse(f'cam-0,{good}\n../x,{good}\ncam-2,xyz\ncam-3\ncam-0,{good}\n"two\nlines",{good}\ncontroller,{good}')
    numbers = ("line 2:", "line 3:", "line 4:", "line 5: cam-0 comes twice", "line 7:", "line 8:")
    assert all(number in caught.value.why for number in numbers), caught.value.why
    for hostile in ("", "# nothing\n", "a" * 200_000, "cam-1,\x00", '"'):
        with pytest.raises(InvalidInput):
            parse(hostile)
    with db.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.preauthorised)).scalar() == 0


def test_a_list_may_be_long(registry: Registry, db: Database, tmp_path: Path) -> None:
    path = tmp_path / "batch.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([(f"cam-{number}", f"{number:064x}") for number in range(5000)])
    registry.preauthorise(parse(path.read_text()))
    registry.preauthorise(parse(path.read_text()))  # again: the same
    assert len(registry.list(Device.PENDING)) == 5000


@pytest.mark.parametrize("length", [1, 31, 33, 4096])
def test_a_content_key_has_its_length(enrolment: Enrolment, length: int) -> None:
    with pytest.raises(InvalidInput, match="X25519"):
        enrolment.enrol(Application("cam-1", request(new_key()), content_public_key=bytes(length)))


def test_a_content_key_is_kept_from_the_claim_on(enrolment: Enrolment, registry: Registry, db: Database) -> None:
    key, content = new_key(), bytes(range(32))
    asked = Application("cam-1", make_request("cam-1", key, content), content_public_key=content)
    enrolment.enrol(asked)
    registry.accept("cam-1")
    assert enrolment.enrol(asked).certificate_pem
    with db.read() as connection:
        assert connection.execute(select(tables.device.c.content_public_key)).scalar() == content


def test_who_sends_a_devices_request_again_cannot_name_a_content_key_of_his_own(
    enrolment: Enrolment, registry: Registry, db: Database
) -> None:
    content, thiefs = bytes(range(32)), bytes(range(1, 33))
    asked = make_request("cam-1", new_key(), content)
    enrolment.enrol(Application("cam-1", asked, content_public_key=content))
    registry.accept("cam-1")
    with pytest.raises(InvalidInput, match="does not name the content key"):
        enrolment.enrol(Application("cam-1", asked, content_public_key=thiefs))
    with db.read() as connection:
        assert connection.execute(select(tables.device.c.content_public_key)).scalar() == content
