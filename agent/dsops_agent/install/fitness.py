"""Finds out whether bundles fit: fetches what they need, asks host and runtime, and lets preflight decide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsops.bundle import Bundle
from dsops.contract import Contract, contract_of
from dsops.errors import DeviceError, DsopsError, MalformedBundle, StateDamaged, TransferFailed, UnreadableBundle
from dsops.needs import Needs, needs_of
from dsops.states import Install
from dsops_agent.install import preflight
from dsops_agent.install.documents import Documents
from dsops_agent.install.fetch import bytes_on_disk, part_path
from dsops_agent.install.journal import InstallRow
from dsops_agent.install.machine import Event
from dsops_agent.install.places import model_of
from dsops_agent.install.ports import InstallConfig, Memory, Room, RuntimeControl
from dsops_agent.install.slots import SlotFile, Slots, damage
from dsops_agent.install.steps import Outcome, Wait, problem_of


@dataclass(kw_only=True)
class Fitness:
    """Judges bundles before they are fetched.

    Attributes:
        config: Settings.
        slots: The bundles on disk.
        runtime: Says which operators it knows.
        room: Says what the host has room for.
        documents: Brings what bundles need; nobody else asks it for anything.
        suspect: Is told of a model's active bundle that cannot be read, so that it is mended or given up.
    """

    config: InstallConfig
    slots: Slots
    runtime: RuntimeControl
    room: Room
    documents: Documents
    suspect: Callable[[str, SlotFile], None]
    _waiting: dict[str, str] = field(init=False, default_factory=dict)

    def preflight(self, row: InstallRow, now_s: float) -> Outcome | Wait:
        """Say whether a bundle fits; waits for the document that says what it needs, unless a slot holds the bundle."""
        try:
            held = self._held(row)
            needs = held or self._document(row, now_s)
            if needs is None:
                return Wait()
            self._check(row, needs)
            if held is None:
                part = part_path(self.slots.folder.parent / "staging", row.wanted.sha256)
                self.slots.check_room(needs.disk_bytes, self.config.free_bytes, bytes_on_disk(part))
        except (DeviceError, TransferFailed) as error:  # such trouble passes, or is put right
            return Outcome(Event.INTERRUPTED, problem_of(error))
        except DsopsError as error:
            return Outcome(Event.REFUSED, problem_of(error))
        return Outcome(Event.FITS)

    def follow(self, rows: Mapping[str, InstallRow], now_s: float) -> None:
        """Ask no more for what an install needs that is not in preflight any more."""
        kept = {model: digest for model, digest in self._waiting.items() if self._is_waiting(rows.get(model), digest)}
        if kept != self._waiting:
            self._waiting = kept
            self.documents.want(kept.values(), now_s)

    def tick(self, now_s: float) -> bool:
        """Let time pass; return whether it turned out that a document does not come."""
        before = self.documents.failure
        self.documents.tick(now_s)
        return bool(self.documents.failure) and not before

    def document(self, digest: str, data: bytes, now_s: float) -> bool:
        """Take a document; return False when it is not one that is waited for."""
        if not self.documents.wants(digest):
            return False
        self.documents.arrived(digest, data, now_s)
        return True

    def _is_waiting(self, row: InstallRow | None, digest: str) -> bool:
        return row is not None and row.state is Install.TRUSTED and row.needs == digest

    def _held(self, row: InstallRow) -> Needs | None:
        """Return what a bundle needs that a slot holds, whole."""
        file = self.slots.holding(row.model, row.wanted.sha256)
        if file is None or damage(file, row.model):
            return None
        return needs_of(Bundle.open(file.path).manifest, file.length_bytes)

    def _document(self, row: InstallRow, now_s: float) -> Needs | None:
        data = self.documents.held.get(row.needs)
        if data is not None:
            return Needs.decode(data)
        self._waiting[row.model] = row.needs
        self.documents.want(self._waiting.values(), now_s)
        if self.documents.failure:
            raise TransferFailed("what the bundle needs could not be fetched", why=self.documents.failure)
        return None

    def _check(self, row: InstallRow, needs: Needs) -> None:
        memory, support = self._memory(), self.runtime.supports(needs.operators)
        facts = preflight.Facts(
            support=support,
            delegates=frozenset(support.delegates),
            contract=None if row.wanted.changes_contract else self._contract(model_of(row.model)),
            memory=memory,
            disk_bytes=self.room.disk_bytes(),
            reserve_bytes=self.config.free_bytes,
            max_bundle_bytes=self.config.max_bundle_bytes,
        )
        preflight.check(needs, facts)
        preflight.check_memory_now(needs, memory)

    def _memory(self) -> Memory:
        """Return what the throw-away process may have: no more than its own limit."""
        memory, most = self.room.memory(), self.config.prove_memory_bytes
        return Memory(min(memory.total_bytes, most), memory.free_bytes) if most else memory

    def _contract(self, model: str) -> Contract | None:
        active = self.slots.active(model)
        if active is None:
            return None
        try:
            return contract_of(Bundle.open(active.path).manifest)
        except UnreadableBundle as error:
            self.suspect(model, active)
            what = f"cannot tell what programs use of {model}, for its active bundle cannot be read"
            raise StateDamaged(what, why=error.why) from error
        except MalformedBundle:  # it answers nothing after the next start either
            return None
