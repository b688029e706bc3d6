"""The fleet's certificate authority: P-256, one level, client and server certificates kept apart (RFC 5280).

A device's certificate says what this authority says, never what the request says: its common name and its one URI
(``urn:dsops:device:<id>``) are the device's name. The broker takes the common name, gRPC the URI.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from dsops.clock import Clock
from dsops.errors import Conflict, InvalidInput, NotFound, StateDamaged
from dsops.files import write_atomically, write_secret
from dsops.ids import device_id
from dsops_controller.fleet.issuer import (
    DEVICE_LIFE,
    DEVICE_URI,
    DeviceCertificate,
    Revoked,
    key_text,
    requested_key,
    serial_of,
)

CONTROLLER = "controller"
REVOCATIONS = "crl.pem"
EMPTY_LIST_LIFE = timedelta(days=365)
CA_LIFE = timedelta(days=3652)
HOST_LIFE = timedelta(days=825)
BACKDATE = timedelta(hours=1)
"""Certificates are valid from a little before now on, for clocks that are slow; but not for longer than after it."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes

    def save(self, folder: Path, name: str) -> None:
        """Write ``<name>.key`` (mode 0600), then ``<name>.crt``."""
        write_secret(folder / f"{name}.key", self.key_pem)
        write_atomically(folder / f"{name}.crt", self.certificate_pem)


class Authority:
    """Signs certificates with the key in one folder (``ca.crt``, ``ca.key``); an :class:`~.issuer.Issuer`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def create(cls, folder: Path, fleet: str, clock: Clock) -> "Authority":
        """Make the authority's key, its certificate, and an empty list of revoked certificates.

        Raises:
            Conflict: There is one already.
            InvalidInput: The fleet's name cannot be a name in a certificate.
        """
        if (folder / "ca.crt").exists():
            raise Conflict("there is a certificate authority already", why=str(folder))
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"dsops {fleet[:50]} CA")  # a common name has at most 64 characters
        builder = _builder(subject, subject, key.public_key(), clock, CA_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(certificates=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        Issued(_certificate_pem(certificate), _key_pem(key)).save(folder, "ca")
        made = cls(certificate, key, clock)
        since = clock.now() - BACKDATE
        write_atomically(folder / REVOCATIONS, made.revocation_list((), since, since + EMPTY_LIST_LIFE))
        return made

    @classmethod
    def load(cls, folder: Path, clock: Clock) -> "Authority":
        """Read the authority's key and certificate.

        Raises:
            NotFound: There is none.
            StateDamaged: The files cannot be read or do not belong together.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as error:
            hint = "set the server up first: dsops server init"
            raise NotFound("there is no certificate authority", why=str(folder), hint=hint) from error
        except (OSError, ValueError, TypeError) as error:
            raise StateDamaged("the certificate authority cannot be read", why=str(error)) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StateDamaged("the certificate authority is damaged", why="ca.key does not fit ca.crt")
        return cls(certificate, key, clock)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return _certificate_pem(self._certificate)

    @property
    def chain_pem(self) -> bytes:
        """Whom broker and store believe: this authority."""
        return self.certificate_pem

    def issue_server(self, names: Sequence[str]) -> Issued:
        """Return a server's certificate for host names and IP addresses; the first is its common name.

        Raises:
            InvalidInput: No name is given, or one is not a host name.
        """
        if not names:
            raise InvalidInput("a server's certificate needs a name")
        san = x509.SubjectAlternativeName([_host(name) for name in names])
        return self._issue(names[0], san, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(self, name: str = CONTROLLER, life: timedelta = HOST_LIFE) -> Issued:
        """Return a client's certificate for a program of the operator; ``name`` becomes its identity at the broker."""
        return self._issue(name, _program(name), ExtendedKeyUsageOID.CLIENT_AUTH, life)

    def issue_evictor(self, device: str, life: timedelta) -> Issued:
        """Return a certificate under a device's name at the broker, for a moment, to take over the device's session.

        It has no device URI, so no gRPC interface ever takes it for the device.

        Raises:
            InvalidInput: The name is not a device's.
        """
        return self._issue(device_id(device), _program("evictor"), ExtendedKeyUsageOID.CLIENT_AUTH, life)

    def issue_device(self, request_der: bytes, device: str, life: timedelta = DEVICE_LIFE) -> DeviceCertificate:
        """Answer a device's signing request (PKCS #10, DER, P-256).

        Only the public key is taken from it; its subject and extensions are ignored.

        Raises:
            InvalidInput: The request is not one, is not signed by its key, or its key is not P-256; or the name is not
                a device's.
        """
        name = device_id(device)
        key = requested_key(request_der)
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE_URI + name)])
        certificate = self._leaf(name, key, san, ExtendedKeyUsageOID.CLIENT_AUTH, life)
        ends = certificate.not_valid_after_utc
        return DeviceCertificate(_certificate_pem(certificate), serial_of(certificate), key_text(key), ends)

    def revocation_list(self, revoked: Sequence[Revoked], since: datetime, until: datetime) -> bytes:
        """Return the signed list of revoked certificates (PEM, RFC 5280 section 5).

        Its number rises with ``since``, which must be later than that of the list before: OpenSSL keeps the old one
        beside the new one, and believes the one with the later date.
        """
        builder = x509.CertificateRevocationListBuilder(
            self._certificate.subject, since, until, [], [_entry(one) for one in revoked]
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(x509.CRLNumber(int(since.timestamp())), critical=False)
        made = builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def _issue(
        self, name: str, san: x509.SubjectAlternativeName, purpose: ObjectIdentifier, life: timedelta = HOST_LIFE
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._leaf(name, key.public_key(), san, purpose, life)
        return Issued(_certificate_pem(certificate), _key_pem(key))

    def _leaf(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        san: x509.SubjectAlternativeName,
        purpose: ObjectIdentifier,
        life: timedelta,
    ) -> x509.Certificate:
        builder = _builder(_name(name), self._certificate.subject, key, self._clock, life)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(san, critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())


def _program(name: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:dsops:program:{name}")])


def _entry(revoked: Revoked) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(int(revoked.serial, 16))
    return builder.revocation_date(revoked.since).build()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, clock: Clock, life: timedelta
) -> x509.CertificateBuilder:
    now = clock.now()
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - min(BACKDATE, life)).not_valid_after(now + life)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    """Return the key usage of an authority (signs certificates and lists) or of a leaf (signs handshakes)."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError as error:
        raise InvalidInput(f"{text[:80]!r} cannot be a name in a certificate", why=str(error)) from error


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise InvalidInput(f"{name!r} is not a host name or an address", why=str(error)) from error


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
