"""The trust metadata that the server publishes: a TUF repository in a folder.

    metadata/   N.root.json (all), N.targets.json, N.fleet.json, N.policy.json, N.model-<m>.json, N.snapshot.json,
                timestamp.json
    targets/    fleet/<sha256>.director.json, policy/<sha256>.<model>.json
    lock        held by whoever writes

Every file but ``timestamp.json`` has a name of its own for each version, is durable before the next is begun, and
counts only once a timestamp leads to it. So the rename of ``timestamp.json`` is the commit: killed at any moment, the
folder holds the state before or the state after.
"""

import fcntl
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile, TargetFile, Targets

from dsops.bundle import sha256_hex
from dsops.chunks import MAX_CHUNK_BYTES
from dsops.clock import Clock
from dsops.errors import Conflict, NotFound, StateDamaged, UntrustedBundle
from dsops.files import write_atomically
from dsops.head import MAX_HEAD_BYTES
from dsops.messages import TrustPack
from dsops.trust import DIRECTOR_PATH, Director, Policy, model_role, policy_path
from dsops_controller.trust import client
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.roles import FLEET, POLICY, ROOT, TARGETS, SignedRole, check_target, model_of, read_role
from dsops_controller.trust.state import (
    TrustState,
    advance,
    check_step,
    due,
    expiries,
    read_snapshot,
    read_timestamp,
    renewal,
    root_digests,
)

_KEPT_VERSIONS = 3
"""Newest versions of a role that stay, so that another process that reads meanwhile finds what it was led to."""

