"""What this device may believe: TUF metadata on disk, refreshed from the controller's head, asked offline."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tuf.api._payload import Root, TargetFile, Timestamp
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata

from dsops.clock import Clock
from dsops.errors import IncompleteMetadata, OldMetadata, UntrustedBundle
from dsops.files import write_atomically
from dsops.ids import model_name
from dsops.trust import Director, Policy, SignedTarget, model_role, policy_path
from dsops_agent.status import StateLock
from dsops_agent.trust.floors import Keys, fallen, raised
from dsops_agent.trust.memory import Memory, MemoryFile
from dsops_agent.trust.refusals import host_errors, refusals
from dsops_agent.trust.sources import Awaited, Offered, Stored
from dsops_agent.trust.trusted_time import (
    KEEP_EVERY,
    ClockState,
    clock_state,
    merged,
    still_valid,
    trusted_time,
)
from dsops_agent.trust.updater import DurableUpdater, ensure_folder, sweep
from dsops_agent.trust.view import FLEET_ROLE, POLICY_ROLE, View, load, roles_of, view_of

_NEVER, _ALWAYS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class TrustStore:
    """The fleet's trust metadata. One thread at a time, one process a folder.

    Answers come from verified, unexpired metadata only; they need no network. Versions never fall: TUF compares each
    refresh with what is on disk, and ``floors.json`` remembers versions and time should the metadata be lost or
    restored from a copy (:mod:`dsops_agent.trust.floors`, :mod:`dsops_agent.trust.trusted_time`). Without them nothing
    is believed; what runs keeps running.

        metadata/     the TUF client's: root_history/N.root.json, root.json (a link), timestamp.json, ...
        targets/      fleet/director.json, policy/<model>.json
        floors.json   versions and time that never fall
        trust.lock    held while the store is open

    Args:
        folder: The store's folder (``trust``).
        root: The first root's bytes, embedded at enrolment.
        clock: The host's clock.
        built: When this program was built: trusted time is never before it.

    Raises:
        StateDamaged: The folder cannot be used.
        AlreadyRunning: Another process uses the folder.
    """

    def __init__(self, folder: Path, root: bytes, clock: Clock, built: datetime = _NEVER) -> None:
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._folder = folder
        self._root = root
        self._clock = clock
        self._built = built
        self._views: dict[str, View] = {}
        self._head = b""
        with host_errors():
            ensure_folder(self._metadata / "root_history")
            ensure_folder(self._targets)
        self._lock = StateLock(folder, "trust.lock")
        self._lock.take()
        try:
            self._tidy()
            self._kept = MemoryFile(folder / "floors.json")
        except BaseException:
            self._lock.release()
            raise

    def _tidy(self) -> None:
        with host_errors():
            sweep(self._metadata)
            for leftover in (*self._targets.glob("*/.*.tmp"), *self._folder.glob(".*.tmp")):
                leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the folder back."""
        self._lock.release()

    # Time.

    def now(self) -> datetime:
        """Return trusted time: never before a moment that has certainly passed."""
        return trusted_time(self._clock.now(), self._built, self._memory.time)

    def clock_state(self) -> ClockState:
        """Return what to think of the host's clock."""
        return clock_state(self._clock.now(), self._built, self._memory.time, self._embedded_expires())

    def keep_time(self, *, at_once: bool = False) -> None:
        """Make the present time durable, as far as signed metadata bears it out; at most hourly unless ``at_once``.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        known = self._memory.time
        seen = known.seen(self._clock.now()) if known else None
        if known and seen and seen != known and (at_once or seen.good - known.floor >= KEEP_EVERY):
            self._remember(Memory(roles=self._memory.roles, time=seen))

    # Taking metadata in.

    def knows(self, model: str) -> bool:
        """Return whether metadata of the model was ever accepted."""
        return self._small_path(policy_path(model_name(model))).is_file()

    def accept(self, model: str, head: bytes, documents: Mapping[str, bytes]) -> tuple[str, ...]:
        """Verify what a head leads to for one model, and keep it durably.

        Args:
            model: The model.
            head: The timestamp that the controller offers.
            documents: What came of the documents that earlier calls returned, by digest.

        Returns:
            Digests of documents that verified metadata names and that are neither here nor in ``documents``; nothing
            when everything is here, and only then does it count.

        Raises:
            Refusal: TUF's rules refuse it, or it is older than what was accepted before. Metadata that was verified
                before the fault was met stays, for versions may only rise.
            NoSpace: The disk is full.
            StateDamaged: The disk fails, or ``floors.json`` is damaged.
        """
        self._kept.require()
        model = model_name(model)
        if self._is_known(model, head):
            return ()
        offered = Offered(head, documents)
        with host_errors(), refusals(f"the trust metadata of {model}"):
            updater = DurableUpdater(self._metadata, offered, root=self._root, time_at=self._time_at)
            try:
                view = self._view_of(updater, model, offered)
            except Awaited:
                held = documents.keys()
                lacking = (d for d in updater.lacking(roles_of(model)) if d not in held)
                return tuple(dict.fromkeys((*offered.awaited, *lacking)))
            self._keep_small(view)
            self._remember(self._memory_after(view))
        self._views.pop(model, None)
        self._views[model] = view  # the newest stands last
        self._head = head
        return ()

    def _is_known(self, model: str, head: bytes) -> bool:
        """Return whether this very head is the newest and was taken in for the model: then only time has passed."""
        view = self._views.get(model)
        if view is None or view.head != head or self._head != head:
            return False
        with refusals(f"the trust metadata of {model}"):
            view.require_current(self.now(), *roles_of(model))
        return True

    # Asking.

    def director(self) -> Director:
        """Return whose directives to believe.

        Raises:
            UntrustedBundle: Nothing was accepted yet, or the metadata has expired.
        """
        error: UntrustedBundle = IncompleteMetadata(
            "the director is not known yet", why="no trust metadata was accepted so far"
        )
        for model in dict.fromkeys((*reversed(self._views), *self._models())):
            try:
                return self._current(model, FLEET_ROLE).director
            except UntrustedBundle as refused:  # one model's owners may have let its role expire; another's have not
                error = refused
        raise error

    def policy(self, model: str) -> Policy:
        """Return a model's policy.

        Raises:
            UntrustedBundle: No metadata of the model was accepted yet, or it has expired.
        """
        return self._current(model_name(model), POLICY_ROLE).policy

    def target(self, model: str, path: str) -> SignedTarget | None:
        """Return what a model's owners signed under a name; None when they signed nothing.

        Raises:
            UntrustedBundle: No metadata of the model was accepted yet, or it has expired.
        """
        view = self._current(model_name(model), model_role(model))
        with host_errors(), refusals(f"what is signed as {path}"):
            found = view.updater.signed_target(path, model_role(model))
        if found is None or "sha256" not in found.hashes:
            return None
        custom = found.unrecognized_fields.get("custom")
        facts = custom if isinstance(custom, dict) else {}
        return SignedTarget(found.path, found.hashes["sha256"], found.length, facts)

    def _current(self, model: str, role: str) -> View:
        self._kept.require()
        view = self._views.get(model) or self._read_view(model)
        with refusals(f"the stored trust metadata of {model}"):
            view.require_current(self.now(), role)
        return view

    def _read_view(self, model: str) -> View:
        if not self.knows(model):
            raise IncompleteMetadata(f"{model} is not known yet", why="no trust metadata of it was accepted so far")
        with host_errors(), refusals(f"the stored trust metadata of {model}"):
            stored = Stored(self._metadata)
            updater = DurableUpdater(self._metadata, stored, root=self._root, time_at=self._time_at)
            view = self._view_of(updater, model, stored)
        self._views[model] = view
        return view

    def _models(self) -> list[str]:
        return sorted(path.stem for path in self._small_path(policy_path("*")).parent.glob("*.json"))

    # Within one refresh.

    def _time_at(self, root: Root) -> datetime:
        role = root.roles[Timestamp.type]
        known = still_valid(self._memory.time, Keys(frozenset(role.keyids), role.threshold))
        return trusted_time(self._clock.now(), self._built, known)

    def _view_of(self, updater: DurableUpdater, model: str, source: Offered | Stored) -> View:
        signed = load(updater, model)
        small: dict[str, bytes] = {}
        for path, target in signed.items():
            with contextlib.suppress(Awaited):
                small[path] = self._small(path, target, source)
        if len(small) < len(signed):
            raise Awaited(f"small targets of {model} have not come yet")
        view = view_of(updater, model, source.head, small)
        fall = fallen(self._memory.roles, view.roles())
        if fall:
            raise OldMetadata(f"the trust metadata of {model} is refused", why=fall)
        return view

    def _small(self, path: str, signed: TargetFile, source: Offered | Stored) -> bytes:
        with contextlib.suppress(FileNotFoundError, LengthOrHashMismatchError):
            data = self._small_path(path).read_bytes()
            signed.verify_length_and_hashes(data)
            return data
        data = source.document(path, signed.hashes["sha256"])
        signed.verify_length_and_hashes(data)
        return data

    def _small_path(self, path: str) -> Path:
        return self._targets / path

    def _keep_small(self, view: View) -> None:
        for path, data in view.small.items():
            place = self._small_path(path)
            ensure_folder(place.parent)
            if not (place.is_file() and place.read_bytes() == data):
                write_atomically(place, data)

    # What survives the metadata.

    @property
    def _memory(self) -> Memory:
        return self._kept.memory

    def _remember(self, memory: Memory) -> None:
        with host_errors():
            self._kept.remember(memory)

    def _memory_after(self, view: View) -> Memory:
        roles = raised(self._memory.roles, view.roles())
        time = merged(self._memory.time, view.time(), view.updater.keys(Timestamp.type).threshold)
        is_news = time != self._memory.time
        return Memory(roles=roles, time=time.seen(self._clock.now()) if is_news else time)

    def _embedded_expires(self) -> datetime:
        try:
            return Metadata[Root].from_bytes(self._root).signed.expires
        except RepositoryError:
            return _ALWAYS  # nothing can be accepted with such a root, and nothing be said of the clock
