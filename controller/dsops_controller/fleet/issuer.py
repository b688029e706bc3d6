"""Who issues device certificates: the port, and what every issuer needs of a request and of a certificate.

The local authority (:mod:`dsops_controller.fleet.ca`) is the adapter that comes with dsops; docs/how-to/issuers.md says
how step-ca or Vault take its place.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.bundle import sha256_hex
from dsops.errors import InvalidInput
from dsops.ids import DeviceId

DEVICE_URI = "urn:dsops:device:"
DEVICE_LIFE = timedelta(days=90)
MAX_REQUEST_BYTES = 8 * 1024


@dataclass(frozen=True)
class DeviceCertificate:
    """What a device's request was answered with.

    Attributes:
        certificate_pem: Leaf, then intermediates.
        serial: Hex, lower case, no leading zeros.
        public_key: PEM; as :func:`key_text` writes it.
        expires: When it ends.
    """

    certificate_pem: bytes
    serial: str
    public_key: str
    expires: datetime


@dataclass(frozen=True)
class Revoked:
    """A certificate that must not be believed any more."""

    serial: str
    since: datetime


class Issuer(Protocol):
    """Issues certificates to devices, and says which of them count no longer."""

    @property
    def chain_pem(self) -> bytes:
        """Whom broker and store believe when a device shows its certificate."""
        ...

    def issue_device(self, request_der: bytes, device: str, life: timedelta) -> DeviceCertificate:
        """Answer a signing request (PKCS #10, DER, P-256) of which only the public key counts.

        The certificate's common name is ``device``, its one URI ``urn:dsops:device:<device>``.

        Raises:
            InvalidInput: The request or the name is not valid.
            TransportError: The issuer is elsewhere and does not answer.
        """
        ...

    def revocation_list(self, revoked: Sequence[Revoked], since: datetime, until: datetime) -> bytes:
        """Return the signed list of revoked certificates (PEM), made at ``since``, good until ``until``."""
        ...


def requested_key(request_der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request that its owner signed.

    Raises:
        InvalidInput: It is not such a request, or not for a P-256 key.
    """
    if len(request_der) > MAX_REQUEST_BYTES:
        raise InvalidInput("the signing request is too long", why=f"{len(request_der)} bytes")
    try:
        request = x509.load_der_x509_csr(request_der)
        key = request.public_key()
        # The kind is looked at first: checking the signature of a huge RSA key would cost much.
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise InvalidInput("the signing request's key is not P-256")
        if not request.is_signature_valid:
            raise InvalidInput("the signing request is not signed by its key")
    except (ValueError, InvalidSignature, TypeError) as error:
        raise InvalidInput("this is not a signing request", why=str(error)[:200]) from error
    return key


def key_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as the one PEM text that the database compares."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def key_sha256(public_key: str) -> str:
    """Return the SHA-256 (hex) of a PEM key's DER SubjectPublicKeyInfo: its fingerprint for people and lists."""
    lines = (line for line in public_key.splitlines() if not line.startswith("-----"))
    return sha256_hex(base64.b64decode("".join(lines)))


def device_of(certificate: x509.Certificate) -> DeviceId | None:
    """Return the device that a certificate names by its one device URI, or None."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    found = [uri.removeprefix(DEVICE_URI) for uri in uris if uri.startswith(DEVICE_URI)]
    return DeviceId(found[0]) if len(found) == 1 else None


def serial_of(certificate: x509.Certificate) -> str:
    """Return a certificate's serial number as the database holds it."""
    return f"{certificate.serial_number:x}"
