"""Alerts and how far each notice of them is handed over, in the state database.

A cause has one open alert while it lasts: the key of an open alert is unique, also with several controllers. An alert
and its notices are stored in one transaction before anything is handed over (an outbox); a notice is claimed for a
while before it is tried, so whoever is killed in the middle leaves it to the next. What was handed over twice has one
id, and that an alert is over is told to nobody before he was told of the alert.
"""

import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dsops import strictjson
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound
from dsops_controller import audit
from dsops_controller.alerts.notices import (
    Alert,
    AlertState,
    Claimed,
    Notice,
    NoticeRow,
    NoticeState,
    envelope,
    wait_after,
)
from dsops_controller.alerts.rules import Cause
from dsops_controller.alerts.settings import Kind
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms, to_ms

CLAIM_MARGIN_S = 10.0
_MOST_ERROR = 300
_AT_ONCE = 500
T = TypeVar("T")
_JITTER = random.SystemRandom()


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
        now_ms, column = to_ms(self._clock.now()), tables.alert.c
        present = {cause.key[:200]: cause for cause in causes}
        with self._db.read() as connection:
            known = select(column.id, column.open_key, column.summary).where(column.state == AlertState.OPEN)
            there = {row.open_key: row for row in connection.execute(known)}
        lasting = [row for key, row in there.items() if key in present]
        self._go_on(lasting, present, now_ms)
        new = [(key, cause) for key, cause in present.items() if key not in there]
        gone = [row.id for key, row in there.items() if key not in present]
        opened = sum(self._open(some, hooks) for some in _parts(new))
        resolved = sum(self._resolve(some, hooks, now_ms - clear // timedelta(milliseconds=1)) for some in _parts(gone))
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
            return _alerts(connection, connection.execute(query).all())

    def counts(self) -> dict[str, int]:
        """Return how many alerts are open, by kind."""
        column = tables.alert.c
        with self._db.read() as connection:
            is_open = column.state == AlertState.OPEN
            rows = connection.execute(select(column.kind, func.count()).where(is_open).group_by(column.kind)).all()
        return {kind.value: 0 for kind in Kind} | {kind: int(count) for kind, count in rows}

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
        """Delete some of the alerts that are resolved for so long, with their notices; return how many."""
        column, notices = tables.alert.c, tables.alert_delivery
        old = (column.state == AlertState.RESOLVED) & (column.resolved_ms < to_ms(self._clock.now() - keep))
        with self._db.write() as connection:
            gone = connection.execute(select(column.id).where(old).limit(_AT_ONCE)).scalars().all()
            if gone:
                connection.execute(delete(notices).where(notices.c.alert.in_(gone)))
                connection.execute(delete(tables.alert).where(column.id.in_(gone)))
        return len(gone)

    def _go_on(self, lasting: Sequence[AnyRow], present: Mapping[str, Cause], now_ms: int) -> None:
        """Note that causes are still there; what is said of one changes with its figures."""
        column = tables.alert.c
        ours = (column.id == bindparam("of_id")) & (column.state == AlertState.OPEN)
        same = [row for row in lasting if present[row.open_key].summary == row.summary]
        other = [(row.id, present[row.open_key]) for row in lasting if present[row.open_key].summary != row.summary]
        with self._db.write() as connection:
            if same:
                seen = update(tables.alert).where(ours).values(seen_ms=now_ms)
                connection.execute(seen, [{"of_id": row.id} for row in same])
            if other:
                said = [{"of_id": id_, "s": cause.summary, "e": _text(cause.evidence)} for id_, cause in other]
                values = {"seen_ms": now_ms, "summary": bindparam("s"), "evidence": bindparam("e")}
                connection.execute(update(tables.alert).where(ours).values(**values), said)

    def _open(self, causes: Sequence[tuple[str, Cause]], hooks: Sequence[str]) -> int:
        """Open alerts, and return how many; another controller may open one at the same moment: its key decides."""
        now_ms = to_ms(self._clock.now())
        rows = [
            {
                "id": secrets.token_hex(16),
                "open_key": key,
                "kind": cause.kind,
                "model": cause.model,
                "device": cause.device,
                "state": AlertState.OPEN,
                "summary": cause.summary,
                "evidence": _text(cause.evidence),
                "opened_ms": now_ms,
                "seen_ms": now_ms,
            }
            for key, cause in causes
        ]
        with self._db.write() as connection:
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            connection.execute(dialect.insert(tables.alert).on_conflict_do_nothing(), rows)
            return self._tell(connection, [str(row["id"]) for row in rows], Notice.OPENED, hooks)

    def _resolve(self, alerts: Sequence[str], hooks: Sequence[str], seen_before_ms: int) -> int:
        column, now_ms = tables.alert.c, to_ms(self._clock.now())
        is_over = column.id.in_(alerts) & (column.state == AlertState.OPEN) & (column.seen_ms <= seen_before_ms)
        with self._db.write() as connection:
            over = list(connection.execute(select(column.id).where(is_over).with_for_update()).scalars())
            values = {"state": AlertState.RESOLVED, "open_key": None, "resolved_ms": now_ms}
            connection.execute(update(tables.alert).where(column.id.in_(over)).values(**values))
            return self._tell(connection, over, Notice.RESOLVED, hooks)

    def _tell(self, connection: Connection, alerts: Sequence[str], notice: Notice, hooks: Sequence[str]) -> int:
        """Write notices of those of the alerts that are stored, and return how many alerts that are."""
        now = self._clock.now()
        rows = connection.execute(select(tables.alert).where(tables.alert.c.id.in_(alerts))).all()
        found = [_alert(row, ()) for row in rows]
        first = {"notice": notice, "state": NoticeState.PENDING, "next_ms": to_ms(now)}
        notices = [
            {**first, "alert": one.id, "hook": hook, "body": envelope(self._fleet, one, notice)}
            for one in found
            for hook in hooks
        ]
        if notices:
            connection.execute(tables.alert_delivery.insert(), notices)
        for one in found:
            about = one.device or one.model
            audit.record(connection, now, audit.SYSTEM, f"alert.{notice}", about, f"{one.kind}: {one.summary}")
        return len(found)

    def _set(self, claimed: Claimed, **values: object) -> None:
        with self._db.write() as connection:
            ours = _ours(claimed.alert, claimed.notice, claimed.hook)
            connection.execute(update(tables.alert_delivery).where(ours).values(**values))


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
    return _alerts(connection, rows)[0]


def _alerts(connection: Connection, rows: Sequence[AnyRow]) -> tuple[Alert, ...]:
    column = tables.alert_delivery.c
    notices: dict[str, list[NoticeRow]] = {row.id: [] for row in rows}
    for some in _parts(list(notices)):
        query = select(tables.alert_delivery).where(column.alert.in_(some)).order_by(column.notice, column.hook)
        for one in connection.execute(query):
            state, due = NoticeState(one.state), from_ms(one.next_ms)
            notices[one.alert].append(NoticeRow(Notice(one.notice), one.hook, state, one.attempts, due, one.error))
    return tuple(_alert(row, notices[row.id]) for row in rows)


def _alert(row: AnyRow, notices: Sequence[NoticeRow]) -> Alert:
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


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in transactions' worth, so that nobody waits long for the database."""
    for first in range(0, len(items), _AT_ONCE):
        yield items[first : first + _AT_ONCE]


def _text(evidence: Mapping[str, Any]) -> str:
    return strictjson.dumps(dict(evidence)).decode()
