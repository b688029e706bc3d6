"""The driver: one loop that loads each running rollout, lets the engine decide, persists, then publishes.

A crash at any point is repaired by the next turn: what was persisted and not published is published again until the
device's own report shows that it arrived.
"""

import logging
import threading
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Select, select, update

from dsops import dsse
from dsops.clock import Clock
from dsops.directive import PAYLOAD_TYPE
from dsops.errors import ContentSealed, DsopsError
from dsops.messages import ModelState
from dsops.states import Deployment, Device, Rollout, deployment_state
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas.table import of_targets
from dsops_controller.rollout import desired
from dsops_controller.rollout.engine import Decision, DeploymentView, Move, Promote, RolloutView, Start, TimeOut, step
from dsops_controller.rollout.plan import Plan
from dsops_controller.rollout.rollouts import deployments_of, find, model_states, slot_for

log = logging.getLogger(__name__)

REPEAT = timedelta(seconds=5)
"""A directive that an online device has not acknowledged for so long is published again."""
RENEW = desired.LIFE / 2


class Publisher(Protocol):
    """Carries messages to devices; may lose any of them."""

    def publish_desired(self, device: str, envelope: bytes) -> None:
        """Offer a device its directive, retained."""
        ...

    def seed(self, bundle_sha256: str, model: str) -> None:
        """Offer the chunks of a bundle, or of a delta to one, and its model's trust metadata, retained."""
        ...


class Deltas(Protocol):
    """Makes deltas."""

    def awaits(self, connection: Connection, device: str, model: str, target: str) -> bool:
        """Return whether a device's directive should wait for the delta to ``target``; asks for it if nobody did."""
        ...


class NoDeltas:
    """Makes none."""

    def awaits(self, connection: Connection, device: str, model: str, target: str) -> bool:
        """Return False."""
        return False


