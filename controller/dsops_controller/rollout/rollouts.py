"""Rollouts in the database: create, look at, stop, let go on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from dsops import ids
from dsops.clock import Clock
from dsops.directive import DesiredSlot
from dsops.errors import Conflict, InvalidInput, NotFound
from dsops.messages import ModelState, Observed
from dsops.states import Deployment, Device, Rollout
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas import room
from dsops_controller.rollout import desired
from dsops_controller.rollout.plan import Plan, assign
from dsops_controller.rollout.reports import take_reports
from dsops_controller.rollout.wanted import RETAINED_BYTES, wanted_files

_OPEN = [state.value for state in Rollout if not state.is_final]


class Rollouts:
    """Creates rollouts and changes them on an operator's word."""

    def __init__(
        self, db: Database, director: desired.Director, clock: Clock, retained_bytes: int = RETAINED_BYTES
    ) -> None:
        self._db = db
        self._director = director
        self._clock = clock
        self.retained_bytes = retained_bytes
        """How long all files together may be that the broker is offered."""

    def create(self, plan: Plan) -> str:
        """Store a running rollout and its pending deployments; return its id.

        Raises:
            NotFound: There is no such bundle.
            Conflict: Another rollout of the model has not ended, or the broker would have to keep too much.
            InvalidInput: The cohort is empty or names a device that is not accepted.
        """
        rollout = ids.new_rollout_id()
        now_ms = self._now_ms()
        with self._db.write() as connection:
            bundle = find_bundle(connection, plan)
            _check_alone(connection, plan.model)
            check_room(connection, bundle, self.retained_bytes)
            waves = assign(plan, cohort_of(connection, plan), rollout, _absent(connection))
            connection.execute(
                tables.rollout.insert().values(
                    id=rollout,
                    model=plan.model,
                    release=plan.release,
                    bundle_sha256=bundle.sha256,
                    state=Rollout.RUNNING,
                    plan=plan.model_dump_json(),
                    created_ms=now_ms,
                    updated_ms=now_ms,
                )
            )
            for number, wave in enumerate(waves):
                rows = [
                    {"id": ids.new_deployment_id(), "rollout": rollout, "device": device, "wave": number}
                    for device in wave
                ]
                connection.execute(tables.deployment.insert().values(state=Deployment.PENDING), rows)
            room.decide_anew(connection, bundle.sha256, self.retained_bytes)
        return rollout

    def every(self) -> list[dict[str, Any]]:
        """Return every rollout, newest first, without deployments."""
        with self._db.read() as connection:
            rows = connection.execute(select(tables.rollout).order_by(tables.rollout.c.created_ms.desc())).all()
            return [_rollout_dict(row) for row in rows]

    def get(self, rollout: str) -> dict[str, Any]:
        """Return one rollout with its deployments by wave.

        Raises:
            NotFound: There is none of that id.
        """
        with self._db.read() as connection:
            row = find(connection, rollout)
            parts = deployments_of(connection, rollout)
        waves = [[_deployment_dict(part) for part in wave] for wave in parts]
        return _rollout_dict(row) | {"waves": waves}

    def abort(self, rollout: str) -> list[tuple[str, bytes]]:
        """End a rollout: devices that are still on their way go back to what they ran before, or stop.

        A deployment that has ended stays as it is; so does what its device runs.

        Returns:
            New directives, ``(device, envelope)``, for devices that are no longer asked for the bundle.

        Raises:
            NotFound: There is none of that id.
            Conflict: It has already ended.
        """
        with self._db.write() as connection:
            row = _open(connection, rollout)
            while take_reports(connection, row, self._now_ms()):
                pass
            _set_state(connection, rollout, Rollout.ABORTED, "aborted by an operator", self._now_ms())
            return [
                message
                for part in (part for wave in deployments_of(connection, rollout) for part in wave)
                if (message := self._withdraw(connection, row, part))
            ]

    def resume(self, rollout: str) -> None:
        """Let a paused rollout go on; the failures so far are forgiven.

        Raises:
            NotFound: There is none of that id.
            Conflict: It is not paused.
        """
        with self._db.write() as connection:
            row = _open(connection, rollout)
            if row.state != Rollout.PAUSED:
                raise Conflict(f"rollout {rollout} is {row.state}", hint="only a paused rollout can be resumed")
            plan = Plan.model_validate_json(row.plan)
            parts = [Deployment(p.state) for wave in deployments_of(connection, rollout) for p in wave]
            failed = sum(state.is_final and not state.is_success for state in parts)
            forgiving = plan.model_copy(update={"max_failures": plan.max_failures + failed})
            connection.execute(
                update(tables.rollout).where(tables.rollout.c.id == rollout).values(plan=forgiving.model_dump_json())
            )
            _set_state(connection, rollout, Rollout.RUNNING, "", self._now_ms())

    def _withdraw(self, connection: Connection, row: Row[Any], part: Row[Any]) -> tuple[str, bytes] | None:
        state = Deployment(part.state)
        if not state.is_final:
            connection.execute(
                update(tables.deployment)
                .where(tables.deployment.c.id == part.id)
                .values(state=Deployment.ABORTED, ended_ms=self._now_ms())
            )
        slots = desired.slots_of(connection, part.device)
        asked = slots.get(row.model)
        if state.is_success or asked is None or asked.sha256 != row.bundle_sha256:
            return None
        slots.pop(row.model)
        before = _slot_before(connection, part, row)
        if before:
            slots[row.model] = before
        return part.device, desired.write(connection, self._director, part.device, slots, self._clock.now())

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def find(connection: Connection, rollout: str) -> Row[Any]:
    """Return a rollout's row.

    Raises:
        NotFound: There is none of that id.
    """
    row = connection.execute(select(tables.rollout).where(tables.rollout.c.id == rollout)).first()
    if row is None:
        raise NotFound(f"there is no rollout {rollout}", hint="see: dsops rollout list")
    return row


