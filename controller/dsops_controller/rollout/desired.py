"""Desired state: what each device shall run, as a signed directive with a number that never repeats."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from dsops.directive import MAX_SEQ, DesiredSlot, Directive
from dsops.dsse import PrivateKey
from dsops_controller.db import tables
from dsops_controller.db.database import upsert

LIFE = timedelta(days=14)


@dataclass(frozen=True)
class Director:
    """Who signs directives, and for which fleet; ``signing_keys`` returns the keys that devices believe now."""

    fleet: str
    signing_keys: Callable[[], Sequence[PrivateKey]]


def slots_of(connection: Connection, device: str) -> dict[str, DesiredSlot]:
    """Return what a device shall run now, by model."""
    row = connection.execute(select(tables.desired.c.slots).where(tables.desired.c.device == device)).first()
    return {model: DesiredSlot.model_validate(slot) for model, slot in json.loads(row.slots).items()} if row else {}


def write(
    connection: Connection, director: Director, device: str, slots: dict[str, DesiredSlot], now: datetime
) -> bytes:
    """Store a new directive for one device and return its envelope.

    The sequence number exceeds both what was sent before and what the device says that it accepted, so it rises even
    when the database was restored from an old copy. A device that says it accepted the last number there is gets no
    other directive any more, and does no harm to others.
    """
    seq = _next_seq(connection, device)
    directive = Directive(
        fleet=director.fleet, device=device, seq=seq, issued=now, expires=now + LIFE, slots=dict(sorted(slots.items()))
    )
    envelope = directive.sign(*director.signing_keys())
    upsert(
        connection,
        tables.desired,
        device=device,
        seq=seq,
        envelope=envelope,
        slots=json.dumps({model: slot.model_dump(mode="json") for model, slot in slots.items()}),
        updated_ms=int(now.timestamp() * 1000),
    )
    return envelope


def _next_seq(connection: Connection, device: str) -> int:
    sent = connection.execute(select(tables.desired.c.seq).where(tables.desired.c.device == device)).scalar()
    accepted = connection.execute(select(tables.observed.c.seq).where(tables.observed.c.device == device)).scalar()
    return min(max(sent or 0, accepted or 0) + 1, MAX_SEQ)
