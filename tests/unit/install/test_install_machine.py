"""The install machine: every legal step, every illegal pair, and no way to get stuck or to loop for ever."""

import itertools

import pytest

from dsops.states import Install
from dsops_agent.install.machine import (
    MAX_ATTEMPTS,
    REPEATABLE,
    SUPERSEDABLE,
    TABLE,
    WORK,
    Effect,
    Event,
    IllegalStep,
    crashed,
    mermaid,
    repeat,
    step,
)

S, E = Install, Event
FINAL = [S.IDLE, S.COMMITTED, S.REJECTED, S.ROLLED_BACK, S.FAILED]
LEGAL = {
    **{(s, E.DIRECTED): S.RECEIVED for s in FINAL},
    **{(s, E.DIRECTED): S.RECEIVED for s in (S.RECEIVED, S.TRUSTED, S.FETCHING, S.VERIFIED, S.STAGED, S.PROVED)},
    **{(s, E.CANCELLED): S.REJECTED for s in (S.RECEIVED, S.TRUSTED, S.FETCHING, S.VERIFIED, S.STAGED, S.PROVED)},
    (S.RECEIVED, E.APPROVED): S.TRUSTED,
    (S.RECEIVED, E.ALREADY_ACTIVE): S.COMMITTED,
    (S.RECEIVED, E.REFUSED): S.REJECTED,
    (S.RECEIVED, E.INTERRUPTED): S.RECEIVED,
    (S.TRUSTED, E.FITS): S.FETCHING,
    (S.TRUSTED, E.INTERRUPTED): S.TRUSTED,
    (S.TRUSTED, E.REFUSED): S.REJECTED,
    (S.FETCHING, E.COMPLETE): S.VERIFIED,
    (S.FETCHING, E.INTERRUPTED): S.FETCHING,
    (S.FETCHING, E.REFUSED): S.REJECTED,
    (S.VERIFIED, E.STORED): S.STAGED,
    (S.VERIFIED, E.INTERRUPTED): S.FETCHING,
    (S.VERIFIED, E.REFUSED): S.REJECTED,
    (S.STAGED, E.PROVED): S.PROVED,
    (S.STAGED, E.REFUSED): S.REJECTED,
    (S.STAGED, E.FAULT): S.REJECTED,
    (S.STAGED, E.AGAIN): S.STAGED,
    (S.PROVED, E.CHANGE_OVER): S.ACTIVATING,
    (S.ACTIVATING, E.ANSWERS): S.PROBATION,
    (S.ACTIVATING, E.FAULT): S.ROLLING_BACK,
    (S.ACTIVATING, E.AGAIN): S.ACTIVATING,
    (S.ACTIVATING, E.CRASHED): S.ACTIVATING,
    (S.PROBATION, E.PASSED): S.COMMITTED,
    (S.PROBATION, E.FAULT): S.ROLLING_BACK,
    (S.PROBATION, E.SUPERSEDED): S.ROLLING_BACK,
    (S.COMMITTED, E.FAULT): S.ROLLING_BACK,
    (S.PROBATION, E.AGAIN): S.ACTIVATING,
    (S.PROBATION, E.CRASHED): S.ACTIVATING,
    (S.ROLLING_BACK, E.RESTORED): S.ROLLED_BACK,
    (S.ROLLING_BACK, E.FAULT): S.FAILED,
    (S.ROLLING_BACK, E.AGAIN): S.ROLLING_BACK,
}


@pytest.mark.parametrize(("pair", "after"), LEGAL.items(), ids=str)
def test_legal_step(pair: tuple[Install, Event], after: Install) -> None:
    assert step(*pair).state is after


def test_every_other_pair_is_a_programming_error() -> None:
    for pair in set(itertools.product(Install, Event)) - set(LEGAL):
        with pytest.raises(IllegalStep, match=pair[0].name):
            step(*pair)


def test_table_is_complete() -> None:
    assert set(TABLE) == set(LEGAL)


def test_every_unfinished_state_has_work_that_its_entrance_starts() -> None:
    assert set(WORK) == {state for state in Install if not state.is_final}
    for outcome in TABLE.values():
        if not outcome.state.is_final:
            assert {WORK[outcome.state], Effect.PAUSE, Effect.AWAIT} & set(outcome.effects)


def test_every_bad_end_is_told_and_every_rollback_by_fault_condemns() -> None:
    for (_, event), outcome in TABLE.items():
        if outcome.state in (S.REJECTED, S.ROLLED_BACK, S.FAILED):
            assert Effect.TELL in outcome.effects
        if event is E.FAULT and outcome.state is S.ROLLING_BACK:
            assert Effect.QUARANTINE in outcome.effects
    assert Effect.QUARANTINE not in step(S.PROBATION, E.SUPERSEDED).effects
    assert Effect.QUARANTINE not in step(S.RECEIVED, E.REFUSED).effects


def test_no_state_before_activation_touches_the_runtime() -> None:
    touching = {Effect.ACTIVATE, Effect.RESTORE, Effect.WATCH}
    for state in SUPERSEDABLE:
        assert WORK[state] not in touching
    assert {state for state, work in WORK.items() if work in touching} == set(WORK) - SUPERSEDABLE


def test_every_unfinished_state_can_end() -> None:
    reached = {state for state in Install if state.is_final}
    for _ in Install:
        reached |= {state for (state, _), outcome in TABLE.items() if outcome.state in reached}
    assert reached == set(Install)


def test_repetitions_are_bounded() -> None:
    assert [repeat(attempt) for attempt in range(MAX_ATTEMPTS + 2)] == [E.AGAIN] * MAX_ATTEMPTS + [E.FAULT] * 2
    for state in {*REPEATABLE, S.PROBATION}:
        assert (state, E.AGAIN) in TABLE
        assert (state, E.FAULT) in TABLE


def test_a_crash_of_the_runtime_condemns_only_when_the_attempts_are_used_up() -> None:
    assert [crashed(attempt) for attempt in range(MAX_ATTEMPTS + 2)] == [E.CRASHED] * MAX_ATTEMPTS + [E.FAULT] * 2
    for state in (S.ACTIVATING, S.PROBATION):
        assert step(state, E.CRASHED).effects == (Effect.AWAIT,)
        assert Effect.QUARANTINE in step(state, E.FAULT).effects
    assert {state for state, event in TABLE if event is E.CRASHED} == {S.ACTIVATING, S.PROBATION}


def test_diagram_shows_every_step() -> None:
    lines = mermaid().splitlines()
    assert lines[0] == "stateDiagram-v2"
    for (state, event), outcome in TABLE.items():
        head = f"    {state} --> {outcome.state}: "
        assert any(line.startswith(head) and event.value in line for line in lines)
