"""Runs the install machine: an event changes an install's state, the state is made durable, its effect runs.

What comes of an effect is the next event, or a wait.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from dsops.clock import Clock
from dsops.errors import ContentSealed, DeviceError, DigestMismatch, DsopsError, NoSpace, RuntimeCrashed
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.heartbeats import Beat
from dsops_agent.install.apart import Apart, Errand
from dsops_agent.install.board import Board
from dsops_agent.install.carrier import Carrier
from dsops_agent.install.fitness import Fitness
from dsops_agent.install.gate import ASK_S, ASKING, LOOK_S, Gate
from dsops_agent.install.installs import Installs
from dsops_agent.install.intake import Intake
from dsops_agent.install.journal import InstallRow, Tidings
from dsops_agent.install.machine import REPEATABLE, SUPERSEDABLE, WORK, Effect, Event, repeat, step
from dsops_agent.install.maintenance import Phase
from dsops_agent.install.places import model_of
from dsops_agent.install.proving import Proof, Proving
from dsops_agent.install.retries import Retries
from dsops_agent.install.scrub import Damage
from dsops_agent.install.steps import FORGIVEN, Outcome, Steps, Wait, after, problem_of, proved
from dsops_agent.install.sweeper import Sweeper
from dsops_agent.install.view import tidings_of

logger = logging.getLogger(__name__)

Found = TypeVar("Found", bound=Outcome | Wait | None)

_ASKS_THE_RUNTIME = frozenset({Effect.ACTIVATE, Effect.WATCH, Effect.RESTORE})
_INTERRUPTED_TOO_OFTEN = "the step was interrupted too often"


@dataclass(kw_only=True)
class Engine:
    """Brings installs forward. One thread.

    Attributes:
        steps: What each effect does.
        intake: Tells whether trust metadata is waited for.
        fitness: Judges bundles before they are fetched.
        carrier: Runs transfers.
        proving: Runs throw-away processes.
        apart: Does what a challenger's process may keep waiting.
        installs: The installs.
        board: Publishes what changed.
        sweeper: Removes what no install needs.
        clock: Time.
        gate: Holds back what the device's maintenance rules do not allow yet.
        now: Tells the time; None when the host's clock cannot be trusted.
        turned: Called with the model of an install that ended, or came so far that it can be taken back again.
        beat: Is told of each model that is served again after a start.
    """

    steps: Steps
    intake: Intake
    fitness: Fitness
    carrier: Carrier
    proving: Proving
    apart: Apart
    installs: Installs
    board: Board
    sweeper: Sweeper
    clock: Clock
    gate: Gate
    now: Callable[[], datetime | None]
    turned: Callable[[str], None]
    beat: Beat
    _actions: Mapping[Effect, Callable[[InstallRow], Outcome | Wait]] = field(init=False)
    _unserved: Retries = field(init=False)
    _look_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Name who runs each effect."""
        steps = self.steps
        self._config, self._journal, self._slots = steps.config, steps.journal, steps.slots
        self._unserved = Retries(self._config.retry_s, self._config.retry_max_s)
        self._actions = {
            Effect.DECIDE: self._decide,
            Effect.PREFLIGHT: self._preflight,
            Effect.FETCH: self._fetch,
            Effect.PAUSE: self._pause,
            Effect.STAGE: steps.stage,
            Effect.PROVE: self._prove,
            Effect.PROCEED: self._proceed,
            Effect.ACTIVATE: steps.activate,
            Effect.AWAIT: self._await,
            Effect.WATCH: steps.begin_probation,
            Effect.RESTORE: steps.restore,
        }

    # The machine.

    def advance(self, row: InstallRow, outcome: Outcome) -> None:
        """Make one step durable, then run its effects; they may make more steps."""
        taken = step(row.state, outcome.event)
        changed = after(row, taken.state, outcome)
        with self._journal.transaction():
            self._journal.put_install(changed)
            if Effect.QUARANTINE in taken.effects and changed.problem and changed.problem.code not in FORGIVEN:
                self._journal.quarantine(changed.model, changed.wanted.sha256, changed.problem)
                self._slots.discredit(changed.model, changed.wanted.sha256)
            if outcome.event is Event.CRASHED:  # its probation begins anew
                self.steps.trials.keep_watched(changed.model, changed.wanted.sha256, 0.0)
            if Effect.COMMIT in taken.effects:
                self._slots.commit(changed.model, changed.wanted.sha256)
            if Effect.TELL in taken.effects:
                self._journal.tell(tidings_of(changed))
        self.board.has_news()
        try:
            self._entered(changed)
            logger.info("%s release %d: %s", changed.model, changed.wanted.release, changed.state.value)
            for effect in taken.effects:
                if effect in self._actions:
                    self._work(changed, effect)
        finally:
            if changed.state.is_final or changed.state is Install.PROBATION:
                self.turned(changed.model)

    def _entered(self, row: InstallRow) -> None:
        """Take note of a state that is durable; its effect runs later should the disk fail before it could run now."""
        self.installs.entered(row)
        if row.state is Install.FAILED:
            self.serve_later(row.model)
        elif not row.state.is_final:
            self._postpone(row.model)
        self.fitness.follow(self.installs.rows, self.clock.monotonic_s())
        if row.state.is_final or row.state is Install.RECEIVED:
            self.sweeper.sweep()
        self.board.publish()

    def _follow(self, row: InstallRow, result: Outcome | Wait) -> None:
        if isinstance(result, Outcome):
            self.advance(row, result)
            return
        if result.seconds is not None:
            self.installs.due[row.model] = self.clock.monotonic_s() + result.seconds
        else:
            self.installs.due.pop(row.model, None)
        if result.doubt:
            self.installs.doubts[row.model] = result.doubt
        self.board.publish()

    def _work(self, row: InstallRow, effect: Effect) -> None:
        """Run the effect of a state; if it cannot even fail properly, it is run again later."""
        self._postpone(row.model)
        if effect is Effect.WATCH:
            kept_s = self.steps.trials.watched(row.model, row.wanted.sha256)
            self.installs.watched_since[row.model] = self.clock.monotonic_s() - kept_s
            self.installs.watched_kept[row.model] = kept_s
        action = partial(self._actions[effect], row)
        if effect in _ASKS_THE_RUNTIME:
            self._run(row, action)
        else:
            self._follow(row, action())

    def _run(self, row: InstallRow, action: Callable[[], Outcome | Wait]) -> None:
        """Run what asks the runtime: at once for a champion, beside the worker for a challenger."""
        if not self.apart.takes(row.model):
            self._follow(row, action())
            return
        self.installs.due.pop(row.model, None)  # until it comes back
        self.apart.begin(Errand(row.model, action, partial(self._came_back, row)))

    def _came_back(self, begun: InstallRow, found: "Future[Outcome | Wait]") -> None:
        """Take what came of a challenger's step, unless the install was brought further meanwhile."""
        row = self.installs.get(begun.model)
        if row and (row.state, row.wanted.sha256) == (begun.state, begun.wanted.sha256):
            self._postpone(row.model)
            self._follow(row, found.result())

    def _postpone(self, model: str) -> None:
        self.installs.due[model] = self.clock.monotonic_s() + self._config.retry_s

    # What goes on, and when.

    @property
    def next_s(self) -> float | None:
        """When :meth:`tick` has something to do besides what the installs are due for."""
        return self._unserved.next_s

    def tick(self) -> None:
        """Go on with what is due, and begin the next transfer when there is none."""
        self._pause_transfer()
        self.fetch_on(self.carrier.tick)
        for model in self._unserved.take(self.clock.monotonic_s()):
            self._serve_late(model)
        for row in self.installs.late(self.clock.monotonic_s()):
            self._on_time(row)
        if not self.carrier.model:
            waiting = [r for r in self.installs.unfinished(Install.FETCHING) if r.model not in self.installs.due]
            for row in waiting[:1]:
                self._work(row, Effect.FETCH)

    def _on_time(self, row: InstallRow) -> None:
        self._postpone(row.model)
        if row.state is Install.PROBATION:
            self._watch(row)
        elif row.state is Install.RECEIVED:
            self._follow(row, self._decide_late(row))
        else:
            self._resume(row)

    def _watch(self, row: InstallRow) -> None:
        began_s = self.installs.watched_since.get(row.model)
        if began_s is None:  # the disk failed between the state and its effect
            self._work(row, Effect.WATCH)
            return
        elapsed_s = self.clock.monotonic_s() - began_s
        row = self._keep_watched(row, elapsed_s)
        self._run(row, partial(self.steps.watch, row, elapsed_s))

    def _keep_watched(self, row: InstallRow, elapsed_s: float) -> InstallRow:
        """Keep now and then how long a bundle has answered on probation; return the row as it is then.

        A device that is switched off each night shall come to the end of a probation of a week. A restart says nothing
        of a bundle that answered for as long as a strike counts.
        """
        if elapsed_s - self.installs.watched_kept.get(row.model, 0.0) < self._config.strike_span_s:
            return row
        row = replace(row, attempt=0)
        with self._journal.transaction():
            self.steps.trials.keep_watched(row.model, row.wanted.sha256, elapsed_s)
            self.installs.save(row)
        self.installs.watched_kept[row.model] = elapsed_s
        return row

    def revive(self, *, runtime_only: bool = False, only: Callable[[str], bool] = lambda _place: True) -> None:
        """Serve what is active and go on with what a restart interrupted; in ``only`` the places that it is true of."""
        for model in filter(only, sorted({*self._slots.models(), *self.installs.rows})):
            self.beat(0.0)
            row = self.installs.get(model)
            if row is None or row.state.is_final or row.state in SUPERSEDABLE:
                self._serve_or_later(model)
            if row and not row.state.is_final and row.state not in SUPERSEDABLE:
                self._resume(row)
            elif row and not row.state.is_final and not runtime_only:
                self.installs.due[model] = self.clock.monotonic_s()
        self.board.publish()

    def _serve_or_later(self, model: str) -> None:
        """Serve what is active; where the disk does not let it, no other model waits for that; it is tried again."""
        try:
            self.serve(model)
        except DsopsError as error:
            logger.warning("what is active of %s is looked at again: %s", model, error)

    def serve_later(self, model: str) -> None:
        """Serve what is active after a pause, whatever an install does meanwhile that does not change the runtime."""
        self._unserved.later(model, self.clock.monotonic_s())

    def _serve_late(self, model: str) -> None:
        """Serve what could not be when it should; an install that changes the runtime looks at it by itself.

        After a way back that failed it is served only if the disk did not take that; else a condemned bundle goes.
        """
        try:
            row = self.installs.get(model)
            if self.installs.is_changing(model):
                self._unserved.done(model)
            elif row and row.state is Install.FAILED and not self.steps.is_left(model):
                self._ask(model, partial(self.steps.withdraw, model))
            else:
                self.serve(model)
        except DsopsError as error:
            logger.warning("what is active of %s is looked at again: %s", model, error)

    def serve(self, model: str, unless: str = "") -> None:
        """Let the runtime serve a model's active bundle, unless it serves this one; what was wrong with it is told.

        Raises:
            DsopsError: The disk does not let it; it is tried again. Of a challenger that shows later, and is logged.
        """

        def work() -> Problem | None:
            is_served = unless and self.steps.runtime.is_serving(model, unless)
            return None if is_served else self.steps.serve(model)

        self._ask(model, work)

    def _ask(self, model: str, work: Callable[[], Problem | None]) -> None:
        if self.apart.takes(model):
            self.apart.begin(Errand(model, work, lambda found: self._served(model, found.result)))
        else:
            self._served(model, work)

    def _served(self, model: str, find: Callable[[], Problem | None]) -> None:
        try:
            problem = find()
        except Exception:
            self.serve_later(model)
            raise
        if problem:
            kind = "refused" if problem.code == ContentSealed.code else "slot_damaged"
            self.board.tell_of(Tidings(kind, model_of(model), 0, "", problem.code, problem.message))
        if self._unserved.done(model):
            self.board.publish()
            self.turned(model)

    def slot_damaged(self, damage: Damage) -> None:
        """Give a stored bundle up that is damaged; a model whose active one it is falls back to the one before."""
        logger.warning(
            "release %d of %s in slot %s: %s", damage.file.release, damage.model, damage.file.name, damage.why
        )
        if self._slots.active_name(damage.model) == damage.file.name:
            self.serve(damage.model)
        else:
            self._slots.forget(damage.model, damage.file.name)
            what = f"the stored release {damage.file.release} of {damage.model} is damaged"
            problem = problem_of(DigestMismatch(what, why=damage.why))
            release, digest = damage.file.release, damage.file.digest
            told = Tidings("slot_damaged", model_of(damage.model), release, digest, problem.code, problem.message)
            self.board.tell_of(told)
        self.board.publish()
        self.turned(damage.model)

    def _resume(self, row: InstallRow) -> None:
        counted = row.model in self.installs.awaiting  # the runtime's death was, when it was noticed
        if not counted and (row.state in REPEATABLE or row.state is Install.PROBATION):
            event = repeat(row.attempt)
            fault = problem_of(RuntimeCrashed(_INTERRUPTED_TOO_OFTEN)) if event is Event.FAULT else None
            self.advance(row, Outcome(event, fault))
        else:
            self._work(row, WORK[row.state])

    # Decisions.

    def decide_again(self) -> None:
        """Ask the trust rules again, for there is something new; what waits for a moment waits for it still."""
        for row in self.installs.unfinished(Install.RECEIVED):
            due_s = self.installs.due.get(row.model)
            self._work(row, Effect.DECIDE)
            if due_s is not None and self.installs.rows[row.model].state is Install.RECEIVED:
                self.installs.due[row.model] = due_s

    def _decide(self, row: InstallRow) -> Outcome | Wait:
        if self.intake.is_behind(row.model):
            return Wait()
        result = self.steps.decide(row, waited=False)
        if isinstance(result, Wait) and not self.intake.heard(row.model):
            return Wait(self._config.retry_s if self.intake.must_retry(row.model) else None, result.doubt)
        return result

    def _decide_late(self, row: InstallRow) -> Outcome | Wait:
        try:
            retry = partial(self.intake.retry, row.model, self.clock.monotonic_s())
            self.board.attempt(f"metadata of {row.model}", retry)
        except DeviceError as error:
            return Outcome(Event.INTERRUPTED, problem_of(error))
        if self.intake.is_behind(row.model) or not self.intake.heard(row.model):
            return Wait()
        return self.steps.decide(row, waited=True)

    # Transfers and waits.

    def fetch_on(self, action: Callable[[], Outcome | None]) -> None:
        """Let the transfer under way go on, and take what comes of it."""
        model = self.carrier.model
        if not model:
            return
        try:
            outcome = action()
        except Exception:
            self._postpone(model)  # the transfer ended; it begins again later
            raise
        if outcome:
            self._postpone(model)
            self.advance(self.installs.rows[model], outcome)
        else:
            self.board.publish_progress(model)

    def reconnected(self) -> None:
        """Wait anew for what the transfer under way asked for, and resume those that paused."""
        self.fetch_on(self.carrier.reconnected)
        for row in self.installs.unfinished(Install.FETCHING):
            if row.model != self.carrier.model:
                self._resume(row)

    def halt(self, model: str) -> None:
        """Stop what goes on for a model beside the worker; what came of a transfer stays on disk."""
        if self.carrier.model == model:
            self.carrier.end()
        self.proving.end(model)

    def preflight_again(self) -> None:
        """Look again at what waits for the document that says what it needs."""
        for row in self.installs.unfinished(Install.TRUSTED):
            self._resume(row)

    def _preflight(self, row: InstallRow) -> Outcome | Wait:
        return self._with_room(lambda: self.fitness.preflight(row, self.clock.monotonic_s()))

    def _with_room(self, look: Callable[[], Found]) -> Found:
        """Look, and once more after what may go has gone, if there is no room."""
        found = look()
        if isinstance(found, Outcome) and found.problem and found.problem.code == NoSpace.code:
            self.sweeper.sweep(is_short=True)
            return look()
        return found

    def _fetch(self, row: InstallRow) -> Outcome | Wait:
        if self.carrier.model:
            return Wait()
        held_back = None if self.steps.is_stored(row) else self._held_back(row, Phase.DOWNLOAD)
        if held_back:
            return held_back
        return self._with_room(lambda: self.steps.check_room(row)) or self.carrier.start(row) or Wait()

    def _pause_transfer(self) -> None:
        """Stop the transfer under way when the rules do not allow it any more; what came stays."""
        row, now_s = self.installs.get(self.carrier.model), self.clock.monotonic_s()
        if row is None or self.gate.is_open_always or now_s < self._look_s:
            return
        why = self._obstacle(row, Phase.DOWNLOAD)
        self._look_s = now_s + (ASK_S if why == ASKING else LOOK_S)
        if why and why != ASKING:
            logger.info("%s release %d: the transfer pauses: %s", row.model, row.wanted.release, why)
            self.carrier.end()
            self.installs.waiting[row.model] = why
            self._follow(row, Wait(LOOK_S))

    def _held_back(self, row: InstallRow, phase: Phase) -> Wait | None:
        """Return a wait while the rules do not allow a phase."""
        if self.gate.is_open_always:
            return None
        why = self._obstacle(row, phase)
        if not why:
            self.installs.waiting.pop(row.model, None)
            return None
        if why != ASKING:
            self.installs.waiting[row.model] = why
        return Wait(ASK_S if why == ASKING else LOOK_S)

    def _obstacle(self, row: InstallRow, phase: Phase) -> str:
        at_hand = phase is Phase.DOWNLOAD and self.carrier.is_at_hand(row)
        return self.gate.obstacle(row, phase, self.now(), at_hand=at_hand)

    def _proceed(self, row: InstallRow) -> Outcome | Wait:
        return self._held_back(row, Phase.ACTIVATE) or Outcome(Event.CHANGE_OVER)

    def _prove(self, row: InstallRow) -> Outcome | Wait:
        proof = self.steps.proof(row)
        if isinstance(proof, Outcome):
            return proof
        if not self.proving.is_apart:
            return proved(row, self.proving.find(proof))
        self.proving.begin(proof)
        return Wait()

    def proof_ended(self, proof: Proof, error: DsopsError | None) -> None:
        """Take what a throw-away process found, unless the candidate was replaced meanwhile."""
        row = self.installs.get(proof.model)
        if self.proving.take(proof) and row and row.state is Install.STAGED and row.wanted.sha256 == proof.digest:
            self._postpone(row.model)
            self.advance(row, proved(row, error))

    def _pause(self, row: InstallRow) -> Wait:
        return Wait(min(self._config.retry_max_s, self._config.retry_s * 2 ** min(row.attempt - 1, 16)))

    def _await(self, row: InstallRow) -> Wait:
        self.installs.awaiting.add(row.model)
        return Wait(self._config.runtime_wait_s)
