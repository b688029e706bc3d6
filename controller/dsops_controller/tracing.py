"""Where what a device ran came from: who signed it, what it was made of, and who let it on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from dsops import ids
from dsops.errors import DsopsError, NotFound
from dsops.manifest import Manifest
from dsops.trust import model_role
from dsops_controller.dataops.datasets.lineage import Lineage
from dsops_controller.dataops.running import Ran, running
from dsops_controller.dataops.store import LakeStore
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.trust.holders import holder_of
from dsops_controller.trust.repository import Repository
from dsops_controller.trust.roles import POLICY, TARGETS
from dsops_controller.trust.state import TrustState


@dataclass(frozen=True, slots=True)
class Signed:
    """A role of the trust metadata, and who signed it.

    Attributes:
        role: Its name.
        version: The published version.
        threshold: Signatures that it needs.
        signers: Who signed it, as the metadata names them.
    """

    role: str
    version: int
    threshold: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Allowed:
    """How a bundle came to a device: a rollout, and how it ended there.

    Attributes:
        state: Of the deployment on this device.
        ended: When it ended; None while it has not.
    """

    rollout: str
    created: datetime
    wave: int
    state: str
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Deed:
    """An entry of the audit trail about a bundle or its rollout."""

    time: datetime
    actor: str
    action: str
    detail: str


@dataclass(frozen=True, slots=True)
class Traced:
    """A bundle that ran, and where it came from.

    Attributes:
        ran: The bundle, and how it is known that it ran.
        variant: Of the bundle; empty when the controller does not have it.
        pushed: When the controller got it.
        source_sha256: Digest of the source model.
        commit: Version of the training code.
        data: Digests of data, by what it was used for.
        datasets: Data sets behind them (``NAME/VERSION``), likewise.
        signed: The owners' role that names the bundle now; None when it names it no more.
        policy: What the signed policy says now: floor, and the ring of the release.
        policy_signed: The role of the policies.
        rollouts: How it came to the device.
        deeds: What the audit trail says of it.
        unknown: What could not be found out, in words.
    """

    ran: Ran
    variant: str = ""
    pushed: datetime | None = None
    source_sha256: str = ""
    commit: str = ""
    data: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    signed: Signed | None = None
    policy: dict[str, object] = field(default_factory=dict)
    policy_signed: Signed | None = None
    rollouts: tuple[Allowed, ...] = ()
    deeds: tuple[Deed, ...] = ()
    unknown: tuple[str, ...] = ()


class Tracer:
    """Answers where what a device ran came from.

    Args:
        db: The state database.
        store: The DataOps store.
        lineage: Leads from bundles to data sets.
        repository: The published trust metadata.
    """

    def __init__(self, db: Database, store: LakeStore, lineage: Lineage, repository: Repository) -> None:
        self._db = db
        self._store = store
        self._lineage = lineage
        self._repository = repository

    def device(self, device: str, at: datetime) -> list[Traced]:
        """Return what a device ran at a moment, by its own uploads; nothing when none of them says.

        Raises:
            NotFound: There is no such device, and it never uploaded anything.
            InvalidInput: The name is none.
        """
        ids.device_id(device)
        found = running(self._store, device, at)
        with self._db.read() as connection:
            is_known = connection.execute(select(tables.device.c.id).where(tables.device.c.id == device)).first()
        if not found and is_known is None:
            raise NotFound(f"there is no device {device}", hint="see: dsops device list")
        return [self._traced(device, one, at) for one in found]

    def _traced(self, device: str, one: Ran, at: datetime) -> Traced:
        with self._db.read() as connection:
            bundle = connection.execute(select(tables.bundle).where(tables.bundle.c.sha256 == one.digest)).one_or_none()
            rollouts = self._rollouts(device, one.digest, at)
        if bundle is None:
            return Traced(one, rollouts=rollouts, unknown=("the controller does not have this bundle",))
        manifest = Manifest.decode(bundle.manifest.encode())
        signed, policy, policy_signed, unknown = self._trust(bundle)
        subjects = [bundle.path, one.digest, *(allowed.rollout for allowed in rollouts)]
        return Traced(
            ran=one,
            variant=bundle.variant,
            pushed=from_ms(bundle.pushed_ms),
            source_sha256=manifest.lineage.source_sha256 or "",
            commit=manifest.lineage.commit,
            data=dict(manifest.lineage.datasets),
            datasets=self._lineage.behind(manifest),
            signed=signed,
            policy=policy,
            policy_signed=policy_signed,
            rollouts=rollouts,
            deeds=self._deeds(subjects, at),
            unknown=unknown,
        )

    def _trust(self, bundle: AnyRow) -> tuple[Signed | None, dict[str, object], Signed | None, tuple[str, ...]]:
        try:
            state, policy = self._repository.state(), self._repository.policy(bundle.model)
        except DsopsError as error:
            return None, {}, None, (f"who signed it: {error.what}",)
        target = self._repository.target(bundle.path)
        is_named = target is not None and target.hashes.get("sha256") == bundle.sha256
        unknown = () if is_named else ("the owners' role does not name this bundle any more",)
        ring = policy.rings.get(str(bundle.release), policy.default_ring)
        says: dict[str, object] = {"floor": policy.floor, "ring": ring.model_dump(mode="json") if ring else None}
        owners = _signed(state, model_role(bundle.model)) if is_named else None
        return owners, says, _signed(state, POLICY), unknown

    def _rollouts(self, device: str, digest: str, at: datetime) -> tuple[Allowed, ...]:
        part, plan = tables.deployment.c, tables.rollout.c
        joined = tables.deployment.join(tables.rollout, plan.id == part.rollout)
        ours = (part.device == device) & (plan.bundle_sha256 == digest) & (plan.created_ms <= to_ms(at))
        columns = (plan.id, plan.created_ms, part.wave, part.state, part.started_ms, part.ended_ms)
        query = select(*columns).select_from(joined).where(ours).order_by(plan.created_ms)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        return tuple(
            Allowed(
                row.id, from_ms(row.created_ms), row.wave + 1, row.state, _when(row.started_ms), _when(row.ended_ms)
            )
            for row in rows
        )

    def _deeds(self, subjects: Sequence[str], at: datetime) -> tuple[Deed, ...]:
        column = tables.audit.c
        query = select(tables.audit).where(column.subject.in_(subjects) & (column.time_ms <= to_ms(at)))
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(column.id)).all()
        return tuple(Deed(from_ms(row.time_ms), row.actor, row.action, row.detail) for row in rows)


def _signed(state: TrustState, name: str) -> Signed | None:
    role = state.signed.get(name)
    if role is None:
        return None
    delegator = state.signed[TARGETS].targets
    result = delegator.get_verification_result(name, role.payload, role.signatures)
    return Signed(name, role.version, result.threshold, tuple(sorted(map(holder_of, result.signed.values()))))


def _when(moment_ms: int | None) -> datetime | None:
    return None if moment_ms is None else from_ms(moment_ms)
