"""Enrolment on the device: the key, the request, what a kill leaves, what is refused."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.bundle import sha256_hex
from dsops.clock import SystemClock
from dsops.errors import (
    DeviceBarred,
    EnrolmentFull,
    EnrolmentPending,
    EnrolmentRefused,
    Interrupted,
    InvalidConfig,
    StateDamaged,
    StoreUnreachable,
)
from dsops.renewal import check_proof
from dsops_agent.config import Enrolment
from dsops_agent.enrol import Applicant, enrol_until_done, pending_wait_s
from dsops_agent.identity import Identity, IdentityFolder

CA_KEY = ec.generate_private_key(ec.SECP256R1())


def name(cn: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def issue(cn: str, key: ec.EllipticCurvePublicKey) -> bytes:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(cn))
        .issuer_name(name("authority"))
        .public_key(key)
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(CA_KEY, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def requested_key(request: EnrolRequest) -> ec.EllipticCurvePublicKey:
    key = x509.load_der_x509_csr(request.csr_der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def good(request: EnrolRequest) -> EnrolReply:
    return EnrolReply(
        certificate_pem=issue(request.device, requested_key(request)),
        ca_pem=issue("authority", CA_KEY.public_key()),
        fleet="f",
        broker="b:1",
        store="s:2",
        topic_prefix="dsops/v1",
    )


@pytest.fixture
def settings(tmp_path: Path) -> Enrolment:
    (tmp_path / "token").write_text(" secret \n")
    return Enrolment.model_validate({"address": "h:1", "ca": tmp_path / "ca", "token": tmp_path / "token"})


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    return IdentityFolder(tmp_path / "identity")


def applicant(
    settings: Enrolment, folder: IdentityFolder, ask: Callable[[EnrolRequest], EnrolReply] = good
) -> Applicant:
    return Applicant("cam-1", settings, folder, {"os": "x"}, ask, SystemClock())


def try_enrol(
    settings: Enrolment, folder: IdentityFolder, ask: Callable[[EnrolRequest], EnrolReply] = good
) -> Identity:
    asking = applicant(settings, folder, ask)
    return asking.enrol(asking.new_token())


def token_of(settings: Enrolment) -> Path:
    assert settings.token is not None
    return settings.token


def test_a_device_without_identity_gets_one(settings: Enrolment, folder: IdentityFolder, tmp_path: Path) -> None:
    asked: list[EnrolRequest] = []
    assert folder.load("cam-1") is None

    def ask(request: EnrolRequest) -> EnrolReply:
        asked.append(request)
        return good(request)

    identity = try_enrol(settings, folder, ask)
    assert (asked[0].device, asked[0].token, dict(asked[0].facts)) == ("cam-1", "secret", {"os": "x"})
    assert (identity.fleet.broker, identity.fleet.store) == ("b:1", "s:2")
    assert identity.key.public_key() == requested_key(asked[0])
    assert not token_of(settings).exists()
    assert (tmp_path / "identity").stat().st_mode & 0o077 == 0
    assert identity.key_path.stat().st_mode & 0o777 == 0o600
    again = folder.load("cam-1")
    assert again is not None
    assert again.fleet == identity.fleet


def test_a_retry_sends_the_same_request(settings: Enrolment, folder: IdentityFolder, tmp_path: Path) -> None:
    sent: list[bytes] = []

    def away(request: EnrolRequest) -> EnrolReply:
        sent.append(request.csr_der)
        raise StoreUnreachable("away")

    for known in (folder, IdentityFolder(tmp_path / "identity")):  # the second one as after a restart
        with pytest.raises(StoreUnreachable):
            try_enrol(settings, known, away)
    assert sent[0] == sent[1]
    assert token_of(settings).exists()


def test_a_kill_between_the_files_leaves_no_identity_and_the_next_try_makes_one(
    settings: Enrolment, folder: IdentityFolder, tmp_path: Path
) -> None:
    try_enrol(settings, folder)
    key = folder.load("cam-1")
    assert key is not None
    for survivors in (("device.key",), ("device.key", "ca.crt"), ("device.key", "ca.crt", "device.crt"), ()):
        (tmp_path / "identity/active").unlink()
        for path in (tmp_path / "identity/1").iterdir():
            if path.name not in survivors:
                path.unlink()
        assert folder.load("cam-1") is None
        token_of(settings).write_text("secret")
        again = try_enrol(settings, folder)
        assert (again.key.public_key() == key.key.public_key()) == bool(survivors)


@pytest.mark.parametrize(
    "spoil",
    [
        {"certificate_pem": b"none"},
        {"ca_pem": b""},
        {"broker": ""},
        {"fleet": "x" * 100},
        {"certificate_pem": issue("cam-1", CA_KEY.public_key())},
    ],
)
def test_an_answer_that_cannot_be_used_changes_nothing(
    settings: Enrolment, folder: IdentityFolder, spoil: dict[str, str | bytes]
) -> None:
    def ask(request: EnrolRequest) -> EnrolReply:
        reply = good(request)
        for field, value in spoil.items():
            setattr(reply, field, value)
        return reply

    with pytest.raises(EnrolmentRefused, match="cannot be used"):
        try_enrol(settings, folder, ask)
    assert folder.load("cam-1") is None
    assert token_of(settings).exists()


def test_a_certificate_for_another_name_is_refused(settings: Enrolment, folder: IdentityFolder) -> None:
    def ask(request: EnrolRequest) -> EnrolReply:
        reply = good(request)
        reply.certificate_pem = issue("cam-2", requested_key(request))
        return reply

    with pytest.raises(EnrolmentRefused) as caught:
        try_enrol(settings, folder, ask)
    assert "cam-2" in caught.value.why


@pytest.mark.parametrize("text", ["", " \n", "x" * 5000])
def test_a_token_that_is_empty_or_too_long_is_a_configuration_error(
    settings: Enrolment, folder: IdentityFolder, text: str
) -> None:
    token_of(settings).write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        try_enrol(settings, folder)
    assert caught.value.details["key"] == "enrolment.token"


@pytest.mark.parametrize("file", ["device.key", "device.crt", "ca.crt", "fleet.json"])
def test_a_damaged_identity_is_named_as_such(
    settings: Enrolment, folder: IdentityFolder, tmp_path: Path, file: str
) -> None:
    try_enrol(settings, folder)
    (tmp_path / "identity/1" / file).write_bytes(b"\x00damaged")
    with pytest.raises(StateDamaged) as caught:
        folder.load("cam-1")
    assert "dsops-agent identity reset" in caught.value.hint


def test_an_identity_of_another_device_is_not_used(settings: Enrolment, folder: IdentityFolder) -> None:
    try_enrol(settings, folder)
    with pytest.raises(StateDamaged) as caught:
        folder.load("cam-2")
    assert "cam-1" in caught.value.why


def test_a_refusal_is_not_tried_again_and_a_silence_is() -> None:
    tries: list[int] = []

    def attempt() -> Identity:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnreachable("away")
        raise EnrolmentRefused("no")

    with pytest.raises(EnrolmentRefused):
        enrol_until_done(attempt, threading.Event(), most_s=0.01)
    assert len(tries) == 3


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()

    def attempt() -> Identity:
        stop.set()
        raise StoreUnreachable("away")

    with pytest.raises(Interrupted):
        enrol_until_done(attempt, stop, most_s=60.0)


@pytest.mark.parametrize("has_key", [True, False])
def test_without_a_token_the_same_request_waits_for_an_operator(
    settings: Enrolment, folder: IdentityFolder, has_key: bool
) -> None:
    token_of(settings).unlink()
    changed = settings if has_key else settings.model_copy(update={"token": None})
    asked: list[EnrolRequest] = []

    def ask(request: EnrolRequest) -> EnrolReply:
        asked.append(request)
        return EnrolReply(pending=True, retry_s=7) if len(asked) < 3 else good(request)

    for _ in range(2):
        with pytest.raises(EnrolmentPending) as caught:
            try_enrol(changed, folder, ask)
        assert caught.value.what == "pending: waits for dsops device accept cam-1"
        assert sha256_hex(spki(requested_key(asked[-1]))) in caught.value.why
        assert caught.value.details["retry_s"] == 7
    try_enrol(changed, folder, ask)
    assert [(request.token, request.proof) for request in asked] == [("", b"")] * 3
    assert len({request.csr_der for request in asked}) == 1


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("said", "kept"), [(0, 1.0), (30, 30.0), (1 << 31, 3600.0)])
def test_when_to_ask_again_is_bounded_and_spread(
    settings: Enrolment, folder: IdentityFolder, said: int, kept: float
) -> None:
    with pytest.raises(EnrolmentPending) as caught:
        try_enrol(settings, folder, lambda _: EnrolReply(pending=True, retry_s=said))
    assert pending_wait_s(caught.value, 0.0) == 0.75 * kept
    assert pending_wait_s(caught.value, 0.5) == kept


def test_the_content_key_is_made_once_and_its_public_half_is_sent(
    settings: Enrolment, folder: IdentityFolder, tmp_path: Path
) -> None:
    asked: list[EnrolRequest] = []

    def ask(request: EnrolRequest) -> EnrolReply:
        asked.append(request)
        return good(request)

    try_enrol(settings, folder, ask)
    again = IdentityFolder(tmp_path / "identity").content_key()
    assert asked[0].content_public_key == again.public_key().public_bytes_raw()
    assert (tmp_path / "identity/content.key").stat().st_mode & 0o777 == 0o600


def test_a_device_that_was_away_proves_its_key_and_gets_a_new_one(settings: Enrolment, folder: IdentityFolder) -> None:
    old = try_enrol(settings, folder)
    asked: list[EnrolRequest] = []

    def ask(request: EnrolRequest) -> EnrolReply:
        asked.append(request)
        return good(request)

    new = applicant(settings, folder, ask).enrol("", old)
    check_proof(asked[0].proof, "cam-1", asked[0].csr_der, old.key.public_key())
    assert new.key.public_key() == requested_key(asked[0]) != old.key.public_key()
    assert new.number == old.number + 1
    token_of(settings).write_text("second")
    applicant(settings, folder, ask).enrol("second", new)
    assert (asked[1].token, asked[1].proof) == ("second", b"")


def test_a_token_that_was_used_is_deleted_and_another_one_is_not(settings: Enrolment, folder: IdentityFolder) -> None:
    try_enrol(settings, folder)
    token_of(settings).write_text("secret\n")  # as after a kill just before it was deleted
    assert applicant(settings, folder).new_token() == ""
    assert not token_of(settings).exists()
    token_of(settings).write_text("another")
    assert applicant(settings, folder).new_token() == "another"
    assert token_of(settings).exists()


def test_an_answer_for_another_fleet_changes_nothing(settings: Enrolment, folder: IdentityFolder) -> None:
    old = try_enrol(settings, folder)

    def ask(request: EnrolRequest) -> EnrolReply:
        reply = good(request)
        reply.fleet = "another"
        return reply

    with pytest.raises(EnrolmentRefused, match="cannot be used"):
        applicant(settings, folder, ask).enrol("", old)
    known = folder.load("cam-1")
    assert known is not None
    assert known.certificate == old.certificate


@pytest.mark.parametrize("passing", [EnrolmentFull("full"), EnrolmentPending("wait", retry_s=0.01)])
def test_who_waits_asks_until_an_operator_decides(passing: EnrolmentRefused) -> None:
    answers = [passing, passing, DeviceBarred("rejected")]

    def attempt() -> Identity:
        raise answers.pop(0)

    with pytest.raises(DeviceBarred):
        enrol_until_done(attempt, threading.Event(), most_s=0.01)
    assert answers == []