class Driver:
    """Drives every running rollout."""

    def __init__(
        self,
        db: Database,
        publisher: Publisher,
        director: desired.Director,
        clock: Clock,
        deltas: Deltas | None = None,
    ) -> None:
        self._db = db
        self._publisher = publisher
        self._director = director
        self._clock = clock
        self._deltas = deltas or NoDeltas()
        self._wake = threading.Event()
        self._repeated_ms: dict[str, int] = {}
        self._signing: set[str] = set()

    def wake(self) -> None:
        """Have the loop look again now: a device reported, or an operator asked for something."""
        self._wake.set()

    def run(self, stop: threading.Event, tick_s: float = 0.5) -> None:
        """Turn until ``stop`` is set, at least every ``tick_s`` seconds."""
        while not stop.is_set():
            self._wake.wait(tick_s)
            self._wake.clear()
            try:
                self.turn()
            except DsopsError as error:
                log.warning("rollouts wait: %s", error)
                stop.wait(tick_s)

    def turn(self) -> None:
        """Bring every running rollout as far as it can go now, and repeat what was not heard."""
        with self._db.read() as connection:
            running = connection.execute(
                select(tables.rollout.c.id).where(tables.rollout.c.state == Rollout.RUNNING)
            ).scalars()
            rollouts = list(running)
        for rollout in rollouts:
            while self._advance(rollout):
                pass
        self._sign_again()
        self._repeat()

    def _advance(self, rollout: str) -> bool:
        seeds: list[str] = []
        messages: list[tuple[str, bytes]] = []
        with self._db.write() as connection:
            row = find(connection, rollout)
            self._take_reports(connection, row)
            decisions = self._ready(connection, row, step(self._now_ms(), _view(connection, row)))
            for decision in decisions:
                message = self._persist(connection, row, decision)
                if message:
                    messages.append(message)
            if messages:
                seeds = [*of_targets(connection, [row.bundle_sha256]), row.bundle_sha256]
        for sha256 in seeds:
            self._publisher.seed(sha256, row.model)
        for device, envelope in messages:
            self._publisher.publish_desired(device, envelope)
        return bool(decisions)

    def _ready(self, connection: Connection, row: Row[Any], decisions: tuple[Decision, ...]) -> list[Decision]:
        """Return decisions without the starts of devices whose delta is being made: the next turn decides them anew."""
        starts = [one.deployment for one in decisions if isinstance(one, Start) and not one.is_installed]
        of = tables.deployment.c
        parts = connection.execute(select(of.id, of.device).where(of.id.in_(starts))).all() if starts else ()
        held = {p.id for p in parts if self._deltas.awaits(connection, p.device, row.model, row.bundle_sha256)}
        return [one for one in decisions if not (isinstance(one, Start) and one.deployment in held)]

    def _take_reports(self, connection: Connection, row: Row[Any]) -> None:
        parts = [p for wave in deployments_of(connection, row.id) for p in wave if not Deployment(p.state).is_final]
        states = model_states(connection, [p.device for p in parts], row.model)
        for part in parts:
            state = states.get(part.device)
            if state and state.deployment == part.id and part.state == Deployment.IN_PROGRESS:
                values = _reported(state, self._now_ms())
                connection.execute(update(tables.deployment).where(tables.deployment.c.id == part.id).values(values))

    def _persist(self, connection: Connection, row: Row[Any], decision: Decision) -> tuple[str, bytes] | None:
        now_ms = self._now_ms()
        match decision:
            case Start(deployment, is_installed):
                return self._start(connection, row, deployment, is_installed=is_installed)
            case TimeOut(deployment):
                values: dict[str, object] = {"state": Deployment.TIMED_OUT, "ended_ms": now_ms}
                connection.execute(update(tables.deployment).where(tables.deployment.c.id == deployment).values(values))
            case Promote(wave):
                log.info("rollout %s: wave %d begins", row.id, wave + 1)
                values = {"wave": wave, "updated_ms": now_ms}
                connection.execute(update(tables.rollout).where(tables.rollout.c.id == row.id).values(values))
            case Move(state, reason):
                log.info("rollout %s: %s %s", row.id, state.value, reason)
                values = {"state": state, "reason": reason, "updated_ms": now_ms}
                connection.execute(update(tables.rollout).where(tables.rollout.c.id == row.id).values(values))
        return None

    def _start(
        self, connection: Connection, row: Row[Any], deployment: str, *, is_installed: bool
    ) -> tuple[str, bytes] | None:
        part = connection.execute(select(tables.deployment).where(tables.deployment.c.id == deployment)).one()
        if not is_installed:
            try:
                desired.check_key(connection, part.device, row.bundle_sha256)
            except ContentSealed as error:
                self._refuse(connection, deployment, error)
                return None
        bundle = connection.execute(select(tables.bundle).where(tables.bundle.c.sha256 == row.bundle_sha256)).one()
        state = Deployment.ALREADY_INSTALLED if is_installed else Deployment.IN_PROGRESS
        values: dict[str, object] = {"state": state, "started_ms": self._now_ms()}
        if is_installed:
            values["ended_ms"] = self._now_ms()
        connection.execute(update(tables.deployment).where(tables.deployment.c.id == deployment).values(values))
        slots = desired.slots_of(connection, part.device) | {row.model: slot_for(bundle, deployment)}
        return part.device, desired.write(connection, self._director, part.device, slots, self._clock.now())

    def _refuse(self, connection: Connection, deployment: str, error: DsopsError) -> None:
        """End a deployment before anything of it is sent."""
        now_ms = self._now_ms()
        values: dict[str, object] = {"state": Deployment.REJECTED, "started_ms": now_ms, "ended_ms": now_ms}
        values |= {"code": error.code, "message": str(error)}
        connection.execute(update(tables.deployment).where(tables.deployment.c.id == deployment).values(values))

    def _repeat(self) -> None:
        now_ms = self._now_ms()
        with self._db.read() as connection:
            rows = connection.execute(_unheard_old_or_ahead(now_ms)).all()
        for row in rows:
            if row.accepted is not None and row.accepted > row.seq:
                self._publisher.publish_desired(row.device, self._take_back(row.device, row.seq, row.accepted))
            elif row.updated_ms < now_ms - RENEW.total_seconds() * 1000:
                self._publisher.publish_desired(row.device, self._renew(row.device))
            elif now_ms - self._repeated_ms.get(row.device, 0) > REPEAT.total_seconds() * 1000:
                self._repeated_ms[row.device] = now_ms
                self._publisher.publish_desired(row.device, row.envelope)

    def _sign_again(self) -> None:
        """After a change of the director's keys, sign every directive that devices would no longer believe."""
        signing = {dsse.key_id(key.public_key()) for key in self._director.signing_keys()}
        if signing == self._signing:
            return
        with self._db.read() as connection:
            rows = connection.execute(select(tables.desired.c.device, tables.desired.c.envelope)).all()
        old = [
            row.device
            for row in rows
            if not signing & {s.keyid for s in dsse.decode(row.envelope, PAYLOAD_TYPE).signatures}
        ]
        for device in old:
            self._publisher.publish_desired(device, self._renew(device))
        self._signing = signing

    def _renew(self, device: str) -> bytes:
        with self._db.write() as connection:
            slots = desired.slots_of(connection, device)
            return desired.write(connection, self._director, device, slots, self._clock.now())

    def _take_back(self, device: str, seq: int, accepted: int) -> bytes:
        """Say again what a device shall run that accepted a directive which this database never wrote.

        Either somebody else holds a director's key, or the database is an older copy of itself.
        """
        why = f"the device accepted directive {accepted}, the newest here is {seq}"
        log.error("%s: %s; if no backup was restored, a director's key is stolen: dsops trust rotate", device, why)
        with self._db.write() as connection:
            audit.record(connection, self._clock.now(), audit.SYSTEM, "directive.foreign", device, why)
        return self._renew(device)

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _unheard_old_or_ahead(now_ms: int) -> Select[Any]:
    want, have = tables.desired.c, tables.observed.c
    joined = tables.desired.join(tables.device, tables.device.c.id == want.device).outerjoin(
        tables.observed, have.device == want.device
    )
    unheard = tables.device.c.online & (have.seq.is_(None) | (have.seq < want.seq))
    unheard &= want.updated_ms < now_ms - REPEAT.total_seconds() * 1000
    old = want.updated_ms < now_ms - RENEW.total_seconds() * 1000
    takes_part = tables.device.c.state == Device.ACCEPTED
    ahead = have.seq > want.seq
    columns = (want.device, want.envelope, want.updated_ms, want.seq, have.seq.label("accepted"))
    return select(*columns).select_from(joined).where(takes_part & (unheard | old | ahead))


def _signers(envelope: bytes) -> set[str]:
    return {signature.keyid for signature in dsse.decode(envelope, PAYLOAD_TYPE).signatures}


def _view(connection: Connection, row: Row[Any]) -> RolloutView:
    waves = deployments_of(connection, row.id)
    plan = Plan.model_validate_json(row.plan)
    states = model_states(connection, [p.device for wave in waves for p in wave], row.model)

    def view(part: Row[Any]) -> DeploymentView:
        state = states.get(part.device)
        installed = state is not None and state.active == row.bundle_sha256 and state.install.is_final
        return DeploymentView(part.id, part.device, Deployment(part.state), part.code, part.started_ms, installed)

    return RolloutView(
        Rollout(row.state), row.wave, [[view(p) for p in wave] for wave in waves], plan.max_failures, plan.timeout_s
    )


def _reported(state: ModelState, now_ms: int) -> dict[str, object]:
    code, message = (state.problem.code, state.problem.message) if state.problem else ("", "")
    outcome = deployment_state(state.install, code)
    values: dict[str, object] = {
        "state": outcome,
        "step": state.install,
        "progress": state.progress,
        "code": code,
        "message": message,
    }
    if outcome.is_final:
        values["ended_ms"] = now_ms
    return values
