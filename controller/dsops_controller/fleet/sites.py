"""Sites: devices that share a link, and how much of it they may use together.

A device's directive names its share: the site's budget divided by the number of accepted devices there, for nobody
knows which of them fetch at the same time. The number that was divided by is stored, so that all directives of a site
agree; when it no longer holds, they are written anew, at most every ten minutes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from dsops.clock import Clock
from dsops.directive import MAX_SEQ, TransferLimits
from dsops.errors import InvalidInput, NotFound
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.db.times import from_ms, to_ms

SETTLE_MS = 600_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SOME = 500


@dataclass(frozen=True)
class SiteRecord:
    """One site with a budget; 0 sets no limit.

    Attributes:
        name: As devices name it (``[transfer] site`` in agent.toml).
        bytes_per_s: What all of its devices may fetch together.
        bytes_per_day: Likewise.
        devices: Accepted devices there now.
        each: What the directive of each of them says.
        updated: When the budget or its division changed last.
    """

    name: str
    bytes_per_s: int
    bytes_per_day: int
    devices: int
    each: TransferLimits
    updated: datetime


class Sites:
    """Reads and writes the budgets of sites."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def list(self) -> tuple[SiteRecord, ...]:
        """Return every site that has a budget, by name."""
        with self._db.read() as connection:
            rows = connection.execute(select(tables.site).order_by(tables.site.c.name)).all()
            counts = Counter(_sites(connection).values()) if rows else Counter[str]()
        return tuple(
            SiteRecord(
                name=row.name,
                bytes_per_s=row.bytes_per_s,
                bytes_per_day=row.bytes_per_day,
                devices=counts[row.name],
                each=_divided(row.bytes_per_s, row.bytes_per_day, row.devices),
                updated=from_ms(row.updated_ms),
            )
            for row in rows
        )

    def set(self, name: str, bytes_per_s: int, bytes_per_day: int, actor: str = audit.SYSTEM) -> None:
        """Give a site a budget, in place of the one before; its devices' directives are written anew soon.

        Raises:
            InvalidInput: The name cannot be one, a number is negative or too large, or both are 0.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:80]!r} is not the name of a site",
                why="a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
                hint="use the name that agent.toml has under [transfer] site",
            )
        if not (0 <= bytes_per_s <= MAX_SEQ and 0 <= bytes_per_day <= MAX_SEQ) or not (bytes_per_s or bytes_per_day):
            raise InvalidInput(
                f"site {name} needs a budget", why="one of the two is a number of bytes above 0", hint="or: clear it"
            )
        with self._db.write() as connection:
            values = {"bytes_per_s": bytes_per_s, "bytes_per_day": bytes_per_day}
            there = [device for device, site in _sites(connection).items() if site == name]
            now = self._clock.now()
            upsert(connection, tables.site, name=name, devices=len(there), updated_ms=to_ms(now), **values)
            _outdate(connection, there)
            detail = f"{bytes_per_s} bytes a second, {bytes_per_day} a day, {len(there)} devices"
            audit.record(connection, now, actor, "site.set", name, detail)

    def clear(self, name: str, actor: str = audit.SYSTEM) -> None:
        """Take a site's budget away.

        Raises:
            NotFound: It has none.
        """
        with self._db.write() as connection:
            if not connection.execute(delete(tables.site).where(tables.site.c.name == name)).rowcount:
                raise NotFound(f"site {name[:80]} has no budget", hint="see: dsops site list")
            _outdate(connection, [device for device, site in _sites(connection).items() if site == name])
            audit.record(connection, self._clock.now(), actor, "site.cleared", name)


def share(connection: Connection, device: str) -> TransferLimits:
    """Return what one device may fetch because of its site."""
    rows = {row.name: row for row in connection.execute(select(tables.site)).all()}
    if not rows:
        return TransferLimits()
    inventory = connection.execute(select(tables.device.c.inventory).where(tables.device.c.id == device)).scalar()
    row = rows.get(_site(inventory or "{}"))
    return _divided(row.bytes_per_s, row.bytes_per_day, row.devices) if row else TransferLimits()


def devices_at(connection: Connection, sites: Iterable[str]) -> set[str]:
    """Return the accepted devices of some sites, as their agent.toml names them, whether or not these have a budget.

    Raises:
        InvalidInput: A site has none.
    """
    there: dict[str, set[str]] = {}
    for device, site in _sites(connection).items():
        there.setdefault(site, set()).add(device)
    unknown = {site for site in sites if not site or site not in there}
    if unknown:
        raise InvalidInput(
            f"no accepted device is at a site {min(unknown)[:80]!r}",
            why=f"devices are at {', '.join(sorted(filter(None, there))[:10]) or 'no site'}",
            hint="a device's site is what its agent.toml has under [transfer] site",
        )
    return set().union(*(there[site] for site in sites))


def follow(connection: Connection, now_ms: int) -> None:
    """Divide budgets anew where devices came or went, if that was not done lately; have directives written anew."""
    old = tables.site.c.updated_ms <= now_ms - SETTLE_MS
    rows = connection.execute(select(tables.site.c.name, tables.site.c.devices).where(old)).all()
    sites: Mapping[str, str] = _sites(connection) if rows else {}
    for row in rows:
        there = [device for device, site in sites.items() if site == row.name]
        if len(there) != row.devices:
            values = {"devices": len(there), "updated_ms": now_ms}
            connection.execute(update(tables.site).where(tables.site.c.name == row.name).values(values))
            _outdate(connection, there)


def _divided(bytes_per_s: int, bytes_per_day: int, devices: int) -> TransferLimits:
    """Return one device's share; at least one byte, for none at all would set no limit."""

    def part(whole: int) -> int:
        return max(1, whole // max(1, devices)) if whole else 0

    return TransferLimits(bytes_per_s=part(bytes_per_s), bytes_per_day=part(bytes_per_day))


def _sites(connection: Connection) -> dict[str, str]:
    """Return the site of every accepted device."""
    known = tables.device.c
    rows = connection.execute(select(known.id, known.inventory).where(known.state == Device.ACCEPTED)).all()
    return {row.id: _site(row.inventory) for row in rows}


def _site(inventory: str) -> str:
    return str(json.loads(inventory).get("site", ""))


def _outdate(connection: Connection, devices: list[str]) -> None:
    for first in range(0, len(devices), _SOME):
        some = tables.desired.c.device.in_(devices[first : first + _SOME])
        connection.execute(update(tables.desired).where(some).values(updated_ms=0))
