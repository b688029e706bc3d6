"""The installer: one worker that brings every model from what is desired to what is installed.

Callbacks of other threads only leave messages. The worker takes them, and lets time pass: it believes directives or
not, compares what is desired with the installs, and brings those forward.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from dsops.bundle import sha256_hex
from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops.messages import ModelState, Problem
from dsops_agent.heartbeats import Beat, unwatched
from dsops_agent.install import mailbox
from dsops_agent.install.apart import Apart
from dsops_agent.install.board import Board
from dsops_agent.install.breakdowns import Breakdowns
from dsops_agent.install.carrier import Carrier, Means
from dsops_agent.install.challengers import ChallengerRuntimes, Challengers, NoChallengerRuntimes
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.documents import Documents
from dsops_agent.install.engine import Engine
from dsops_agent.install.fetch import Pace
from dsops_agent.install.fitness import Fitness
from dsops_agent.install.gate import Gate
from dsops_agent.install.installs import Installs
from dsops_agent.install.intake import Intake, Trust
from dsops_agent.install.journal import InstallRow, Journal, QuarantineRow
from dsops_agent.install.mailbox import Mailbox, Message
from dsops_agent.install.pardons import PardonBox
from dsops_agent.install.places import challenger_place, is_challenger
from dsops_agent.install.ports import (
    ChunkSource,
    Death,
    DeviceFacts,
    EventSink,
    InstallConfig,
    Listener,
    Room,
    RuntimeControl,
)
from dsops_agent.install.proving import Proof, Proving
from dsops_agent.install.reconcile import Reconciler
from dsops_agent.install.refusals import Refusals
from dsops_agent.install.scrub import Scrub
from dsops_agent.install.slots import Slots
from dsops_agent.install.spending import Spending
from dsops_agent.install.steps import Steps
from dsops_agent.install.strike_book import ENDS, StrikeBook
from dsops_agent.install.strikes import Strikes
from dsops_agent.install.sweeper import Sweeper
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 0.5
_DIRECTIVE = "directive"


@dataclass(kw_only=True)
class Installer:
    """Installs what directives want.

    The methods that take messages and those that others read may be called from any thread; ``recover``, then ``run``
    (or ``work``) from one, and ``prove`` and ``attend`` from others; without those the worker waits itself for
    throw-away processes and for challengers.

    Attributes:
        config: Settings.
        device: Who we are.
        journal: Durable state.
        slots: The bundles on disk; the staging folder stands beside their folder.
        trust: What we may believe.
        chunks: Brings chunks of bundles and documents of trust.
        runtime: The inference process.
        keys: Finds the keys of sealed bundles.
        room: Says what the host has room for.
        events: Keeps events.
        listener: Is told of changes.
        clock: Time.
        gate: Holds back what the device's maintenance rules do not allow yet.
        is_at_hand: Tells whether a bundle lies on this device as a file, for example on a stick.
        beat: Is told of each round of the worker, and of each model that it serves again.
        challengers: The processes of challengers.
    """

    config: InstallConfig
    device: DeviceFacts
    journal: Journal
    slots: Slots
    trust: Trust
    chunks: ChunkSource
    runtime: RuntimeControl
    keys: ContentKeys
    room: Room
    events: EventSink
    listener: Listener
    clock: Clock
    gate: Gate = field(default_factory=Gate)
    is_at_hand: Callable[[str], bool] = field(default=lambda _sha256: False)
    beat: Beat = unwatched
    challengers: ChallengerRuntimes = field(default_factory=NoChallengerRuntimes)
    _mailbox: Mailbox = field(init=False, default_factory=Mailbox)
    _reached: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Join the parts; nothing starts."""
        pace = Pace(self.config.window, self.config.chunk_timeout_s)
        self._installs = Installs(self.journal)
        self._scrub = self._make_scrub()
        self._documents = Documents(self.chunks, pace)
        self._intake = Intake(self.device, self.journal, self.trust, self._documents, self.config.trust_wait_s)
        self._steps = Steps(self.config, self.device, self.journal, self.slots, self.trust, self.runtime, self.keys)
        spending = Spending(self.config.transfer, self.journal, self.clock, self._date)
        means = Means(self._steps.delta_base, self._delta_failed, self.slots.installed, spending, self.is_at_hand)
        self._carrier = Carrier(self.slots.folder.parent / "staging", self.chunks, pace, self.clock, means)
        needs = Documents(self.chunks, pace)
        self._fitness = Fitness(
            config=self.config,
            slots=self.slots,
            runtime=self.runtime,
            room=self.room,
            documents=needs,
            suspect=self._scrub.suspect,
        )
        self._pardons = PardonBox(self.slots.folder.parent / "pardons")
        self._refusals = Refusals(self.journal, self.clock)
        self._proving = Proving(self.runtime, self._proof_ended)
        self._apart = Apart(lambda errand: self._mailbox.put(mailbox.ErrandEnded(errand)))
        self._board = self._make_board()
        self._sweeper = Sweeper(self._carrier, self.slots, self.journal, self._installs)
        self._engine = self._make_engine()
        self._challengers = Challengers(
            journal=self.journal,
            slots=self.slots,
            runtime=self.runtime,
            installs=self._installs,
            processes=self.challengers,
            book=StrikeBook(self.journal, self.device.boot, ENDS),
        )
        self._reconciler = Reconciler(
            journal=self.journal,
            slots=self.slots,
            installs=self._installs,
            engine=self._engine,
            challengers=self._challengers,
            clock=self.clock,
            retry_s=self.config.retry_s,
        )
        self._breakdowns = Breakdowns(
            strikes=Strikes(self.config.strikes, self.config.strike_span_s),
            book=StrikeBook(self.journal, self.device.boot),
            engine=self._engine,
            installs=self._installs,
            journal=self.journal,
            slots=self.slots,
            steps=self._steps,
            clock=self.clock,
        )
        self._board.publish()

    def _make_scrub(self) -> Scrub:
        return Scrub(
            slots=self.slots,
            journal=self.journal,
            clock=self.clock,
            period=timedelta(hours=self.config.scrub_hours),
            is_changing=self._installs.is_changing,
        )

    def _make_board(self) -> Board:
        return Board(
            installs=self._installs,
            slots=self.slots,
            journal=self.journal,
            refusals=self._refusals,
            events=self.events,
            listener=self.listener,
            fetched=self._carrier.progress,
            held=self._carrier.waiting,
        )

    def _make_engine(self) -> Engine:
        return Engine(
            steps=self._steps,
            intake=self._intake,
            fitness=self._fitness,
            carrier=self._carrier,
            proving=self._proving,
            apart=self._apart,
            installs=self._installs,
            board=self._board,
            sweeper=self._sweeper,
            clock=self.clock,
            gate=self.gate,
            now=self._sure_now,
            turned=self._turned,
            beat=self.beat,
        )

    def _proof_ended(self, proof: Proof, error: DsopsError | None) -> None:
        self._mailbox.put(mailbox.ProofEnded(proof, error))

    def _delta_failed(self, row: InstallRow, error: DsopsError) -> None:
        self._steps.delta_failed(row, error)
        self._board.has_news()

    def _sure_now(self) -> datetime | None:
        return None if self.clock_suspect() else self.clock.now()

    def _turned(self, model: str) -> None:
        places = (model,) if is_challenger(model) else (model, challenger_place(model))
        self._reconciler.look_at(*places)

    def _date(self) -> datetime | None:
        """Return trusted time; None when the host's clock is ahead of everything that is known."""
        return None if self.trust.clock_state() is ClockState.AHEAD else self.trust.now()

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

    def chunk_wasted(self, digest: str) -> None:
        """Take note that bytes of a chunk came for nothing, and are fetched once more."""
        self._mailbox.put(mailbox.ChunkWasted(digest))

    def connected(self) -> None:
        """Take note of a new session with the broker: what is outstanding is asked for again."""
        self._mailbox.put(mailbox.Connected())

    def receiving(self) -> None:
        """Take note that bytes of something long come: what may be behind them is not late."""
        self._mailbox.put(mailbox.Receiving())

    def runtime_restarted(self) -> None:
        """Take note of a new inference process: everything is activated in it. Not for its first start."""
        self._mailbox.put(mailbox.RuntimeRestarted())

    def runtime_died(self, death: Death) -> None:
        """Take note of the end of an inference process that nobody asked for, before the next one is started."""
        self._mailbox.put(mailbox.RuntimeDied(death))

    def challenger_started(self, model: str, *, has_ended: bool) -> None:
        """Take note of a new process of a model's challenger; ``has_ended`` if one before it ended by itself."""
        self._mailbox.put(mailbox.RuntimeRestarted(model, has_ended))

    # What others read.

    def observed(self) -> dict[str, ModelState]:
        """Return the state of every model."""
        return dict(self._board.observed)

    def seq(self) -> int:
        """Return the ``seq`` of the newest accepted directive; 0 before the first."""
        return self.journal.seq()

    def reached(self) -> int:
        """Return the ``seq`` of the newest directive that :meth:`observed` shows the effect of; 0 before the first."""
        return self._reached

    def refused(self) -> Problem | None:
        """Return why the newest message of the controller was refused, if it was."""
        return self._board.newest_refusal

    def quarantine(self) -> list[QuarantineRow]:
        """Return the bundles that are never tried again, newest first."""
        return self.journal.quarantine_list()

    def scrubbed(self) -> datetime | None:
        """Return when every stored bundle was last read again."""
        return self._scrub.last()

    def clock_suspect(self) -> bool:
        """Return whether the host's clock contradicts what was signed."""
        return self.trust.clock_state() is not ClockState.PLAUSIBLE

    # The worker.

    def recover(self) -> None:
        """Finish or undo what the runtime was changed for, and serve the active slots; the rest goes on in ``run``.

        Needs no network. The runtime should answer already; one that does not is waited for. Where the disk takes
        nothing, what is active is served all the same.

        Raises:
            DsopsError: The state folder cannot be read, or an interrupted change of the runtime not be kept.
        """
        self._safely(self.slots.sweep)
        self._safely(self._pardon_asked)
        self._sweeper.sweep()
        self._intake.follow()
        self._engine.revive()
        self._safely(self._reconciler.look_at_all)
        self._safely(self._board.tell)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        while not stop.is_set():
            self.beat(0.0)
            self.work(self._wait_s())
        self._safely(partial(self.trust.keep_time, at_once=True))
        self._carrier.end()
        self._proving.end_all()
        self._safely(self._tell_the_rest)

    def prove(self, stop: threading.Event) -> None:
        """Run the throw-away processes until ``stop`` is set. The body of a thread of its own."""
        self._proving.run(stop)

    def attend(self, stop: threading.Event) -> None:
        """Wait for the processes of challengers until ``stop`` is set. The body of a thread of its own."""
        self._apart.run(stop)

    def work(self, timeout_s: float) -> None:
        """Handle what came within ``timeout_s``, then what is due. One round of :meth:`run`."""
        for message in self._mailbox.take(timeout_s):
            self._safely(partial(self._handle, message))
        self._safely(self._tick)
        self._safely(self._challengers.turn)
        self._safely(self.trust.keep_time)
        self._safely(self._board.tell)
        if self._reconciler.next_s is None and not self._board.is_stale:  # what it wants was begun, and is shown
            self._reached = self._board.seq

    def _safely(self, action: Callable[[], object]) -> None:
        """Run one piece of work at the worker's border, which must survive whatever happens inside."""
        try:
            action()
        except DsopsError as error:
            logger.warning("an install step failed and will be tried again: %s", error)
        except Exception:
            logger.exception("an install step failed")

    def _wait_s(self) -> float:
        moments = [s for s in (*self._installs.due.values(), *self._moments()) if s is not None]
        rest_s = min(moments, default=float("inf")) - self.clock.monotonic_s()
        return min(_LONGEST_WAIT_S, max(0.01, rest_s))

    def _moments(self) -> tuple[float | None, ...]:
        documents = (self._documents.next_s, self._fitness.documents.next_s)
        parts = (self._intake, self._reconciler, self._engine, self._carrier, self._scrub)
        return (*documents, *(part.next_s for part in parts))

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
                elif self._fitness.document(digest, data, self.clock.monotonic_s()):
                    self._engine.preflight_again()
                else:
                    self._engine.fetch_on(lambda: self._carrier.arrived(digest, data))
            case mailbox.ChunkLost(digest=digest, problem=problem):
                self._documents.lost(digest, problem, self.clock.monotonic_s())
                self._fitness.documents.lost(digest, problem, self.clock.monotonic_s())
                self._engine.fetch_on(lambda: self._carrier.lost(digest, problem))
            case mailbox.ChunkWasted(digest=digest):
                self._engine.fetch_on(lambda: self._carrier.wasted(digest))
            case mailbox.Connected():
                self._documents.reconnected(self.clock.monotonic_s())
                self._fitness.documents.reconnected(self.clock.monotonic_s())
                self._engine.reconnected()
            case mailbox.Receiving():
                self._documents.receiving(self.clock.monotonic_s())
                self._fitness.documents.receiving(self.clock.monotonic_s())
                self._engine.fetch_on(self._carrier.receiving)
            case _:
                self._handle_process(message)

    def _handle_process(self, message: Message) -> None:
        """Act on what became of a process."""
        match message:
            case mailbox.RuntimeRestarted():
                self._revive(message)
            case mailbox.RuntimeDied(death=death):
                self._breakdowns.runtime_died(death)
            case mailbox.ProofEnded(proof=proof, error=error):
                self._engine.proof_ended(proof, error)
            case mailbox.ErrandEnded(errand=errand) if self._apart.take(errand):
                errand.then(errand.found)

    def _revive(self, restarted: mailbox.RuntimeRestarted) -> None:
        model, place = restarted.challenger, challenger_place(restarted.challenger)
        if not model:
            self._challengers.champions_restarted()
            self._engine.revive(runtime_only=True, only=lambda one: not is_challenger(one))
        elif restarted.has_ended and self._challengers.ended(model, self.clock.monotonic_s()):
            self._reconciler.look_at(place)
        else:
            self._engine.revive(runtime_only=True, only=lambda one: one == place)

    def _tick(self) -> None:
        now_s = self.clock.monotonic_s()
        judge_s = self._intake.next_s
        if judge_s is not None and judge_s <= now_s:
            self._judge()
        if self._refusals.turn():
            self._board.has_news()
        self._safely(self._reconciler.go_on)
        self._documents.tick(now_s)
        if self._fitness.tick(now_s):
            self._engine.preflight_again()
        self._safely(self._pardon)
        self._engine.tick()
        damage = self._scrub.turn()
        if damage:
            self._engine.slot_damaged(damage)
            self._scrub.done()

    def _pardon(self) -> None:
        if self._pardon_asked():
            self._reconciler.look_at_all()
            self._board.publish()

    def _pardon_asked(self) -> bool:
        """Clear what somebody at the device asks for; a request goes once that is durable. Return whether any came."""
        asked = self._pardons.asked()
        if asked:
            self.journal.pardon(asked, "at the device")
            self._reconciler.pardoned()
        for digest in asked:
            self._pardons.done(digest)
        return bool(asked)

    # From messages to installs.

    def _offer(self, data: bytes) -> None:
        self._board.attempt(_DIRECTIVE, partial(self._take_directive, data), sha256_hex(data))

    def _take_directive(self, data: bytes) -> bool:
        is_repeated = self._intake.offer(data)
        passed = self._intake.passed_over()
        if passed:
            self._board.attempt(_DIRECTIVE, passed.outcome, passed.digest)
        return is_repeated

    def _take_in(self) -> None:
        """Judge the trust metadata of every model for which there is something new, then what waits for it."""
        models = self._intake.due()
        for model in models:
            action = partial(self._intake.take_in, model, self.clock.monotonic_s())
            self._safely(partial(self._board.attempt, model, action))
        if models:
            self._judge()
            self._engine.decide_again()

    def _judge(self) -> None:
        judged = self._intake.judge(self.clock.monotonic_s())
        if judged is None:
            return
        self._safely(partial(self._board.attempt, _DIRECTIVE, judged.outcome, judged.digest))
        if judged.directive:
            self._reconciler.accepted(judged.directive)
        self._board.publish()

    def _tell_the_rest(self) -> None:
        if self._refusals.tell_left_out():
            self._board.has_news()
        self._board.tell()
