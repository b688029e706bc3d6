"""Champion and challenger: keeps of each challenger what is wanted and no more, says who runs and who is compared.

A challenger goes through the install machine as any bundle does, in a place of its own
(:mod:`dsops_agent.install.places`). What differs is here. It takes nobody's place, so nothing is kept to go back to:
one bundle at most is stored, and one that is not wanted any more, or is condemned, goes at once. It runs in a process
of its own, there only while there is something to run; one that ends again and again condemns the challenger, also when
the control process starts again in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dsops.directive import Challenger
from dsops.errors import RuntimeCrashed
from dsops.modes import Mode
from dsops.states import Install
from dsops_agent.install.installs import Installs
from dsops_agent.install.journal import InstallRow, Journal
from dsops_agent.install.places import challenger_place
from dsops_agent.install.ports import Death, RuntimeControl, Suspect
from dsops_agent.install.slots import Slots
from dsops_agent.install.steps import problem_of
from dsops_agent.install.strike_book import StrikeBook
from dsops_agent.install.strikes import Strikes
from dsops_agent.rival import Rival

CRASHES, CRASHES_S = 3, 600.0
"""So many ends of its process within so many seconds condemn a challenger."""

_RUNS = frozenset({Install.STAGED, Install.PROVED, Install.ACTIVATING, Install.PROBATION, Install.ROLLING_BACK})
"""Besides a committed one that is active: the process starts while the bundle is proved elsewhere."""


@dataclass(frozen=True)
class Endpoint:
    """Where a challenger's process answers, and which process that is."""

    socket: str
    pid: int


class ChallengerRuntimes(Protocol):
    """The processes of challengers, and the runtime of their champions."""

    def want(self, modes: Mapping[str, Mode]) -> None:
        """Have a process for the challenger of each of these models, and no other."""
        ...

    def endpoint(self, model: str) -> Endpoint | None:
        """Return where the process of a model's challenger answers; None while it does not."""
        ...

    def compare(self, rivals: Mapping[str, Rival]) -> None:
        """Have these compared with their champions, and no other; raises DsopsError."""
        ...


class NoChallengerRuntimes:
    """There are none; a challenger is served by the one runtime there is, under the name of its place."""

    def want(self, modes: Mapping[str, Mode]) -> None:
        """Do nothing."""

    def endpoint(self, model: str) -> Endpoint | None:
        """Return None."""
        return None

    def compare(self, rivals: Mapping[str, Rival]) -> None:
        """Do nothing."""


@dataclass(kw_only=True)
class Challengers:
    """What is special about challengers. One thread.

    Attributes:
        journal: Durable state.
        slots: The bundles on disk.
        runtime: The inference processes.
        installs: The installs.
        processes: The processes of challengers.
        book: Keeps how often each of those ended.
    """

    journal: Journal
    slots: Slots
    runtime: RuntimeControl
    installs: Installs
    processes: ChallengerRuntimes
    book: StrikeBook
    _wanted: dict[str, Challenger] = field(init=False)
    _told: Mapping[str, Rival] | None = field(init=False, default=None)
    _ends: Strikes = field(init=False, default_factory=lambda: Strikes(CRASHES, CRASHES_S))

    def __post_init__(self) -> None:
        """Read what is wanted, and what was counted before the control process started."""
        self._wanted = self.journal.challengers()
        self._ends.take_up(self.book.read())

    def accepted(self) -> None:
        """Take note of a directive that was accepted, and is durable."""
        self._wanted = self.journal.challengers()

    def tidy(self, place: str) -> None:
        """Give up what a challenger's place holds and nobody wants; not while the install machine changes it.

        Raises:
            StateDamaged: The disk or the journal fails.
        """
        if self.installs.is_changing(place):
            return
        keep = self._kept(place)
        active = self.slots.active(place)
        if active is not None and active.digest != keep:
            self.runtime.deactivate(place)
            self.slots.deactivate(place)
        stored = self.slots.stored(place)
        if keep in {file.digest for file in stored}:
            for file in stored:
                if file.digest != keep:
                    self.slots.empty(place, file.name)
        else:
            self.slots.remove(place)
        row = self.installs.get(place)
        if place not in self.journal.desired() and row and row.state.is_final:
            self.installs.forget(place)

    def turn(self) -> None:
        """Have the processes that are needed, and what is ready compared.

        Raises:
            DsopsError: The runtime of the champions does not answer; it is told again.
        """
        running = {model: self.installs.get(challenger_place(model)) for model in self._wanted}
        modes = {model: self._wanted[model].mode for model, row in running.items() if row and self._runs(row)}
        self.processes.want(modes)
        found = {model: self._rival(model) for model in modes}
        rivals = {model: rival for model, rival in found.items() if rival}
        if rivals != self._told:
            self.processes.compare(rivals)
            self._told = rivals

    def champions_restarted(self) -> None:
        """Take note of a new runtime of the champions: it was told nothing."""
        self._told = None

    def ended(self, model: str, now_s: float) -> bool:
        """Take note that the process of a challenger ended by itself; return whether that condemned a committed one."""
        place = challenger_place(model)
        row = self.installs.get(place)
        if row is None:
            return False
        suspect = Suspect(place, row.wanted.sha256)
        death = Death(f"the process of the challenger of {model} ended", (suspect,))
        has_too_many = self._ends.add(death, now_s, lambda _: 0, is_last=lambda _: True)
        is_condemned = has_too_many is not None and row.state is Install.COMMITTED
        if is_condemned:
            self._condemn(model, suspect)
        self.book.write(self._ends.times)
        return is_condemned

    def _condemn(self, model: str, suspect: Suspect) -> None:
        problem = problem_of(RuntimeCrashed(f"the challenger of {model} ends again and again", why=f"{CRASHES} times"))
        self.journal.quarantine(suspect.model, suspect.digest, problem)
        self._ends.forget(suspect)

    def _kept(self, place: str) -> str:
        desired = self.journal.desired().get(place)
        if desired is None or self.journal.quarantined(desired[1].sha256):
            return ""
        return desired[1].sha256

    def _runs(self, row: InstallRow) -> bool:
        return row.state in _RUNS or (row.state is Install.COMMITTED and self.slots.active(row.model) is not None)

    def _rival(self, model: str) -> Rival | None:
        """Return a model's challenger once it is committed, while its process answers and there is a champion."""
        place, challenger = challenger_place(model), self._wanted[model]
        row, endpoint = self.installs.get(place), self.processes.endpoint(model)
        is_ready = row is not None and row.state is Install.COMMITTED
        active = self.slots.active(place)
        if not is_ready or endpoint is None or active is None or self.slots.active(model) is None:
            return None
        return Rival(
            socket=endpoint.socket,
            pid=endpoint.pid,
            digest=active.digest,
            release=active.release,
            mode=challenger.mode,
            share=challenger.share,
            cpu_share=challenger.cpu_share,
            salt=challenger.bundle.deployment,
        )
