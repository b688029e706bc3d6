"""The device's identity on disk: private key, certificate, whom it trusts, where to connect to; the next one beside it.

Each identity has a folder of its own, numbered; the link ``active`` names the one in use, so that key and certificate
change together. The next one is made in the folder with the following number: key, signing request, then the answer.
The one before stays until the new one has worked. A kill or a power cut at any moment leaves the old one or the new one
in use. Order of the durable steps as in :mod:`dsops_agent.install.slots`: files, their folder, its parent, the link.
"""

import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from dsops import dsse, strictjson
from dsops.errors import StateDamaged
from dsops.files import fsync_folder, write_atomically, write_secret
from dsops.manifest import Frozen, first_problem
from dsops.signing_request import make_request, names_content_key

_LINK = "active"
_CONTENT_KEY = "content.key"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


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
        certificate: The leaf.
        folder: Holds the files of this identity and of no other.
    """

    device: str
    fleet: Fleet
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @property
    def number(self) -> int:
        """How many identities the device had, this one included."""
        return int(self.folder.name)

    @property
    def valid_from(self) -> datetime:
        """Begin of the certificate's validity."""
        return self.certificate.not_valid_before_utc

    @property
    def expires(self) -> datetime:
        """End of the certificate's validity."""
        return self.certificate.not_valid_after_utc

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
        self._lock = threading.RLock()

    # The identity in use.

    def load(self, device: str) -> Identity | None:
        """Return the identity in use, or None while the device has none.

        Raises:
            StateDamaged: It cannot be read, its parts do not belong together, or it is another device's.
        """
        number = self._active()
        return self._load(device, number) if number else None

    def before(self, device: str) -> Identity | None:
        """Return the identity before the one in use while it is kept, that is until the one in use has worked."""
        older = [number for number in self._numbers() if number < self._active()]
        try:
            return self._load(device, max(older)) if older else None
        except StateDamaged:  # half removed when the process was killed
            return None

    def worked(self, identity: Identity) -> None:
        """Give up what was before an identity, because it has worked."""
        with self._lock:
            self._remove(number for number in self._numbers() if number < identity.number)

    # The next identity.

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Return the P-256 key of the next identity; it is made when there is none yet and never leaves the device.

        Raises:
            StateDamaged: The file is not such a key.
            NoSpace: The disk is full.
        """
        with self._lock:
            path = self._next() / "device.key"
            if not path.exists():
                write_secret(path, _pem(ec.generate_private_key(ec.SECP256R1())))
            return self._read_key(path)

    def key_made(self) -> ec.EllipticCurvePrivateKey | None:
        """Return the key of the next identity if it was made; makes none.

        Raises:
            StateDamaged: The file is not such a key.
        """
        path = self._folder / str(self._active() + 1) / "device.key"
        return self._read_key(path) if path.exists() else None

    def request(self, device: str) -> bytes:
        """Return the signing request of the next identity (PKCS #10, DER); the same bytes each time.

        Raises:
            StateDamaged: The key cannot be read.
            NoSpace: The disk is full.
        """
        with self._lock:
            key, path = self.key(), self._next() / "device.csr"
            known = path.read_bytes() if path.exists() else b""
            content = self.content_key().public_key().public_bytes_raw()
            if not (_is_request_of(known, device, key) and names_content_key(known, content)):
                known = make_request(device, key, content)
                write_atomically(path, known)
            return known

    def complete(self, certificate_pem: bytes, ca_pem: bytes, fleet: Fleet, token_sha256: str = "") -> None:
        """Write what the controller answered and use the next identity from now on.

        Args:
            certificate_pem: For the key of :meth:`key`.
            ca_pem: Whom the device trusts as broker and store.
            fleet: Where it connects to.
            token_sha256: Digest of the token that was used, if one was.

        Raises:
            NoSpace: The disk is full; the identity in use stays.
        """
        with self._lock:
            used = token_sha256 or self._used_token()
            folder = self._next()
            write_atomically(folder / "ca.crt", ca_pem)
            write_atomically(folder / "device.crt", certificate_pem)
            write_atomically(folder / "token.sha256", used.encode())
            write_atomically(folder / "fleet.json", strictjson.dumps(fleet.model_dump(mode="json")))
            self._use(int(folder.name))

    def give_up_request(self) -> None:
        """Forget the key and the request of the next identity, so that new ones are made."""
        with self._lock:
            self._remove(number for number in self._numbers() if number > self._active())

    # What belongs to the device and no single identity.

    def content_key(self) -> x25519.X25519PrivateKey:
        """Return the X25519 key to which keys of encrypted payloads are wrapped; it is made when there is none yet.

        Raises:
            StateDamaged: The file is not such a key.
            NoSpace: The disk is full.
        """
        with self._lock:
            path = self._made() / _CONTENT_KEY
            if not path.exists():
                write_secret(path, _pem(x25519.X25519PrivateKey.generate()))
            key = self._parse(path)
        if not isinstance(key, x25519.X25519PrivateKey):
            raise self._damaged(f"{_CONTENT_KEY} is not an X25519 key")
        return key

    def was_used(self, token_sha256: str) -> bool:
        """Return whether the identity in use came by this token."""
        return token_sha256 == self._used_token()

    def sweep(self) -> None:
        """Remove what kills left behind: half-written files, and identities that nobody asks for any more."""
        if self._folder.exists():
            for path in self._folder.rglob(".*.tmp"):
                path.unlink()
            self._remove(number for number in self._numbers() if number > self._active() + 1)

    def reset(self) -> None:
        """Remove every key and certificate. A kill leaves no identity, or one that is whole."""
        if self._folder.exists():
            (self._folder / _LINK).unlink(missing_ok=True)
            fsync_folder(self._folder)
            shutil.rmtree(self._folder)
            fsync_folder(self._folder.parent)

    def _used_token(self) -> str:
        path = self._folder / _LINK / "token.sha256"
        return path.read_text() if path.exists() else ""

    def _made(self) -> Path:
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, parents=True)
            fsync_folder(self._folder.parent)
        return self._folder

    def _next(self) -> Path:
        folder = self._made() / str(self._active() + 1)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            fsync_folder(self._folder)
        return folder

    def _active(self) -> int:
        """Return the number of the identity in use, or 0."""
        link = self._folder / _LINK
        if not link.is_symlink():
            return 0
        name = str(link.readlink())
        if not _NUMBER.fullmatch(name):
            raise self._damaged(f"{_LINK} names {name}")
        return int(name)

    def _numbers(self) -> list[int]:
        return [int(entry.name) for entry in self._folder.iterdir() if _NUMBER.fullmatch(entry.name)]

    def _remove(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            shutil.rmtree(self._folder / str(number))
            fsync_folder(self._folder)

    def _use(self, number: int) -> None:
        fresh = self._folder / f".{_LINK}.tmp"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(str(number))
        fresh.replace(self._folder / _LINK)
        fsync_folder(self._folder)

    def _load(self, device: str, number: int) -> Identity:
        folder = self._folder / str(number)
        try:
            fleet = Fleet.model_validate(strictjson.loads((folder / "fleet.json").read_bytes()))
            certificate = x509.load_pem_x509_certificate((folder / "device.crt").read_bytes())
            x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
        except ValidationError as error:
            raise self._damaged(f"fleet.json: {first_problem(error)}") from error
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        key = self._read_key(folder / "device.key")
        problem = certificate_problem(certificate, device, key)
        if problem:
            raise self._damaged(problem)
        return Identity(device, fleet, key, certificate, folder)

    def _read_key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        key = self._parse(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise self._damaged(f"{path.name} is not a P-256 key")
        return key

    def _parse(self, path: Path) -> object:
        try:
            return serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(f"{path.name}: {error}") from error

    def _damaged(self, why: str) -> StateDamaged:
        return StateDamaged(
            f"the identity in {self._folder} cannot be used",
            why=why,
            hint="remove it with `dsops-agent identity reset` and enrol the device again with a new token",
        )


def certificate_problem(certificate: x509.Certificate, device: str, key: ec.EllipticCurvePrivateKey) -> str:
    """Return why a certificate is not this device's, or an empty text."""
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device]:
        return f"the certificate is for {', '.join(names) or 'nobody'}, this device is {device}"
    if certificate.public_key() != key.public_key():
        return "the certificate is for another key"
    return ""


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    """Return what operators compare: SHA-256 (hex) of the public key's DER SubjectPublicKeyInfo."""
    return dsse.key_id(key.public_key())


def _pem(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> bytes:
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
