"""Requests to train a model anew, and how far each is handed over, in the state database.

A request and its deliveries are stored in one transaction, before anything is handed over. A delivery is claimed for a
while before it is tried: whoever is killed in the middle leaves it to the next look, and of several controllers one
tries at a time. What was handed over twice is the same request: its id says so.
"""

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select, update

from dsops.clock import Clock
from dsops.errors import Conflict, NotFound
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.retraining.envelope import Subject, request_id
from dsops_controller.retraining.settings import Cause

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)
CLAIM_MARGIN = timedelta(seconds=10)
"""How much longer than an adapter may take a claim lasts."""


class RequestState(StrEnum):
    """How far a request is."""

    OPEN = "open"
    """It waits for a new release."""
    ANSWERED = "answered"
    """A newer release of the model was pushed."""
    FAILED = "failed"
    """No adapter could hand it over."""
    EXPIRED = "expired"
    """Nothing answered it for too long."""
    CLOSED = "closed"
    """An operator closed it."""


class DeliveryState(StrEnum):
    """How far a request is with one adapter."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """It was tried too often, or refused for good. Try again: ``dsops retrain retry``."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a request is with one adapter."""

    adapter: str
    state: DeliveryState
    attempts: int
    next: datetime
    error: str


@dataclass(frozen=True, slots=True)
class RetrainingRequest:
    """One request; ``id`` is its idempotency key."""

    id: str
    cause: Cause
    state: RequestState
    subject: Subject
    evidence: Mapping[str, Any]
    note: str
    created: datetime
    updated: datetime
    deliveries: tuple[Delivery, ...]


