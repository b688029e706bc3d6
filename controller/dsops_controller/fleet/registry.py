"""The register of devices: who belongs to the fleet, who is connected, and what each device says of itself.

The desired side is written by operators (state), the observed side by devices (connection, inventory, report); neither
edits the other's.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection as Transaction
from sqlalchemy import delete, select, update

from dsops import strictjson
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound, UntrustedBundle
from dsops.messages import Connection, Inventory, LastReport, Observed, check_observed, continues
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.database import Database, upsert
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import certificate as issued
from dsops_controller.db.tables import challenger as challengers
from dsops_controller.db.tables import desired as wanted
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import observed as reports
from dsops_controller.db.tables import pardon as pardons
from dsops_controller.db.tables import sample_request as sample_requests
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.fleet import certificates, preauthorised, tokens
from dsops_controller.fleet.certificates import GRACE
from dsops_controller.fleet.issuer import key_sha256
from dsops_controller.fleet.standing import Changes
from dsops_controller.listing import Line
from dsops_controller.rollout import desired

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ALLOWED: Mapping[Device, frozenset[Device]] = {
    Device.PENDING: frozenset({Device.ACCEPTED, Device.REJECTED, Device.DECOMMISSIONED}),
    Device.ACCEPTED: frozenset({Device.SUSPENDED, Device.DECOMMISSIONED}),
    Device.SUSPENDED: frozenset({Device.ACCEPTED, Device.DECOMMISSIONED}),
    Device.REJECTED: frozenset({Device.ACCEPTED, Device.DECOMMISSIONED}),
    Device.DECOMMISSIONED: frozenset(),
}
"""What an operator may turn a device into. Who is decommissioned never comes back under the same name."""


@dataclass(frozen=True)
class DeviceRecord:
    """One device as the register knows it."""

    id: str
    state: Device
    created: datetime
    online: bool
    seen: datetime | None
    inventory: Inventory
    tags: Mapping[str, str]
    serial: str | None
    public_key: str | None
    boot_id: str | None
    conn_seq: int
    origin: str = ""
    asked: datetime | None = None
    certificate_ends: datetime | None = None

    @property
    def key_sha256(self) -> str | None:
        """Fingerprint of the key: of the newest certificate, or of a pending device's request."""
        return key_sha256(self.public_key) if self.public_key else None


@dataclass(frozen=True)
class ConnectionFacts:
    """What is stored of a device's connection."""

    online: bool
    boot_id: str | None
    conn_seq: int


def is_news(stored: ConnectionFacts, message: Connection) -> bool:
    """Return whether a birth or death tells something about the newest connection. Pure.

    A birth counts if its ``conn_seq`` exceeds the stored one; the same birth again is no news. A death counts only for
    the very connection that is stored, for a will may arrive after the device has connected anew.
    """
    if message.online:
        return message.conn_seq > stored.conn_seq or stored.boot_id is None
    return stored.online and (message.boot_id, message.conn_seq) == (stored.boot_id, stored.conn_seq)


