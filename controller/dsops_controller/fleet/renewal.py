"""How a device that takes part gets its next certificate: it asks with the present one, for a new key.

The present certificate stays good until the next one is first used. The same request is answered again, because the
answer may be lost on its way.
"""

from sqlalchemy import Connection, select

from dsops.clock import Clock
from dsops.errors import DeviceBarred, InvalidInput, Overloaded
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.database import Database
from dsops_controller.db.tables import certificate as table
from dsops_controller.db.tables import device as devices
from dsops_controller.fleet import certificates
from dsops_controller.fleet.decision import IdentityRules
from dsops_controller.fleet.enrolment import EnrolmentReply, ReplySettings, answer, device_allowance
from dsops_controller.fleet.issuer import Issuer, key_text, requested_key

_RULES = IdentityRules()


class Renewal:
    """Issues the next certificate to devices that proved by their present one who they are."""

    def __init__(
        self, db: Database, issuer: Issuer, clock: Clock, settings: ReplySettings, rules: IdentityRules = _RULES
    ) -> None:
        self._db = db
        self._issuer = issuer
        self._clock = clock
        self._settings = settings
        self._rules = rules
        self._allowance = device_allowance(clock, rules)

    def renew(self, device: str, csr_der: bytes) -> EnrolmentReply:
        """Answer a device with its next certificate.

        Args:
            device: Whom the present certificate names; it was admitted.
            csr_der: PKCS #10 request for a new P-256 key.

        Raises:
            InvalidInput: The request is malformed, or its key was used before.
            Overloaded: The device asks too often.
            DeviceBarred: The device was shut out meanwhile.
        """
        public_key = key_text(requested_key(csr_der))
        if not self._allowance.take(device):
            hint = "check the device's clock; it may ask again later"
            raise Overloaded(f"{device} renews too often", hint=hint)
        with self._db.read() as connection:
            _check_new(connection, device, public_key)
        made = self._issuer.issue_device(csr_der, device, self._rules.life)
        now = self._clock.now()
        with self._db.write() as connection:
            _check_new(connection, device, public_key)
            _check_member(connection, device)
            certificates.add(connection, device, made, now)
            audit.record(
                connection, now, f"device:{device}", "certificate.renewed", device, f"certificate {made.serial}"
            )
        return answer(self._settings, self._issuer.chain_pem, made.certificate_pem)


def _check_new(connection: Connection, device: str, public_key: str) -> None:
    """Refuse a key that was in use; one that was only issued for may be asked for again."""
    used = select(table.c.serial).where(table.c.device == device, table.c.public_key == public_key)
    used = used.where(table.c.used_ms.is_not(None) | table.c.revoked_ms.is_not(None))
    if connection.execute(used).first() is not None:
        hint = "make a new key for each certificate"
        raise InvalidInput("the next certificate needs a new key", why="this one was used before", hint=hint)


def _check_member(connection: Connection, device: str) -> None:
    query = select(devices.c.state).where(devices.c.id == device).with_for_update()
    state = connection.execute(query).scalar()
    if state != Device.ACCEPTED:
        raise DeviceBarred(f"{device} gets no certificate", why=f"the device is {state}")
