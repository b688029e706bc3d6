"""Alerts and how far each notice of them is handed over, in the state database.

A cause has one open alert while it lasts: the key of an open alert is unique, also with several controllers. An alert
and its notices are stored in one transaction before anything is handed over (an outbox); a notice is claimed for a
while before it is tried, so whoever is killed in the middle leaves it to the next. What was handed over twice has one
id, and that an alert is over is told to nobody before he was told of the alert.
"""

import json
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dsops import strictjson
from dsops.clock import Clock, utc_text
from dsops.errors import Conflict, NotFound
from dsops_controller import audit
from dsops_controller.alerts.rules import Cause
from dsops_controller.alerts.settings import Kind
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.times import from_ms, to_ms

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 3600.0
CLAIM_MARGIN_S = 10.0
_MOST_ERROR = 300
_JITTER = random.SystemRandom()


class AlertState(StrEnum):
    """Whether its cause is still there."""

    OPEN = "open"
    RESOLVED = "resolved"


class Notice(StrEnum):
    """What is told of an alert."""

    OPENED = "opened"
    RESOLVED = "resolved"


class NoticeState(StrEnum):
    """How far a notice is with one webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """It was tried too often, or refused for good (dead letter). Try again: ``dsops alerts retry``."""


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """How far one notice is with one webhook."""

    notice: Notice
    hook: str
    state: NoticeState
    attempts: int
    next: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; ``seen`` is when its cause was there last."""

    id: str
    kind: Kind
    model: str
    device: str
    state: AlertState
    summary: str
    evidence: Mapping[str, Any]
    opened: datetime
    seen: datetime
    resolved: datetime | None
    notices: tuple[NoticeRow, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A notice to hand over now."""

    alert: str
    notice: Notice
    hook: str
    attempts: int
    body: bytes

    @property
    def id(self) -> str:
        """What is the same whenever it is handed over."""
        return notice_id(self.alert, self.notice)


class Alerts:
    """Stores alerts, and says which notices are due. Safe for several threads and controllers.

    Args:
        fleet: Name of the fleet.
        db: The state database.
        clock: Tells the time.
        draw: Gives a number from 0 to 1, by which attempts of several controllers spread.
    """

    def __init__(self, fleet: str, db: Database, clock: Clock, draw: Callable[[], float] = _JITTER.random) -> None:
        self._fleet = fleet
        self._db = db
        self._clock = clock
        self._draw = draw

    def note(self, causes: Iterable[Cause], hooks: Sequence[str], clear: timedelta) -> tuple[int, int]:
        """Open alerts of new causes, go on with those that last, resolve those whose cause is gone for ``clear``.

        Returns:
            How many were opened and resolved.
        """
        now, opened, present = self._clock.now(), 0, {}
        for cause in causes:
            present[cause.key[:200]] = cause
        with self._db.write() as connection:
            column = tables.alert.c
            rows = connection.execute(select(column.id, column.open_key).where(column.state == AlertState.OPEN)).all()
            known = {row.open_key: row.id for row in rows}
            for key, cause in present.items():
                if key in known:
                    values = {"seen_ms": to_ms(now), "summary": cause.summary, "evidence": _text(cause.evidence)}
                    connection.execute(update(tables.alert).where(column.id == known[key]).values(**values))
                else:
                    opened += self._open(connection, key, cause, hooks)
            absent = [alert for key, alert in known.items() if key not in present]
            resolved = sum(self._resolve(connection, alert, hooks, now - clear) for alert in absent)
        return opened, resolved

    def list(self, *, only_open: bool = False, kind: Kind | None = None, limit: int = 100) -> tuple[Alert, ...]:
        """Return alerts, newest first."""
        column = tables.alert.c
        query = select(tables.alert).order_by(column.opened_ms.desc(), column.id).limit(limit)
        if only_open:
            query = query.where(column.state == AlertState.OPEN)
        if kind is not None:
            query = query.where(column.kind == kind)
        with self._db.read() as connection:
            return tuple(_alert(connection, row) for row in connection.execute(query).all())

    def counts(self) -> dict[str, int]:
        """Return how many alerts are open, by kind."""
        column = tables.alert.c
        with self._db.read() as connection:
            rows = connection.execute(select(column.kind).where(column.state == AlertState.OPEN)).scalars().all()
        return {kind.value: rows.count(kind.value) for kind in Kind}

    def get(self, alert: str) -> Alert:
        """Return one alert by its id, or by the beginning of it.

        Raises:
            NotFound: There is none.
            Conflict: Several begin so.
        """
        with self._db.read() as connection:
            return _named(connection, alert)

    def retry(self, alert: str, actor: str = audit.SYSTEM) -> Alert:
        """Hand those notices of an alert over again that were given up.

        Raises:
            NotFound: There is no such alert.
        """
        now = self._clock.now()
        column = tables.alert_delivery.c
        with self._db.write() as connection:
            found = _named(connection, alert)
            dead = (column.alert == found.id) & (column.state == NoticeState.DEAD)
            again = {"state": NoticeState.PENDING, "attempts": 0, "next_ms": to_ms(now)}
            connection.execute(update(tables.alert_delivery).where(dead).values(**again))
            audit.record(connection, now, actor, "alert.retried", found.device or found.model, found.id)
            return _named(connection, found.id)

    def claim(self, spans: Mapping[str, float]) -> Claimed | None:
        """Claim and return a notice that is due; None when there is none.

        Args:
            spans: How many seconds each webhook may take. A claim ends a little after that by itself.
        """
        now = self._clock.now()
        column, before = tables.alert_delivery.c, tables.alert_delivery.alias()
        is_told = ~exists().where(
            (before.c.alert == column.alert)
            & (before.c.hook == column.hook)
            & (before.c.notice == Notice.OPENED)
            & (before.c.state == NoticeState.PENDING)
        )
        due = (column.state == NoticeState.PENDING) & (column.next_ms <= to_ms(now))
        query = select(tables.alert_delivery).where(due & ((column.notice == Notice.OPENED) | is_told))
        with self._db.write() as connection:
            for row in connection.execute(query.order_by(column.next_ms).limit(32)).all():
                until = to_ms(now) + round(1000 * (spans.get(row.hook, 0.0) + CLAIM_MARGIN_S))
                as_seen = _ours(row.alert, row.notice, row.hook) & (column.next_ms == row.next_ms)
                as_seen &= column.state == NoticeState.PENDING
                later = {"next_ms": until, "attempts": column.attempts + 1}
                if connection.execute(update(tables.alert_delivery).where(as_seen).values(**later)).rowcount:
                    return Claimed(row.alert, Notice(row.notice), row.hook, row.attempts + 1, row.body)
        return None

    def delivered(self, claimed: Claimed) -> None:
        """Note that a notice was handed over."""
        self._set(claimed, state=NoticeState.DELIVERED, error="")

    def not_delivered(self, claimed: Claimed, why: str, *, is_final: bool, wait_s: float, most: int) -> None:
        """Note that an attempt failed: try later, or give the notice up after ``most`` attempts."""
        error = why[:_MOST_ERROR]
        if is_final or claimed.attempts >= most:
            self._set(claimed, state=NoticeState.DEAD, error=error)
            return
        wait = max(wait_s, wait_after(claimed.attempts, self._draw()))
        self._set(claimed, next_ms=to_ms(self._clock.now()) + round(1000 * wait), error=error)

    def forget(self, keep: timedelta) -> int:
        """Delete alerts that are resolved for so long, with their notices; return how many."""
        column, notices = tables.alert.c, tables.alert_delivery
        old = (column.state == AlertState.RESOLVED) & (column.resolved_ms < to_ms(self._clock.now() - keep))
        with self._db.write() as connection:
            gone = connection.execute(select(column.id).where(old)).scalars().all()
            if gone:
                connection.execute(delete(notices).where(notices.c.alert.in_(gone)))
                connection.execute(delete(tables.alert).where(column.id.in_(gone)))
        return len(gone)

    def _open(self, connection: Connection, key: str, cause: Cause, hooks: Sequence[str]) -> bool:
        now = self._clock.now()
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        alert = secrets.token_hex(16)
        values = {
            "id": alert,
            "open_key": key,
            "kind": cause.kind,
            "model": cause.model,
            "device": cause.device,
            "state": AlertState.OPEN,
            "summary": cause.summary,
            "evidence": _text(cause.evidence),
            "opened_ms": to_ms(now),
            "seen_ms": to_ms(now),
        }
        # Another controller may open it at the same moment: the key decides.
        if not connection.execute(dialect.insert(tables.alert).values(**values).on_conflict_do_nothing()).rowcount:
            return False
        self._tell(connection, alert, Notice.OPENED, hooks)
        return True

    def _resolve(self, connection: Connection, alert: str, hooks: Sequence[str], seen_before: datetime) -> bool:
        column = tables.alert.c
        over = {"state": AlertState.RESOLVED, "open_key": None, "resolved_ms": to_ms(self._clock.now())}
        is_over = (column.id == alert) & (column.state == AlertState.OPEN) & (column.seen_ms <= to_ms(seen_before))
        if not connection.execute(update(tables.alert).where(is_over).values(**over)).rowcount:
            return False
        self._tell(connection, alert, Notice.RESOLVED, hooks)
        return True

    def _tell(self, connection: Connection, alert: str, notice: Notice, hooks: Sequence[str]) -> None:
        now, found = self._clock.now(), _named(connection, alert)
        row = {"alert": alert, "notice": notice, "state": NoticeState.PENDING, "next_ms": to_ms(now)}
        for hook in hooks:
            body = envelope(self._fleet, found, notice)
            connection.execute(tables.alert_delivery.insert().values(**row, hook=hook, body=body))
        about = found.device or found.model
        audit.record(connection, now, audit.SYSTEM, f"alert.{notice}", about, f"{found.kind}: {found.summary}")

    def _set(self, claimed: Claimed, **values: object) -> None:
        with self._db.write() as connection:
            ours = _ours(claimed.alert, claimed.notice, claimed.hook)
            connection.execute(update(tables.alert_delivery).where(ours).values(**values))


def notice_id(alert: str, notice: Notice) -> str:
    """Return the id of a notice, by which receivers know one that comes twice."""
    return f"{alert}-{notice}"


def envelope(fleet: str, alert: Alert, notice: Notice) -> bytes:
    """Return a notice as CloudEvents 1.0 in JSON (github.com/cloudevents/spec, JSON format 1.0)."""
    moment = alert.resolved if notice is Notice.RESOLVED and alert.resolved is not None else alert.opened
    return strictjson.dumps(
        {
            "specversion": "1.0",
            "id": notice_id(alert.id, notice),
            "source": f"/dsops/{fleet}",
            "type": f"alert.{notice}",
            "subject": alert.device or alert.model,
            "time": utc_text(moment),
            "datacontenttype": "application/json",
            "data": {
                "alert": alert.id,
                "kind": alert.kind.value,
                "model": alert.model,
                "device": alert.device,
                "summary": alert.summary,
                "evidence": dict(alert.evidence),
                "opened": utc_text(alert.opened),
                "resolved": utc_text(alert.resolved) if alert.resolved else None,
            },
        }
    )


def wait_after(attempts: int, chance: float) -> float:
    """Return seconds to wait after so many attempts: twice as long each time, half of it by chance (0 to 1)."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 20))
    return longest * (0.5 + chance / 2)


def _ours(alert: str, notice: str, hook: str) -> ColumnElement[bool]:
    column = tables.alert_delivery.c
    return (column.alert == alert) & (column.notice == notice) & (column.hook == hook)


def _named(connection: Connection, alert: str) -> Alert:
    column = tables.alert.c
    begins = column.id.startswith(alert, autoescape=True) if alert else column.id == ""
    rows = connection.execute(select(tables.alert).where(begins).limit(2)).all()
    if not rows:
        raise NotFound(f"there is no alert {alert[:80]}", hint="see: dsops alerts list")
    if len(rows) > 1:
        raise Conflict(f"several alerts begin with {alert}", hint="give more of the id")
    return _alert(connection, rows[0])


def _alert(connection: Connection, row: Row[Any]) -> Alert:
    column = tables.alert_delivery.c
    query = select(tables.alert_delivery).where(column.alert == row.id).order_by(column.notice, column.hook)
    notices = [
        NoticeRow(Notice(one.notice), one.hook, NoticeState(one.state), one.attempts, from_ms(one.next_ms), one.error)
        for one in connection.execute(query)
    ]
    return Alert(
        id=row.id,
        kind=Kind(row.kind),
        model=row.model,
        device=row.device,
        state=AlertState(row.state),
        summary=row.summary,
        evidence=json.loads(row.evidence),
        opened=from_ms(row.opened_ms),
        seen=from_ms(row.seen_ms),
        resolved=None if row.resolved_ms is None else from_ms(row.resolved_ms),
        notices=tuple(notices),
    )


def _text(evidence: Mapping[str, Any]) -> str:
    return strictjson.dumps(dict(evidence)).decode()
