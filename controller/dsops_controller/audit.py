"""The audit trail: who did what to what, and what was refused. Rows are appended, never changed."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from dsops.clock import Clock
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.times import from_ms, to_ms

SYSTEM = "controller"
"""Actor of what the controller does by itself."""
_MAX_SUBJECT, _MAX_ACTION, _MAX_ACTOR, _MAX_DETAIL = 160, 64, 80, 2000
_HOUR_S = 3600.0
MAX_REFUSALS_PER_HOUR = 1000


@dataclass(frozen=True)
class AuditEntry:
    """One row of the trail."""

    id: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: str


def record(connection: Connection, now: datetime, actor: str, action: str, subject: str, detail: str = "") -> None:
    """Append a row in the caller's transaction, so that the deed and its record are stored together or not at all."""
    record_all(connection, now, actor, action, [(subject, detail)])


def record_all(
    connection: Connection, now: datetime, actor: str, action: str, deeds: Sequence[tuple[str, str]]
) -> None:
    """Append a row for each subject and detail, likewise."""
    same = {"time_ms": to_ms(now), "actor": actor[:_MAX_ACTOR], "action": action[:_MAX_ACTION]}
    rows = [{**same, "subject": subject[:_MAX_SUBJECT], "detail": detail[:_MAX_DETAIL]} for subject, detail in deeds]
    if rows:
        connection.execute(insert(tables.audit), rows)


class Audit:
    """Reads the trail, and appends what belongs to no other transaction."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def record(self, actor: str, action: str, subject: str, detail: str = "") -> None:
        """Append a row in a transaction of its own."""
        with self._db.write() as connection:
            record(connection, self._clock.now(), actor, action, subject, detail)

    def list(self, limit: int = 100, subject: str | None = None) -> tuple[AuditEntry, ...]:
        """Return the newest rows, newest first; only those of one subject if it is given."""
        query = select(tables.audit).order_by(tables.audit.c.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(tables.audit.c.subject == subject)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        return tuple(AuditEntry(r.id, from_ms(r.time_ms), r.actor, r.action, r.subject, r.detail) for r in rows)


class RefusalGuard:
    """Bounds the rows that refusals can cause: beyond the limit of an hour one row says that more were left out."""

    def __init__(self, clock: Clock, limit: int = MAX_REFUSALS_PER_HOUR) -> None:
        self._clock = clock
        self._limit = limit
        self._lock = threading.Lock()
        self._began_s = clock.monotonic_s()
        self._count = 0
        self._once: set[tuple[str, str, str]] = set()

    def refuse(
        self, connection: Connection, actor: str, action: str, subject: str, detail: str, *, once: str = ""
    ) -> None:
        """Append the row of one refusal, if the hour still has room.

        Args:
            connection: The caller's transaction.
            actor: Who was refused.
            action: What was refused.
            subject: What it was about.
            detail: Why.
            once: A reason for which action and subject get one row an hour; empty for a row each time.
        """
        key = (action, subject, once)
        with self._lock:
            if self._clock.monotonic_s() - self._began_s >= _HOUR_S:
                self._began_s, self._count, self._once = self._clock.monotonic_s(), 0, set()
            if key in self._once:
                return
            self._count += 1
            count = self._count
            if once and count <= self._limit:
                self._once.add(key)
        if count <= self._limit:
            record(connection, self._clock.now(), actor, action, subject, detail)
        elif count == self._limit + 1:
            text = f"more than {self._limit} refusals in an hour; the others of this hour are not recorded"
            record(connection, self._clock.now(), SYSTEM, "refusals.left_out", "audit", text)

    @property
    def is_full(self) -> bool:
        """Whether the next refusal of this hour will not be recorded, so that nobody need open a transaction for it."""
        with self._lock:
            return self._count > self._limit and self._clock.monotonic_s() - self._began_s < _HOUR_S
