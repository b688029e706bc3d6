"""Whether the broker has room for a delta, inside a transaction of the caller.

Bundles come first: a rollout is refused when its bundle does not fit, a delta is left out. That is remembered beside
the delta, and decided anew when the next rollout of what it makes is created.
"""

from sqlalchemy import Connection, delete, func, select, update

from dsops_controller.db import tables
from dsops_controller.rollout.wanted import wanted_files

NO_ROOM = "the broker has no room for it ([broker] retained_bytes)"

_delta = tables.delta.c


def has_room(connection: Connection, length_bytes: int, retained_bytes: int) -> bool:
    """Return whether everything that the broker should hold and a file more stay within ``retained_bytes``."""
    return sum(wanted_files(connection).values()) + length_bytes <= retained_bytes


def without_room(connection: Connection) -> int:
    """Return how many deltas are not offered because there is no room."""
    rows = select(func.count()).select_from(tables.delta).where(_delta.withheld == NO_ROOM)
    return int(connection.execute(rows).scalar_one())


def decide_anew(connection: Connection, target: str, retained_bytes: int) -> None:
    """Leave out what no longer fits of the deltas to a bundle whose rollout was created; let the others be made again.

    A delta that was left out before has no row afterwards, so the first device that could use it has it made.
    """
    connection.execute(delete(tables.delta).where((_delta.target_sha256 == target) & (_delta.withheld == NO_ROOM)))
    made = (_delta.target_sha256 == target) & _delta.sha256.is_not(None)
    rows = connection.execute(select(tables.delta).where(made).order_by(_delta.length_bytes.desc())).all()
    for row in rows:
        if has_room(connection, 0, retained_bytes):
            return
        pair = (_delta.base_sha256 == row.base_sha256) & (_delta.target_sha256 == target)
        values = {"sha256": None, "index_sha256": None, "withheld": NO_ROOM}
        connection.execute(update(tables.delta).where(pair).values(values))
