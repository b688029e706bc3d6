"""The installer: one worker that brings every model from what is desired to what is installed.

It runs the install machine: an event changes a model's state, the state is made durable, its effect runs, and what
comes of it is the next event. Callbacks of other threads only leave messages.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from dsops.bundle import sha256_hex
from dsops.clock import Clock
from dsops.directive import DesiredSlot
from dsops.errors import Conflict, ContentSealed, DeviceError, DsopsError, RuntimeCrashed
from dsops.messages import ModelState, Problem
from dsops.states import Install
from dsops_agent.install import mailbox
from dsops_agent.install.carrier import Carrier
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.documents import Documents
from dsops_agent.install.fetch import Pace
from dsops_agent.install.intake import Intake, Trust
from dsops_agent.install.journal import InstallRow, Journal, Tidings
from dsops_agent.install.machine import REPEATABLE, SUPERSEDABLE, WORK, Effect, Event, repeat, step
from dsops_agent.install.mailbox import Mailbox, Message
from dsops_agent.install.ports import (
    ChunkSource,
    DeviceFacts,
    EventSink,
    InstallConfig,
    Listener,
    RuntimeControl,
)
from dsops_agent.install.refusals import Refusals
from dsops_agent.install.slots import Slots
from dsops_agent.install.steps import FORGIVEN, Outcome, Steps, Wait, after, problem_of
from dsops_agent.install.view import model_state, progress_of, tidings_of
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 0.5
_DIRECTIVE = "directive"
_INTERRUPTED_TOO_OFTEN = "the step was interrupted too often"


@dataclass(kw_only=True)
class Installer:
    """Installs what directives want.

    The methods that take messages and those that others read may be called from any thread; ``recover``, then ``run``
    (or ``work``) from one.

    Attributes:
        config: Settings.
        device: Who we are.
        journal: Durable state.
        slots: The bundles on disk; the staging folder stands beside their folder.
        trust: What we may believe.
        chunks: Brings chunks of bundles and documents of trust.
        runtime: The inference process.
        keys: Finds the keys of sealed bundles.
        events: Keeps events.
        listener: Is told of changes.
        clock: Time.
    """

    config: InstallConfig
    device: DeviceFacts
    journal: Journal
    slots: Slots
    trust: Trust
    chunks: ChunkSource
    runtime: RuntimeControl
    keys: ContentKeys
    events: EventSink
    listener: Listener
    clock: Clock
    _mailbox: Mailbox = field(init=False, default_factory=Mailbox)
    _due: dict[str, float] = field(init=False, default_factory=dict)
    _unreconciled: dict[str, float] = field(init=False, default_factory=dict)
    _awaiting: set[str] = field(init=False, default_factory=set)
    _doubts: dict[str, Problem] = field(init=False, default_factory=dict)
    _observed: dict[str, ModelState] = field(init=False, default_factory=dict)
    _newest_refusal: Problem | None = field(init=False, default=None)
    _news: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        """Join the parts; nothing starts."""
        self._rows = self.journal.installs()
        self._steps = Steps(self.config, self.device, self.journal, self.slots, self.trust, self.runtime, self.keys)
        pace = Pace(self.config.window, self.config.chunk_timeout_s)
        self._documents = Documents(self.chunks, pace)
        self._intake = Intake(self.device, self.journal, self.trust, self._documents, self.config.trust_wait_s)
        self._carrier = Carrier(self.slots.folder.parent / "staging", self.chunks, pace, self.clock)
        self._refusals = Refusals(self.journal, self.clock)
        self._actions = self._bind()
        self._publish()

    # Messages of other threads.

    def on_directive(self, data: bytes) -> None:
        """Take a directive's envelope; the newest counts."""
        self._mailbox.put(mailbox.DirectiveCame(data))

    def on_trust_head(self, data: bytes) -> None:
        """Take the head of the trust metadata; the newest counts."""
        self._mailbox.put(mailbox.HeadCame(data))

    def chunk_arrived(self, digest: str, data: bytes) -> None:
        """Take a chunk; it is ignored unless it was asked for."""
        self._mailbox.put(mailbox.ChunkCame(digest, data))

    def chunk_lost(self, digest: str, problem: Problem) -> None:
        """Take note that a source cannot bring a chunk; it is ignored unless it was asked for."""
        self._mailbox.put(mailbox.ChunkLost(digest, problem))

    def connected(self) -> None:
        """Take note of a new session with the broker: what is outstanding is asked for again."""
        self._mailbox.put(mailbox.Connected())

    def runtime_restarted(self) -> None:
        """Take note of a new inference process: everything is activated in it. Not for its first start."""
        self._mailbox.put(mailbox.RuntimeRestarted())

    # What others read.

    def observed(self) -> dict[str, ModelState]:
        """Return the state of every model."""
        return dict(self._observed)

    def seq(self) -> int:
        """Return the ``seq`` of the newest accepted directive; 0 before the first."""
        return self.journal.seq()

    def refused(self) -> Problem | None:
        """Return why the newest message of the controller was refused, if it was."""
        return self._newest_refusal

    def clock_suspect(self) -> bool:
        """Return whether the host's clock contradicts what was signed."""
        return self.trust.clock_state() is not ClockState.PLAUSIBLE

    # The worker.

    def recover(self) -> None:
        """Finish or undo what the runtime was changed for, and serve the active slots; the rest goes on in ``run``.

        Needs no network. The runtime should answer already; one that does not is waited for.

        Raises:
            DsopsError: The state folder cannot be read or written.
        """
        self._rows = self.journal.installs()
        self.slots.sweep()
        self._sweep()
        self._intake.follow()
        self._revive()
        for model in self.journal.desired():
            self._reconcile(model)
        self._tell()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        while not stop.is_set():
            self.work(self._wait_s())
        self._safely(partial(self.trust.keep_time, at_once=True))
        self._carrier.end()
        self._safely(self._tell_the_rest)

    def work(self, timeout_s: float) -> None:
        """Handle what came within ``timeout_s``, then what is due. One round of :meth:`run`."""
        for message in self._mailbox.take(timeout_s):
            self._safely(partial(self._handle, message))
        self._safely(self._tick)
        self._safely(self.trust.keep_time)
        self._safely(self._tell)

    def _safely(self, action: Callable[[], None]) -> None:
        """Run one piece of work at the worker's border, which must survive whatever happens inside."""
        try:
            action()
        except DsopsError as error:
            logger.warning("an install step failed and will be tried again: %s", error)
        except Exception:
            logger.exception("an install step failed")

    def _wait_s(self) -> float:
        moments = [s for s in (*self._due.values(), *self._unreconciled.values(), *self._moments()) if s is not None]
        rest_s = min(moments, default=float("inf")) - self.clock.monotonic_s()
        return min(_LONGEST_WAIT_S, max(0.01, rest_s))

    def _moments(self) -> tuple[float | None, ...]:
        return self._intake.next_s, self._documents.next_s, self._carrier.next_s

    def _handle(self, message: Message) -> None:
        match message:
            case mailbox.DirectiveCame(data=data):
                self._offer(data)
                self._take_in()
                self._judge()
            case mailbox.HeadCame(data=data):
                self._intake.head(data)
                self._take_in()
            case mailbox.ChunkCame(digest=digest, data=data):
                if self._intake.document(digest, data, self.clock.monotonic_s()):
                    self._take_in()
                else:
                    self._fetch_on(lambda: self._carrier.arrived(digest, data))
            case mailbox.ChunkLost(digest=digest, problem=problem):
                self._fetch_on(lambda: self._carrier.lost(digest, problem))
            case mailbox.Connected():
                self._documents.reconnected(self.clock.monotonic_s())
                self._fetch_on(self._carrier.reconnected)
                self._resume_in(Install.FETCHING)
            case mailbox.RuntimeRestarted():
                self._revive(runtime_only=True)

    def _tick(self) -> None:
        now_s = self.clock.monotonic_s()
        judge_s = self._intake.next_s
        if judge_s is not None and judge_s <= now_s:
            self._judge()
        self._safely(self._reconcile_due)
        self._news |= self._refusals.turn()
        self._documents.tick(now_s)
        self._fetch_on(self._carrier.tick)
        for model in [model for model, due_s in self._due.items() if due_s <= now_s]:
            self._on_time(self._rows[model])
        if not self._carrier.model:
            waiting = [r for r in self._rows.values() if r.state is Install.FETCHING and r.model not in self._due]
            for row in waiting[:1]:
                self._work(row, Effect.FETCH)

    def _on_time(self, row: InstallRow) -> None:
        self._due[row.model] = self.clock.monotonic_s() + self.config.retry_s
        if row.state is Install.PROBATION:
            self._follow(row, self._steps.end_probation(row))
        elif row.state is Install.RECEIVED:
            self._follow(row, self._decide_late(row))
        else:
            self._resume(row)

    def _decide_late(self, row: InstallRow) -> Outcome | Wait:
        try:
            retry = partial(self._intake.retry, row.model, self.clock.monotonic_s())
            self._believing(f"metadata of {row.model}", retry)
        except DeviceError as error:
            return Outcome(Event.INTERRUPTED, problem_of(error))
        if self._intake.is_behind(row.model) or not self._intake.heard(row.model):
            return Wait()
        return self._steps.decide(row, waited=True)

    # From messages to installs.

    def _offer(self, data: bytes) -> None:
        self._believing(_DIRECTIVE, partial(self._take_directive, data), sha256_hex(data))

    def _take_directive(self, data: bytes) -> bool:
        is_repeated = self._intake.offer(data)
        passed = self._intake.passed_over()
        if passed:
            self._believing(_DIRECTIVE, passed.outcome, passed.digest)
        return is_repeated

    def _take_in(self) -> None:
        """Judge the trust metadata of every model for which there is something new, then what waits for it."""
        models = self._intake.due()
        for model in models:
            action = partial(self._intake.take_in, model, self.clock.monotonic_s())
            self._safely(partial(self._believing, model, action))
        if models:
            self._judge()
            self._decide_again()

    def _believing(self, source: str, action: Callable[[], bool], digest: str = "") -> None:
        if self._refusals.attempt(source, action, digest):
            self._news = True
            self._publish()

    def _judge(self) -> None:
        judged = self._intake.judge(self.clock.monotonic_s())
        if judged is None:
            return
        slots = judged.directive.slots if judged.directive else {}
        self._unreconciled |= dict.fromkeys(slots, self.clock.monotonic_s())
        self._believing(_DIRECTIVE, judged.outcome, judged.digest)
        self._reconcile_due()
        for model, wanted in slots.items():
            self._open_again(model, wanted)
        self._publish()

    def _tell_the_rest(self) -> None:
        self._news |= self._refusals.tell_left_out()
        self._tell()

    def _reconcile_due(self) -> None:
        """Reconcile what a directive or the end of an install left to do; later again when the disk does not let it."""
        now_s = self.clock.monotonic_s()
        for model in [model for model, due_s in self._unreconciled.items() if due_s <= now_s]:
            self._unreconciled[model] = now_s + self.config.retry_s
            self._reconcile(model)
            self._unreconciled.pop(model, None)

    def _reconcile(self, model: str) -> None:
        """Begin, change or leave a model's install, so that it leads to what is desired."""
        desired = self.journal.desired().get(model)
        if desired is None:
            return
        seq, wanted = desired
        row = self._rows.get(model)
        if row is None or row.state.is_final:
            if row is None or not self._is_settled(row, seq, wanted):
                self._begin(model, seq, wanted)
        elif row.wanted.sha256 == wanted.sha256:
            if row.wanted != wanted or row.seq != seq:
                self._save(replace(row, wanted=wanted, seq=seq))
        elif row.state in SUPERSEDABLE:
            self._begin(model, seq, wanted)
        elif row.state is Install.PROBATION:
            self._go_back_if_wanted(row, wanted)

    def _open_again(self, model: str, wanted: DesiredSlot) -> None:
        """Serve an active sealed bundle that could not be opened until this key came."""
        row, active = self._rows.get(model), self.slots.active(model)
        is_it = wanted.content_key is not None and active is not None and active.digest == wanted.sha256
        if is_it and (row is None or row.state.is_final) and not self.runtime.is_serving(model, wanted.sha256):
            self._serve(model)

    def _is_settled(self, row: InstallRow, seq: int, wanted: DesiredSlot) -> bool:
        if not row.wanted.wants_same(wanted):
            return False
        if row.state is Install.COMMITTED:
            active = self.slots.active(row.model)
            return active is not None and active.digest == wanted.sha256
        return row.state is Install.ROLLED_BACK or row.seq >= seq

    def _begin(self, model: str, seq: int, wanted: DesiredSlot) -> None:
        if self._carrier.model == model:
            self._carrier.end()
        old = self._rows.get(model)
        if old and model in self._doubts:  # what is replaced before newer metadata bore it out is refused for good
            self.journal.tell(tidings_of(replace(old, state=Install.REJECTED, problem=self._doubts[model])))
        row = InstallRow(model, old.state if old else Install.IDLE, seq, wanted)
        self._advance(row, Outcome(Event.DIRECTED))

    def _go_back_if_wanted(self, row: InstallRow, wanted: DesiredSlot) -> None:
        before = self.slots.previous(row.model)
        if before and before.digest == wanted.sha256:
            why = Conflict("a newer directive wants the bundle before")
            self._advance(row, Outcome(Event.SUPERSEDED, problem_of(why)))

    def _decide_again(self) -> None:
        for row in [row for row in self._rows.values() if row.state is Install.RECEIVED]:
            due_s = self._due.get(row.model)
            self._work(row, Effect.DECIDE)
            if due_s is not None and self._rows[row.model].state is Install.RECEIVED:
                self._due[row.model] = due_s

    # The machine.

    def _advance(self, row: InstallRow, outcome: Outcome) -> None:
        """Make one step durable, then run its effects; they may make more steps."""
        taken = step(row.state, outcome.event)
        changed = after(row, taken.state, outcome)
        with self.journal.transaction():
            self.journal.put_install(changed)
            if Effect.QUARANTINE in taken.effects and changed.problem and changed.problem.code not in FORGIVEN:
                self.journal.quarantine(changed.wanted.sha256, changed.problem)
            if Effect.COMMIT in taken.effects:
                self.slots.commit(changed.model, changed.wanted.sha256)
            if Effect.TELL in taken.effects:
                self.journal.tell(tidings_of(changed))
        self._news = True
        self._keep(changed)
        logger.info("%s release %d: %s", changed.model, changed.wanted.release, changed.state.value)
        for effect in taken.effects:
            if effect in self._actions:
                self._work(changed, effect)
        if changed.state.is_final:
            self._unreconciled[changed.model] = self.clock.monotonic_s()
            self._reconcile_due()

    def _follow(self, row: InstallRow, result: Outcome | Wait) -> None:
        if isinstance(result, Outcome):
            self._advance(row, result)
            return
        if result.seconds is not None:
            self._due[row.model] = self.clock.monotonic_s() + result.seconds
        else:
            self._due.pop(row.model, None)
        if result.doubt:
            self._doubts[row.model] = result.doubt
        self._publish()

    def _work(self, row: InstallRow, effect: Effect) -> None:
        """Run the effect of a state; if it cannot even fail properly, it is run again later."""
        self._due[row.model] = self.clock.monotonic_s() + self.config.retry_s
        self._follow(row, self._actions[effect](row))

    def _bind(self) -> Mapping[Effect, Callable[[InstallRow], Outcome | Wait]]:
        steps = self._steps
        return {
            Effect.DECIDE: self._decide,
            Effect.PREFLIGHT: steps.preflight,
            Effect.FETCH: self._fetch,
            Effect.PAUSE: self._pause,
            Effect.STAGE: steps.stage,
            Effect.PROVE: steps.prove,
            Effect.PROCEED: lambda _row: Outcome(Event.CHANGE_OVER),
            Effect.ACTIVATE: steps.activate,
            Effect.AWAIT: self._await,
            Effect.WATCH: steps.begin_probation,
            Effect.RESTORE: steps.restore,
        }

    def _decide(self, row: InstallRow) -> Outcome | Wait:
        if self._intake.is_behind(row.model):
            return Wait()
        result = self._steps.decide(row, waited=False)
        if isinstance(result, Wait) and not self._intake.heard(row.model):
            return Wait(self.config.retry_s if self._intake.must_retry(row.model) else None, result.doubt)
        return result

    def _pause(self, row: InstallRow) -> Wait:
        return Wait(min(self.config.retry_max_s, self.config.retry_s * 2 ** min(row.attempt - 1, 16)))

    def _await(self, row: InstallRow) -> Wait:
        self._awaiting.add(row.model)
        return Wait(self.config.runtime_wait_s)

    def _revive(self, *, runtime_only: bool = False) -> None:
        """Serve what is active and go on with what a restart interrupted."""
        for model in sorted({*self.slots.models(), *self._rows}):
            row = self._rows.get(model)
            if row is None or row.state.is_final or row.state in SUPERSEDABLE:
                self._serve(model)
            if row and not row.state.is_final and row.state not in SUPERSEDABLE:
                self._resume(row)
            elif row and not row.state.is_final and not runtime_only:
                self._due[model] = self.clock.monotonic_s()
        self._publish()

    def _serve(self, model: str) -> None:
        problem = self._steps.serve(model)
        if problem:
            kind = "refused" if problem.code == ContentSealed.code else "slot_damaged"
            self.journal.tell(Tidings(kind, model, 0, "", problem.code, problem.message))
            self._news = True

    def _resume(self, row: InstallRow) -> None:
        counted = row.model in self._awaiting  # the runtime's death was, when it was noticed
        if not counted and (row.state in REPEATABLE or row.state is Install.PROBATION):
            event = repeat(row.attempt)
            fault = problem_of(RuntimeCrashed(_INTERRUPTED_TOO_OFTEN)) if event is Event.FAULT else None
            self._advance(row, Outcome(event, fault))
        else:
            self._work(row, WORK[row.state])

    def _resume_in(self, state: Install) -> None:
        for row in [r for r in self._rows.values() if r.state is state and r.model != self._carrier.model]:
            self._resume(row)

    # Transfers.

    def _fetch(self, row: InstallRow) -> Outcome | Wait:
        if self._carrier.model:
            return Wait()
        ready = self._steps.preflight(row)
        if ready.event is not Event.FITS:
            return ready
        if self._steps.held(row):
            return Outcome(Event.COMPLETE)
        return self._carrier.start(row) or Wait()

    def _fetch_on(self, action: Callable[[], Outcome | None]) -> None:
        model = self._carrier.model
        if not model:
            return
        outcome = action()
        if outcome:
            self._due[model] = self.clock.monotonic_s() + self.config.retry_s
            self._advance(self._rows[model], outcome)
        else:
            self._publish_progress(model)

    # What others see.

    def _keep(self, row: InstallRow) -> None:
        self._rows[row.model] = row
        self._due.pop(row.model, None)
        self._awaiting.discard(row.model)
        self._doubts.pop(row.model, None)
        if row.state.is_final or row.state is Install.RECEIVED:
            self._sweep()
        self._publish()

    def _sweep(self) -> None:
        unfinished = (row for row in self._rows.values() if not row.state.is_final)
        try:
            self._carrier.sweep(frozenset(row.wanted.sha256 for row in unfinished))
            self.journal.forget_keys()
        except DsopsError as error:
            logger.warning("%s", error)

    def _save(self, row: InstallRow) -> None:
        self.journal.put_install(row)
        self._rows[row.model] = row
        self._publish()

    def _publish(self) -> None:
        models = sorted({*self.slots.models(), *self._rows})
        self._newest_refusal = self._refusals.newest
        self._observed = {
            m: model_state(m, self._rows.get(m), self.slots, self.journal, self._progress(m)) for m in models
        }
        self.listener.changed()

    def _publish_progress(self, model: str) -> None:
        state = self._observed.get(model)
        progress = self._progress(model)
        if state and int(progress * 100) != int(state.progress * 100):
            self._observed = {**self._observed, model: state.model_copy(update={"progress": progress})}
            self.listener.changed()

    def _progress(self, model: str) -> float:
        return progress_of(self._rows.get(model), self._carrier.progress(model))

    def _tell(self) -> None:
        if not self._news:
            return
        for number, tidings in self.journal.untold():
            t = tidings
            self.events.event(t.kind, t.model, t.release, t.digest, t.code, t.message)
            self.journal.told(number)
        self._news = False
