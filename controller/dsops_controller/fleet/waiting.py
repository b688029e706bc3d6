"""Strangers that wait for an operator: how many may, from where, for how long.

Functions take the caller's transaction.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from dsops.states import Device
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import certificate as certificates
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import enrolment_token as tokens
from dsops_controller.db.times import to_ms
from dsops_controller.fleet.applications import Request
from dsops_controller.fleet.decision import IdentityRules
from dsops_controller.fleet.registry import encode_inventory
from dsops_controller.fleet.tokens import NO_CLAIM

TOUCH = timedelta(minutes=10)
"""A device that asks again within this time is not written anew."""


def has_room(connection: Connection, origin: str, rules: IdentityRules) -> bool:
    """Return whether one more may wait, in all and from this address."""
    waiting = select(func.count()).select_from(devices)
    waiting = waiting.where(devices.c.state == Device.PENDING.value, devices.c.asked_ms.is_not(None))
    if (connection.execute(waiting).scalar() or 0) >= rules.pending_max:
        return False
    from_there = connection.execute(waiting.where(devices.c.origin == origin)).scalar() or 0
    return from_there < rules.pending_per_address


def note(connection: Connection, known: AnyRow | None, stranger: Request, now: datetime) -> bool:
    """Store a claim, or that it was made again; return whether it is new."""
    values: dict[str, object] = {"public_key": stranger.public_key, "inventory": encode_inventory(stranger.inventory)}
    values |= {"asked_ms": to_ms(now), "origin": stranger.origin, "content_public_key": stranger.content_public_key}
    if known is None:
        state = Device.PENDING.value
        connection.execute(insert(devices).values(id=stranger.device, state=state, created_ms=to_ms(now), **values))
        return True
    connection.execute(update(devices).where(devices.c.id == stranger.device).values(**values))
    return bool(known.public_key != stranger.public_key)


def is_due(known: AnyRow, now: datetime) -> bool:
    """Return whether it has to be written that a stranger asked again."""
    return known.asked_ms is None or bool(known.asked_ms <= to_ms(now - TOUCH))


def count_silent(connection: Connection, rules: IdentityRules, now: datetime) -> int:
    """Return how many strangers did not ask for long."""
    query = select(func.count()).select_from(devices).where(devices.c.state == Device.PENDING.value)
    return connection.execute(query.where(devices.c.asked_ms < to_ms(now - rules.pending_life))).scalar() or 0


def forget_silent(connection: Connection, rules: IdentityRules, now: datetime) -> int:
    """Forget the strangers that did not ask for long; return how many.

    A name that has a token or a certificate stays, without the key that claimed it.
    """
    silent = (devices.c.state == Device.PENDING.value, devices.c.asked_ms < to_ms(now - rules.pending_life))
    kept = select(certificates.c.device).union(select(tokens.c.device).where(tokens.c.expires_ms > to_ms(now)))
    cleared = update(devices).where(*silent, devices.c.id.in_(kept)).values(**NO_CLAIM)
    gone = delete(devices).where(*silent, devices.c.id.not_in(kept))
    return connection.execute(cleared).rowcount + connection.execute(gone).rowcount
