"""Pardons: a device shall try a bundle again that it condemned. The next directive says so; a report ends it.

The directive that carries a pardon is written in the same transaction. A device clears its quarantine in the one in
which it accepts a directive, so a report of the newest directive's number, signed by the device, is proof for all.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from dsops.clock import Clock
from dsops.errors import Conflict, NotFound
from dsops.messages import Observed
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout import desired

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Pardon:
    """What was pardoned, and the new directive for the device."""

    device: str
    sha256: str
    envelope: bytes


class Pardons:
    """Takes pardons."""

    def __init__(self, db: Database, director: desired.Director, clock: Clock) -> None:
        self._db = db
        self._director = director
        self._clock = clock

    def pardon(self, device: str, what: str, actor: str) -> Pardon:
        """Have a device try a bundle again.

        Args:
            device: Its name.
            what: ``MODEL/RELEASE``, ``MODEL/RELEASE/VARIANT``, or the beginning of a SHA-256 (8 hex digits or more).
            actor: Who pardons, for the audit trail.

        Raises:
            NotFound: There is no such device or bundle, or the device did not report it as quarantined.
            Conflict: The device does not take part, several bundles are meant, or too many pardons are on their way.
        """
        now = self._clock.now()
        with self._db.write() as connection:
            _check_takes_part(connection, device)
            sha256 = _meant(connection, device, what)
            upsert(connection, tables.pardon, device=device, sha256=sha256, created_ms=int(now.timestamp() * 1000))
            _check_room(connection, device)
            audit.record(connection, now, actor, "device.pardon", device, f"bundle {sha256}")
            slots = desired.slots_of(connection, device)
            return Pardon(device, sha256, desired.write(connection, self._director, device, slots, now))


def _check_takes_part(connection: Connection, device: str) -> None:
    state = connection.execute(select(tables.device.c.state).where(tables.device.c.id == device)).scalar()
    if state is None:
        raise NotFound(f"there is no device {device}", hint="see: dsops device list")
    if state != Device.ACCEPTED:
        raise Conflict(f"device {device} does not take part", why=f"it is {state}")


def _meant(connection: Connection, device: str, what: str) -> str:
    candidates = _named(connection, what)
    found = [digest for digest in _quarantined(connection, device) if digest.startswith(candidates)]
    if not found:
        why = "its newest report does not name the bundle as quarantined"
        raise NotFound(f"{device} has no quarantined bundle {what}", why=why, hint=f"see: dsops device show {device}")
    if len(found) > 1:
        raise Conflict(f"{what} means several bundles", why=", ".join(d[:12] for d in found), hint="give the digest")
    return found[0]


def _named(connection: Connection, what: str) -> tuple[str, ...]:
    """Return the beginnings of the digests that are meant."""
    model, slash, rest = what.partition("/")
    if not slash:
        return (what.lower(),) if _DIGEST.fullmatch(what.lower()) else ()
    release, _, variant = rest.partition("/")
    b = tables.bundle.c
    query = select(b.sha256).where((b.model == model) & (b.release == int(release if release.isdecimal() else 0)))
    return tuple(connection.execute(query if not variant else query.where(b.variant == variant)).scalars())


def _quarantined(connection: Connection, device: str) -> list[str]:
    observed = tables.observed.c
    report = connection.execute(select(observed.report).where(observed.device == device)).scalar()
    models = Observed.model_validate_json(report).models.values() if report else ()
    return [digest for model in models for digest in model.quarantined]


def _check_room(connection: Connection, device: str) -> None:
    pardon = tables.pardon.c
    waiting = connection.execute(select(func.count()).where(pardon.device == device)).scalar() or 0
    if waiting > desired.MOST_PARDONS:
        why = f"{desired.MOST_PARDONS} are on their way"
        raise Conflict(f"{device} has too many pardons", why=why, hint="wait until the device reports them")
