"""What is reported of each model, and what is told of the end of an install."""

from dsops.messages import ChallengerState, ModelState, Problem
from dsops.states import Install
from dsops_agent.install.journal import InstallRow, Journal, Tidings
from dsops_agent.install.places import is_challenger, model_of
from dsops_agent.install.slots import Slots

_TOLD = {
    Install.REJECTED: "refused",
    Install.COMMITTED: "committed",
    Install.ROLLED_BACK: "rolled_back",
    Install.FAILED: "failed",
}
MOST_QUARANTINED = 16
_NOTHING_FETCHED = frozenset({Install.IDLE, Install.RECEIVED, Install.TRUSTED, Install.REJECTED})


def progress_of(row: InstallRow | None, fetched: float) -> float:
    """Return the share of the bundle that is on the device; ``fetched`` counts while it is being fetched."""
    if row is None or row.state in _NOTHING_FETCHED:
        return 0.0
    return fetched if row.state is Install.FETCHING else 1.0


def model_state(model: str, row: InstallRow | None, slots: Slots, journal: Journal, progress: float) -> ModelState:
    """Return one model's state as it is reported, but for what it waits for.

    A quarantined bundle cannot run again, so it is no ``previous``.
    """
    active, previous = slots.active(model), slots.previous(model)
    if previous and journal.quarantined(previous.digest):
        previous = None
    return ModelState(
        active=active.digest if active else None,
        active_release=active.release if active else 0,
        previous=previous.digest if previous else None,
        previous_release=previous.release if previous else 0,
        install=row.state if row else Install.IDLE,
        deployment=row.wanted.deployment if row else "",
        target=row.wanted.sha256 if row else None,
        progress=progress,
        quarantined=tuple(row.digest for row in journal.quarantine_list() if row.model == model)[:MOST_QUARANTINED],
        problem=row.problem if row else None,
    )


def challenger_state(place: str, row: InstallRow, slots: Slots, progress: float) -> ChallengerState:
    """Return the state of a model's challenger as it is reported, but for what it waits for."""
    active = slots.active(place)
    return ChallengerState(
        active=active.digest if active else None,
        release=active.release if active else 0,
        install=row.state,
        deployment=row.wanted.deployment,
        target=row.wanted.sha256,
        progress=progress,
        problem=row.problem,
    )


def tidings_of(row: InstallRow) -> Tidings:
    """Return the event of an install that has ended; those of challengers are kinds of their own."""
    problem = row.problem or Problem(code="")
    wanted = row.wanted
    kind = f"challenger_{_TOLD[row.state]}" if is_challenger(row.model) else _TOLD[row.state]
    return Tidings(kind, model_of(row.model), wanted.release, wanted.sha256, problem.code, problem.message)
