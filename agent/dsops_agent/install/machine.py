"""The install machine: one table ``(state, event) -> (state, effects)``, pure.

A state is made durable before its effects run, so every effect may run again after a restart; ``WORK`` names the one
effect that each state stands for. The attempt counter of an install ends loops: it counts how often a state with an
``AGAIN`` event was begun again, and how often the runtime died under the candidate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from dsops.states import Install

MAX_ATTEMPTS = 3
"""How often a step that a restart or the runtime's death interrupted is begun again before it counts as failed."""


class Event(StrEnum):
    """What happened to an install."""

    DIRECTED = "directed"  # a directive wants this bundle
    ALREADY_ACTIVE = "already active"  # the active slot holds it
    APPROVED = "approved"  # signatures and policy allow it
    REFUSED = "refused"  # a rule or the bundle itself forbids it
    FITS = "fits"  # preflight passed
    COMPLETE = "complete"  # every byte is there
    INTERRUPTED = "interrupted"  # the transfer or the disk failed; later it may work
    STORED = "stored"  # durable in the free slot
    PROVED = "proved"  # the throw-away process gave the expected answers
    CHANGE_OVER = "change over"  # nothing stands against activating it
    ANSWERS = "answers"  # the runtime serves it
    PASSED = "passed"  # probation went well
    CRASHED = "crashed"  # the runtime died; that alone does not condemn the candidate
    FAULT = "fault"  # the runtime, the golden inputs or what it did in service say no
    SUPERSEDED = "superseded"  # a directive wants the bundle before back
    CANCELLED = "cancelled"  # no directive wants it any more
    RESTORED = "restored"  # the bundle before answers again
    AGAIN = "again"  # a restart interrupted the step


class Effect(StrEnum):
    """What to do next."""

    DECIDE = "ask the trust rules"
    PREFLIGHT = "ask what it needs, compare with the device"
    FETCH = "fetch missing chunks"
    PAUSE = "wait, then fetch again"
    STAGE = "store in the free slot"
    PROVE = "prove in a throw-away process"
    PROCEED = "begin the change-over"
    ACTIVATE = "flip the slot, activate"
    AWAIT = "wait for the runtime, then activate"
    WATCH = "check, look at its figures for a while, check"
    RESTORE = "flip back, activate the bundle before"
    COMMIT = "mark the slot good"
    QUARANTINE = "never try the digest again"
    TELL = "record one event"


@dataclass(frozen=True)
class Step:
    """The outcome of one event: the state to make durable, then what to do."""

    state: Install
    effects: tuple[Effect, ...] = ()


class IllegalStep(Exception):
    """A pair that the table does not have: a programming error."""


