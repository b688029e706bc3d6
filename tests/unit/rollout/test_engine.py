from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.states import Deployment, Rollout
from dsops_controller.rollout.engine import DeploymentView, Move, Promote, RolloutView, Start, TimeOut, step

D = Deployment


def view(*waves: tuple[Deployment, ...], wave: int = 0, max_failures: int = 0) -> RolloutView:
    """A running rollout whose devices stand as given; started deployments began at time 0."""
    rows = [
        [
            DeploymentView(f"{w}.{i}", f"dev-{w}-{i}", state, started_ms=None if state is D.PENDING else 0)
            for i, state in enumerate(states)
        ]
        for w, states in enumerate(waves)
    ]
    return RolloutView(Rollout.RUNNING, wave, rows, max_failures, timeout_s=10)


def test_first_wave_is_started_and_the_second_is_not() -> None:
    assert step(0, view((D.PENDING, D.PENDING), (D.PENDING,))) == (Start("0.0", False), Start("0.1", False))


def test_waits_while_a_device_is_on_its_way() -> None:
    assert step(1, view((D.SUCCEEDED, D.IN_PROGRESS), (D.PENDING,))) == ()


def test_second_wave_only_after_every_canary_succeeded() -> None:
    assert step(1, view((D.SUCCEEDED, D.ALREADY_INSTALLED), (D.PENDING,))) == (Promote(1),)


def test_last_wave_ends_the_rollout() -> None:
    assert step(1, view((D.SUCCEEDED,), (D.SUCCEEDED,), wave=1)) == (Move(Rollout.SUCCEEDED),)


@pytest.mark.parametrize("state", [D.REJECTED, D.ROLLED_BACK, D.FAILED, D.TIMED_OUT, D.INCOMPATIBLE])
def test_a_failed_canary_pauses_at_once_and_says_who(state: Deployment) -> None:
    (move,) = step(1, view((state, D.IN_PROGRESS), (D.PENDING,)))
    assert isinstance(move, Move)
    assert move.state is Rollout.PAUSED
    assert "dev-0-0" in move.reason
    assert state.value in move.reason


def test_tolerated_failures_are_counted_over_all_waves() -> None:
    one = view((D.REJECTED, D.SUCCEEDED), (D.SUCCEEDED, D.SUCCEEDED), wave=1, max_failures=1)
    assert step(1, one) == (Move(Rollout.SUCCEEDED),)
    two = view((D.REJECTED, D.SUCCEEDED), (D.REJECTED, D.SUCCEEDED), wave=1, max_failures=1)
    (move,) = step(1, two)
    assert isinstance(move, Move)
    assert move.state is Rollout.PAUSED


def test_a_deployment_that_takes_too_long_is_ended() -> None:
    assert step(10_000, view((D.IN_PROGRESS,))) == ()
    assert step(10_001, view((D.IN_PROGRESS,))) == (TimeOut("0.0"),)


def test_a_device_that_runs_it_already_is_marked_so() -> None:
    before = view((D.PENDING,))
    row = replace(before.waves[0][0], is_installed=True)
    assert step(0, replace(before, waves=[[row]])) == (Start("0.0", True),)


@pytest.mark.parametrize("state", [s for s in Rollout if s is not Rollout.RUNNING])
def test_only_a_running_rollout_moves(state: Rollout) -> None:
    assert step(0, replace(view((D.PENDING,)), state=state)) == ()


@given(
    st.lists(st.lists(st.sampled_from(list(D)), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 20_000),
)
def test_never_starts_outside_the_running_wave_nor_promotes_past_a_failure(
    states: list[list[Deployment]], max_failures: int, now_ms: int
) -> None:
    now = view(*map(tuple, states), wave=0, max_failures=max_failures)
    decisions = step(now_ms, now)
    assert {d.deployment for d in decisions if isinstance(d, Start)} <= {row.id for row in now.waves[0]}
    if any(isinstance(d, Promote) for d in decisions):
        assert all(s.is_final for s in states[0])
        assert sum(row.result.is_failure for row in now.waves[0]) <= max_failures