def deployments_of(connection: Connection, rollout: str) -> list[list[Row[Any]]]:
    """Return a rollout's deployment rows by wave, in the order of the devices' names."""
    part = tables.deployment
    rows = connection.execute(select(part).where(part.c.rollout == rollout).order_by(part.c.wave, part.c.device)).all()
    waves: list[list[Row[Any]]] = []
    for row in rows:
        if row.wave == len(waves):
            waves.append([])
        waves[row.wave].append(row)
    return waves


def model_states(connection: Connection, devices: Sequence[str], model: str) -> Mapping[str, ModelState]:
    """Return what devices last reported of one model; devices without a report are absent."""
    rows = connection.execute(select(tables.observed).where(tables.observed.c.device.in_(devices))).all()
    reports = {row.device: Observed.model_validate_json(row.report) for row in rows}
    return {device: report.models[model] for device, report in reports.items() if model in report.models}


def slot_for(bundle: Row[Any], deployment: str, *, urgent: bool = False, changes_contract: bool = False) -> DesiredSlot:
    """Return the directive's entry for one bundle row."""
    return DesiredSlot(
        path=bundle.path,
        sha256=bundle.sha256,
        length_bytes=bundle.length_bytes,
        release=bundle.release,
        deployment=deployment,
        urgent=urgent,
        changes_contract=changes_contract,
    )


def _slot_before(connection: Connection, part: Row[Any], rollout: Row[Any]) -> DesiredSlot | None:
    """Return what a device ran before a rollout's bundle came; a device in probation runs that already."""
    state = model_states(connection, [part.device], rollout.model).get(part.device)
    if state is None:
        return None
    digest = state.previous if state.active == rollout.bundle_sha256 else state.active
    row = connection.execute(select(tables.bundle).where(tables.bundle.c.sha256 == digest)).first()
    return slot_for(row, part.id) if row else None


