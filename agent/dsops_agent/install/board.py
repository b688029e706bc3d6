"""What others see of the installs: observed state, the newest refusal, and events for the DataOps store."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dsops.messages import ChallengerState, ModelState, Problem
from dsops_agent.install.installs import Installs
from dsops_agent.install.journal import Journal, Tidings
from dsops_agent.install.places import challenger_place, is_challenger, model_of
from dsops_agent.install.ports import EventSink, Listener
from dsops_agent.install.refusals import Refusals
from dsops_agent.install.slots import Slots
from dsops_agent.install.view import challenger_state, model_state, progress_of


@dataclass(kw_only=True)
class Board:
    """Publishes what the worker knows. The worker calls its methods; its attributes may be read from any thread.

    Attributes:
        installs: The installs.
        slots: The bundles on disk.
        journal: Durable state.
        refusals: The messages that were refused.
        events: Keeps events.
        listener: Is told of changes.
        fetched: Tells the share of a model's bundle that a transfer under way has.
        held: Tells what that transfer waits for; empty when it goes on.
        observed: The state of every model.
        newest_refusal: Why the newest message of the controller was refused, if it was.
    """

    installs: Installs
    slots: Slots
    journal: Journal
    refusals: Refusals
    events: EventSink
    listener: Listener
    fetched: Callable[[str], float]
    held: Callable[[str], str]
    observed: dict[str, ModelState] = field(init=False, default_factory=dict)
    newest_refusal: Problem | None = field(init=False, default=None)
    seq: int = field(init=False, default=0)
    _shown: object = field(init=False, default=None)
    _news: bool = field(init=False, default=True)
    is_stale: bool = field(init=False, default=False)

    def publish(self) -> None:
        """Look at everything anew; tell the listener if it is not what it was. What fails is done again soon."""
        self.is_stale = True
        models = sorted({*map(model_of, self.slots.models()), *map(model_of, self.installs.rows)})
        self.newest_refusal = self.refusals.newest
        self.observed = {model: self._state(model) for model in models}
        self.seq = self.journal.seq()
        self.is_stale = False
        shown = (self.observed, self.newest_refusal, self.seq)
        if shown != self._shown:
            self._shown = shown
            self.listener.changed()

    def publish_progress(self, model: str) -> None:
        """Look at a transfer anew; whole percents count."""
        if is_challenger(model):
            self.publish()
            return
        state = self.observed.get(model)
        progress, waiting = self._progress(model), self._waiting(model)
        if state and (int(progress * 100) != int(state.progress * 100) or waiting != state.waiting):
            news = {"progress": progress, "waiting": waiting}
            self.observed = {**self.observed, model: state.model_copy(update=news)}
            self._shown = None
            self.listener.changed()

    def attempt(self, source: str, action: Callable[[], bool], digest: str = "") -> None:
        """Let a message in, as :meth:`Refusals.attempt` does, and publish what that changed."""
        if self.refusals.attempt(source, action, digest):
            self.has_news()
            self.publish()

    def has_news(self) -> None:
        """Take note that the journal holds an event which nobody was told."""
        self._news = True

    def tell(self) -> None:
        """Hand over the events that nobody was told, and publish what could not be read before."""
        for number, tidings in self.journal.untold() if self._news else ():
            t = tidings
            self.events.event(t.kind, t.model, t.release, t.digest, t.code, t.message)
            self.journal.told(number)
        self._news = False
        if self.is_stale:
            self.publish()

    def tell_of(self, tidings: Tidings) -> None:
        """Make an event durable; it is handed over soon."""
        self.journal.tell(tidings)
        self.has_news()

    def _state(self, model: str) -> ModelState:
        state = model_state(model, self.installs.get(model), self.slots, self.journal, self._progress(model))
        return state.model_copy(update={"waiting": self._waiting(model), "challenger": self._challenger(model)})

    def _challenger(self, model: str) -> ChallengerState | None:
        place = challenger_place(model)
        row = self.installs.get(place)
        if row is None:
            return None
        progress = int(self._progress(place) * 100) / 100  # whole percents count
        state = challenger_state(place, row, self.slots, progress)
        return state.model_copy(update={"waiting": self._waiting(place)})

    def _waiting(self, model: str) -> str:
        return self.installs.waiting.get(model) or self.held(model)

    def _progress(self, model: str) -> float:
        return progress_of(self.installs.get(model), self.fetched(model))
