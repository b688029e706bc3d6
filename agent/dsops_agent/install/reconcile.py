"""Compares what is desired with the installs: begins, changes or leaves each, so that it leads to what is desired."""

from dataclasses import dataclass, field, replace

from dsops.clock import Clock
from dsops.directive import DesiredSlot, Directive
from dsops.errors import Cancelled, Conflict
from dsops.states import Install
from dsops_agent.install.challengers import Challengers
from dsops_agent.install.engine import Engine
from dsops_agent.install.installs import Installs
from dsops_agent.install.journal import InstallRow, Journal
from dsops_agent.install.machine import SUPERSEDABLE, Event
from dsops_agent.install.places import desired_places, is_challenger, model_of
from dsops_agent.install.slots import Slots
from dsops_agent.install.steps import Outcome, problem_of
from dsops_agent.install.view import tidings_of


@dataclass(kw_only=True)
class Reconciler:
    """Turns desired state into installs. One thread.

    Attributes:
        journal: Durable state.
        slots: The bundles on disk.
        installs: The installs.
        engine: Brings them forward.
        challengers: Knows what is special about challengers.
        clock: Time.
        retry_s: When to try again what the disk did not take.
    """

    journal: Journal
    slots: Slots
    installs: Installs
    engine: Engine
    challengers: Challengers
    clock: Clock
    retry_s: float
    _left: dict[str, float] = field(init=False, default_factory=dict)

    @property
    def next_s(self) -> float | None:
        """When :meth:`go_on` has something to do."""
        return min(self._left.values(), default=None)

    def accepted(self, directive: Directive) -> None:
        """Act on a directive that was accepted, and is durable."""
        wanted = desired_places(directive)
        self._left |= dict.fromkeys(wanted, self.clock.monotonic_s())  # however early the disk fails
        self.challengers.accepted()
        if directive.pardoned:
            self.pardoned()
        try:
            self.look_at_all()
        finally:
            for place, slot in wanted.items():
                self._open_again(place, slot)

    def pardoned(self) -> None:
        """Act on bundles that left the quarantine."""
        self.installs.reload()
        self.engine.board.has_news()

    def look_at_all(self) -> None:
        """Look at every model that is desired, or was."""
        self.look_at(*sorted({*self.journal.desired(), *self.installs.rows}))

    def look_at(self, *models: str) -> None:
        """Look at models now; at what the disk does not let change, again later."""
        self._left |= dict.fromkeys(models, self.clock.monotonic_s())
        self.go_on()

    def go_on(self) -> None:
        """Look at what is left."""
        now_s = self.clock.monotonic_s()
        for model in [model for model, due_s in self._left.items() if due_s <= now_s]:
            self._left[model] = now_s + self.retry_s
            self.reconcile(model)
            self._left.pop(model, None)

    def reconcile(self, model: str) -> None:
        """Begin, change, cancel or leave a model's install, so that it leads to what is desired."""
        if is_challenger(model) and self._ends_challenger(model):
            return
        desired, row = self.journal.desired().get(model), self.installs.get(model)
        if desired is None:
            if row and row.state in SUPERSEDABLE:
                self._cancel(row)
            return
        seq, wanted = desired
        if row is None or row.state.is_final:
            if row is None or not self._is_settled(row, seq, wanted):
                self._begin(model, seq, wanted)
        elif row.wanted.sha256 == wanted.sha256:
            if row.wanted != wanted or row.seq != seq:
                self.installs.save(replace(row, wanted=wanted, seq=seq))
                self.engine.board.publish()
        elif row.state in SUPERSEDABLE:
            self._begin(model, seq, wanted)
        elif row.state is Install.PROBATION:
            self._go_back_if_wanted(row, wanted)

    def _ends_challenger(self, place: str) -> bool:
        """Give up what a challenger's place holds and nobody wants; true when the machine looks here again, later."""
        desired, row = self.journal.desired().get(place), self.installs.get(place)
        if desired is None and self._moves_up(place):
            return True
        is_wanted = desired is not None and row is not None and desired[1].sha256 == row.wanted.sha256
        if row and not is_wanted and row.state is Install.PROBATION:
            why = Cancelled(f"release {row.wanted.release} of {place} is not wanted any more", why="a newer directive")
            self.engine.advance(row, Outcome(Event.SUPERSEDED, problem_of(why)))
            return True
        if row and not is_wanted and row.state in SUPERSEDABLE:
            self._cancel(row)
            return True
        self.challengers.tidy(place)
        self.engine.board.publish()
        return False

    def _moves_up(self, place: str) -> bool:
        """Return whether the champion's install wants the bundle of a challenger that is stored: it is copied, then."""
        row = self.installs.get(model_of(place))
        is_under_way = row is not None and row.state in SUPERSEDABLE
        return is_under_way and row is not None and self.slots.holding(place, row.wanted.sha256) is not None

    def _open_again(self, model: str, wanted: DesiredSlot) -> None:
        """Serve an active sealed bundle that could not be opened until this key came."""
        row, active = self.installs.get(model), self.slots.active(model)
        is_it = wanted.content_key is not None and active is not None and active.digest == wanted.sha256
        if is_it and (row is None or row.state.is_final):
            self.engine.serve(model, unless=wanted.sha256)

    def _is_settled(self, row: InstallRow, seq: int, wanted: DesiredSlot) -> bool:
        if not row.wanted.wants_same(wanted):
            return False
        if row.state is Install.COMMITTED:
            active = self.slots.active(row.model)
            return active is not None and active.digest == wanted.sha256
        return row.state is Install.ROLLED_BACK or row.seq >= seq

    def _begin(self, model: str, seq: int, wanted: DesiredSlot) -> None:
        self.engine.halt(model)
        old = self.installs.get(model)
        doubt = self.installs.doubts.get(model)
        if old and doubt:  # what is replaced before newer metadata bore it out is refused for good
            self.journal.tell(tidings_of(replace(old, state=Install.REJECTED, problem=doubt)))
        row = InstallRow(model, old.state if old else Install.IDLE, seq, wanted)
        self.engine.advance(row, Outcome(Event.DIRECTED))

    def _cancel(self, row: InstallRow) -> None:
        self.engine.halt(row.model)
        why = Cancelled(f"release {row.wanted.release} of {row.model} is not wanted any more", why="a newer directive")
        self.engine.advance(row, Outcome(Event.CANCELLED, problem_of(why)))

    def _go_back_if_wanted(self, row: InstallRow, wanted: DesiredSlot) -> None:
        before = self.slots.previous(row.model)
        if before and before.digest == wanted.sha256:
            why = Conflict("a newer directive wants the bundle before")
            self.engine.advance(row, Outcome(Event.SUPERSEDED, problem_of(why)))