class Requests:
    """Stores requests, and says which are due."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def add(
        self,
        cause: Cause,
        subject: Subject,
        evidence: Mapping[str, Any],
        adapters: Sequence[str],
        *,
        note: str = "",
        actor: str = audit.SYSTEM,
    ) -> tuple[RetrainingRequest, bool]:
        """Store a request, and return it and whether it is new; the same cause, data set and bundle are the same one.

        Raises:
            Conflict: Another request of the model is open.
        """
        request, now = request_id(cause, subject), self._clock.now()
        with self._db.write() as connection:
            present = _find(connection, request)
            if present is not None:
                return present, False
            other = _open(connection, subject.model)
            if other is not None:
                raise Conflict(
                    f"a request for {subject.model} is open already",
                    why=f"{other} waits for a new release",
                    hint=f"push the release, or close it: dsops retrain close {other[:12]}",
                )
            connection.execute(
                tables.retraining.insert().values(
                    id=request,
                    model=subject.model,
                    cause=cause,
                    state=RequestState.OPEN,
                    evidence=json.dumps(dict(evidence) | {"release": subject.release}),
                    dataset=subject.dataset,
                    dataset_digest=subject.dataset_digest,
                    bundle_sha256=subject.bundle_sha256,
                    note=note[:2000],
                    created_ms=to_ms(now),
                    updated_ms=to_ms(now),
                )
            )
            row = {"retraining": request, "state": DeliveryState.PENDING, "next_ms": to_ms(now)}
            for adapter in adapters:
                connection.execute(tables.retraining_delivery.insert().values(**row, adapter=adapter))
            audit.record(connection, now, actor, "retraining.requested", subject.model, f"{cause} {request}")
            made = _find(connection, request)
            assert made is not None
            return made, True

    def list(self, model: str | None = None) -> builtins.list[RetrainingRequest]:
        """Return every request, newest first."""
        column = tables.retraining.c
        query = select(tables.retraining).order_by(column.created_ms.desc(), column.id)
        if model is not None:
            query = query.where(column.model == model)
        with self._db.read() as connection:
            return [_request(connection, row) for row in connection.execute(query).all()]

    def get(self, request: str) -> RetrainingRequest:
        """Return one request by its id, or by the beginning of it.

        Raises:
            NotFound: There is none.
            Conflict: Several begin so.
        """
        with self._db.read() as connection:
            return _named(connection, request)

    def close(self, request: str, actor: str = audit.SYSTEM) -> RetrainingRequest:
        """Close a request: nothing more is handed over, and the model may be asked for again.

        Raises:
            NotFound: There is none.
        """
        with self._db.write() as connection:
            found = _named(connection, request)
            if found.state in (RequestState.OPEN, RequestState.FAILED):
                self._end(connection, found, RequestState.CLOSED, actor)
            return _named(connection, found.id)

    def retry(self, request: str, actor: str = audit.SYSTEM) -> RetrainingRequest:
        """Hand a request over again: to whom it could not be, and to everybody if it was closed or had expired.

        Raises:
            NotFound: There is none.
            Conflict: It is answered, or another request of the model is open.
        """
        now = self._clock.now()
        with self._db.write() as connection:
            found = _named(connection, request)
            other = _open(connection, found.subject.model)
            if other not in (None, found.id):
                raise Conflict(f"another request for {found.subject.model} is open", why=str(other))
            if found.state is RequestState.ANSWERED:
                raise Conflict(f"request {found.id[:12]} is answered", hint="make another: dsops retrain request")
            column = tables.retraining_delivery.c
            which = column.retraining == found.id
            if found.state in (RequestState.OPEN, RequestState.FAILED):
                which &= column.state == DeliveryState.DEAD
            again = {"state": DeliveryState.PENDING, "attempts": 0, "next_ms": to_ms(now)}
            connection.execute(update(tables.retraining_delivery).where(which).values(**again))
            _set_state(connection, found.id, RequestState.OPEN, now)
            audit.record(connection, now, actor, "retraining.retried", found.subject.model, found.id)
            return _named(connection, found.id)

    def settle(self, open_days: float) -> None:
        """End open requests that a newer release has answered, or that nothing answered for too long."""
        now, column, bundle = self._clock.now(), tables.retraining.c, tables.bundle.c
        with self._db.read() as connection:
            rows = connection.execute(select(tables.retraining).where(column.state == RequestState.OPEN)).all()
        for row in rows:
            with self._db.write() as connection:
                newer = (bundle.model == row.model) & (bundle.pushed_ms > row.created_ms)
                answered = connection.execute(select(bundle.sha256).where(newer).limit(1)).first()
                found = _request(connection, row)
                if answered is not None:
                    self._end(connection, found, RequestState.ANSWERED, audit.SYSTEM)
                elif now - found.updated >= timedelta(days=open_days):
                    self._end(connection, found, RequestState.EXPIRED, audit.SYSTEM)

    def claim(self, spans: Mapping[str, float]) -> tuple[str, str] | None:
        """Claim and return one delivery that is due, request and adapter; None when there is none.

        Args:
            spans: How many seconds each adapter may take. A claim ends a little after that by itself, so that what a
                killed process had claimed is tried by the next.
        """
        now_ms = to_ms(self._clock.now())
        column, request = tables.retraining_delivery.c, tables.retraining.c
        joined = tables.retraining_delivery.join(tables.retraining, request.id == column.retraining)
        ready = (column.state == DeliveryState.PENDING) & (column.next_ms <= now_ms)
        query = select(column.retraining, column.adapter, column.next_ms).select_from(joined).order_by(column.next_ms)
        with self._db.write() as connection:
            for row in connection.execute(query.where(ready & (request.state == RequestState.OPEN))).all():
                ours = (column.retraining == row.retraining) & (column.adapter == row.adapter)
                as_seen = ours & (column.next_ms == row.next_ms) & (column.state == DeliveryState.PENDING)
                span = timedelta(seconds=spans.get(row.adapter, 0.0)) + CLAIM_MARGIN
                later = {"next_ms": now_ms + span // timedelta(milliseconds=1), "attempts": column.attempts + 1}
                if connection.execute(update(tables.retraining_delivery).where(as_seen).values(**later)).rowcount:
                    return row.retraining, row.adapter
        return None

    def delivered(self, request: str, adapter: str) -> None:
        """Note that a request was handed over."""
        now = self._clock.now()
        with self._db.write() as connection:
            _set_delivery(connection, request, adapter, state=DeliveryState.DELIVERED, error="")
            model = _named(connection, request).subject.model
            audit.record(connection, now, audit.SYSTEM, "retraining.delivered", model, f"{adapter} {request}")

    def not_delivered(self, request: str, adapter: str, why: str, *, is_final: bool, wait_s: float, most: int) -> None:
        """Note that an attempt failed: try later, or give the adapter up after ``most`` attempts."""
        now = self._clock.now()
        with self._db.write() as connection:
            found = _named(connection, request)
            tried = next((one.attempts for one in found.deliveries if one.adapter == adapter), 0)
            if not is_final and tried < most:
                wait = max(timedelta(seconds=wait_s), wait_after(tried))
                _set_delivery(connection, request, adapter, next_ms=to_ms(now + wait), error=why)
                return
            _set_delivery(connection, request, adapter, state=DeliveryState.DEAD, error=why)
            audit.record(connection, now, audit.SYSTEM, "retraining.dead", found.subject.model, f"{adapter}: {why}")
            after = _named(connection, request)
            if all(one.state is DeliveryState.DEAD for one in after.deliveries):
                _set_state(connection, request, RequestState.FAILED, now)

    def _end(self, connection: Connection, found: RetrainingRequest, state: RequestState, actor: str) -> None:
        now = self._clock.now()
        _set_state(connection, found.id, state, now)
        audit.record(connection, now, actor, f"retraining.{state}", found.subject.model, found.id)


def wait_after(attempts: int) -> timedelta:
    """Return how long to wait after so many attempts: twice as long each time, up to an hour."""
    doublings = min(20, max(0, attempts - 1))
    return min(LONGEST_WAIT, FIRST_WAIT * (1 << doublings))


def _set_state(connection: Connection, request: str, state: RequestState, now: datetime) -> None:
    column = tables.retraining.c
    values = {"state": state, "updated_ms": to_ms(now)}
    connection.execute(update(tables.retraining).where(column.id == request).values(**values))


def _set_delivery(connection: Connection, request: str, adapter: str, **values: object) -> None:
    column = tables.retraining_delivery.c
    ours = (column.retraining == request) & (column.adapter == adapter)
    connection.execute(update(tables.retraining_delivery).where(ours).values(**values))


def _open(connection: Connection, model: str) -> str | None:
    column = tables.retraining.c
    query = select(column.id).where((column.model == model) & (column.state == RequestState.OPEN))
    return connection.execute(query).scalars().first()


def _find(connection: Connection, request: str) -> RetrainingRequest | None:
    row = connection.execute(select(tables.retraining).where(tables.retraining.c.id == request)).one_or_none()
    return None if row is None else _request(connection, row)


def _named(connection: Connection, request: str) -> RetrainingRequest:
    column = tables.retraining.c
    begins = column.id.startswith(request, autoescape=True) if request else column.id == ""
    rows = connection.execute(select(tables.retraining).where(begins).limit(2)).all()
    if not rows:
        raise NotFound(f"there is no request {request[:80]}", hint="see: dsops retrain list")
    if len(rows) > 1:
        raise Conflict(f"several requests begin with {request}", hint="give more of the id")
    return _request(connection, rows[0])


def _request(connection: Connection, row: AnyRow) -> RetrainingRequest:
    column = tables.retraining_delivery.c
    query = select(tables.retraining_delivery).where(column.retraining == row.id).order_by(column.adapter)
    deliveries = [
        Delivery(one.adapter, DeliveryState(one.state), one.attempts, from_ms(one.next_ms), one.error)
        for one in connection.execute(query)
    ]
    evidence = json.loads(row.evidence)
    release = int(evidence.pop("release", 0))
    return RetrainingRequest(
        id=row.id,
        cause=Cause(row.cause),
        state=RequestState(row.state),
        subject=Subject(row.model, release, row.bundle_sha256, row.dataset, row.dataset_digest),
        evidence=evidence,
        note=row.note,
        created=from_ms(row.created_ms),
        updated=from_ms(row.updated_ms),
        deliveries=tuple(deliveries),
    )
