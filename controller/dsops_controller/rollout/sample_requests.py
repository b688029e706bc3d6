"""Requests for samples: an operator wants the next frames of some devices. The next directive of each says so.

A directive is signed, so nobody but the controller can make a device keep frames, and what leaves the device is decided
there all the same: its budget, and whether inputs may. A request stays in the directive until its time is over; a
device knows those that it has served.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import Connection, delete, select

from dsops.clock import Clock
from dsops.directive import MAX_SAMPLE_REQUESTS, MAX_SAMPLES
from dsops.errors import Conflict, NotFound
from dsops.manifest import Frozen, Name
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.fleet.sites import devices_at
from dsops_controller.rollout import desired
from dsops_controller.rollout.plan import Plan
from dsops_controller.rollout.rollouts import cohort_of

MAX_HOURS = 14 * 24


class Wanted(Frozen):
    """What an operator asks for.

    Attributes:
        cohort: The devices. With no ``sites`` either, every accepted device that has the model.
        sites: And the devices of these sites that have the model.
        count: Frames of each device.
        hours: For how long; a device that has kept fewer by then keeps no more.
        reason: Why, for the audit trail.
    """

    model: Name
    cohort: tuple[str, ...] = ()
    sites: tuple[str, ...] = Field(default=(), max_length=1000)
    count: int = Field(ge=1, le=MAX_SAMPLES)
    hours: float = Field(default=24.0, gt=0, le=MAX_HOURS)
    reason: str = Field(min_length=1, max_length=200)


@dataclass(frozen=True)
class Asked:
    """A request, as it was given to devices."""

    id: str
    model: str
    count: int
    until: datetime
    devices: tuple[str, ...]


class SampleRequests:
    """Takes requests for samples."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def ask(self, wanted: Wanted, actor: str) -> Asked:
        """Ask devices for samples.

        Raises:
            NotFound: No device has the model.
            InvalidInput: The cohort names a device that is not accepted, or no accepted device is at a site.
            Conflict: A device does not have the model, or is asked for too much at a time.
        """
        now = self._clock.now()
        until = now + timedelta(hours=wanted.hours)
        asked = Asked(f"q-{secrets.token_hex(6)}", wanted.model, wanted.count, until, ())
        with self._db.write() as connection:
            devices = _with_model(connection, wanted)
            _forget_old(connection, now)
            for device in devices:
                _check_room(connection, device)
                connection.execute(
                    tables.sample_request.insert().values(
                        id=asked.id,
                        device=device,
                        model=wanted.model,
                        count=wanted.count,
                        created_ms=int(now.timestamp() * 1000),
                        until_ms=int(until.timestamp() * 1000),
                    )
                )
                desired.outdate(connection, device)
            detail = f"{asked.id}: {wanted.count} of each of {len(devices)} devices: {wanted.reason}"
            audit.record(connection, now, actor, "sample.requested", wanted.model, detail)
        return Asked(asked.id, wanted.model, wanted.count, until, tuple(devices))


def _with_model(connection: Connection, wanted: Wanted) -> list[str]:
    cohort = tuple({*wanted.cohort, *devices_at(connection, wanted.sites)})
    devices = cohort_of(connection, Plan(model=wanted.model, release=1, cohort=cohort))
    having = [device for device in devices if wanted.model in desired.slots_of(connection, device)]
    without = sorted(set(wanted.cohort) - set(having))
    hint = "see: dsops device list"
    if not having:
        raise NotFound(f"no device {'there ' if wanted.sites else ''}has a model {wanted.model}", hint=hint)
    if without:
        raise Conflict(f"{without[0]} does not have the model {wanted.model}", hint=hint)
    return having


def _check_room(connection: Connection, device: str) -> None:
    request = tables.sample_request.c
    there = connection.execute(select(request.id).where(request.device == device)).all()
    if len(there) >= MAX_SAMPLE_REQUESTS:
        why = f"{MAX_SAMPLE_REQUESTS} requests for samples are open"
        raise Conflict(f"{device} is asked for too much at a time", why=why, hint="wait until the first are over")


def _forget_old(connection: Connection, now: datetime) -> None:
    request = tables.sample_request.c
    connection.execute(delete(tables.sample_request).where(request.until_ms < int(now.timestamp() * 1000)))
