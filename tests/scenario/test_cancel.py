"""A directive that does not want a bundle any more: what was not changed yet stops, what was changed goes back."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dsops.states import Deployment, Install, deployment_state


def begin(world: Any, seq: int, made: Any) -> None:
    world.publish(made)
    world.direct(seq, made)
    world.pack(made.model)
    while world.installer.seq() < seq:
        world.step()


def cancelled(world: Any, model: str = "digits") -> bool:
    state = world.state(model)
    code = state.problem.code if state.problem else ""
    return state.install is Install.REJECTED and deployment_state(state.install, code) is Deployment.ABORTED


def test_an_empty_directive_stops_a_first_transfer_at_once(world: Any, bundle: Any) -> None:
    one = bundle(1, size=20_000)
    begin(world, 1, one)
    world.broker.lost = set(world.broker.chunks)
    while world.state().install is not Install.FETCHING:
        world.step()
    assert world.broker.subscribed
    world.direct(2)
    world.step()
    assert cancelled(world)
    assert world.state().deployment == "de-1"
    assert world.installer.seq() == 2
    assert not world.broker.subscribed
    assert world.events.kept == [("refused", "digits", 1, "request.cancelled")]
    asked = list(world.broker.asked)
    world.steps(20, 30)
    assert world.broker.asked == asked
    world.check_end()


def test_what_was_cancelled_is_installed_when_it_is_wanted_again(world: Any, bundle: Any) -> None:
    one = bundle(1)
    begin(world, 1, one)
    world.broker.lost = set(world.broker.chunks)
    world.steps(4)
    world.direct(2)
    world.step()
    world.broker.lost.clear()
    world.direct(3, one)
    assert world.settle().install is Install.COMMITTED
    world.check_end()


def test_only_the_model_that_is_not_named_is_cancelled(world: Any, bundle: Any) -> None:
    one, other = bundle(1), bundle(1, model="words")
    world.publish(one, other)
    world.direct(1, one, other)
    world.pack()
    world.pack("words")
    world.broker.lost = set(world.broker.chunks)
    world.steps(6)
    world.direct(2, other)
    world.broker.lost.clear()
    world.settle()
    assert cancelled(world)
    assert world.state("words").install is Install.COMMITTED


def test_a_model_that_runs_stays_as_it_is(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    world.direct(2)
    world.steps(5, 60)
    assert (world.installer.seq(), world.installer.refused()) == (2, None)
    assert (world.state().install, world.state().active) == (Install.COMMITTED, one.sha256)
    world.restart()
    assert world.state().install is Install.COMMITTED
    world.check_end()


def test_an_update_under_way_is_replaced_by_what_runs(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    begin(world, 2, two)
    world.broker.lost = set(world.broker.chunks)
    world.steps(4)
    assert world.state().install is Install.FETCHING
    world.direct(3, one)
    world.step()
    assert (world.state().install, world.state().active) == (Install.COMMITTED, one.sha256)
    world.check_end()


def test_a_directive_that_came_during_the_change_over_counts_in_probation(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    begin(world, 2, two)
    world.runtime.alive = False
    while world.state().install is not Install.ACTIVATING:
        world.step()
    world.direct(3, one)
    world.step()
    assert (world.installer.seq(), world.state().install) == (3, Install.ACTIVATING)
    world.runtime.alive = True
    world.installer.runtime_restarted()
    world.step()
    assert world.settle().active == one.sha256
    assert world.events.kinds()[1:] == ["rolled_back"]
    assert world.journal.quarantined(two.sha256) is None
    world.check_end()


def test_a_crash_between_directive_and_cancel_loses_neither(world: Any, bundle: Any, crash: Any) -> None:
    one = bundle(1)
    begin(world, 1, one)
    world.broker.lost = set(world.broker.chunks)
    world.steps(4)
    world.fuse.at = world.fuse.count + 3  # the directive's commit is done, the cancel's is not
    world.direct(2)
    with pytest.raises(crash):
        world.steps(3)
    assert world.journal.seq() == 2
    world.fuse.at = 0
    world.restart()
    assert cancelled(world)
    assert not world.journal.untold()
    world.check_end()


@pytest.fixture
def prover(world: Any) -> Iterator[None]:
    """Let the throw-away processes run in a thread of their own, as on a device."""
    stop = threading.Event()
    thread = threading.Thread(target=world.installer.prove, args=(stop,))
    thread.start()
    yield
    stop.set()
    world.runtime.proofs_hang = False
    thread.join(30)
    assert not thread.is_alive()


def let(world: Any, condition: Any) -> None:
    """Work without simulated time until something holds that another thread brings about."""
    stopped = threading.Event()
    for _ in range(3000):
        world.step()
        if condition():
            return
        stopped.wait(0.01)
    raise AssertionError(f"in vain: {world.installer.observed()}")


@pytest.mark.usefixtures("prover")
def test_a_proof_holds_nothing_up_and_its_outcome_counts(world: Any, bundle: Any) -> None:
    begin(world, 1, bundle(1))
    let(world, lambda: world.state().install is Install.PROBATION)
    world.step(61)
    assert world.state().install is Install.COMMITTED


@pytest.mark.usefixtures("prover")
def test_a_cancel_kills_the_throw_away_process(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.runtime.proofs_hang = True
    begin(world, 1, one)
    let(world, lambda: f"prove {one.sha256[:8]}" in world.runtime.log)
    assert world.state().install is Install.STAGED
    world.direct(2)
    world.step()
    assert cancelled(world)
    let(world, lambda: f"killed {one.sha256[:8]}" in world.runtime.log)
    assert cancelled(world), "the killed process says nothing of the bundle"
    assert world.journal.quarantined(one.sha256) is None


@pytest.mark.usefixtures("prover")
def test_a_newer_bundle_does_not_wait_for_a_proof_that_hangs(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.runtime.proofs_hang = True
    begin(world, 1, one)
    let(world, lambda: f"prove {one.sha256[:8]}" in world.runtime.log)
    world.runtime.proofs_hang = False
    begin(world, 2, two)
    let(world, lambda: world.state().install is Install.PROBATION)
    assert world.state().active == two.sha256
    assert f"killed {one.sha256[:8]}" in world.runtime.log


def test_a_restart_during_a_proof_counts_as_an_attempt(world: Any, bundle: Any) -> None:
    one = bundle(1)
    stop = threading.Event()
    world.runtime.proofs_hang = True
    begin(world, 1, one)
    for expected in (0, 1, 2, 3):
        thread = threading.Thread(target=world.installer.prove, args=(stop,))
        thread.start()
        count = expected + 1
        let(world, lambda count=count: world.runtime.log.count(f"prove {one.sha256[:8]}") == count)
        assert world.journal.installs()["digits"].attempt == expected
        world.installer._proving.end_all()
        stop.set()
        thread.join(30)
        stop.clear()
        world.restart()
    world.step()
    assert world.state().install is Install.REJECTED
    assert world.journal.quarantined(one.sha256)