class Registry:
    """Reads and writes the register."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        refusals: audit.RefusalGuard | None = None,
        changes: Changes | None = None,
        grace: timedelta = GRACE,
    ) -> None:
        self._db = db
        self._clock = clock
        self._refusals = refusals or audit.RefusalGuard(clock)
        self._changes = changes or Changes(db)
        self._grace = grace

    def list(self, state: Device | None = None) -> tuple[DeviceRecord, ...]:
        """Return every device by name, or those in one state."""
        query = _QUERY.order_by(devices.c.id)
        if state is not None:
            query = query.where(devices.c.state == state.value)
        with self._db.read() as connection:
            return tuple(map(_record, connection.execute(query)))

    def get(self, device: str) -> DeviceRecord:
        """Return one device.

        Raises:
            NotFound: There is none of that name.
        """
        with self._db.read() as connection:
            row = connection.execute(_QUERY.where(devices.c.id == device)).one_or_none()
        if row is None:
            raise _unknown(device)
        return _record(row)

    def accept(self, device: str, actor: str = audit.SYSTEM, key_sha256: str | None = None) -> DeviceRecord:
        """Let a pending, rejected or suspended device take part: the one with the key that it has shown.

        Args:
            device: Its name.
            actor: Who says so.
            key_sha256: The fingerprint that the actor has seen; if the device shows another key now, it is refused.

        Raises:
            NotFound: There is none of that name.
            Conflict: Its state forbids it, it has shown no key, or another one.
        """
        return self._turn(device, Device.ACCEPTED, actor, lambda t, row: self._let_in(t, row, key_sha256))

    def reject(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Refuse a pending device; its key keeps the name, so that it is not asked about again."""
        return self._turn(device, Device.REJECTED, actor, lambda _t, _row: "")

    def suspend(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Stop believing a device until it is accepted again; brokers cut it off within seconds."""
        return self._turn(device, Device.SUSPENDED, actor, self._cut)

    def decommission(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Take a device out for good: its certificates are revoked, tokens and desired state deleted."""
        return self._turn(device, Device.DECOMMISSIONED, actor, self._end)

    def preauthorise(self, lines: Sequence[Line], actor: str = audit.SYSTEM) -> None:
        """Let devices join by a key that is known beforehand: all of the list, or nothing.

        Raises:
            Conflict: A name is taken; the text says which.
        """
        with self._db.write() as connection:
            preauthorised.enter(connection, lines, self._clock.now(), actor)

    def set_tags(self, device: str, tags: Mapping[str, str], actor: str = audit.SYSTEM) -> None:
        """Replace a device's tags.

        Raises:
            NotFound: There is none of that name.
        """
        text = strictjson.dumps(dict(tags)).decode()
        self._set(device, {"tags": text})
        audit.Audit(self._db, self._clock).record(actor, "device.tags", device, text)

    def set_inventory(self, device: str, inventory: Inventory) -> None:
        """Store what a device says of its host.

        Raises:
            NotFound: There is none of that name.
        """
        self._set(device, {"inventory": encode_inventory(inventory)})

    def connection(self, message: Connection) -> bool:
        """Store a birth or death; return whether it was news.

        Raises:
            UntrustedBundle: The device is unknown or not accepted.
        """
        return self._from_device(message.device, "connection.refused", lambda t, row: self._connected(t, row, message))

    def observed(self, device: str, data: bytes) -> Observed | None:
        """Store a device's signed report; return it, or None if it is the newest one, come again.

        Raises:
            UntrustedBundle: The device is unknown or not accepted.
            Refusal: The report is not signed by a key of the device, is about another one, is an old one, or does not
                follow from the newest one. The device's name and the code are in the audit trail.
        """
        return self._from_device(device, "report.refused", lambda t, row: self._reported(t, row, data))

    def last_observed(self, device: str) -> Observed | None:
        """Return a device's newest report, if there is one."""
        with self._db.read() as connection:
            text = connection.execute(select(reports.c.report).where(reports.c.device == device)).scalar()
        return Observed.model_validate_json(text) if text is not None else None

    def require_accepted(self, device: str) -> None:
        """Return if a device takes part; the state in the database decides, whatever its certificate says.

        Raises:
            UntrustedBundle: It is unknown or not accepted.
        """
        with self._db.read() as connection:
            _accepted(_row(connection, device), device)

    def _turn(self, device: str, state: Device, actor: str, act: Callable[[Transaction, AnyRow], str]) -> DeviceRecord:
        """Turn a device into another state; asking for the present one changes nothing.

        Raises:
            NotFound: There is none of that name.
            Conflict: The present state forbids it.
        """
        with self._db.write() as connection:
            row = connection.execute(select(devices).where(devices.c.id == device).with_for_update()).one_or_none()
            if row is None:
                raise _unknown(device)
            present = Device(row.state)
            if state is not present:
                if state not in _ALLOWED[present]:
                    raise Conflict(f"device {device} cannot become {state}", why=f"it is {present}")
                detail = f"was {present}{act(connection, row)}"
                connection.execute(update(devices).where(devices.c.id == device).values(state=state.value))
                audit.record(connection, self._clock.now(), actor, f"device.{state}", device, detail)
        self._changes.note()
        return self.get(device)

    def _let_in(self, connection: Transaction, row: AnyRow, seen: str | None) -> str:
        if row.public_key is None:
            hint = f"let it ask first, or give it a token: dsops device token {row.id}"
            raise Conflict(f"device {row.id} cannot be accepted", why="it has shown no key", hint=hint)
        shown = key_sha256(row.public_key)
        if seen is not None and seen != shown:
            hint = f"look again: dsops device show {row.id}"
            raise Conflict(f"device {row.id} shows another key now", why=f"{shown}, not {seen}", hint=hint)
        if row.state != Device.SUSPENDED:
            reason = certificates.Reason.REPLACED
            certificates.revoke(connection, row.id, reason, self._clock.now(), but_key=row.public_key)
            forget_counters(connection, row.id)
        desired.outdate(connection, row.id)
        return f", key {shown}"

    def _cut(self, connection: Transaction, row: AnyRow) -> str:
        connection.execute(update(devices).where(devices.c.id == row.id).values(online=False))
        return ""

    def _end(self, connection: Transaction, row: AnyRow) -> str:
        certificates.revoke(connection, row.id, certificates.Reason.DECOMMISSIONED, self._clock.now())
        tokens.forget(connection, row.id)
        preauthorised.forget(connection, row.id)
        connection.execute(delete(wanted).where(wanted.c.device == row.id))
        connection.execute(delete(pardons).where(pardons.c.device == row.id))
        connection.execute(delete(sample_requests).where(sample_requests.c.device == row.id))
        connection.execute(delete(challengers).where(challengers.c.device == row.id))
        return self._cut(connection, row)

    def _from_device(self, device: str, action: str, act: Callable[[Transaction, AnyRow], T]) -> T:
        """Run ``act`` if the device takes part; a refusal is stored before it is raised."""
        with self._db.write() as connection:
            try:
                return act(connection, _accepted(_row(connection, device), device))
            except UntrustedBundle as error:
                refusal = error
                detail = f"{error.code}: {error}"
                self._refusals.refuse(connection, f"device:{device}", action, device, detail, once=error.code)
        _log.warning("%s: %s", action, refusal)
        raise refusal

    def _connected(self, connection: Transaction, row: AnyRow, message: Connection) -> bool:
        if not is_news(ConnectionFacts(row.online, row.boot_id, row.conn_seq), message):
            return False
        values: dict[str, object] = {"online": message.online, "seen_ms": to_ms(self._clock.now())}
        if message.online:
            values |= {"boot_id": message.boot_id, "conn_seq": message.conn_seq}
            values["inventory"] = encode_inventory(message.inventory)
        connection.execute(update(devices).where(devices.c.id == row.id).values(**values))
        return True

    def _reported(self, connection: Transaction, row: AnyRow, data: bytes) -> Observed | None:
        key = certificates.report_key(connection, row.id, data, self._clock.now(), self._grace)
        if key is None:
            return None
        report = check_observed(data, (key,), row.id)
        certificates.use_key(connection, row.id, key, self._clock.now())
        if not continues(report, _last_report(connection, row.id)):
            return None
        said, now_ms = report.observed, to_ms(self._clock.now())
        values = {"counter": said.counter, "digest": report.digest, "seq": said.seq, "received_ms": now_ms}
        upsert(connection, reports, device=row.id, report=said.payload().decode(), **values)
        connection.execute(update(devices).where(devices.c.id == row.id).values(seen_ms=now_ms))
        desired.accepted(connection, row.id, said.seq)
        return said

    def _set(self, device: str, values: dict[str, object]) -> None:
        with self._db.write() as connection:
            changed = connection.execute(update(devices).where(devices.c.id == device).values(**values))
            if changed.rowcount != 1:
                raise _unknown(device)


def forget_counters(connection: Transaction, device: str) -> None:
    """Let a device with a new key count from the start; nothing signed by the key before is believed any more."""
    connection.execute(update(reports).where(reports.c.device == device).values(counter=0))
    fresh = {"boot_id": None, "conn_seq": 0, "online": False}
    connection.execute(update(devices).where(devices.c.id == device).values(**fresh))


def _last_report(connection: Transaction, device: str) -> LastReport | None:
    """Return what is known of the newest report; None if the device begins to count, as after enrolling anew."""
    query = select(reports.c.counter, reports.c.digest).where(reports.c.device == device)
    row = connection.execute(query).one_or_none()
    return LastReport(row.counter, row.digest) if row and row.counter and row.digest else None


def encode_inventory(inventory: Inventory) -> str:
    """Return the text of an inventory as the register holds it."""
    return strictjson.dumps(inventory.model_dump(mode="json")).decode()


def _accepted(row: AnyRow | None, device: str) -> AnyRow:
    if row is None:
        raise UntrustedBundle(f"device {device[:80]} is unknown", why="nobody enrolled it")
    if row.state != Device.ACCEPTED:
        raise UntrustedBundle(f"device {device} does not take part", why=f"it is {row.state}")
    return row


def _unknown(device: str) -> NotFound:
    return NotFound(f"there is no device {device[:80]!r}", hint="see: dsops device list")


_QUERY = select(devices, issued.c.expires_ms).outerjoin_from(devices, issued, devices.c.serial == issued.c.serial)


def _row(connection: Transaction, device: str) -> AnyRow | None:
    return connection.execute(select(devices).where(devices.c.id == device)).one_or_none()


def _record(row: AnyRow) -> DeviceRecord:
    return DeviceRecord(
        id=row.id,
        state=Device(row.state),
        created=from_ms(row.created_ms),
        online=row.online,
        seen=from_ms(row.seen_ms) if row.seen_ms is not None else None,
        inventory=Inventory.model_validate_json(row.inventory),
        tags=json.loads(row.tags),
        serial=row.serial,
        public_key=row.public_key,
        boot_id=row.boot_id,
        conn_seq=row.conn_seq,
        origin=row.origin,
        asked=from_ms(row.asked_ms) if row.asked_ms is not None else None,
        certificate_ends=from_ms(row.expires_ms) if row.expires_ms is not None else None,
    )
