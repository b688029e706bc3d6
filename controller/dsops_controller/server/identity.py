"""Who speaks: the device named by the certificate of a mutual TLS connection, and whether it may."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from dsops import ids
from dsops.errors import Forbidden, InvalidInput, Unauthorized
from dsops.ids import DeviceId
from dsops.states import Device
from dsops_controller.db.database import Database
from dsops_controller.fleet import certificates
from dsops_controller.fleet.issuer import device_of, serial_of

_HINT = "enrol the device again"


@dataclass(frozen=True, slots=True)
class Peer:
    """A device that proved by its certificate who it is.

    Attributes:
        device: Its name.
        serial: Of its certificate, hex.
        expires: When its certificate ends.
    """

    device: DeviceId
    serial: str
    expires: datetime


def peer(auth: Mapping[str, Sequence[bytes]]) -> Peer:
    """Return the device that a gRPC authentication context names.

    The certificate chain was verified by TLS; here exactly one SAN URI ``urn:dsops:device:<name>`` is wanted.

    Raises:
        Unauthorized: There is no client certificate, or it does not name exactly one device.
    """
    if list(auth.get("transport_security_type", ())) != [b"ssl"] or not auth.get("x509_pem_cert"):
        raise Unauthorized("no client certificate was shown", hint=_HINT)
    try:
        certificate = x509.load_pem_x509_certificate(auth["x509_pem_cert"][0])
        name = device_of(certificate)
        if name is None:
            raise Unauthorized("the client certificate does not name one device", hint=_HINT)
        return Peer(ids.device_id(name), serial_of(certificate), certificate.not_valid_after_utc)
    except (ValueError, x509.DuplicateExtension, InvalidInput) as error:
        raise Unauthorized("the client certificate cannot be read", why=str(error), hint=_HINT) from error


class Admission:
    """Decides by the state database whether a device may speak. The database is the truth, not the certificate."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def check(self, caller: Peer, now: datetime) -> None:
        """Admit an accepted device with a certificate that is known, not revoked and not expired; note its first use.

        Raises:
            Unauthorized: The certificate does not count, or no longer.
            Forbidden: The device is not accepted.
            StateDamaged: The database cannot be read.
        """
        check_life(caller, now)
        with self._db.read() as connection:
            found = certificates.standing(connection, caller.serial)
        if found.device != caller.device:
            raise Unauthorized(f"the certificate of {caller.device} is not known", hint=_HINT)
        if found.state != Device.ACCEPTED:
            raise Forbidden(f"{caller.device} is {found.state}", hint=f"accept it: dsops device accept {caller.device}")
        if found.is_revoked:
            raise Unauthorized(f"the certificate of {caller.device} was revoked", hint=_HINT)
        if not found.is_used:
            with self._db.write() as connection:
                certificates.use(connection, caller.serial, now)


def check_life(caller: Peer, now: datetime) -> None:
    """Return if the certificate has not expired since the connection was made.

    Raises:
        Unauthorized: It has.
    """
    if now >= caller.expires:
        raise Unauthorized(f"the certificate of {caller.device} has expired", hint=_HINT)
