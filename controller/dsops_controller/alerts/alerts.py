"""Alerts and how far each notice of them is handed over, in the state database.

A cause has one open alert while it lasts: the key of an open alert is unique, also with several controllers. An alert
and its notices are stored in one transaction before anything is handed over (an outbox); :mod:`.deliveries` says what
then becomes of them.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dsops import strictjson
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound
from dsops_controller import audit
from dsops_controller.alerts.notices import (
    Alert,
    AlertState,
    Ending,
    Notice,
    NoticeRow,
    NoticeState,
    envelope,
)
from dsops_controller.alerts.rules import Cause, Findings
from dsops_controller.alerts.settings import Kind
from dsops_controller.dataops.drift.standing import ACCEPTED
from dsops_controller.db import alert_tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms, to_ms

_AT_ONCE = 500
T = TypeVar("T")


class Alerts:
    """Stores alerts and what is to be told of them. Safe for several threads and controllers.

    Args:
        fleet: Name of the fleet.
        db: The state database.
        clock: Tells the time.
    """

    def __init__(self, fleet: str, db: Database, clock: Clock) -> None:
        self._fleet = fleet
        self._db = db
        self._clock = clock

    def note(self, found: Findings, hooks: Sequence[str], clear: timedelta) -> tuple[int, int]:
        """Open alerts of new causes, go on with those that last, resolve those whose cause is gone for ``clear``.

        Returns:
            How many were opened and resolved.
        """
        now_ms, column = to_ms(self._clock.now()), alert_tables.alert.c
        present = {cause.key[:200]: cause for cause in found.causes}
        with self._db.read() as connection:
            is_seen = (column.state == AlertState.OPEN) & column.kind.not_in(found.unseen)
            is_of_fleet = or_(column.device == "", column.device.in_(ACCEPTED)).label("is_of_fleet")
            facts = (column.id, column.open_key, column.kind, column.model, column.summary)
            known = select(*facts, is_of_fleet).where(is_seen).order_by(column.id)
            there = {row.open_key: row for row in connection.execute(known)}
        lasting = [row for key, row in there.items() if key in present]
        self._go_on(lasting, present, now_ms)
        new = [(key, cause) for key, cause in present.items() if key not in there]
        gone: dict[Ending, list[str]] = {ending: [] for ending in Ending}
        for key, row in there.items():
            if key not in present:
                ending = found.ending(Kind(row.kind), row.model, key, is_of_fleet=row.is_of_fleet)
                gone[ending].append(row.id)
        opened = sum(self._open(some, hooks) for some in _parts(new))
        before_ms = now_ms - clear // timedelta(milliseconds=1)
        over = ((ending, some) for ending, ids in gone.items() for some in _parts(ids))
        return opened, sum(self._resolve(some, ending, hooks, before_ms) for ending, some in over)

    def list(self, *, only_open: bool = False, kind: Kind | None = None, limit: int = 100) -> tuple[Alert, ...]:
        """Return alerts, newest first."""
        column = alert_tables.alert.c
        query = select(alert_tables.alert).order_by(column.opened_ms.desc(), column.id).limit(limit)
        if only_open:
            query = query.where(column.state == AlertState.OPEN)
        if kind is not None:
            query = query.where(column.kind == kind)
        with self._db.read() as connection:
            return _alerts(connection, connection.execute(query).all())

    def counts(self) -> dict[str, int]:
        """Return how many alerts are open, by kind."""
        column = alert_tables.alert.c
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
        column = alert_tables.alert_delivery.c
        with self._db.write() as connection:
            found = _named(connection, alert)
            dead = (column.alert == found.id) & (column.state == NoticeState.DEAD)
            connection.execute(update(alert_tables.alert_delivery).where(dead).values(**_again(now)))
            audit.record(connection, now, actor, "alert.retried", found.device or found.model, found.id)
            return _named(connection, found.id)

    def retry_all(self, hook: str | None = None, actor: str = audit.SYSTEM) -> int:
        """Hand over again every notice that was given up, or those for one webhook; return how many those are."""
        now, column = self._clock.now(), alert_tables.alert_delivery.c
        dead = column.state == NoticeState.DEAD
        if hook is not None:
            dead &= column.hook == hook
        with self._db.read() as connection:
            alerts = (
                connection.execute(select(column.alert).where(dead).distinct().order_by(column.alert)).scalars().all()
            )
        retried = 0
        for some in _parts(alerts):
            with self._db.write() as connection:
                _locked(connection, some)
                again = update(alert_tables.alert_delivery).where(dead & column.alert.in_(some)).values(**_again(now))
                retried += connection.execute(again).rowcount
        with self._db.write() as connection:
            audit.record(connection, now, actor, "alert.retried", hook or "every webhook", f"{retried} notices")
        return retried

    def forget(self, keep: timedelta) -> int:
        """Delete some of the alerts that are resolved for so long, with their notices; return how many."""
        column, notices = alert_tables.alert.c, alert_tables.alert_delivery
        old = (column.state == AlertState.RESOLVED) & (column.resolved_ms < to_ms(self._clock.now() - keep))
        with self._db.write() as connection:
            gone = connection.execute(select(column.id).where(old).limit(_AT_ONCE)).scalars().all()
            if gone:
                connection.execute(delete(notices).where(notices.c.alert.in_(gone)))
                connection.execute(delete(alert_tables.alert).where(column.id.in_(gone)))
        return len(gone)

    def _go_on(self, lasting: Sequence[AnyRow], present: Mapping[str, Cause], now_ms: int) -> None:
        """Note that causes are still there; what is said of one changes with its figures."""
        column = alert_tables.alert.c
        is_open = column.state == AlertState.OPEN
        same = [row.id for row in lasting if present[row.open_key].summary == row.summary]
        other = [(row.id, present[row.open_key]) for row in lasting if present[row.open_key].summary != row.summary]
        for some in _parts(same):
            with self._db.write() as connection:
                _locked(connection, some)
                connection.execute(
                    update(alert_tables.alert).where(column.id.in_(some) & is_open).values(seen_ms=now_ms)
                )
        values = {"seen_ms": now_ms, "summary": bindparam("s"), "evidence": bindparam("e")}
        statement = update(alert_tables.alert).where((column.id == bindparam("of_id")) & is_open).values(**values)
        for changed in _parts(other):
            said = [{"of_id": id_, "s": cause.summary, "e": _text(cause.evidence)} for id_, cause in changed]
            with self._db.write() as connection:
                connection.execute(statement, said)

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
            connection.execute(dialect.insert(alert_tables.alert).on_conflict_do_nothing(), rows)
            return self._tell(connection, [str(row["id"]) for row in rows], Notice.OPENED, hooks)

    def _resolve(self, alerts: Sequence[str], ending: Ending, hooks: Sequence[str], seen_before_ms: int) -> int:
        column, now_ms = alert_tables.alert.c, to_ms(self._clock.now())
        is_over = column.id.in_(alerts) & (column.state == AlertState.OPEN) & (column.seen_ms <= seen_before_ms)
        with self._db.write() as connection:
            _locked(connection, alerts)
            over = list(connection.execute(select(column.id).where(is_over)).scalars())
            values = {"state": AlertState.RESOLVED, "open_key": None, "resolved_ms": now_ms, "ended": ending}
            connection.execute(update(alert_tables.alert).where(column.id.in_(over)).values(**values))
            return self._tell(connection, over, Notice.RESOLVED, hooks)

    def _tell(self, connection: Connection, alerts: Sequence[str], notice: Notice, hooks: Sequence[str]) -> int:
        """Write notices of those of the alerts that are stored, and return how many alerts that are."""
        now = self._clock.now()
        rows = connection.execute(select(alert_tables.alert).where(alert_tables.alert.c.id.in_(alerts))).all()
        found = [_alert(row, ()) for row in rows]
        first = {"notice": notice, "state": NoticeState.PENDING, "next_ms": to_ms(now)}
        notices = [
            {**first, "alert": one.id, "hook": hook, "body": envelope(self._fleet, one, notice)}
            for one in found
            for hook in hooks
        ]
        if notices:
            connection.execute(alert_tables.alert_delivery.insert(), notices)
        deeds = [(one.device or one.model, f"{one.kind}: {one.summary}{_why(one.ended)}") for one in found]
        audit.record_all(connection, now, audit.SYSTEM, f"alert.{notice}", deeds)
        return len(found)


def _again(now: datetime) -> dict[str, object]:
    """Return what makes a notice one that was never tried."""
    return {"state": NoticeState.PENDING, "attempts": 0, "next_ms": to_ms(now), "batch": None}


def _why(ended: Ending | None) -> str:
    """Return what to add to what is said of an alert that is over for another reason than its cause."""
    return "" if ended in (None, Ending.OVER) else f" ({ended})"


def _locked(connection: Connection, alerts: Sequence[str]) -> None:
    """Lock alerts in the order of their ids, so that controllers wait for each other and not in a circle."""
    column = alert_tables.alert.c
    connection.execute(select(column.id).where(column.id.in_(alerts)).order_by(column.id).with_for_update()).all()


def _named(connection: Connection, alert: str) -> Alert:
    column = alert_tables.alert.c
    begins = column.id.startswith(alert, autoescape=True) if alert else column.id == ""
    rows = connection.execute(select(alert_tables.alert).where(begins).limit(2)).all()
    if not rows:
        raise NotFound(f"there is no alert {alert[:80]}", hint="see: dsops alerts list")
    if len(rows) > 1:
        raise Conflict(f"several alerts begin with {alert}", hint="give more of the id")
    return _alerts(connection, rows)[0]


def _alerts(connection: Connection, rows: Sequence[AnyRow]) -> tuple[Alert, ...]:
    column = alert_tables.alert_delivery.c
    notices: dict[str, list[NoticeRow]] = {row.id: [] for row in rows}
    for some in _parts(list(notices)):
        query = select(alert_tables.alert_delivery).where(column.alert.in_(some)).order_by(column.notice, column.hook)
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
        ended=None if row.ended is None else Ending(row.ended),
        notices=tuple(notices),
    )


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in transactions' worth, so that nobody waits long for the database."""
    for first in range(0, len(items), _AT_ONCE):
        yield items[first : first + _AT_ONCE]


def _text(evidence: Mapping[str, Any]) -> str:
    return strictjson.dumps(dict(evidence)).decode()
