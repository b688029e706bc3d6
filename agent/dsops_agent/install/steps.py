"""What each effect of the install machine does. Every step may run again; each returns what happened, or waits."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.directive import DesiredSlot
from dsops.errors import (
    ChallengerAway,
    ContentSealed,
    DelegateMissing,
    DeltaFailed,
    DeviceError,
    DigestMismatch,
    DsopsError,
    GoldenMismatch,
    IncompatibleBundle,
    InvalidModel,
    MalformedBundle,
    NoSpace,
    RuntimeBusy,
    RuntimeCrashed,
    StateDamaged,
    UnreadableBundle,
    UnsupportedModel,
    UntrustedBundle,
)
from dsops.messages import Problem
from dsops.needs import check_same
from dsops.states import Install
from dsops.trust import Approved, approve
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.delivery import made_path
from dsops_agent.install.fetch import bytes_on_disk, part_path
from dsops_agent.install.intake import Trust
from dsops_agent.install.journal import InstallRow, Journal, SlotRow, Tidings
from dsops_agent.install.machine import MAX_ATTEMPTS, Event, crashed, repeat
from dsops_agent.install.places import is_challenger, model_of
from dsops_agent.install.ports import DeviceFacts, InstallConfig, ProveLimits, RuntimeControl
from dsops_agent.install.probation import LOOK_S, GoBack, Watch, judge
from dsops_agent.install.proving import Proof
from dsops_agent.install.slots import SlotFile, Slots, damage
from dsops_agent.install.trials import Trials
from dsops_agent.runtime.figures import Figures

logger = logging.getLogger(__name__)

CONDEMNING = (GoldenMismatch, InvalidModel, MalformedBundle, RuntimeCrashed, UnsupportedModel)
"""Faults of the bundle itself: its digest is never tried again."""

FORGIVEN = frozenset(
    {
        ChallengerAway.code,
        ContentSealed.code,
        DelegateMissing.code,
        NoSpace.code,
        RuntimeBusy.code,
        StateDamaged.code,
    }
)
"""Codes of what undoes an activation through no fault of the bundle: its digest may be tried again."""

SLOWEST_READ_BYTES_PER_S = 2_000_000
"""A card that reads so slowly, or a busy one, shall not let the proof of a large bundle count as a hang."""

_KEEPS_PROBLEM = frozenset({Event.RESTORED, Event.AGAIN})
_KEEPS_ATTEMPTS = frozenset({Event.ANSWERS, Event.COMPLETE})
"""What says nothing of the step that was repeated: a bundle on probation may crash yet, a whole file be lost again."""


@dataclass(frozen=True)
class Outcome:
    """How a step ended: the machine's event, the problem if there was one, and what is signed, if it was learned."""

    event: Event
    problem: Problem | None = None
    approved: Approved | None = None


@dataclass(frozen=True)
class Wait:
    """A step that cannot go on yet; it is run again after ``seconds``, or when something happens that it waits for.

    ``doubt`` is what will have refused it, should nothing come.
    """

    seconds: float | None = None
    doubt: Problem | None = None


def problem_of(error: DsopsError) -> Problem:
    """Return an error as it is reported and kept."""
    return Problem(code=error.code[:64], message=str(error)[:1000])


def after(row: InstallRow, state: Install, outcome: Outcome) -> InstallRow:
    """Return the row after a step: repetitions are counted, and a problem stays while it explains the state."""
    counted = outcome.event in (Event.AGAIN, Event.CRASHED, Event.INTERRUPTED)
    attempt = row.attempt + 1 if counted else row.attempt if outcome.event in _KEEPS_ATTEMPTS else 0
    kept = row.problem if outcome.event in _KEEPS_PROBLEM else None
    changed = replace(row, state=state, attempt=attempt, problem=outcome.problem or kept)
    approved = outcome.approved
    return replace(changed, index=approved.index, needs=approved.needs) if approved else changed


def _crash(row: InstallRow, error: RuntimeCrashed) -> Outcome:
    """Return what the runtime's death means: whatever killed it, the candidate gets its attempts."""
    return Outcome(crashed(row.attempt), problem_of(error))


def _unreadable(row: InstallRow, error: DsopsError) -> Outcome:
    """Return what it means that a bundle cannot be read which was sound when it was proved: its slot is damaged."""
    return Outcome(Event.FAULT, _damaged(row, error))


def _damaged(row: InstallRow, error: DsopsError) -> Problem:
    damaged = StateDamaged(
        f"the installed release {row.wanted.release} of {row.model} cannot be read any more",
        why=str(error),
        hint="look at the device's disk; the bundle is fetched again when it is rolled out again",
    )
    return problem_of(damaged)


