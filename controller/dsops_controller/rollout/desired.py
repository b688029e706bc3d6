"""Desired state: what each device shall run, as a signed directive with a number that never repeats.

The keys of sealed bundles are wrapped when a directive is written, for the key that the device has then, and only while
it is accepted: who is suspended gets none. Deltas are offered that begin at what the device reports as active then.
What is stored of the slots names neither keys nor deltas.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy import Connection, delete, select, update

from dsops.directive import MAX_SAMPLE_REQUESTS, MAX_SEQ, Challenger, DesiredSlot, Directive, SampleRequest
from dsops.dsse import PrivateKey
from dsops.errors import ContentSealed, InvalidInput
from dsops.modes import Mode
from dsops.sealing import ContentKey, recipient_key, wrap
from dsops.states import Device
from dsops_controller.db import tables
from dsops_controller.db.database import upsert
from dsops_controller.deltas.table import with_offers
from dsops_controller.fleet import sites

LIFE = timedelta(days=14)
MOST_PARDONS = 16
"""As many as a directive carries."""


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
    told = with_offers(connection, device, _with_keys(connection, device, slots))
    directive = Directive(
        fleet=director.fleet,
        device=device,
        seq=seq,
        issued=now,
        expires=now + LIFE,
        slots=dict(sorted(told.items())),
        challengers=_challengers(connection, device, slots),
        pardoned=_pardoned(connection, device),
        transfer=sites.share(connection, device),
        samples=_sample_requests(connection, device, now),
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


def accepted(connection: Connection, device: str, seq: int) -> None:
    """Take note that a device's signed report names a directive: what the newest one pardons is pardoned then."""
    newest = connection.execute(select(tables.desired.c.seq).where(tables.desired.c.device == device)).scalar()
    if newest is not None and seq >= newest:
        connection.execute(delete(tables.pardon).where(tables.pardon.c.device == device))


def check_key(connection: Connection, device: str, bundle_sha256: str) -> None:
    """Check that a device can be sent the key of a bundle; one that is not sealed needs none.

    Raises:
        ContentSealed: The device sent no key of its own when it enrolled, or does not take part any more.
    """
    if _content_keys(connection, [bundle_sha256]) and _recipient(connection, device) is None:
        raise ContentSealed(
            f"the bundle is encrypted, and {device} cannot be sent its key",
            why="the device is not accepted, or sent no key to wrap content keys to when it enrolled",
            hint=f"update its agent and enrol it again: dsops device token {device}",
        )


def outdate(connection: Connection, device: str) -> None:
    """Have a device's directive written anew soon: it is accepted again, or has another key to wrap content keys to."""
    connection.execute(update(tables.desired).where(tables.desired.c.device == device).values(updated_ms=0))


def _challengers(connection: Connection, device: str, slots: dict[str, DesiredSlot]) -> dict[str, Challenger]:
    """Return a device's challengers; one that became the champion is none any more."""
    c, b = tables.challenger.c, tables.bundle.c
    rows = connection.execute(
        select(tables.challenger, b.path, b.length_bytes, b.release).where(
            (c.device == device) & (b.sha256 == c.bundle_sha256)
        )
    ).all()
    over = [row.model for row in rows if row.model in slots and slots[row.model].sha256 == row.bundle_sha256]
    connection.execute(delete(tables.challenger).where((c.device == device) & c.model.in_(over)))
    left = [row for row in rows if row.model in slots and row.model not in over]
    bundles = {
        row.model: DesiredSlot(
            path=row.path,
            sha256=row.bundle_sha256,
            length_bytes=row.length_bytes,
            release=row.release,
            deployment=row.deployment,
        )
        for row in sorted(left, key=lambda row: str(row.model))
    }
    told = _with_keys(connection, device, bundles)
    how = {row.model: row for row in left}
    return {
        model: Challenger(
            bundle=bundle, mode=Mode(how[model].mode), share=how[model].share, cpu_share=how[model].cpu_share
        )
        for model, bundle in told.items()
    }


def _pardoned(connection: Connection, device: str) -> tuple[str, ...]:
    pardon = tables.pardon.c
    query = select(pardon.sha256).where(pardon.device == device).order_by(pardon.created_ms, pardon.sha256)
    return tuple(connection.execute(query.limit(MOST_PARDONS)).scalars())


def _sample_requests(connection: Connection, device: str, now: datetime) -> tuple[SampleRequest, ...]:
    """Return what somebody wants to see of a device, oldest first."""
    request, now_ms = tables.sample_request.c, int(now.timestamp() * 1000)
    query = select(tables.sample_request).where((request.device == device) & (request.until_ms > now_ms))
    rows = connection.execute(query.order_by(request.created_ms, request.id).limit(MAX_SAMPLE_REQUESTS)).all()
    return tuple(
        SampleRequest(
            id=row.id, model=row.model, count=row.count, until=datetime.fromtimestamp(row.until_ms / 1000, UTC)
        )
        for row in rows
    )


def _with_keys(connection: Connection, device: str, slots: dict[str, DesiredSlot]) -> dict[str, DesiredSlot]:
    """Return slots with the keys of sealed bundles, as far as the device may have them."""
    keys = _content_keys(connection, [slot.sha256 for slot in slots.values()])
    recipient = _recipient(connection, device) if keys else None
    if recipient is None:
        return slots
    wrapped = {sha256: wrap(key, recipient, sha256, device) for sha256, key in keys.items()}
    return {model: slot.model_copy(update={"content_key": wrapped.get(slot.sha256)}) for model, slot in slots.items()}


def _content_keys(connection: Connection, bundles: list[str]) -> dict[str, ContentKey]:
    held = tables.content_key.c
    rows = connection.execute(select(held.bundle_sha256, held.key).where(held.bundle_sha256.in_(bundles))).all()
    return {row.bundle_sha256: ContentKey(row.key) for row in rows}


def _recipient(connection: Connection, device: str) -> X25519PublicKey | None:
    known = tables.device.c
    row = connection.execute(select(known.state, known.content_public_key).where(known.id == device)).one_or_none()
    if row is None or row.state != Device.ACCEPTED or row.content_public_key is None:
        return None
    try:
        return recipient_key(row.content_public_key)
    except InvalidInput:
        return None


def _next_seq(connection: Connection, device: str) -> int:
    sent = connection.execute(select(tables.desired.c.seq).where(tables.desired.c.device == device)).scalar()
    accepted = connection.execute(select(tables.observed.c.seq).where(tables.observed.c.device == device)).scalar()
    return min(max(sent or 0, accepted or 0) + 1, MAX_SEQ)
