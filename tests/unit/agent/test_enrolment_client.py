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
from dsops.errors import EnrolmentRefused, Interrupted, InvalidConfig, StateDamaged, StoreUnreachable
from dsops_agent.config import Enrolment
from dsops_agent.enrol import enrol, enrol_until_done
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


def try_enrol(
    settings: Enrolment, folder: IdentityFolder, ask: Callable[[EnrolRequest], EnrolReply] = good
) -> Identity:
    return enrol("cam-1", settings, folder, {"os": "x"}, ask)


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
    assert not settings.token.exists()
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
    assert settings.token.exists()


def test_a_kill_between_the_files_leaves_no_identity_and_the_next_try_makes_one(
    settings: Enrolment, folder: IdentityFolder, tmp_path: Path
) -> None:
    try_enrol(settings, folder)
    for survivors in (("device.key",), ("device.key", "ca.crt"), ("device.key", "ca.crt", "device.crt"), ()):
        for path in (tmp_path / "identity").iterdir():
            if path.name not in survivors:
                path.unlink()
        assert folder.load("cam-1") is None
        settings.token.write_text("secret")
        assert try_enrol(settings, folder).device == "cam-1"


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
    assert settings.token.exists()


def test_a_certificate_for_another_name_is_refused(settings: Enrolment, folder: IdentityFolder) -> None:
    def ask(request: EnrolRequest) -> EnrolReply:
        reply = good(request)
        reply.certificate_pem = issue("cam-2", requested_key(request))
        return reply

    with pytest.raises(EnrolmentRefused) as caught:
        try_enrol(settings, folder, ask)
    assert "cam-2" in caught.value.why


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_a_token_that_is_absent_or_empty_is_a_configuration_error(
    settings: Enrolment, folder: IdentityFolder, text: str | None
) -> None:
    settings.token.unlink()
    if text is not None:
        settings.token.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        try_enrol(settings, folder)
    assert caught.value.details["key"] == "enrolment.token"


@pytest.mark.parametrize("file", ["device.key", "device.crt", "ca.crt", "fleet.json"])
def test_a_damaged_identity_is_named_as_such(
    settings: Enrolment, folder: IdentityFolder, tmp_path: Path, file: str
) -> None:
    try_enrol(settings, folder)
    (tmp_path / "identity" / file).write_bytes(b"\x00damaged")
    with pytest.raises(StateDamaged) as caught:
        folder.load("cam-1")
    assert "enrol" in caught.value.hint


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


def test_a_device_asks_with_the_key_that_content_keys_are_wrapped_to(
    settings: Enrolment, folder: IdentityFolder
) -> None:
    asked: list[EnrolRequest] = []

    def ask(request: EnrolRequest) -> EnrolReply:
        asked.append(request)
        return good(request)

    identity = try_enrol(settings, folder, ask)
    own = folder.content_key()
    assert asked[0].content_public_key == own.public_key().public_bytes_raw()
    path = identity.folder / "content.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert IdentityFolder(identity.folder).content_key().private_bytes_raw() == own.private_bytes_raw()
    path.write_bytes((identity.folder / "device.key").read_bytes())
    with pytest.raises(StateDamaged, match="cannot be used"):
        folder.content_key()
    path.write_bytes(b"nonsense")
    with pytest.raises(StateDamaged):
        folder.content_key()
