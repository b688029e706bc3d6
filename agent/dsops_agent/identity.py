"""The device's identity on disk: its private key, its certificate, whom it trusts, and where to connect to.

``fleet.json`` is written last, so an identity is complete exactly when that file is there.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.errors import StateDamaged
from dsops.files import fsync_folder, write_atomically, write_secret
from dsops.manifest import Frozen, first_problem


class Fleet(Frozen):
    """Where the device belongs and connects to; ``broker`` and ``store`` are ``host:port``."""

    fleet: str = Field(min_length=1, max_length=64)
    broker: str = Field(min_length=3, max_length=300)
    store: str = Field(min_length=3, max_length=300)
    topic_prefix: str = Field(min_length=1, max_length=64)


@dataclass(frozen=True)
class Identity:
    """A complete identity.

    Attributes:
        key: Signs reports and proves the identity in TLS.
        expires: End of the certificate's validity.
    """

    device: str
    fleet: Fleet
    key: ec.EllipticCurvePrivateKey
    expires: datetime
    folder: Path

    @property
    def key_path(self) -> Path:
        """The private key, PEM."""
        return self.folder / "device.key"

    @property
    def certificate_path(self) -> Path:
        """The certificate chain, leaf first, PEM."""
        return self.folder / "device.crt"

    @property
    def ca_path(self) -> Path:
        """Whom the device trusts as broker and store, PEM."""
        return self.folder / "ca.crt"


class IdentityFolder:
    """The folder ``identity`` of the state folder. Nobody but its owner can look into it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, device: str) -> Identity | None:
        """Return the identity, or None while the device has none.

        Raises:
            StateDamaged: It cannot be read, its parts do not belong together, or it is another device's.
        """
        if not self._path("fleet.json").exists():
            return None
        try:
            fleet = Fleet.model_validate(strictjson.loads(self._path("fleet.json").read_bytes()))
            certificate = x509.load_pem_x509_certificate(self._path("device.crt").read_bytes())
            x509.load_pem_x509_certificates(self._path("ca.crt").read_bytes())
        except ValidationError as error:
            raise self._damaged(f"fleet.json: {first_problem(error)}") from error
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        key = self.key()
        problem = certificate_problem(certificate, device, key)
        if problem:
            raise self._damaged(problem)
        return Identity(device, fleet, key, certificate.not_valid_after_utc, self._folder)

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return the device's P-256 key; it is made when there is none yet and never leaves the device.

        Raises:
            StateDamaged: The file is not such a key.
            NoSpace: The disk is full.
        """
        path = self._path("device.key")
        if not path.exists():
            write_secret(self._path("device.key"), _pem(ec.generate_private_key(ec.SECP256R1())))
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(f"device.key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise self._damaged("device.key is not a P-256 key")
        return key

    def content_key(self) -> X25519PrivateKey:
        """Return the key that content keys of sealed bundles are wrapped to; made when there is none yet.

        Raises:
            StateDamaged: The file is not such a key.
            NoSpace: The disk is full.
        """
        path = self._path("content.key")
        if not path.exists():
            write_secret(path, _pem(X25519PrivateKey.generate()))
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(f"content.key: {error}") from error
        if not isinstance(key, X25519PrivateKey):
            raise self._damaged("content.key is not an X25519 key")
        return key

    def request(self, device: str) -> bytes:
        """Return the certificate signing request (PKCS #10, DER); the same bytes each time.

        Raises:
            StateDamaged: The key cannot be read.
            NoSpace: The disk is full.
        """
        path = self._path("device.csr")
        if path.exists():
            known = path.read_bytes()
            if _is_request_of(known, device, self.key()):
                return known
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key(), hashes.SHA256())
        write_atomically(path, request.public_bytes(serialization.Encoding.DER))
        return path.read_bytes()

    def complete(self, certificate_pem: bytes, ca_pem: bytes, fleet: Fleet) -> None:
        """Write what the controller answered; a kill in between leaves an identity that is not complete.

        Raises:
            NoSpace: The disk is full.
        """
        self._path("fleet.json").unlink(missing_ok=True)
        fsync_folder(self._folder)
        write_atomically(self._path("ca.crt"), ca_pem)
        write_atomically(self._path("device.crt"), certificate_pem)
        write_atomically(self._path("fleet.json"), strictjson.dumps(fleet.model_dump(mode="json")))

    def _path(self, name: str) -> Path:
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, parents=True)
        return self._folder / name

    def _damaged(self, why: str) -> StateDamaged:
        return StateDamaged(
            f"the identity in {self._folder} cannot be used",
            why=why,
            hint=f"remove {self._folder} and enrol the device again with a new token",
        )


def certificate_problem(certificate: x509.Certificate, device: str, key: ec.EllipticCurvePrivateKey) -> str:
    """Return why a certificate is not this device's, or an empty text."""
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device]:
        return f"the certificate is for {', '.join(names) or 'nobody'}, this device is {device}"
    if certificate.public_key() != key.public_key():
        return "the certificate is for another key"
    return ""


def _pem(key: ec.EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _is_request_of(der: bytes, device: str, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        request = x509.load_der_x509_csr(der)
    except ValueError:
        return False
    names = [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return request.public_key() == key.public_key() and names == [device]
