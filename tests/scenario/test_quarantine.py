"""What is quarantined is never tried again, until somebody pardons it: by a directive, or at the device."""

from typing import Any

import pytest

from dsops.errors import GoldenMismatch
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.pardons import PardonBox


def condemn(world: Any, seq: int, made: Any, fault: str = "check_faults") -> None:
    """Let a bundle fail on the device."""
    getattr(world.runtime, fault)[made.sha256] = GoldenMismatch("no")
    world.install(seq, made)
    getattr(world.runtime, fault).clear()
    assert world.state().install in (Install.ROLLED_BACK, Install.REJECTED)
    assert world.state().quarantined[0] == made.sha256


@pytest.mark.parametrize("fault", ["check_faults", "activate_faults", "prove_faults"])
def test_a_quarantined_bundle_is_refused_in_a_new_deployment_too(world: Any, bundle: Any, fault: str) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two, fault)
    world.direct(3, two)
    state = world.settle()
    assert (state.install, state.active, state.problem.code) == (Install.REJECTED, one.sha256, GoldenMismatch.code)


@pytest.mark.parametrize("fault", ["check_faults", "prove_faults"])
def test_a_pardon_and_what_is_wanted_come_together(world: Any, bundle: Any, fault: str) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two, fault)
    world.installer.on_directive(world.envelope(3, two, deployment="de-2", pardoned=(two.sha256,)))
    world.step()
    assert world.state().quarantined == ()
    state = world.settle()
    assert (state.install, state.active) == (Install.COMMITTED, two.sha256)
    assert ("pardoned", "digits", 0, GoldenMismatch.code) in world.events.kept
    world.check_end()


def test_a_pardon_of_what_is_not_wanted_starts_nothing(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two)
    world.installer.on_directive(world.envelope(3, one, pardoned=(two.sha256, "f" * 64)))
    state = world.settle()
    assert (state.install, state.active, state.quarantined) == (Install.COMMITTED, one.sha256, ())
    assert state.previous is None


def test_a_crash_after_the_pardon_forgets_no_try(world: Any, bundle: Any, crash: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two)
    world.fuse.at = world.fuse.count + 3  # the directive is durable, nothing was begun
    world.installer.on_directive(world.envelope(3, two, deployment="de-2", pardoned=(two.sha256,)))
    with pytest.raises(crash):
        world.steps(3)
    world.fuse.at = 0
    world.restart()
    world.pack()
    assert world.settle().active == two.sha256


def test_at_the_device_a_request_is_taken_up_at_once(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two)
    box = PardonBox(world.folder / "pardons")
    box.ask(two.sha256)
    world.step()
    assert box.asked() == ()
    assert world.settle().active == two.sha256


def test_a_request_that_came_while_the_agent_was_away_is_taken_up_at_its_start(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    condemn(world, 2, two)
    box = PardonBox(world.folder / "pardons")
    box.ask(two.sha256)
    (world.folder / "pardons" / "notes.txt").touch()
    world.restart()
    assert box.asked() == ()
    world.pack()
    assert world.settle().active == two.sha256


def test_the_newest_of_many_are_reported(world: Any) -> None:
    for number in range(20):
        world.journal.quarantine("digits", f"{number:064x}", Problem(code="bundle.golden_mismatch"))
    world.journal.quarantine("words", "f" * 64, Problem(code="bundle.golden_mismatch"))
    (world.folder / "slots" / "digits").mkdir()
    world.installer._board.publish()
    assert [int(digest, 16) for digest in world.state().quarantined] == list(range(19, 3, -1))
