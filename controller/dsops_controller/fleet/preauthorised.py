"""Devices that an operator listed before they come: a name and the fingerprint of the key that it will show.

Functions take the caller's transaction.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from dsops.errors import Conflict, DsopsError, InvalidInput
from dsops.ids import DeviceId, device_id, digest
from dsops_controller import audit
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import preauthorised as table
from dsops_controller.db.times import to_ms
from dsops_controller.fleet import tokens
from dsops_controller.fleet.decision import Listed

MAX_LINES = 20_000
HEADER = ["device", "key_sha256"]
_SHOWN = 10


@dataclass(frozen=True)
class Line:
    """One device of a list: its name, and the SHA-256 (hex) of its key's DER SubjectPublicKeyInfo."""

    device: DeviceId
    key_sha256: str


def parse(text: str) -> tuple[Line, ...]:
    """Return the lines of a CSV file ``device,key_sha256``; a header, empty lines and ``#`` comments may stand in it.

    Raises:
        InvalidInput: Any line is wrong; the text names the first of them by number.
    """
    found: dict[str, Line] = {}
    problems: list[str] = []
    for number, cells in enumerate(csv.reader(io.StringIO(text)), 1):
        words = [cell.strip() for cell in cells]
        if not any(words) or words[0].startswith("#") or words == HEADER:
            continue
        try:
            line = _line(words)
            if line.device in found:
                raise InvalidInput(f"{line.device} comes twice")
            found[line.device] = line
        except DsopsError as error:
            problems.append(f"line {number}: {error.what}")
    if problems:
        raise InvalidInput("the list is not valid, nothing of it was taken", why=_joined(problems))
    if not 0 < len(found) <= MAX_LINES:
        raise InvalidInput("the list is empty or too long", why=f"{len(found)} devices, {MAX_LINES} are allowed")
    return tuple(found.values())


def enter(connection: Connection, lines: Sequence[Line], now: datetime, actor: str) -> None:
    """Store a list, all of it or nothing; a name that is listed already gets the new fingerprint.

    Raises:
        Conflict: A name belongs to a device that takes part, or that is suspended or decommissioned.
    """
    problems = []
    for line in lines:
        try:
            _check_free(connection, line)
            tokens.open_name(connection, line.device, now, "be listed")
        except Conflict as error:
            problems.append(f"{line.device}: {error.why}")
    if problems:
        raise Conflict("the list was not taken", why=_joined(problems), hint="take these lines out")
    connection.execute(delete(table).where(table.c.device.in_([line.device for line in lines])))
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


def _line(words: Sequence[str]) -> Line:
    if len(words) != len(HEADER):
        raise InvalidInput(f"{len(words)} columns instead of device,key_sha256")
    return Line(device_id(words[0]), digest(words[1].lower().replace(":", "")))


def _check_free(connection: Connection, line: Line) -> None:
    state = connection.execute(select(devices.c.state).where(devices.c.id == line.device)).scalar()
    if state == "accepted":
        raise Conflict(f"{line.device} cannot be listed", why="it takes part already")


def _joined(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
