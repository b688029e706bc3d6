"""Which directives a device should be given again or anew, read from the database."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from dsops.states import Deployment, Device
from dsops_controller.db import tables
from dsops_controller.rollout import desired
from dsops_controller.rollout.repeat import Unheard

RENEW = desired.LIFE / 2

_WANT, _HAVE, _DEVICE = tables.desired.c, tables.observed.c, tables.device.c
_JOINED = tables.desired.join(tables.device, _DEVICE.id == _WANT.device).outerjoin(
    tables.observed, _HAVE.device == _WANT.device
)


def unheard(connection: Connection) -> list[Unheard]:
    """Return the connected devices whose newest report does not show their directive."""
    is_missing = _HAVE.seq.is_(None) | (_HAVE.seq < _WANT.seq)
    query = select(_WANT.device, _WANT.seq, _DEVICE.boot_id, _DEVICE.conn_seq).select_from(_JOINED)
    takes_part = (_DEVICE.state == Device.ACCEPTED) & _DEVICE.online
    rows = connection.execute(query.where(takes_part & is_missing)).all()
    part = tables.deployment.c
    running = select(part.device).where(part.state == Deployment.IN_PROGRESS)
    awaited = set(connection.execute(running).scalars()) if rows else set()
    return [Unheard(row.device, row.seq, (row.boot_id or "", row.conn_seq), row.device in awaited) for row in rows]


def old(connection: Connection, now_ms: int, most: int) -> list[str]:
    """Return devices whose directive ends too soon, or is to be written anew for another reason; the oldest first."""
    is_old = _WANT.updated_ms < now_ms - RENEW.total_seconds() * 1000
    query = select(_WANT.device).select_from(_JOINED).where((_DEVICE.state == Device.ACCEPTED) & is_old)
    return list(connection.execute(query.order_by(_WANT.updated_ms).limit(most)).scalars())


def ahead(connection: Connection, most: int) -> Sequence[Row[Any, Any, Any]]:
    """Return devices that accepted a directive which this database never wrote: ``device, seq, accepted``."""
    query = select(_WANT.device, _WANT.seq, _HAVE.seq.label("accepted")).select_from(_JOINED)
    is_ahead = (_DEVICE.state == Device.ACCEPTED) & (_HAVE.seq > _WANT.seq)
    return connection.execute(query.where(is_ahead).limit(most)).all()


def envelopes(connection: Connection, devices: Collection[str]) -> list[tuple[str, bytes]]:
    """Return the newest directives of some devices."""
    rows = connection.execute(select(_WANT.device, _WANT.envelope).where(_WANT.device.in_(devices))).all()
    return [(row.device, row.envelope) for row in rows]
