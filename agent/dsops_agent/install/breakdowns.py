"""Takes bundles out of service that end the inference process again and again, on probation or long after it."""

import logging
from dataclasses import dataclass, replace

from dsops.clock import Clock
from dsops.errors import CrashLoop, DsopsError, ModelHung, NothingLeft, UnfitModel
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.engine import Engine
from dsops_agent.install.installs import Installs
from dsops_agent.install.journal import InstallRow, Journal, Tidings
from dsops_agent.install.machine import SUPERSEDABLE, Event
from dsops_agent.install.ports import Death, Suspect
from dsops_agent.install.slots import SlotFile, Slots
from dsops_agent.install.steps import Outcome, Steps, problem_of
from dsops_agent.install.strike_book import StrikeBook
from dsops_agent.install.strikes import Strikes

logger = logging.getLogger(__name__)

_ON_TRIAL = frozenset({Install.ACTIVATING, Install.PROBATION})
_IN_SERVICE = _ON_TRIAL | {Install.COMMITTED}


@dataclass(kw_only=True)
class Breakdowns:
    """Acts on deaths of the inference process. One thread.

    Attributes:
        strikes: Counts them.
        book: Keeps what was counted.
        engine: Brings installs forward.
        installs: The installs.
        journal: Durable state.
        slots: The bundles on disk.
        steps: Goes back.
        clock: Time.
    """

    strikes: Strikes
    book: StrikeBook
    engine: Engine
    installs: Installs
    journal: Journal
    slots: Slots
    steps: Steps
    clock: Clock

    def __post_init__(self) -> None:
        """Go on with what was counted before the control process started."""
        self.strikes.take_up(self.book.read())

    def runtime_died(self, death: Death) -> None:
        """Count a death against who was in flight; who has too many goes back to the release before, for good."""
        self._strike_on_trial(death)
        newness, is_last, on_trial = self.steps.trials.newness, self._is_last, self._struck_on_trial
        guilty = self.strikes.add(death, self.clock.monotonic_s(), newness, is_last=is_last, on_trial=on_trial)
        if death.suspects:
            self.book.write(self.strikes.times)
        for suspect in death.suspects:
            logger.warning(
                "the inference process died with a frame of model %s in flight: %s", suspect.model, death.why
            )
        if guilty is None:
            return
        row = self.installs.get(guilty.model)
        if row and row.wanted.sha256 == guilty.digest and row.state in _IN_SERVICE:
            self.engine.advance(row, Outcome(Event.FAULT, self._problem(guilty, death)))
        elif row is None or row.state.is_final or row.state in SUPERSEDABLE:
            self._stop(guilty, self._problem(guilty, death), row)
        self.strikes.forget(guilty)  # not before: what the disk does not take is tried again with the next death
        self.book.write(self.strikes.times)
        self.engine.board.publish()

    def _strike_on_trial(self, death: Death) -> None:
        """Keep a death with the trial of who was in flight: no pause and no restart takes it back."""
        for suspect in filter(self._is_on_trial, set(death.suspects)):
            try:
                self.steps.trials.strike(suspect, self.strikes.weight(death, is_last=self._is_last(suspect)))
            except DsopsError as error:
                logger.warning("strikes of %s on trial are not kept: %s", suspect.model, error)

    def _struck_on_trial(self, suspect: Suspect) -> int:
        return self.steps.trials.strikes(suspect) if self._is_on_trial(suspect) else 0

    def _is_on_trial(self, suspect: Suspect) -> bool:
        row = self.installs.get(suspect.model)
        return row is not None and row.wanted.sha256 == suspect.digest and row.state in _ON_TRIAL

    def _problem(self, guilty: Suspect, death: Death) -> Problem:
        """Return why a bundle goes; that there is nothing to go back to is worse than what it did."""
        often = "too often or for too long" if death.is_hang else f"{self.strikes.most} times"
        is_long = self._struck_on_trial(guilty) >= self.strikes.most
        times = f"{often} {'on probation' if is_long else f'within {self.strikes.span_s:g} s'}"
        verb = "did not come back from frames" if death.is_hang else "ended the inference process"
        kind: type[UnfitModel] = ModelHung if death.is_hang else CrashLoop
        if self._is_last(guilty):
            kind = NothingLeft
            times += "; there is no release to go back to"
        return problem_of(kind(f"model {guilty.model} {verb} {times}", why=death.why))

    def _is_last(self, suspect: Suspect) -> bool:
        return self.slots.other(suspect.model, suspect.digest) is None

    def _stop(self, guilty: Suspect, problem: Problem, row: InstallRow | None) -> None:
        """Go back where the newest install is about another bundle."""
        active = self.slots.active(guilty.model)
        if active is None or active.digest != guilty.digest:
            return
        with self.journal.transaction():
            self.journal.quarantine(guilty.model, guilty.digest, problem)
            self.slots.discredit(guilty.model, guilty.digest)
            self.journal.tell(self._tidings(active, guilty.model, problem))
            if row and row.state.is_final:
                self.installs.save(replace(row, problem=problem))
        self.engine.board.has_news()
        try:
            self.steps.go_back(guilty.model, guilty.digest)
        except DsopsError as error:
            logger.warning("model %s: %s", guilty.model, error)
            self.engine.serve_later(guilty.model)

    def _tidings(self, active: SlotFile, model: str, problem: Problem) -> Tidings:
        kind = "failed" if problem.code == NothingLeft.code else "rolled_back"
        return Tidings(kind, model, active.release, active.digest, problem.code, problem.message)
