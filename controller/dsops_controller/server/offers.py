"""What was offered to the broker, in the database: so that it is taken back when nobody wants it, whoever restarts.

Every step can be repeated. A file is noted before its first chunk is published, and the note goes after the broker took
the last empty message, so a controller that is killed in between finds at its next look what is left to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from dsops.clock import Clock
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout.wanted import wanted_files

CHUNK_LIFE_S = 7 * 86_400
"""A broker forgets chunks after this time, also those of a controller that was never started again."""
REFRESH_S = CHUNK_LIFE_S / 2


@dataclass(frozen=True)
class Due:
    """What is to be done: files to offer, files to take back, each by digest."""

    offer: tuple[str, ...] = ()
    retire: tuple[str, ...] = ()


def due(wanted: Mapping[str, int], offered_ms: Mapping[str, int], now_ms: int) -> Due:
    """Return what is to be done. Pure.

    Args:
        wanted: Files that devices may have to fetch.
        offered_ms: Files that were offered, and when they were last.
        now_ms: The time.
    """
    old_ms = now_ms - REFRESH_S * 1000
    offer = sorted(sha256 for sha256 in wanted if offered_ms.get(sha256, 0) < old_ms)
    return Due(tuple(offer), tuple(sorted(set(offered_ms) - set(wanted))))


class Offers:
    """The table of files that were offered."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def wanted(self) -> dict[str, int]:
        """Return the files that the broker should hold, digest to length in bytes."""
        with self._db.read() as connection:
            return wanted_files(connection)

    def due(self) -> Due:
        """Return what is to be done now."""
        with self._db.read() as connection:
            seeded = tables.seeded.c
            rows = connection.execute(select(seeded.sha256, seeded.seeded_ms)).all()
            return due(wanted_files(connection), {row.sha256: row.seeded_ms for row in rows}, self._now_ms())

    def begin(self, sha256: str, length_bytes: int) -> None:
        """Note a file before its first chunk is published."""
        with self._db.write() as connection:
            values = {"length_bytes": length_bytes, "seeded_ms": self._now_ms()}
            upsert(connection, tables.seeded, sha256=sha256, **values)

    def end(self, sha256: str) -> None:
        """Forget a file after the broker forgot its chunks. One that is wanted again meanwhile is due to be offered."""
        with self._db.write() as connection:
            connection.execute(delete(tables.seeded).where(tables.seeded.c.sha256 == sha256))

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def offered_bytes(connection: Connection) -> int:
    """Return the length of everything that is offered; chunks that files share count for each."""
    return int(connection.execute(select(func.coalesce(func.sum(tables.seeded.c.length_bytes), 0))).scalar_one())
