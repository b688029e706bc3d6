"""Which notices are due, to whom, and in how many pieces: the outbox of alerts.

A notice is claimed for a while before it is tried, so whoever is killed in the middle leaves it to the next. What was
handed over twice has one id, and that an alert is over is told to nobody before he was told of the alert.

When ten thousand devices fall silent at once, nobody wants to be told ten thousand times. A webhook gets some notices
of a rule one by one; when there are more, it gets one of them all (a batch), and so many a minute at most. All rules
together have a pace too, for there may be many models. The rows of a batch keep together until it is taken, so what is
tried again has the same id and the same text.
"""

import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Update, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dsops.clock import Clock
from dsops_controller.alerts.notices import (
    Claimed,
    Many,
    Notice,
    NoticeState,
    Pace,
    envelope_of_many,
    spare_notices,
    wait_after,
)
from dsops_controller.alerts.settings import Kind
from dsops_controller.db import alert_tables
from dsops_controller.db.database import Database
from dsops_controller.db.times import from_ms, to_ms

CLAIM_MARGIN_S = 10.0
_MOST_ERROR = 300
_JITTER = random.SystemRandom()
_ROW, _ALERT = alert_tables.alert_delivery.c, alert_tables.alert.c
_PACE = alert_tables.alert_pace.c
_BEFORE = alert_tables.alert_delivery.alias()
_IS_TOLD = (_ROW.notice == Notice.OPENED) | ~exists().where(
    (_BEFORE.c.alert == _ROW.alert)
    & (_BEFORE.c.hook == _ROW.hook)
    & (_BEFORE.c.notice == Notice.OPENED)
    & (_BEFORE.c.state == NoticeState.PENDING)
)
_EVERY_RULE = "*"
"""No rule has this name: under it stands the pace of all of them."""
_IS_NEW = (_ROW.attempts == 0) & _ROW.batch.is_(None)


@dataclass(frozen=True, slots=True)
class _Key:
    alert: str
    notice: str
    hook: str
    batch: str | None


