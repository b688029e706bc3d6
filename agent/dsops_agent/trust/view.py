"""What one complete refresh verified, kept in memory, so that a directive is judged without reading it all again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.api._payload import Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from dsops.errors import EndlessMetadata, IncompleteMetadata, MalformedMetadata
from dsops.head import issued
from dsops.trust import DIRECTOR_PATH, Director, Policy, model_role, policy_path
from dsops_agent.trust.floors import FOREVER, RoleFact
from dsops_agent.trust.trusted_time import TimeRecord, record
from dsops_agent.trust.updater import DurableUpdater

FLEET_ROLE = "fleet"
POLICY_ROLE = "policy"
MAX_TARGET_BYTES = 64 * 1024


def roles_of(model: str) -> tuple[str, ...]:
    """Return the roles that say everything about a model, the root and the online roles left out."""
    return Targets.type, FLEET_ROLE, POLICY_ROLE, model_role(model)


@dataclass(frozen=True)
class View:
    """The verified metadata of one model.

    Attributes:
        updater: The client that verified it; every role of :func:`roles_of` is loaded in it.
        model: The model.
        head: The head that led to it.
        small: The small targets, by path.
        director: Whose directives to believe.
        policy: The model's policy.
    """

    updater: DurableUpdater
    model: str
    head: bytes
    small: Mapping[str, bytes]
    director: Director
    policy: Policy

    def require_current(self, now: datetime, *roles: str) -> None:
        """Raise the client's ExpiredMetadataError when one of ``roles``, or a document above them, has expired."""
        self.updater.require_current(now, *roles)

    def roles(self) -> dict[str, RoleFact]:
        """Return version and signers of every role, and likewise of the floor that the policy sets."""
        names = (Timestamp.type, Snapshot.type, *roles_of(self.model))
        facts = {Root.type: RoleFact(self.updater.root.version, FOREVER)}
        facts |= {name: RoleFact(self._signed(name).version, self.updater.keys(name)) for name in names}
        facts[f"the floor of {self.model}"] = RoleFact(self.policy.floor, self.updater.keys(POLICY_ROLE))
        return facts

    def time(self) -> TimeRecord:
        """Return what the metadata says about time."""
        names = (Root.type, Timestamp.type, Snapshot.type, *roles_of(self.model))
        expiries = {name: self._signed(name).expires for name in names}
        said = issued(self._signed(Timestamp.type).unrecognized_fields)
        bounds = (expiries[Root.type], expiries[Timestamp.type])
        return record(said, bounds, max(expiries.values()), self.updater.keys(Timestamp.type))

    def _signed(self, name: str) -> Signed:
        signed = self.updater.role(name)
        assert signed is not None, f"{name} was loaded before the view was made"
        return signed


def required(updater: DurableUpdater, path: str, role: str) -> TargetFile:
    """Return what a role says of a small target that every device needs.

    Raises:
        IncompleteMetadata: It says nothing of it.
        EndlessMetadata: It names something that is not small.
        MalformedMetadata: It gives no SHA-256.
        RepositoryError: Metadata failed to verify.
        DownloadError: Metadata could not be had.
    """
    signed = updater.signed_target(path, role)
    if signed is None:
        raise IncompleteMetadata(f"{path} is not signed by role {role}")
    if signed.length > MAX_TARGET_BYTES:
        raise EndlessMetadata(f"{path} is too long", why=f"{signed.length} bytes, {MAX_TARGET_BYTES} allowed")
    if "sha256" not in signed.hashes:
        raise MalformedMetadata(f"{path} is signed without a SHA-256")
    return signed


def load(updater: DurableUpdater, model: str) -> dict[str, TargetFile]:
    """Refresh, and load every role of a model; return its small targets.

    Raises:
        Refusal: A role does not name a small target.
        RepositoryError: Metadata failed to verify.
        DownloadError: Metadata could not be had.
        OSError: The folder cannot be written.
    """
    updater.refresh()
    director = required(updater, DIRECTOR_PATH, FLEET_ROLE)
    policy = required(updater, policy_path(model), POLICY_ROLE)
    updater.signed_target(f"{model}/0", model_role(model))
    if updater.role(model_role(model)) is None:
        raise IncompleteMetadata(f"{model} has no owner", why="the targets role delegates nothing to it")
    return {DIRECTOR_PATH: director, policy_path(model): policy}


def view_of(updater: DurableUpdater, model: str, head: bytes, small: Mapping[str, bytes]) -> View:
    """Return a view of what was loaded; ``small`` holds the small targets, verified."""
    director, policy = Director.decode(small[DIRECTOR_PATH]), Policy.decode(small[policy_path(model)])
    return View(updater, model, head, small, director, policy)
