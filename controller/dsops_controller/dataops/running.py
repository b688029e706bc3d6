"""Which bundles a device ran at a moment, by what it uploaded: telemetry of answers, and events of installs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.store import LakeStore

REACH = timedelta(days=30)
"""How far around the moment telemetry is looked for."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_TELEMETRY = """
with answers as (
  select model, release, digest, epoch_us(time) as start, epoch_us(time) + interval_ms * 1000 as stop, "count" as n
  from telemetry
  where device = $device and time >= $low and time < $high and "count" > 0
)
select 'during', model, release, digest, min(start), max(stop), sum(n)
from answers where start <= $at and stop > $at group by model, release, digest
union all
select 'before', model, arg_max(release, stop), arg_max(digest, stop), max(stop), max(stop), 0
from answers where stop <= $at group by model
union all
select 'after', model, arg_min(release, start), arg_min(digest, start), min(start), min(start), 0
from answers where start > $at group by model
"""
_EVENTS = """
select model, arg_max(release, time), arg_max(digest, time), epoch_us(max(time))
from events
where device = $device and kind = 'committed' and model <> '' and time <= make_timestamptz($at)
group by model
"""


class Proof(StrEnum):
    """How it is known that a bundle ran."""

    ANSWERED = "answered"
    """It answered requests in an interval that holds the moment."""
    BETWEEN = "between"
    """It answered the last request before and the first one after, and nothing else was committed between."""
    COMMITTED = "committed"
    """It was committed before, and nothing was committed since; no telemetry says more."""
    LAST = "last"
    """It answered the last request before the moment; what happened then is not known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A bundle that answered: ``when`` is during, before or after the moment."""

    when: str
    model: str
    release: int
    digest: str
    start: datetime
    stop: datetime
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """The newest commit of a model before the moment."""

    model: str
    release: int
    digest: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Ran:
    """A bundle that a device ran at a moment.

    Attributes:
        proof: How that is known.
        since: Beginning of the interval, the last answer before, or the commit.
        until: End of the interval, or the first answer after; None when neither is known.
        requests: Answers in the interval.
    """

    model: str
    release: int
    digest: str
    proof: Proof
    since: datetime
    until: datetime | None
    requests: int = 0


def ran(seen: Iterable[Seen], committed: Iterable[Committed]) -> list[Ran]:
    """Return which bundles ran, by model and release; two of one model where a challenger answered a part. Pure."""
    every = list(seen)
    commits = {one.model: one for one in committed}
    models = sorted({one.model for one in every} | set(commits))
    return [found for model in models for found in _of_model(model, every, commits.get(model))]


def running(store: LakeStore, device: str, at: datetime) -> list[Ran]:
    """Return which bundles a device ran at a moment.

    Raises:
        StateDamaged: The store cannot be read.
    """
    at_us = (at - _EPOCH) // timedelta(microseconds=1)
    window = {"low": at - REACH, "high": at + REACH}
    with store.opened(LakeTable.TELEMETRY, LakeTable.EVENTS) as duck:
        answers = duck.execute(_TELEMETRY, {"device": device, "at": at_us, **window}).fetchall()
        commits = duck.execute(_EVENTS, {"device": device, "at": at_us}).fetchall()
    return ran(map(_seen, answers), [Committed(m, int(r), d, _moment(t)) for m, r, d, t in commits])


def _of_model(model: str, seen: Sequence[Seen], commit: Committed | None) -> list[Ran]:
    def of(when: str) -> list[Seen]:
        return sorted((s for s in seen if s.model == model and s.when == when), key=lambda one: one.release)

    during, before, after = of("during"), of("before"), of("after")
    if during:
        return [
            Ran(model, one.release, one.digest, Proof.ANSWERED, one.start, one.stop, one.requests) for one in during
        ]
    if commit is not None and (not before or commit.time > before[0].stop):
        until = after[0].start if after and after[0].digest == commit.digest else None
        return [Ran(model, commit.release, commit.digest, Proof.COMMITTED, commit.time, until)]
    if not before:
        return []
    last = before[0]
    if after and after[0].digest == last.digest:
        return [Ran(model, last.release, last.digest, Proof.BETWEEN, last.stop, after[0].start)]
    return [Ran(model, last.release, last.digest, Proof.LAST, last.stop, None)]


def _seen(row: Sequence[Any]) -> Seen:
    when, model, release, digest, start, stop, requests = row
    return Seen(when, model, int(release), digest, _moment(start), _moment(stop), int(requests))


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=int(time_us))
