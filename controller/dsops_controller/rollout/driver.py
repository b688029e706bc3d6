"""The driver: one loop that loads each running rollout, lets the engine decide, persists, then publishes.

A crash at any point is repaired by the next turn: what was persisted and not published is published again until the
device's own report shows that it arrived.
"""

import logging
import threading
from typing import Any, Protocol

from sqlalchemy import Connection, Row, select, update

from dsops import dsse
from dsops.clock import Clock
from dsops.directive import PAYLOAD_TYPE
from dsops.errors import ContentSealed, DsopsError
from dsops.states import Deployment, Rollout
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas.table import of_targets
from dsops_controller.fleet import sites
from dsops_controller.rollout import desired, outdated
from dsops_controller.rollout.engine import Decision, DeploymentView, Move, Promote, RolloutView, Start, TimeOut, step
from dsops_controller.rollout.plan import Plan
from dsops_controller.rollout.repeat import Repeats
from dsops_controller.rollout.reports import has_installed, take_reports
from dsops_controller.rollout.rollouts import deployments_of, find, slot_for

log = logging.getLogger(__name__)

A_TURN, AT_ONCE = 200, 100
"""Reports and decisions of one rollout in a turn, and directives that are written in one transaction."""
FOLLOW_S = 60.0
SHORT_S, LONGEST_REST_S = 0.05, 2.0


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
        self._repeats = Repeats()
        self._signing: set[str] = set()
        self._unbelieved: list[str] = []
        self._followed_s = clock.monotonic_s()

    def wake(self) -> None:
        """Have the loop look again now: a device reported, or an operator asked for something."""
        self._wake.set()

    def run(self, stop: threading.Event, tick_s: float = 0.5) -> None:
        """Turn until ``stop`` is set, at least every ``tick_s`` seconds.

        A large fleet wakes it all the time; then it rests as long as it worked, for others need the database too.
        """
        while not stop.is_set():
            self._wake.wait(tick_s)
            self._wake.clear()
            began_s = self._clock.monotonic_s()
            try:
                self.turn()
            except DsopsError as error:
                log.warning("rollouts wait: %s", error)
                stop.wait(tick_s)
            worked_s = self._clock.monotonic_s() - began_s
            if worked_s > SHORT_S:
                stop.wait(min(worked_s, LONGEST_REST_S))

    def turn(self) -> None:
        """Bring every running rollout further, and repeat what was not heard; the next turn does what is left over."""
        with self._db.read() as connection:
            running = connection.execute(
                select(tables.rollout.c.id).where(tables.rollout.c.state == Rollout.RUNNING)
            ).scalars()
            rollouts = list(running)
        for rollout in rollouts:
            left = A_TURN
            while left > 0 and (done := self._advance(rollout)):
                left -= done
            if left <= 0:
                self.wake()
        self._follow_sites()
        self._sign_again()
        self._take_back()
        self._renew_old()
        self._repeat()

    def _advance(self, rollout: str) -> int:
        """Take reports in and decide, a bounded number of each; return how many that were."""
        seeds: list[str] = []
        messages: list[tuple[str, bytes]] = []
        with self._db.write() as connection:
            row = find(connection, rollout)
            now_ms = self._now_ms()
            taken = take_reports(connection, row, now_ms)
            decisions = self._ready(connection, row, step(now_ms, _view(connection, row, now_ms))[:AT_ONCE])
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
        return taken + len(decisions)

    def _ready(self, connection: Connection, row: Row[Any], decisions: tuple[Decision, ...]) -> list[Decision]:
        """Return decisions without the starts of devices whose delta is being made: the next turn decides them anew."""
        starts = [one.deployment for one in decisions if isinstance(one, Start) and not one.is_installed]
        of = tables.deployment.c
        parts = connection.execute(select(of.id, of.device).where(of.id.in_(starts))).all() if starts else ()
        held = {p.id for p in parts if self._deltas.awaits(connection, p.device, row.model, row.bundle_sha256)}
        return [one for one in decisions if not (isinstance(one, Start) and one.deployment in held)]

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
        plan = Plan.model_validate_json(row.plan)
        slot = slot_for(bundle, deployment, urgent=plan.urgent, changes_contract=plan.changes_contract)
        slots = desired.slots_of(connection, part.device) | {row.model: slot}
        return part.device, desired.write(connection, self._director, part.device, slots, self._clock.now())

    def _refuse(self, connection: Connection, deployment: str, error: DsopsError) -> None:
        """End a deployment before anything of it is sent."""
        now_ms = self._now_ms()
        values: dict[str, object] = {"state": Deployment.REJECTED, "started_ms": now_ms, "ended_ms": now_ms}
        values |= {"code": error.code, "message": str(error)}
        connection.execute(update(tables.deployment).where(tables.deployment.c.id == deployment).values(values))

    def _repeat(self) -> None:
        """Say directives again that connected devices have not acknowledged, each ever less often."""
        with self._db.read() as connection:
            due = self._repeats.due(outdated.unheard(connection), self._clock.monotonic_s())
            messages = outdated.envelopes(connection, due)
        for device, envelope in messages:
            self._publisher.publish_desired(device, envelope)

    def _follow_sites(self) -> None:
        """Divide the budgets of sites anew where devices came or went."""
        now_s = self._clock.monotonic_s()
        if now_s - self._followed_s >= FOLLOW_S:
            self._followed_s = now_s
            with self._db.write() as connection:
                sites.follow(connection, self._now_ms())

    def _renew_old(self) -> None:
        """Write directives anew that end too soon, or say too little by now."""
        with self._db.read() as connection:
            devices = outdated.old(connection, self._now_ms(), AT_ONCE)
        for device in devices:
            self._publisher.publish_desired(device, self._renew(device))

    def _sign_again(self) -> None:
        """After a change of the director's keys, sign every directive that devices would no longer believe."""
        signing = {dsse.key_id(key.public_key()) for key in self._director.signing_keys()}
        if signing != self._signing:
            self._signing = signing
            with self._db.read() as connection:
                rows = connection.execute(select(tables.desired.c.device, tables.desired.c.envelope))
                self._unbelieved = [row.device for row in rows if not signing & _signers(row.envelope)]
        now, self._unbelieved = self._unbelieved[:AT_ONCE], self._unbelieved[AT_ONCE:]
        for device in now:
            self._publisher.publish_desired(device, self._renew(device))

    def _renew(self, device: str) -> bytes:
        with self._db.write() as connection:
            slots = desired.slots_of(connection, device)
            return desired.write(connection, self._director, device, slots, self._clock.now())

    def _take_back(self) -> None:
        """Say again what devices shall run that accepted a directive which this database never wrote.

        Either somebody else holds a director's key, or the database is an older copy of itself.
        """
        with self._db.read() as connection:
            rows = outdated.ahead(connection, AT_ONCE)
        for row in rows:
            why = f"the device accepted directive {row.accepted}, the newest here is {row.seq}"
            log.error(
                "%s: %s; if no backup was restored, a director's key is stolen: dsops trust rotate", row.device, why
            )
            with self._db.write() as connection:
                audit.record(connection, self._clock.now(), audit.SYSTEM, "directive.foreign", row.device, why)
            self._publisher.publish_desired(row.device, self._renew(row.device))

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _signers(envelope: bytes) -> set[str]:
    return {signature.keyid for signature in dsse.decode(envelope, PAYLOAD_TYPE).signatures}


def _view(connection: Connection, row: Row[Any], now_ms: int) -> RolloutView:
    installed = has_installed(connection, row)

    def view(part: Row[Any]) -> DeploymentView:
        waited_ms = part.waited_ms + (now_ms - part.waiting_since_ms if part.waiting_since_ms is not None else 0)
        deployment, is_installed = Deployment(part.state), part.device in installed
        return DeploymentView(part.id, part.device, deployment, part.code, part.started_ms, is_installed, waited_ms)

    waves = [[view(part) for part in wave] for wave in deployments_of(connection, row.id)]
    plan = Plan.model_validate_json(row.plan)
    return RolloutView(Rollout(row.state), row.wave, waves, plan.max_failures, plan.timeout_s)