Write = Callable[[Path, bytes], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedRole:
    """One published role and its version."""

    role: str
    version: int


@dataclass(frozen=True)
class Offer:
    """Trust metadata as devices get it: the head, and every document that it leads to, by digest."""

    head: bytes
    documents: Mapping[str, bytes]


class Repository:
    """Publishes roles that people signed, and packs what a device needs.

    Safe for several threads and processes over one folder. Nothing is cached: the folder is the truth.

    Args:
        folder: The folder described above.
        keys: The server's keys.
        clock: Tells the time.
        write: Writes one file durably and atomically.
    """

    def __init__(self, folder: Path, keys: OnlineKeys, clock: Clock, write: Write = write_atomically) -> None:
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._folder = folder
        self._keys = keys
        self._clock = clock
        self._write = write

    @property
    def is_established(self) -> bool:
        """Whether a ceremony took place."""
        return (self._metadata / "timestamp.json").exists()

    def establish(self, roles: Sequence[bytes], targets: Mapping[str, bytes]) -> None:
        """Publish the first state: root, targets, fleet and policy, with ``fleet/director.json``.

        Raises:
            Conflict: There is one already.
            UntrustedBundle: It is not complete or not sound.
        """
        with self._locked():
            if self.is_established:
                raise Conflict("the fleet already has trust metadata", why=str(self._folder))
            parsed = [read_role(data) for data in roles]
            self._commit(None, self._checked(None, parsed, targets), targets)

    def publish_role(self, data: bytes, targets: Mapping[str, bytes] | None = None) -> PublishedRole:
        """Publish a new version of one role; see :meth:`publish`."""
        return self.publish([data], targets)[0]

    def publish(self, roles: Sequence[bytes], targets: Mapping[str, bytes] | None = None) -> tuple[PublishedRole, ...]:
        """Publish new versions of roles in one step. What is published already may be published again.

        Args:
            roles: Signed documents.
            targets: Bytes of the director's key list and of policies that they sign, by target path.

        Raises:
            UntrustedBundle: Signatures, versions or content are refused, or a device would refuse the result; nothing
                changed.
            Conflict: The result would be too long to be sent; nothing changed.
        """
        given = targets or {}
        parsed = [read_role(data) for data in roles]
        with self._locked():
            state = self.state()
            after = self._checked(state, parsed, given)
            if after is not state:
                self._commit(state, after, given)
        return tuple(PublishedRole(role.name, role.version) for role in parsed)

    def check(self, roles: Sequence[bytes], targets: Mapping[str, bytes] | None = None) -> None:
        """Raise what :meth:`publish` would raise, and change nothing."""
        self._checked(self.state(), [read_role(data) for data in roles], targets or {})

    def renew(self) -> bool:
        """Sign timestamp and snapshot again when half of their lives is over; return whether that was so."""
        with self._locked():
            state = self.state()
            after = renewal(state, self._keys, self._clock.now())
            if after is not None:
                self._commit(state, after, {})
        return after is not None

    def pack(self, model: str) -> TrustPack:
        """Return all that a device needs to decide about one model.

        Raises:
            NotFound: Nobody was granted that model.
            Conflict: It would be too long to be sent.
        """
        return self._pack(self.state(), model, {})

    def offer(self) -> Offer:
        """Return everything that devices are offered, of one moment.

        Raises:
            NotFound: No ceremony took place yet.
            StateDamaged: Files are missing or damaged.
        """
        state = self.state()
        found = [*state.roots, state.snapshot, *state.roles.values(), *self._small_targets(state)]
        return Offer(state.timestamp, {sha256_hex(data): data for data in found})

    def _small_targets(self, state: TrustState) -> Iterator[bytes]:
        for path in (path for role in (FLEET, POLICY) for path in state.signed[role].targets.targets):
            try:
                yield self._target(state, path, {})
            except UntrustedBundle as error:  # one model's policy is gone: the others' devices must not wait for it
                _log.warning("a document of trust is not offered: %s", error)

    def role(self, name: str) -> bytes:
        """Return a role's published document; ``root`` is the first root, the one that devices are given.

        Raises:
            NotFound: There is no such role.
        """
        state = self.state()
        documents = {**state.roles, ROOT: state.roots[0], "snapshot": state.snapshot, "timestamp": state.timestamp}
        if name not in documents:
            raise NotFound(f"there is no role {name}", hint="grant the model first: dsops trust grant")
        return documents[name]

    def newest_root(self) -> bytes:
        """Return the newest root document."""
        return self.state().roots[-1]

    def models(self) -> tuple[str, ...]:
        """Return the models that were granted, sorted."""
        return self.state().models

    def policy(self, model: str) -> Policy:
        """Return a model's published policy.

        Raises:
            NotFound: There is none.
        """
        return Policy.decode(self._target(self.state(), policy_path(model), {}))

    def director(self) -> Director:
        """Return the published keys of the director."""
        return Director.decode(self._target(self.state(), DIRECTOR_PATH, {}))

    def target(self, path: str) -> TargetFile | None:
        """Return what the published role of a bundle's model says of it, or None."""
        role = self.state().signed.get(model_role(path.partition("/")[0]))
        return role.targets.targets.get(path) if role else None

    def expiries(self) -> dict[str, datetime]:
        """Return when each role expires."""
        return expiries(self.state())

    def due(self) -> dict[str, datetime]:
        """Return the roles that people should sign again soon, and when they expire."""
        return due(self.state(), self._clock.now())

    def state(self) -> TrustState:
        """Return what is published, read and checked against its digests.

        Raises:
            NotFound: No ceremony took place yet.
            StateDamaged: Files are missing or damaged.
        """
        if not self.is_established:
            raise NotFound("there is no trust metadata yet", hint="hold the ceremony first: dsops trust init")
        try:
            return self._read()
        except OSError as error:
            raise StateDamaged("the trust metadata cannot be read", why=str(error)) from error
        except (LengthOrHashMismatchError, UntrustedBundle) as error:
            raise StateDamaged("the trust metadata is damaged", why=str(error)) from error

    def _read(self) -> TrustState:
        timestamp = (self._metadata / "timestamp.json").read_bytes()
        content = read_timestamp(timestamp).signed
        snapshot = self._versioned("snapshot", content.snapshot_meta)
        meta = read_snapshot(snapshot).signed.meta
        roles = {file.removesuffix(".json"): self._versioned(file.removesuffix(".json"), meta[file]) for file in meta}
        return TrustState(self._roots(root_digests(content)), roles, snapshot, timestamp)

    def _versioned(self, name: str, meta: MetaFile) -> bytes:
        data = (self._metadata / f"{meta.version}.{name}.json").read_bytes()
        meta.verify_length_and_hashes(data)
        return data

    def _roots(self, digests: Sequence[str]) -> tuple[bytes, ...]:
        roots = tuple((self._metadata / f"{number}.{ROOT}.json").read_bytes() for number in range(1, len(digests) + 1))
        if [sha256_hex(data) for data in roots] != list(digests):
            raise StateDamaged("the trust metadata is damaged", why="a root is not what was published")
        return roots

    def _checked(
        self, state: TrustState | None, roles: Sequence[SignedRole], targets: Mapping[str, bytes]
    ) -> TrustState:
        new = [role for role in roles if state is None or not _is_present(state, role)]
        if state is not None and not new:
            return state
        now = self._clock.now()
        check_step(state, new, now)
        after = advance(state, new, self._keys, now)
        for role in new:
            self._check_small_targets(after, role, targets)
        models = _affected(after, new, now)
        client_check(state, after, models, now)
        for model in models:
            self._pack(after, model, targets)
        return after

    def _check_small_targets(self, state: TrustState, role: SignedRole, targets: Mapping[str, bytes]) -> None:
        if role.name == FLEET:
            Director.decode(self._target(state, DIRECTOR_PATH, targets))
        if role.name == POLICY:
            for path in role.targets.targets:
                policy = Policy.decode(self._target(state, path, targets))
                if path != policy_path(policy.model):
                    raise UntrustedBundle(f"{path} is the policy of {policy.model}")

    def _commit(self, before: TrustState | None, after: TrustState, targets: Mapping[str, bytes]) -> None:
        for path, data in targets.items():
            self._put(self._target_file(path, data), data)
        old = before.files(before.roles) if before else {}
        for name, data in after.files(after.roles).items():
            if old.get(name) != data:
                self._put(self._metadata / name, data)
        self._forget_old(after)

    def _put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, data)

    def _forget_old(self, state: TrustState) -> None:
        versions = {name: role.version for name, role in state.signed.items()}
        versions["snapshot"] = state.snapshot_content.version
        for name, version in versions.items():
            for file in self._metadata.glob(f"*.{name}.json"):
                number = file.name.removesuffix(f".{name}.json")
                if number.isdecimal() and int(number) <= version - _KEPT_VERSIONS:
                    file.unlink(missing_ok=True)
        for file in self._folder.rglob(".*.tmp"):  # of a writer that was killed; this one holds the lock
            file.unlink(missing_ok=True)

    def _pack(self, state: TrustState, model: str, targets: Mapping[str, bytes]) -> TrustPack:
        if model not in state.models:
            raise NotFound(f"there is no model {model}", hint=f"grant it first: dsops trust grant {model}")
        files = state.files([TARGETS, FLEET, POLICY, model_role(model)])
        small = {path: self._target(state, path, targets) for path in (DIRECTOR_PATH, policy_path(model))}
        pack = TrustPack.of(files, small)
        size = max(map(len, pack.documents().values()))
        if size > MAX_CHUNK_BYTES or len(state.timestamp) > MAX_HEAD_BYTES:
            raise Conflict(
                f"the trust metadata of {model} is too long for one message",
                why=f"{size} bytes, {MAX_CHUNK_BYTES} allowed",
                hint="let the model's owner prune the role: sign it without the releases that no device needs",
            )
        return pack

    def _target(self, state: TrustState, path: str, given: Mapping[str, bytes]) -> bytes:
        role = state.signed.get(path.partition("/")[0])
        signed = role.targets.targets.get(path) if role else None
        if signed is None:
            raise NotFound(f"there is no {path} in the trust metadata")
        data = given[path] if path in given else self._read_target(signed)
        check_target(signed, data)
        return data

    def _read_target(self, signed: TargetFile) -> bytes:
        folder, _, name = signed.path.rpartition("/")
        try:
            return (self._targets / folder / f"{signed.hashes['sha256']}.{name}").read_bytes()
        except OSError as error:
            raise UntrustedBundle(f"{signed.path} is signed but absent", why=str(error.strerror)) from error

    def _target_file(self, path: str, data: bytes) -> Path:
        folder, _, name = path.rpartition("/")
        return self._targets / folder / f"{sha256_hex(data)}.{name}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the end of the process, however it comes, gives it back
            yield


