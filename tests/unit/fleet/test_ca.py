"""Certificates: what the authority issues is what a strict verifier accepts, and only for its purpose."""

import ssl
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from dsops.clock import ManualClock, SystemClock
from dsops.errors import Conflict, InvalidInput, NotFound, StateDamaged
from dsops_controller.fleet.ca import Authority
from dsops_controller.fleet.issuer import MAX_REQUEST_BYTES, Issuer, Revoked, device_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "lab", ManualClock(NOW))


def request(name: str = "anything", key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    wanted = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:dsops:device:victim")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(wanted, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


def policy(authority: Authority, at: datetime) -> PolicyBuilder:
    return PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority.certificate_pem)])).time(at)


def test_a_server_is_verified_by_name_and_by_address(authority: Authority) -> None:
    issued = authority.issue_server(["store.example", "127.0.0.1", "::1"])
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    for subject in (x509.DNSName("store.example"), x509.IPAddress(ip_address("127.0.0.1"))):
        chain = policy(authority, NOW).build_server_verifier(subject).verify(leaf, [])
        assert len(chain) == 2
    with pytest.raises(VerificationError):
        policy(authority, NOW).build_server_verifier(x509.DNSName("other.example")).verify(leaf, [])
    with pytest.raises(VerificationError):
        policy(authority, NOW).build_client_verifier().verify(leaf, [])


def test_a_device_is_verified_as_a_client_only_and_for_its_time(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_device(request(), "cam-1").certificate_pem)
    verified = policy(authority, NOW).build_client_verifier().verify(leaf, [])
    assert [name.value for name in verified.subjects or []] == ["urn:dsops:device:cam-1"]
    for late in (NOW + timedelta(days=91), NOW - timedelta(days=1)):
        with pytest.raises(VerificationError):
            policy(authority, late).build_client_verifier().verify(leaf, [])
    policy(authority, NOW + timedelta(days=89)).build_client_verifier().verify(leaf, [])


def test_a_devices_name_comes_from_the_authority_not_from_the_request(authority: Authority) -> None:
    issued = authority.issue_device(request("controller"), "cam-1")
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert leaf.subject.rfc4514_string() == "CN=cam-1"
    assert device_of(leaf) == "cam-1"
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert f"{leaf.serial_number:x}" == issued.serial


def test_a_device_cannot_act_as_an_authority(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    device = x509.load_pem_x509_certificate(authority.issue_device(request(key=key), "cam-1").certificate_pem)
    forged = Authority(device, key, ManualClock(NOW)).issue_device(request(), "cam-2")
    leaf = x509.load_pem_x509_certificate(forged.certificate_pem)
    with pytest.raises(VerificationError):
        policy(authority, NOW).build_client_verifier().verify(leaf, [device])


def test_another_authority_of_the_same_name_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "lab", ManualClock(NOW))
    leaf = x509.load_pem_x509_certificate(other.issue_device(request(), "cam-1").certificate_pem)
    with pytest.raises(VerificationError):
        policy(authority, NOW).build_client_verifier().verify(leaf, [])


def test_the_controllers_certificate_names_no_device(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_client().certificate_pem)
    policy(authority, NOW).build_client_verifier().verify(leaf, [])
    assert leaf.subject.rfc4514_string() == "CN=controller"
    assert device_of(leaf) is None


@pytest.mark.parametrize("name", ["controller", "../x", "", "a" * 65, "cam 1", "cam\n1"])
def test_names_that_are_no_devices_get_no_certificate(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidInput):
        authority.issue_device(request(), name)


def test_malformed_requests_are_refused(authority: Authority) -> None:
    good = request()
    altered = good.replace(b"anything", b"anythinG")
    wrong_curve = request(key=ec.generate_private_key(ec.SECP384R1()))
    wrong_kind = request(key=rsa.generate_private_key(65537, 2048))
    for bad in (b"", b"\x30\x00", good[:-3], altered, wrong_curve, wrong_kind, good + b"\0" * MAX_REQUEST_BYTES):
        with pytest.raises(InvalidInput):
            authority.issue_device(bad, "cam-1")


def test_a_server_needs_a_sound_name(authority: Authority) -> None:
    for names in ([], ["münchen.example"], ["x" * 80]):
        with pytest.raises(InvalidInput):
            authority.issue_server(names)


def handshake(server: ssl.SSLObject, client: ssl.SSLObject, pipes: tuple[ssl.MemoryBIO, ...]) -> None:
    to_server, from_server, to_client, from_client = pipes
    for _ in range(10):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            to_server.write(from_client.read())
            to_client.write(from_server.read())


