"""Devices that an operator listed before they come: a name and the fingerprint of the key that it will show.

Functions take the caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from dsops.errors import Conflict
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import preauthorised as table
from dsops_controller.db.times import to_ms
from dsops_controller.fleet import tokens
from dsops_controller.fleet.decision import Listed
from dsops_controller.listing import Line, joined

_TAKEN = frozenset({Device.ACCEPTED, Device.SUSPENDED, Device.DECOMMISSIONED})


def enter(connection: Connection, lines: Sequence[Line], now: datetime, actor: str) -> None:
    """Store a list, all of it or nothing; a name that is listed already gets the new fingerprint.

    A name that is new, or was rejected, is registered as pending, with no key that claims it.

    Raises:
        Conflict: A name belongs to a device that takes part, or that is suspended or decommissioned.
    """
    states = {row.id: row.state for row in connection.execute(select(devices.c.id, devices.c.state))}
    taken = [f"{line.device} is {states[line.device]}" for line in lines if states.get(line.device) in _TAKEN]
    if taken:
        raise Conflict("the list was not taken, nothing of it", why=joined(taken), hint="take these devices out")
    fresh = [{"id": line.device, "created_ms": to_ms(now)} for line in lines if line.device not in states]
    if fresh:
        connection.execute(insert(devices).values(state=Device.PENDING.value), fresh)
    rejected = [{"name": line.device} for line in lines if states.get(line.device) == Device.REJECTED]
    if rejected:
        opened = update(devices).where(devices.c.id == bindparam("name"))
        connection.execute(opened.values(state=Device.PENDING.value, **tokens.NO_CLAIM), rejected)
    connection.execute(delete(table).where(table.c.device == bindparam("name")), [{"name": n.device} for n in lines])
    rows = [{"device": line.device, "key_sha256": line.key_sha256, "created_ms": to_ms(now)} for line in lines]
    connection.execute(insert(table), rows)
    names = ", ".join(line.device for line in lines)
    audit.record(connection, now, actor, "device.preauthorised", f"{len(lines)} devices", names)


def look(connection: Connection, device: str, key_sha256: str) -> Listed:
    """Return whether a name is listed, and for which key."""
    listed = connection.execute(select(table.c.key_sha256).where(table.c.device == device)).scalar()
    if listed is None:
        return Listed.NO
    return Listed.MINE if listed == key_sha256 else Listed.THEIRS


def spend(connection: Connection, device: str, key_sha256: str, now: datetime) -> None:
    """Note that a listed device came, if that is not noted yet."""
    waiting = update(table).where(table.c.device == device, table.c.key_sha256 == key_sha256, table.c.used_ms.is_(None))
    connection.execute(waiting.values(used_ms=to_ms(now)))


def forget(connection: Connection, device: str) -> None:
    """Take a name from the list."""
    connection.execute(delete(table).where(table.c.device == device))