def client_check(before: TrustState | None, after: TrustState, models: Sequence[str], now: datetime) -> None:
    """Let a fresh TUF client, and one that knows the state before, take the state after.

    Raises:
        UntrustedBundle: One of them refuses it, or does not find the director's keys or a policy.
    """
    needed = {DIRECTOR_PATH, *(policy_path(model) for model in models)}
    paths = [*sorted(needed), *(f"{model}/any" for model in models)]  # a look-up loads the model's role
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch, "known")
        if before is not None:
            # A client that could not take the state before (it had expired) has nothing that the state after must fit.
            with suppress(UntrustedBundle):
                client.accept(known, before.files(before.roles), before.roots[0], paths, now)
        for folder in (known, Path(scratch, "fresh")):
            found = client.accept(folder, after.files(after.roles), after.roots[0], paths, now)
            missing = needed - found.keys()
            if missing:
                raise UntrustedBundle("the trust metadata is not complete", why=f"no {min(missing)}")


def _is_present(state: TrustState, role: SignedRole) -> bool:
    return role.data in state.roots if role.name == ROOT else state.roles.get(role.name) == role.data


def _affected(state: TrustState, new: Sequence[SignedRole], now: datetime) -> list[str]:
    """Return the models whose devices must accept the state: an abandoned one must not hold up the others."""
    touched = {model_of(role.name) for role in new}
    if None not in touched:
        return sorted(model for model in touched if model)
    return [m for m in state.models if m in touched or not _role_of(state, m).is_expired(now)]


def _role_of(state: TrustState, model: str) -> Targets:
    return state.signed[model_role(model)].targets
