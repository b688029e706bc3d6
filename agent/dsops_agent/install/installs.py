"""The installs as the worker holds them: each row as the journal keeps it, and when it goes on."""

from dataclasses import dataclass, field

from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.journal import InstallRow, Journal
from dsops_agent.install.machine import SUPERSEDABLE


@dataclass
class Installs:
    """The newest install of every model. One thread.

    Attributes:
        journal: Where rows are durable; who changes one there changes it here.
        rows: By model.
        due: When the effect of a row's state is run again, by model; what is absent waits for an event.
        awaiting: Models whose inference process died under the candidate and is waited for.
        doubts: What will have refused an install that waits for newer trust metadata, should none come.
        watched_since: When the probation of a model began, by model; earlier by what was kept of it before a restart.
        watched_kept: How much of a probation is kept, in seconds, by model.
        waiting: What an install that is allowed waits for, in words.
    """

    journal: Journal
    rows: dict[str, InstallRow] = field(init=False)
    due: dict[str, float] = field(init=False, default_factory=dict)
    awaiting: set[str] = field(init=False, default_factory=set)
    doubts: dict[str, Problem] = field(init=False, default_factory=dict)
    watched_since: dict[str, float] = field(init=False, default_factory=dict)
    watched_kept: dict[str, float] = field(init=False, default_factory=dict)
    waiting: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Read the journal."""
        self.rows = self.journal.installs()

    def reload(self) -> None:
        """Read again what the journal holds: something else than a step changed it."""
        self.rows = self.journal.installs()

    def get(self, model: str) -> InstallRow | None:
        """Return a model's newest install."""
        return self.rows.get(model)

    def unfinished(self, state: Install | None = None) -> list[InstallRow]:
        """Return the installs that have not ended; with a state, those that are in it."""
        rows = [row for row in self.rows.values() if not row.state.is_final]
        return [row for row in rows if state in (None, row.state)]

    def is_changing(self, model: str) -> bool:
        """Return whether the runtime, or the link of a model's active slot, is being changed."""
        row = self.get(model)
        return row is not None and not row.state.is_final and row.state not in SUPERSEDABLE

    def late(self, now_s: float) -> list[InstallRow]:
        """Return the installs whose moment has come."""
        return [self.rows[model] for model, due_s in self.due.items() if due_s <= now_s]

    def entered(self, row: InstallRow) -> None:
        """Take note of a new state that is durable: what was waited for before counts no more."""
        self.rows[row.model] = row
        self.due.pop(row.model, None)
        self.awaiting.discard(row.model)
        self.doubts.pop(row.model, None)
        self.waiting.pop(row.model, None)
        self.watched_since.pop(row.model, None)

    def forget(self, model: str) -> None:
        """Forget an install that has ended."""
        self.journal.forget_install(model)
        self.rows.pop(model, None)
        self.due.pop(model, None)

    def save(self, row: InstallRow) -> None:
        """Keep a row that changed within its state."""
        self.journal.put_install(row)
        self.rows[row.model] = row
