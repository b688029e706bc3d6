"""Challengers: which devices compare which bundle with their champion, on an operator's word.

What is set here is in the next directive of each device, which is written anew soon. A bundle becomes a challenger by
the same rules by which it becomes a champion: its owners signed it, and the device believes what the policy allows.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from sqlalchemy import Connection, Row, delete, select

from dsops import ids
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound
from dsops.manifest import Frozen, Name
from dsops.messages import ChallengerState, ModelState
from dsops.modes import Mode
from dsops.states import Install
from dsops_controller import audit
from dsops_controller.db import tables
from dsops_controller.db.database import Database, upsert
from dsops_controller.rollout import desired
from dsops_controller.rollout.plan import Plan, WaveSpec
from dsops_controller.rollout.rollouts import Rollouts, check_room, cohort_of, find_bundle, model_states
from dsops_controller.rollout.wanted import RETAINED_BYTES


class Challenge(Frozen):
    """What an operator asks for.

    Attributes:
        variant: Which bundle of the release; empty when it has one only.
        cohort: The devices; empty means every accepted device that has a champion.
        mode: What the challenger is asked.
        share: Of the requests (shadow) or of the keys (split).
        cpu_share: Time of a processor that a shadow may take, as a share of one core.
    """

    model: Name
    release: int = Field(ge=1)
    variant: str = Field(default="", max_length=32)
    cohort: tuple[str, ...] = ()
    mode: Mode
    share: float = Field(gt=0, le=1)
    cpu_share: float = Field(default=0.25, gt=0, le=1)

    def plan(self) -> Plan:
        """Return the plan that names the same bundle and the same devices."""
        return Plan(model=self.model, release=self.release, variant=self.variant, cohort=self.cohort)


class Promotion(Frozen):
    """How a challenger becomes the champion: by a rollout like any other."""

    waves: tuple[WaveSpec, ...] = (WaveSpec(count=1),)
    max_failures: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class ChallengerRecord:
    """A challenger of one device, and what the device says of it.

    Attributes:
        champion_release: What the device runs; 0 for nothing.
        active: Whether it is compared, by the device's newest report.
        install: Where the device is with it.
        code: Code of the error that stands in its way; empty when there is none.
    """

    device: str
    model: str
    release: int
    digest: str
    deployment: str
    mode: Mode
    share: float
    cpu_share: float
    champion_release: int
    active: bool
    install: Install
    code: str
    message: str


class Challengers:
    """Sets, shows and clears challengers."""

    def __init__(self, db: Database, rollouts: Rollouts, clock: Clock, retained_bytes: int = RETAINED_BYTES) -> None:
        self._db = db
        self._rollouts = rollouts
        self._clock = clock
        self._retained_bytes = retained_bytes

    def set(self, challenge: Challenge, actor: str) -> str:
        """Give devices a challenger, in place of the one before; return the digest of its bundle.

        Raises:
            NotFound: There is no such bundle.
            InvalidInput: The cohort is empty or names a device that is not accepted.
            Conflict: A device has no champion of the model, or it is that very bundle; or the broker would have to keep
                too much.
            ContentSealed: The bundle is encrypted, and a device cannot be sent its key.
        """
        now = self._clock.now()
        with self._db.write() as connection:
            bundle = find_bundle(connection, challenge.plan())
            check_room(connection, bundle, self._retained_bytes)
            devices = _with_champions(connection, challenge, bundle)
            deployment = _deployment(connection, challenge.model, bundle.sha256)
            for device in devices:
                desired.check_key(connection, device, bundle.sha256)
                values = {"bundle_sha256": bundle.sha256, "deployment": deployment, "mode": challenge.mode.value}
                values |= {"share": challenge.share, "cpu_share": challenge.cpu_share}
                created_ms = int(now.timestamp() * 1000)
                upsert(
                    connection,
                    tables.challenger,
                    device=device,
                    model=challenge.model,
                    created_ms=created_ms,
                    **values,
                )
                desired.outdate(connection, device)
            detail = f"{bundle.path} {challenge.mode.value} {challenge.share:.4g} on {len(devices)} devices"
            audit.record(connection, now, actor, "challenger.set", challenge.model, detail)
        return str(bundle.sha256)

    def clear(self, model: str, cohort: tuple[str, ...], actor: str) -> int:
        """Take a model's challenger from devices, or from all; return from how many.

        Raises:
            NotFound: None of them has one.
        """
        with self._db.write() as connection:
            devices = _challenged(connection, model, cohort)
            c = tables.challenger.c
            for device in devices:
                connection.execute(delete(tables.challenger).where((c.device == device) & (c.model == model)))
                desired.outdate(connection, device)
            detail = f"on {len(devices)} devices"
            audit.record(connection, self._clock.now(), actor, "challenger.cleared", model, detail)
        return len(devices)

    def promote(self, model: str, promotion: Promotion, actor: str) -> str:
        """Create a rollout of a model's challenger to the devices that have it; return its id.

        A device's challenger ends when its directive names the bundle as the champion.

        Raises:
            NotFound: No device has a challenger of the model.
            Conflict: Devices have different ones, or another rollout of the model has not ended.
        """
        with self._db.read() as connection:
            devices = _challenged(connection, model, ())
            c, b = tables.challenger.c, tables.bundle.c
            joined = tables.challenger.join(tables.bundle, b.sha256 == c.bundle_sha256)
            query = select(b.release, b.variant).select_from(joined).where(c.model == model).distinct()
            found = connection.execute(query).all()
        if len(found) > 1:
            named = ", ".join(f"{model}/{row.release}/{row.variant}" for row in found)
            raise Conflict(
                f"devices have different challengers of {model}", why=named, hint="roll one out: dsops rollout create"
            )
        plan = Plan(
            model=model,
            release=found[0].release,
            variant=found[0].variant,
            cohort=tuple(devices),
            waves=promotion.waves,
            max_failures=promotion.max_failures,
        )
        rollout = self._rollouts.create(plan)
        with self._db.write() as connection:
            detail = f"release {plan.release} by rollout {rollout}"
            audit.record(connection, self._clock.now(), actor, "challenger.promoted", model, detail)
        return rollout

    def list(self, model: str | None = None) -> list[ChallengerRecord]:
        """Return every challenger, or those of a model, by model and device."""
        c, b = tables.challenger.c, tables.bundle.c
        query = select(tables.challenger, b.release).where(b.sha256 == c.bundle_sha256).order_by(c.model, c.device)
        with self._db.read() as connection:
            rows = connection.execute(query if model is None else query.where(c.model == model)).all()
            models = sorted({row.model for row in rows})
            states = {
                name: model_states(connection, [r.device for r in rows if r.model == name], name) for name in models
            }
        return [_record(row, states[row.model].get(row.device, ModelState())) for row in rows]


def _with_champions(connection: Connection, challenge: Challenge, bundle: Row[Any]) -> list[str]:
    devices = cohort_of(connection, challenge.plan())
    model = challenge.model
    champions = {device: desired.slots_of(connection, device).get(model) for device in devices}
    without = [device for device, slot in champions.items() if slot is None]
    same = [device for device, slot in champions.items() if slot is not None and slot.sha256 == bundle.sha256]
    left = [device for device in devices if device not in {*without, *same}]
    if same and (challenge.cohort or not left):
        raise Conflict(f"{model} {challenge.release} is the champion of {same[0]} itself")
    if without and (challenge.cohort or not left):
        raise Conflict(
            f"{without[0]} has no champion of {model}",
            why="a challenger is compared with what a rollout brought",
            hint=f"first: dsops rollout create {model}/RELEASE",
        )
    return left


def _deployment(connection: Connection, model: str, sha256: str) -> str:
    """Return the id of the deployment: that of a challenger that is there already, so that its keys stay its own."""
    c = tables.challenger.c
    query = (
        select(c.deployment).where((c.model == model) & (c.bundle_sha256 == sha256)).order_by(c.created_ms, c.device)
    )
    return str(connection.execute(query.limit(1)).scalar() or ids.new_deployment_id())


def _challenged(connection: Connection, model: str, cohort: tuple[str, ...]) -> list[str]:
    c = tables.challenger.c
    query = select(c.device).where(c.model == model).order_by(c.device)
    found = list(connection.execute(query.where(c.device.in_(cohort)) if cohort else query).scalars())
    if not found:
        where = f" on {', '.join(cohort)}"[:80] if cohort else ""
        raise NotFound(f"there is no challenger of {model[:63]}{where}", hint="see: dsops challenger show")
    return found


def _record(row: Row[Any], state: ModelState) -> ChallengerRecord:
    said = state.challenger or ChallengerState()
    is_this = said.target == row.bundle_sha256
    problem = said.problem if is_this else None
    return ChallengerRecord(
        device=row.device,
        model=row.model,
        release=row.release,
        digest=row.bundle_sha256,
        deployment=row.deployment,
        mode=Mode(row.mode),
        share=row.share,
        cpu_share=row.cpu_share,
        champion_release=state.active_release,
        active=said.active == row.bundle_sha256,
        install=said.install if is_this else Install.IDLE,
        code=problem.code if problem else "",
        message=problem.message if problem else "",
    )