def tls(authority: Authority, folder: Path, client_name: str, server_name: str) -> ssl.SSLObject:
    """Shake hands with both certificates, strictly checked on both sides; return the server's view."""
    (folder / "trusted.pem").write_bytes(authority.certificate_pem)
    authority.issue_server(["127.0.0.1", "store.example"]).save(folder, "server")
    authority.issue_client(client_name).save(folder, "client")
    contexts = []
    for protocol, name in ((ssl.PROTOCOL_TLS_SERVER, "server"), (ssl.PROTOCOL_TLS_CLIENT, "client")):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(folder / "trusted.pem")
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        contexts.append(context)
    pipes = tuple(ssl.MemoryBIO() for _ in range(4))
    server = contexts[0].wrap_bio(pipes[0], pipes[1], server_side=True)
    client = contexts[1].wrap_bio(pipes[2], pipes[3], server_hostname=server_name)
    handshake(server, client, pipes)
    return server


def test_both_sides_of_a_strict_tls_handshake_accept_the_certificates(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "f" * 64, SystemClock())
    for name in ("127.0.0.1", "store.example"):
        peer = tls(authority, tmp_path, "controller", name).getpeercert()
        assert peer is not None
        assert peer["subject"] == ((("commonName", "controller"),),)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls(authority, tmp_path, "controller", "192.0.2.1")


def test_the_authority_is_stored_and_its_key_is_private(authority: Authority, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    again = Authority.load(tmp_path / "ca", ManualClock(NOW))
    leaf = x509.load_pem_x509_certificate(again.issue_device(request(), "cam-1").certificate_pem)
    policy(authority, NOW).build_client_verifier().verify(leaf, [])
    with pytest.raises(Conflict):
        Authority.create(tmp_path / "ca", "lab", ManualClock(NOW))


def test_a_missing_or_damaged_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Authority.load(tmp_path / "nowhere", ManualClock(NOW))
    other = Authority.create(tmp_path / "other", "lab", ManualClock(NOW))
    (tmp_path / "ca" / "ca.crt").write_bytes(other.certificate_pem)
    with pytest.raises(StateDamaged, match="damaged"):
        Authority.load(tmp_path / "ca", ManualClock(NOW))
    (tmp_path / "ca" / "ca.crt").write_bytes(authority.certificate_pem[:40])
    with pytest.raises(StateDamaged, match="cannot be read"):
        Authority.load(tmp_path / "ca", ManualClock(NOW))


def test_the_list_of_revoked_certificates_is_signed_and_numbered(authority: Authority) -> None:
    serials = [authority.issue_device(request(), f"cam-{number}").serial for number in range(3)]
    made = authority.revocation_list([Revoked(serial, NOW) for serial in serials[:2]], NOW, NOW + timedelta(days=1))
    found = x509.load_pem_x509_crl(made)
    key = x509.load_pem_x509_certificate(authority.certificate_pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert found.is_signature_valid(key)
    assert {f"{entry.serial_number:x}" for entry in found} == set(serials[:2])
    assert (found.last_update_utc, found.next_update_utc) == (NOW, NOW + timedelta(days=1))
    later = x509.load_pem_x509_crl(authority.revocation_list((), NOW + timedelta(seconds=1), NOW + timedelta(days=1)))
    numbers = [one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in (found, later)]
    assert numbers[0] < numbers[1]


def test_an_evictor_has_a_devices_name_for_minutes_and_is_no_device(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.issue_evictor("cam-1", timedelta(minutes=10)).certificate_pem)
    assert leaf.subject.rfc4514_string() == "CN=cam-1"
    assert device_of(leaf) is None
    assert leaf.not_valid_after_utc == NOW + timedelta(minutes=10)
    with pytest.raises(InvalidInput):
        authority.issue_evictor("controller", timedelta(minutes=10))


def test_a_certificate_lives_as_long_as_it_is_asked_for(authority: Authority) -> None:
    made = authority.issue_device(request(), "cam-1", timedelta(days=3))
    brief = authority.issue_device(request(), "cam-1", timedelta(minutes=1))
    assert made.expires == NOW + timedelta(days=3)
    begins = [x509.load_pem_x509_certificate(one.certificate_pem).not_valid_before_utc for one in (made, brief)]
    assert begins == [NOW - timedelta(hours=1), NOW - timedelta(minutes=1)]
    assert x509.load_pem_x509_certificate(made.certificate_pem).not_valid_after_utc == made.expires


def test_a_certificate_with_two_device_names_names_none(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    uris = [x509.UniformResourceIdentifier(f"urn:dsops:device:cam-{number}") for number in range(2)]
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(1)
    builder = builder.public_key(key.public_key()).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    for names, expected in ((uris, None), (uris[:1], "cam-0")):
        made = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, hashes.SHA256())
        assert device_of(made) == expected


def test_the_authority_is_an_issuer(authority: Authority) -> None:
    issuer: Issuer = authority
    assert issuer.chain_pem == authority.certificate_pem
