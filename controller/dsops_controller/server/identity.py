"""Who speaks: the device named by the certificate of a mutual TLS connection, and whether it may."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from sqlalchemy import select

from dsops import ids
from dsops.errors import Forbidden, InvalidInput, Unauthorized
from dsops.ids import DeviceId
from dsops.states import Device
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as device_table
from dsops_controller.fleet.ca import device_of

_HINT = "enrol the device again"


@dataclass(frozen=True, slots=True)
class Peer:
    """A device that proved by its certificate who it is.

    Attributes:
        device: Its name.
        expires: When its certificate ends.
    """

    device: DeviceId
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
        return Peer(ids.device_id(name), certificate.not_valid_after_utc)
    except (ValueError, x509.DuplicateExtension, InvalidInput) as error:
        raise Unauthorized("the client certificate cannot be read", why=str(error), hint=_HINT) from error


class Admission:
    """Decides by the state database whether a device may speak. The database is the truth, not the certificate."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def check(self, caller: Peer, now: datetime) -> None:
        """Admit an accepted device with an unexpired certificate.

        Raises:
            Unauthorized: The certificate has expired since the connection was made.
            Forbidden: The device is unknown or not accepted.
            StateDamaged: The database cannot be read.
        """
        if now >= caller.expires:
            raise Unauthorized(f"the certificate of {caller.device} has expired", hint=_HINT)
        with self._db.read() as connection:
            query = select(device_table.c.state).where(device_table.c.id == caller.device)
            state = connection.execute(query).scalar_one_or_none()
        if state is None:
            raise Forbidden(f"{caller.device} is not a device of this fleet", hint=_HINT)
        if state != Device.ACCEPTED:
            raise Forbidden(f"{caller.device} is {state}", hint=f"accept it: dsops device accept {caller.device}")