class Deliveries:
    """Claims notices that are due, and notes what came of them. Safe for several threads and controllers.

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

    def claim(self, spans: Mapping[str, float], pace: Pace) -> Claimed | None:
        """Claim and return a notice that is due; None when there is none.

        Args:
            spans: How many seconds each webhook may take. A claim ends a little after that by itself.
            pace: How many notices of one rule a webhook gets.
        """
        now = self._clock.now()
        with self._db.write() as connection:
            for key, claiming in self._candidates(connection, now, pace):
                until = to_ms(now) + round(1000 * (spans.get(key.hook, 0.0) + CLAIM_MARGIN_S))
                later = {"next_ms": until, "attempts": _ROW.attempts + 1}
                if connection.execute(claiming.values(**later)).rowcount:
                    attempts = connection.execute(select(_ROW.attempts).where(_ours(key)).limit(1)).scalar_one()
                    body = self._body(connection, key, pace.named)
                    return Claimed(key.alert, Notice(key.notice), key.hook, attempts, body, key.batch)
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

    def _candidates(self, connection: Connection, now: datetime, pace: Pace) -> Iterator[tuple[_Key, Update]]:
        """Yield notices with the statements that claim them: first what was tried before, then what is new."""
        due = (_ROW.state == NoticeState.PENDING) & (_ROW.next_ms <= to_ms(now)) & _IS_TOLD
        again = select(_ROW.alert, _ROW.notice, _ROW.hook, _ROW.batch, _ROW.next_ms).where(due & ~_IS_NEW)
        for *key, next_ms in connection.execute(again.order_by(_ROW.next_ms).limit(32)).all():
            as_seen = (_ROW.state == NoticeState.PENDING) & (_ROW.next_ms == next_ms)
            yield _Key(*key), update(alert_tables.alert_delivery).where(_ours(_Key(*key)) & as_seen)
        group = (_ROW.hook, _ROW.notice, _ALERT.kind, _ALERT.model)
        rules = select(*group).join_from(alert_tables.alert_delivery, alert_tables.alert).where(due & _IS_NEW)
        # Webhooks in one order, so that controllers wait for each other's rows and not in a circle; who has a webhook's
        # row has its rules. The rule that waits longest comes first: where all share a pace, none is passed over.
        order = (_ROW.hook, func.min(_ROW.next_ms), *group[1:])
        left: dict[str, float] = {}
        for hook, notice, kind, model in connection.execute(rules.group_by(*group).order_by(*order)).all():
            if hook not in left:
                left[hook] = _spare(connection, hook, _EVERY_RULE, now, pace.of_all_rules)
            if left[hook] < 1:
                continue
            of_rule = _ROW.alert.in_(select(_ALERT.id).where(_ALERT.kind == kind, _ALERT.model == model))
            which = due & _IS_NEW & of_rule & (_ROW.hook == hook) & (_ROW.notice == notice)
            spare = _spare(connection, hook, f"{kind}/{model}", now, pace)
            found = _some(connection, which, spare, pace) if spare >= 1 else None
            if found is not None:
                left[hook] -= 1
                _spend(connection, hook, _EVERY_RULE, left[hook], now)
                _spend(connection, hook, f"{kind}/{model}", spare - 1, now)
                yield found

    def _body(self, connection: Connection, key: _Key, named: int) -> bytes:
        if key.batch is None:
            return bytes(connection.execute(select(_ROW.body).where(_ours(key))).scalar_one())
        return envelope_of_many(self._fleet, _many(connection, key, named), Notice(key.notice))

    def _set(self, claimed: Claimed, **values: object) -> None:
        with self._db.write() as connection:
            connection.execute(update(alert_tables.alert_delivery).where(_ours(claimed)).values(**values))


def _ours(one: _Key | Claimed) -> ColumnElement[bool]:
    """Return which rows are those of a notice: one, or those of its batch."""
    which = _ROW.alert == one.alert if one.batch is None else _ROW.batch == one.batch
    return which & (_ROW.notice == one.notice) & (_ROW.hook == one.hook)


def _some(connection: Connection, which: ColumnElement[bool], spare: float, pace: Pace) -> tuple[_Key, Update] | None:
    """Return the statement that claims the first of a rule's new notices, or all of them when there are too many."""
    query = select(_ROW.alert, _ROW.notice, _ROW.hook, _ROW.batch).where(which).order_by(_ROW.next_ms, _ROW.alert)
    rows = connection.execute(query.limit(pace.burst + 1)).all()
    if not rows:
        return None
    key = _Key(*rows[0])
    if len(rows) <= spare:
        return key, update(alert_tables.alert_delivery).where(which & (_ROW.alert == key.alert))
    key = replace(key, batch=secrets.token_hex(16))
    return key, update(alert_tables.alert_delivery).where(which).values(batch=key.batch)


def _many(connection: Connection, key: _Key, named: int) -> Many:
    """Return what a batch is about: what never changes in its alerts, so that it is the same at each attempt."""
    of_batch = _ALERT.id.in_(select(_ROW.alert).where(_ours(key)))
    group, times = (_ALERT.kind, _ALERT.model), (func.min(_ALERT.opened_ms), func.max(_ALERT.resolved_ms))
    row = connection.execute(select(*group, func.count(), *times).where(of_batch).group_by(*group)).one()
    kind, model, count, opened_ms, resolved_ms = row
    first = select(_ALERT.device).where(of_batch).order_by(_ALERT.device, _ALERT.id).limit(named)
    devices = tuple(connection.execute(first).scalars())
    is_over = key.notice == Notice.RESOLVED
    resolved = from_ms(resolved_ms) if is_over else None
    return Many(str(key.batch), Kind(kind), model, int(count), devices, from_ms(opened_ms), resolved)


def _spare(connection: Connection, hook: str, rule: str, now: datetime, pace: Pace) -> float:
    """Return how many notices of a rule a webhook may get now; other controllers wait until this transaction ends."""
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(alert_tables.alert_pace)
    first = {"hook": hook, "rule": rule, "spare": float(pace.burst), "time_ms": to_ms(now)}
    connection.execute(insert.on_conflict_do_nothing(), first)
    query = select(_PACE.spare, _PACE.time_ms).where(_PACE.hook == hook, _PACE.rule == rule).with_for_update()
    spare, time_ms = connection.execute(query).one()
    return spare_notices(pace, spare, (to_ms(now) - time_ms) / 1000)


def _spend(connection: Connection, hook: str, rule: str, left: float, now: datetime) -> None:
    ours = (_PACE.hook == hook) & (_PACE.rule == rule)
    connection.execute(update(alert_tables.alert_pace).where(ours).values(spare=left, time_ms=to_ms(now)))