def find_bundle(connection: Connection, plan: Plan) -> Row[Any]:
    """Return the row of the bundle that a plan names.

    Raises:
        NotFound: It was never pushed.
        Conflict: The release has several variants, and none is named.
    """
    b = tables.bundle.c
    release = (b.model == plan.model) & (b.release == plan.release)
    rows = connection.execute(select(tables.bundle).where(release).order_by(b.variant)).all()
    found = [row for row in rows if plan.variant in ("", row.variant)]
    if not found:
        there = ", ".join(row.variant for row in rows)
        raise NotFound(
            f"there is no bundle {plan.model} {plan.release} {plan.variant}".rstrip(),
            why=f"this release has {there}" if there else "",
            hint="push it first: dsops bundle push",
        )
    if len(found) > 1:
        raise Conflict(
            f"{plan.model} {plan.release} has several variants",
            why=", ".join(row.variant for row in found),
            hint=f"name one: dsops rollout create {plan.model}/{plan.release}/{found[0].variant}",
        )
    return found[0]


def _check_alone(connection: Connection, model: str) -> None:
    r = tables.rollout.c
    other = connection.execute(select(r.id, r.state).where((r.model == model) & r.state.in_(_OPEN))).first()
    if other:
        raise Conflict(
            f"rollout {other.id} of {model} is {other.state}", hint=f"wait for it, or: dsops rollout abort {other.id}"
        )


def check_room(connection: Connection, bundle: Row[Any], retained_bytes: int) -> None:
    """Check that the broker can be offered a bundle besides what it has.

    Raises:
        Conflict: It would have to keep too much.
    """
    files = wanted_files(connection)
    held = sum(files.values())
    if bundle.sha256 in files or held + bundle.length_bytes <= retained_bytes:
        return
    raise Conflict(
        f"the broker would have to keep too much for {bundle.model} {bundle.release}",
        why=f"it keeps {held} bytes of {len(files)} files that rollouts or devices want; with {bundle.length_bytes} "
        f"more it would be over the {retained_bytes} that [broker] retained_bytes allows",
        hint="bring devices to fewer different releases, abort a rollout (dsops rollout list), or raise [broker] "
        "retained_bytes in controller.toml if the broker has the memory",
    )


def cohort_of(connection: Connection, plan: Plan) -> list[str]:
    """Return the devices that a plan is for, in the order of their names.

    Raises:
        InvalidInput: There are none, or one is not accepted.
    """
    accepted = set(
        connection.execute(select(tables.device.c.id).where(tables.device.c.state == Device.ACCEPTED)).scalars()
    )
    strangers = set(plan.cohort) - accepted
    if strangers:
        raise InvalidInput(f"device {min(strangers)} is not an accepted device", hint="see: dsops device list")
    cohort = sorted(plan.cohort or accepted)
    if not cohort:
        raise InvalidInput("no device is in the cohort", hint="enrol a device first: dsops device token <name>")
    return cohort


def _absent(connection: Connection) -> frozenset[str]:
    return frozenset(connection.execute(select(tables.device.c.id).where(~tables.device.c.online)).scalars())


def _open(connection: Connection, rollout: str) -> Row[Any]:
    row = find(connection, rollout)
    if Rollout(row.state).is_final:
        raise Conflict(f"rollout {rollout} has already ended", why=f"it is {row.state}")
    return row


def _set_state(connection: Connection, rollout: str, state: Rollout, reason: str, now_ms: int) -> None:
    connection.execute(
        update(tables.rollout)
        .where(tables.rollout.c.id == rollout)
        .values(state=state, reason=reason, updated_ms=now_ms)
    )


def _rollout_dict(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "model": row.model,
        "release": row.release,
        "bundle": row.bundle_sha256,
        "state": row.state,
        "reason": row.reason,
        "wave": row.wave,
        "created_ms": row.created_ms,
        "updated_ms": row.updated_ms,
        "plan": json.loads(row.plan),
    }


def _deployment_dict(row: Row[Any]) -> dict[str, Any]:
    names = ("id", "device", "state", "step", "progress", "code", "message", "waiting", "started_ms", "ended_ms")
    return {name: getattr(row, name) for name in names}
