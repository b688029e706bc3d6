"""What a step makes of an install's row, and what is told of it."""

from dataclasses import replace

from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.journal import InstallRow, Tidings
from dsops_agent.install.machine import Event
from dsops_agent.install.steps import Outcome

_TOLD = {
    Install.REJECTED: "refused",
    Install.COMMITTED: "committed",
    Install.ROLLED_BACK: "rolled_back",
    Install.FAILED: "failed",
}
_COUNTED = frozenset({Event.AGAIN, Event.CRASHED, Event.INTERRUPTED})
_KEEPS_PROBLEM = frozenset({Event.RESTORED, Event.AGAIN})


def changed(row: InstallRow, state: Install, outcome: Outcome) -> InstallRow:
    """Return the row after a step: repetitions are counted, and a problem stays while it explains the state."""
    kept_count = row.attempt if outcome.event is Event.ANSWERS else 0
    attempt = row.attempt + 1 if outcome.event in _COUNTED else kept_count
    kept = row.problem if outcome.event in _KEEPS_PROBLEM else None
    index = row.index if outcome.index is None else outcome.index
    return replace(row, state=state, attempt=attempt, problem=outcome.problem or kept, index=index)


def tidings(row: InstallRow) -> Tidings:
    """Return the event of an install that ended."""
    problem = row.problem or Problem(code="")
    wanted = row.wanted
    return Tidings(_TOLD[row.state], row.model, wanted.release, wanted.sha256, problem.code, problem.message)