def _table() -> dict[tuple[Install, Event], Step]:
    s, e, f = Install, Event, Effect
    received = Step(s.RECEIVED, (f.DECIDE,))
    rejected = Step(s.REJECTED, (f.TELL,))
    undo = Step(s.ROLLING_BACK, (f.QUARANTINE, f.RESTORE))
    anew = Step(s.ACTIVATING, (f.AWAIT,))
    table = {(state, e.DIRECTED): received for state in Install if state.is_final or state in SUPERSEDABLE}
    table |= {(state, e.CANCELLED): rejected for state in Install if state in SUPERSEDABLE}
    table |= {(state, e.AGAIN): Step(state, (WORK[state],)) for state in Install if state in REPEATABLE}
    return table | {
        (s.RECEIVED, e.APPROVED): Step(s.TRUSTED, (f.PREFLIGHT,)),
        (s.RECEIVED, e.ALREADY_ACTIVE): Step(s.COMMITTED, (f.COMMIT,)),
        (s.RECEIVED, e.REFUSED): rejected,
        (s.RECEIVED, e.INTERRUPTED): Step(s.RECEIVED, (f.PAUSE,)),
        (s.TRUSTED, e.FITS): Step(s.FETCHING, (f.FETCH,)),
        (s.TRUSTED, e.INTERRUPTED): Step(s.TRUSTED, (f.PAUSE,)),
        (s.TRUSTED, e.REFUSED): rejected,
        (s.FETCHING, e.COMPLETE): Step(s.VERIFIED, (f.STAGE,)),
        (s.FETCHING, e.INTERRUPTED): Step(s.FETCHING, (f.PAUSE,)),
        (s.FETCHING, e.REFUSED): rejected,
        (s.VERIFIED, e.STORED): Step(s.STAGED, (f.PROVE,)),
        (s.VERIFIED, e.INTERRUPTED): Step(s.FETCHING, (f.PAUSE,)),
        (s.VERIFIED, e.REFUSED): rejected,
        (s.STAGED, e.PROVED): Step(s.PROVED, (f.PROCEED,)),
        (s.STAGED, e.REFUSED): rejected,
        (s.STAGED, e.FAULT): Step(s.REJECTED, (f.QUARANTINE, f.TELL)),
        (s.PROVED, e.CHANGE_OVER): Step(s.ACTIVATING, (f.ACTIVATE,)),
        (s.ACTIVATING, e.ANSWERS): Step(s.PROBATION, (f.WATCH,)),
        (s.ACTIVATING, e.CRASHED): anew,
        (s.ACTIVATING, e.FAULT): undo,
        (s.PROBATION, e.PASSED): Step(s.COMMITTED, (f.COMMIT, f.TELL)),
        (s.PROBATION, e.CRASHED): anew,
        (s.PROBATION, e.FAULT): undo,
        (s.COMMITTED, e.FAULT): undo,
        (s.PROBATION, e.SUPERSEDED): Step(s.ROLLING_BACK, (f.RESTORE,)),
        (s.PROBATION, e.AGAIN): Step(s.ACTIVATING, (f.ACTIVATE,)),
        (s.ROLLING_BACK, e.RESTORED): Step(s.ROLLED_BACK, (f.TELL,)),
        (s.ROLLING_BACK, e.FAULT): Step(s.FAILED, (f.TELL,)),
    }


WORK: Mapping[Install, Effect] = MappingProxyType(
    {
        Install.RECEIVED: Effect.DECIDE,
        Install.TRUSTED: Effect.PREFLIGHT,
        Install.FETCHING: Effect.FETCH,
        Install.VERIFIED: Effect.STAGE,
        Install.STAGED: Effect.PROVE,
        Install.PROVED: Effect.PROCEED,
        Install.ACTIVATING: Effect.ACTIVATE,
        Install.PROBATION: Effect.WATCH,
        Install.ROLLING_BACK: Effect.RESTORE,
    }
)
"""The effect that each unfinished state stands for."""

SUPERSEDABLE = frozenset(
    {Install.RECEIVED, Install.TRUSTED, Install.FETCHING, Install.VERIFIED, Install.STAGED, Install.PROVED}
)
"""States in which the runtime was not touched yet: a newer directive takes their place, or cancels them."""

REPEATABLE = frozenset({Install.STAGED, Install.ACTIVATING, Install.ROLLING_BACK})
"""States whose effect runs code of the candidate or changes the runtime, so that repetitions are counted."""

TABLE: Mapping[tuple[Install, Event], Step] = MappingProxyType(_table())


def step(state: Install, event: Event) -> Step:
    """Return what an event makes of a state.

    Raises:
        IllegalStep: The event cannot happen in the state.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalStep(f"{event.name} in state {state.name}") from None


def repeat(attempt: int) -> Event:
    """Return the event of a restart: again, or a fault when ``attempt`` restarts were enough."""
    return Event.AGAIN if attempt < MAX_ATTEMPTS else Event.FAULT


def crashed(attempt: int) -> Event:
    """Return the event of the runtime's death under the candidate: a fault when ``attempt`` attempts were enough."""
    return Event.CRASHED if attempt < MAX_ATTEMPTS else Event.FAULT


def mermaid() -> str:
    """Return the table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    merged: dict[tuple[Install, Install], list[str]] = {}
    for (state, event), outcome in TABLE.items():
        merged.setdefault((state, outcome.state), []).append(event.value)
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in merged.items()]
    return "\n".join([*lines, ""])
