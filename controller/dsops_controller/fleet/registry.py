"""The register of devices: who belongs to the fleet, who is connected, and what each device says of itself.

The desired side is written by operators (state), the observed side by devices (connection, inventory, report); neither
edits the other's.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection as Transaction
from sqlalchemy import select, update

from dsops import dsse, strictjson
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound, UntrustedBundle
from dsops.messages import Connection, Inventory, Observed, check_observed
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.database import Database, upsert
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import observed as reports
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.rollout import desired

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ALLOWED: Mapping[Device, frozenset[Device]] = {
    Device.PENDING: frozenset({Device.ACCEPTED, Device.REJECTED, Device.DECOMMISSIONED}),
    Device.ACCEPTED: frozenset({Device.SUSPENDED, Device.DECOMMISSIONED}),
    Device.SUSPENDED: frozenset({Device.ACCEPTED, Device.DECOMMISSIONED}),
    Device.REJECTED: frozenset({Device.PENDING, Device.DECOMMISSIONED}),
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

    def __init__(self, db: Database, clock: Clock, refusals: audit.RefusalGuard | None = None) -> None:
        self._db = db
        self._clock = clock
        self._refusals = refusals or audit.RefusalGuard(clock)

    def list(self, state: Device | None = None) -> tuple[DeviceRecord, ...]:
        """Return every device by name, or those in one state."""
        query = select(devices).order_by(devices.c.id)
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
            row = _row(connection, device)
        if row is None:
            raise _unknown(device)
        return _record(row)

    def set_state(self, device: str, state: Device, actor: str) -> DeviceRecord:
        """Turn a device into another state; asking for the present one changes nothing.

        Raises:
            NotFound: There is none of that name.
            Conflict: The present state forbids it.
        """
        with self._db.write() as connection:
            row = _row(connection, device)
            if row is None:
                raise _unknown(device)
            present = Device(row.state)
            if state is not present:
                if state not in _ALLOWED[present]:
                    raise Conflict(f"device {device} cannot become {state}", why=f"it is {present}")
                connection.execute(update(devices).where(devices.c.id == device).values(state=state.value))
                audit.record(connection, self._clock.now(), actor, f"device.{state}", device, f"was {present}")
                if state is Device.ACCEPTED:
                    desired.outdate(connection, device)
        return self.get(device)

    def accept(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Let a pending or suspended device take part."""
        return self.set_state(device, Device.ACCEPTED, actor)

    def suspend(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Stop believing a device until it is accepted again."""
        return self.set_state(device, Device.SUSPENDED, actor)

    def decommission(self, device: str, actor: str = audit.SYSTEM) -> DeviceRecord:
        """Take a device out for good."""
        return self.set_state(device, Device.DECOMMISSIONED, actor)

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
        """Store a device's signed report; return it, or None if a newer one is stored already.

        Raises:
            UntrustedBundle: The device is unknown, not accepted or without a key; or the report is not signed by it.
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

    def _from_device(self, device: str, action: str, act: Callable[[Transaction, AnyRow], T]) -> T:
        """Run ``act`` if the device takes part; a refusal is stored before it is raised."""
        with self._db.write() as connection:
            try:
                return act(connection, _accepted(_row(connection, device), device))
            except UntrustedBundle as error:
                refusal = error
                self._refusals.refuse(connection, f"device:{device}", action, device, str(error))
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
        if row.public_key is None:
            raise UntrustedBundle(f"device {row.id} has no key", why="it has not enrolled")
        report = check_observed(data, dsse.load_public_key(row.public_key), row.id)
        stored = connection.execute(select(reports.c.counter).where(reports.c.device == row.id)).scalar()
        if stored is not None and report.counter <= stored:
            return None
        now_ms = to_ms(self._clock.now())
        text = strictjson.dumps(report.model_dump(mode="json")).decode()
        values = {"counter": report.counter, "seq": report.seq, "report": text, "received_ms": now_ms}
        upsert(connection, reports, device=row.id, **values)
        connection.execute(update(devices).where(devices.c.id == row.id).values(seen_ms=now_ms))
        return report

    def _set(self, device: str, values: dict[str, object]) -> None:
        with self._db.write() as connection:
            changed = connection.execute(update(devices).where(devices.c.id == device).values(**values))
            if changed.rowcount != 1:
                raise _unknown(device)


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
    )