def proved(row: InstallRow, error: DsopsError | None) -> Outcome:
    """Return what a proof means, by what was found; what could not be read is proved again, a few times."""
    if error is None:
        return Outcome(Event.PROVED)
    if isinstance(error, UnreadableBundle):
        return Outcome(repeat(row.attempt), _damaged(row, error))
    return Outcome(Event.FAULT if isinstance(error, CONDEMNING) else Event.REFUSED, problem_of(error))


@dataclass(frozen=True)
class Steps:
    """The steps of installs, over the agent's parts."""

    config: InstallConfig
    device: DeviceFacts
    journal: Journal
    slots: Slots
    trust: Trust
    runtime: RuntimeControl
    keys: ContentKeys

    @property
    def trials(self) -> Trials:
        """What bundles on probation are measured by."""
        return Trials(self.journal)

    def decide(self, row: InstallRow, *, waited: bool) -> Outcome | Wait:
        """Ask whether the wanted bundle may be installed.

        Args:
            row: The install.
            waited: Whether newer trust metadata was waited for long enough.
        """
        condemned = self.journal.quarantined(row.wanted.sha256)
        if condemned:
            return Outcome(Event.REFUSED, condemned)
        active = self.slots.active(row.model)
        if active and active.committed and active.digest == row.wanted.sha256:  # else it was left without a proof
            return Outcome(Event.ALREADY_ACTIVE)
        try:
            return Outcome(Event.APPROVED, approved=self._approve(model_of(row.model), row.wanted))
        except IncompatibleBundle as error:
            return Outcome(Event.REFUSED, problem_of(error))
        except UntrustedBundle as error:
            if waited:
                return Outcome(Event.REFUSED, problem_of(error))
            logger.info("%s waits for newer trust metadata: %s", row.model, error)
            return Wait(self.config.trust_wait_s if self.trust.knows(model_of(row.model)) else None, problem_of(error))

    def _approve(self, model: str, wanted: DesiredSlot) -> Approved:
        policy = self.trust.policy(model)
        target = self.trust.target(model, wanted.path)
        facts = self.device
        return approve(model, wanted, target, policy, device=facts.device, hardware=facts.hardware)

    def check_room(self, row: InstallRow) -> Outcome | None:
        """Say that a bundle need not be fetched, for a slot holds it, or cannot be, for the disk is full; else None."""
        if self.held(row):
            return Outcome(Event.COMPLETE)
        try:
            self._check_room(row, 0)
        except (NoSpace, StateDamaged) as error:
            return Outcome(Event.INTERRUPTED, problem_of(error))
        return None

    def is_stored(self, row: InstallRow) -> bool:
        """Return whether a slot should hold the wanted bundle; :meth:`held` looks whether it is whole."""
        return self.slots.holding(row.model, row.wanted.sha256) is not None

    def _check_room(self, row: InstallRow, besides_bytes: int) -> None:
        staging, sha256 = self.slots.folder.parent / "staging", row.wanted.sha256
        already = bytes_on_disk(part_path(staging, sha256)) + bytes_on_disk(made_path(staging, sha256))
        self.slots.check_room(row.wanted.length_bytes, self.config.free_bytes, already - besides_bytes)

    def delta_base(self, row: InstallRow) -> Path:
        """Return the bundle that an install's delta begins at.

        Raises:
            DeltaFailed: No slot holds it whole.
            NoSpace: The disk cannot take the delta besides the bundle.
            StateDamaged: The disk fails.
        """
        offer = row.wanted.delta
        file = self.slots.holding(row.model, offer.base) if offer else None
        if offer is None or file is None:
            raise DeltaFailed("what the delta begins at is not installed", why=f"no slot of {row.model} holds it")
        wrong = damage(file, row.model)
        if wrong:
            raise DeltaFailed("what the delta begins at is damaged", why=wrong)
        there = bytes_on_disk(part_path(self.slots.folder.parent / "staging", offer.sha256))
        self._check_room(row, max(0, offer.length_bytes - there))
        return file.path

    def delta_failed(self, row: InstallRow, error: DsopsError) -> None:
        """Keep that an install's delta failed, as an event."""
        wanted, problem = row.wanted, problem_of(error)
        tidings = Tidings("delta_failed", row.model, wanted.release, wanted.sha256, problem.code, problem.message)
        self.journal.tell(tidings)

    def held(self, row: InstallRow) -> bool:
        """Return whether a slot holds the wanted bundle, whole."""
        file = self.slots.holding(row.model, row.wanted.sha256)
        return file is not None and not damage(file, row.model)

    def stage(self, row: InstallRow) -> Outcome:
        """Store the fetched bundle in the free slot."""
        wanted = row.wanted
        content = SlotRow("", wanted.sha256, wanted.length_bytes, wanted.release, committed=False)
        source = part_path(self.slots.folder.parent / "staging", wanted.sha256)
        try:
            self.leave_uncommitted(row.model)  # or the free slot were that of the bundle before
        except DsopsError as error:
            return Outcome(Event.INTERRUPTED, problem_of(error))
        try:
            self._check_key(source, wanted.sha256)
            self._check_needs(row, source)
            self.slots.stage(row.model, content, source)
        except (DigestMismatch, NoSpace, StateDamaged, UnreadableBundle) as error:
            return Outcome(Event.INTERRUPTED, problem_of(error))
        except (ContentSealed, MalformedBundle) as error:
            return Outcome(Event.REFUSED, problem_of(error))
        return Outcome(Event.STORED)

    def _check_needs(self, row: InstallRow, source: Path) -> None:
        """Refuse a bundle that needs something else than its owners signed, before it takes another one's place."""
        try:
            manifest = Bundle.open(source).manifest
        except MalformedBundle:  # or moved already; what is wrong with a file is said when it is staged
            return
        try:
            check_same(row.needs, manifest, row.wanted.length_bytes)
        except MalformedBundle:
            if file_digest(source)[0] == row.wanted.sha256:  # else it was damaged on the disk
                raise

    def _check_key(self, source: Path, digest: str) -> None:
        """Refuse a sealed bundle that cannot be opened before it takes the place of the one to go back to."""
        with suppress(MalformedBundle):  # or moved already; what is wrong with a file is said when it is staged
            self.keys.of(source, digest)

    def proof(self, row: InstallRow) -> Proof | Outcome:
        """Return what a throw-away process has to try, or why it cannot."""
        champion = self.slots.active(row.model) if self.config.max_slowdown else None
        read_bytes = row.wanted.length_bytes + (champion.length_bytes if champion else 0)
        limits = ProveLimits(
            self.config.prove_timeout_s + read_bytes / SLOWEST_READ_BYTES_PER_S,
            self.config.prove_memory_bytes,
            champion.path if champion else None,
            self.config.max_slowdown,
            is_challenger(row.model),
        )
        try:
            path = self._candidate(row).path
            return Proof(row.model, row.wanted.sha256, path, limits, self.keys.of(path, row.wanted.sha256))
        except DsopsError as error:
            return proved(row, error)

    def activate(self, row: InstallRow) -> Outcome | Wait:
        """Flip the slot, then change the runtime over."""
        try:
            candidate = self._candidate(row)
            if not row.attempt or self.trials.of(row.model, row.wanted.sha256) is None:  # a repetition goes on with it
                self.trials.begin(row.model, row.wanted.sha256, self._before(row))
            self.slots.activate(row.model, candidate.name)
            self._serve(row.model, candidate)
        except RuntimeCrashed as error:
            return _crash(row, error)
        except (NoSpace, StateDamaged) as error:
            return self._try_again(row, problem_of(error))
        except UnreadableBundle as error:
            return self._try_again(row, _damaged(row, error))
        except DigestMismatch as error:
            return _unreadable(row, error)
        except DsopsError as error:
            return Outcome(Event.FAULT, problem_of(error))
        return Outcome(Event.ANSWERS)

    def _before(self, row: InstallRow) -> Figures | None:
        """Return what the bundle that answers now did; nothing of the candidate itself."""
        figures = self.runtime.figures(row.model)
        return None if figures is None or figures.digest == row.wanted.sha256 else figures

    def _try_again(self, row: InstallRow, problem: Problem) -> Outcome | Wait:
        """Return what a fault of the host means for a change: it is begun again as often as after a restart."""
        if row.attempt < MAX_ATTEMPTS:
            logger.warning("release %d of %s is tried again: %s", row.wanted.release, row.model, problem.message)
            return Wait(self.config.retry_s)
        return Outcome(Event.FAULT, problem)

    def begin_probation(self, row: InstallRow) -> Outcome | Wait:
        """Check the live model once, then look what it does."""
        return self._check(row) or Wait(min(LOOK_S, self.config.probation_s))

    def watch(self, row: InstallRow, elapsed_s: float) -> Outcome | Wait:
        """Judge what the model did so far; at the end check that it still answers as expected."""
        try:
            figures = self.runtime.figures(row.model)
        except RuntimeCrashed as error:
            return _crash(row, error)
        if figures is None or figures.digest != row.wanted.sha256:
            return _crash(row, RuntimeCrashed(f"release {row.wanted.release} of {row.model} stopped answering"))
        trial = self.trials.of(row.model, row.wanted.sha256)
        baseline = trial.baseline if trial else None
        judgement = judge(baseline, figures, self.config.rules, elapsed_s, self.config.probation_s)
        if isinstance(judgement, GoBack):
            return Outcome(Event.FAULT, problem_of(judgement.error))
        if isinstance(judgement, Watch):
            return Wait(judgement.seconds)
        return self._check(row) or Outcome(Event.PASSED)

    def restore(self, row: InstallRow) -> Outcome | Wait:
        """Go back to the committed bundle before, or to none."""
        try:
            self.trials.end(row.model)
            self.go_back(row.model, row.wanted.sha256)
        except (RuntimeCrashed, NoSpace, StateDamaged, UnreadableBundle) as error:
            result = self._try_again(row, problem_of(error))
        except DsopsError as error:
            result = Outcome(Event.FAULT, problem_of(error))
        else:
            return Outcome(Event.RESTORED)
        if isinstance(result, Outcome):
            self._withdraw_now(row.model)
        return result

    def withdraw(self, model: str) -> None:
        """Let a condemned bundle answer no more, if one does that nothing can take the place of.

        Raises:
            DsopsError: The runtime does not answer, or the disk fails.
        """
        try:
            figures = self.runtime.figures(model)
        except ChallengerAway:  # a process that nobody wants any more, and that ends
            return
        if figures and self.journal.quarantined(figures.digest):
            logger.warning("model %s is not served: its release is condemned, and the one before cannot be", model)
            self.runtime.deactivate(model)

    def _withdraw_now(self, model: str) -> None:
        with suppress(DsopsError):  # a runtime that is gone serves nobody; one that is silent is asked again
            self.withdraw(model)

    def go_back(self, model: str, digest: str) -> None:
        """Let the committed bundle beside ``digest`` answer, or none.

        Raises:
            DsopsError: The disk does not take the change, or the runtime not the bundle.
        """
        before = self.slots.other(model, digest)
        if before and not damage(before, model):
            self.slots.mend(before)
            try:
                self.slots.activate(model, before.name)
            finally:  # the bundle before answers, even while the disk does not take the flip of the link
                self._serve(model, before)
        else:
            try:
                self.slots.deactivate(model)
            finally:
                self.runtime.deactivate(model)

    def serve(self, model: str) -> Problem | None:
        """Let the runtime serve a model's active slot; return what was wrong on disk, or with a sealed one's key.

        Raises:
            NoSpace: The disk is full: it does not take the way back, though the bundle before answers.
            StateDamaged: Likewise, when the disk fails.
            UnreadableBundle: The bundle could not be read.
        """
        try:
            if self.leave_uncommitted(model):
                return None
        except (NoSpace, StateDamaged, UnreadableBundle):
            raise
        except DsopsError as error:
            logger.warning("the release of %s before cannot be activated: %s", model, error)
            self._withdraw_now(model)
            return problem_of(error) if isinstance(error, ContentSealed) else None
        file, wrong = self._sound(model)
        damaged = DigestMismatch(f"the active bundle of {model} is damaged", why=wrong)
        problem = problem_of(damaged) if wrong else None
        if file:
            try:
                self._serve(model, file)
            except UnreadableBundle:
                raise
            except DsopsError as error:
                logger.warning("release %d of %s cannot be activated: %s", file.release, model, error)
                problem = problem_of(error) if isinstance(error, ContentSealed) else problem
                self._withdraw_now(model)
        return problem

    def is_left(self, model: str) -> bool:
        """Return whether what is active never passed, or has lost, its probation.

        Outside a change, what is active was committed; else the disk did not take the way back when it was gone.
        """
        active = self.slots.active(model)
        return active is not None and not active.committed

    def leave_uncommitted(self, model: str) -> bool:
        """Go back from an active bundle that :meth:`is_left`; return whether there was one.

        Raises:
            DsopsError: The disk does not take it now either, though the bundle before answers; or the runtime does not.
        """
        active = self.slots.active(model)
        if active is None or not self.is_left(model):
            return False
        logger.warning("release %d of %s is active and not committed: going back", active.release, model)
        self.go_back(model, active.digest)
        return True

    def _sound(self, model: str) -> tuple[SlotFile | None, str]:
        """Return what :meth:`Slots.sound` does; what is sound answers even while the disk does not take the way to it.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        try:
            return self.slots.sound(model)
        except DeviceError:
            active = self.slots.active(model)
            before = self.slots.previous(model)
            if active and before and damage(active, model) and not damage(before, model):
                self._serve(model, before)
            raise

    def _serve(self, model: str, file: SlotFile) -> None:
        key = self.keys.of(file.path, file.digest)
        self.runtime.activate(model, file.path, file.digest, file.release, key)

    def _check(self, row: InstallRow) -> Outcome | None:
        try:
            self.runtime.check(row.model)
        except RuntimeCrashed as error:
            return _crash(row, error)
        except (DigestMismatch, MalformedBundle) as error:
            return _unreadable(row, error)
        except DsopsError as error:
            return Outcome(Event.FAULT, problem_of(error))
        return None

    def _candidate(self, row: InstallRow) -> SlotFile:
        file = self.slots.holding(row.model, row.wanted.sha256)
        if file is None:
            raise StateDamaged(f"no slot holds release {row.wanted.release} of {row.model}")
        return file
