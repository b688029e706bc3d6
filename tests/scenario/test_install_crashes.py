"""The control process is killed at every journalled step and every call of a port; a new one must finish or undo."""

from typing import Any

import pytest

from dsops.errors import GoldenMismatch, InvalidModel
from dsops.states import Install

pytestmark = pytest.mark.slow

SECRET = bytes(range(32))


def first(world: Any, bundle: Any) -> Any:
    one = bundle(1)
    world.publish(one)
    return 1, one, (Install.COMMITTED, one.sha256)


def update(world: Any, bundle: Any) -> Any:
    two = bundle(2)
    world.publish(two)
    return 2, two, (Install.COMMITTED, two.sha256)


def bad_proof(world: Any, bundle: Any) -> Any:
    two = bundle(2)
    world.publish(two)
    world.runtime.prove_faults[two.sha256] = GoldenMismatch("no")
    return 2, two, (Install.REJECTED, bundle(1).sha256)


def bad_activation(world: Any, bundle: Any) -> Any:
    two = bundle(2)
    world.publish(two)
    world.runtime.activate_faults[two.sha256] = InvalidModel("no")
    return 2, two, (Install.ROLLED_BACK, bundle(1).sha256)


def bad_probation(world: Any, bundle: Any) -> Any:
    two = bundle(2)
    world.publish(two)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("no")
    return 2, two, (Install.ROLLED_BACK, bundle(1).sha256)


def bad_first(world: Any, bundle: Any) -> Any:
    one = bundle(1)
    world.publish(one)
    world.runtime.check_faults[one.sha256] = GoldenMismatch("no")
    return 1, one, (Install.ROLLED_BACK, None)


def back_again(world: Any, bundle: Any) -> Any:
    world.install(2, bundle(2))
    return 3, bundle(1), (Install.COMMITTED, bundle(1).sha256)


def sealed_update(world: Any, bundle: Any) -> Any:
    two = bundle(2, secret=SECRET)
    world.publish(two)
    return 2, two, (Install.COMMITTED, two.sha256)


def back_to_sealed(world: Any, bundle: Any) -> Any:
    two, three = bundle(2, secret=SECRET), bundle(3, secret=SECRET)
    world.install(2, two)
    world.publish(three)
    world.runtime.check_faults[three.sha256] = GoldenMismatch("no")
    return 3, three, (Install.ROLLED_BACK, two.sha256)


def sealed_without_key(world: Any, bundle: Any) -> Any:
    world.brings_keys = False
    two = bundle(2, secret=SECRET)
    world.publish(two)
    return 2, two, (Install.REJECTED, bundle(1).sha256)


SEALED = [sealed_update, back_to_sealed, sealed_without_key]
STORIES = [first, update, bad_proof, bad_activation, bad_probation, bad_first, back_again, *SEALED]


def prepared(new_world: Any, bundle: Any, story: Any) -> Any:
    world = new_world()
    if story not in (first, bad_first):
        world.install(1, bundle(1))
    seq, wanted, end = story(world, bundle)
    world.fuse.count = 0
    return world, seq, wanted, end


def play(world: Any, seq: int, wanted: Any) -> Any:
    world.direct(seq, wanted)
    world.pack()
    return world.settle()


def play_through(world: Any, seq: int, wanted: Any, crash: Any) -> Any:
    """Play until the end, starting again after each kill; the retained messages come again, as a broker sends them."""
    kills = 0
    while True:
        try:
            if kills:
                world.restart()
                world.check_invariants()
            return play(world, seq, wanted), kills
        except crash:
            kills += 1
            assert kills < 50


@pytest.mark.parametrize("story", STORIES)
def test_kill_at_every_step(new_world: Any, bundle: Any, crash: Any, story: Any) -> None:
    calm, seq, wanted, end = prepared(new_world, bundle, story)
    state = play(calm, seq, wanted)
    assert (state.install, state.active) == end
    steps = calm.fuse.count
    told = [event for event in calm.events.kept if event[0] != "committed"]
    assert steps > 15
    for at in range(1, steps + 1):
        world, seq, wanted, end = prepared(new_world, bundle, story)
        world.fuse.at = at
        serving_before = dict(world.runtime.serving)
        state, kills = play_through(world, seq, wanted, crash)
        assert kills == 1, at
        assert (state.install, state.active) == end, at
        assert world.runtime.serving or not serving_before, at
        assert set(told) <= set(world.events.kept), at
        world.check_end()
        world.journal.close()


@pytest.mark.parametrize("story", [update, bad_probation, bad_activation])
@pytest.mark.parametrize("apart", [2, 5, 9])
def test_kill_again_and_again(new_world: Any, bundle: Any, crash: Any, story: Any, apart: int) -> None:
    """Each new process is killed a few steps later, until one is spared: it ends well, whatever was half done."""
    world, seq, wanted, _ = prepared(new_world, bundle, story)
    kills = 0
    for _ in range(20):
        world.fuse.at = world.fuse.count + apart
        try:
            world.restart()
            play(world, seq, wanted)
        except crash:
            kills += 1
    world.fuse.at = 0
    world.restart()
    world.check_invariants()
    state = play(world, seq, wanted)
    assert kills >= 8
    assert state.install in {Install.COMMITTED, Install.ROLLED_BACK, Install.REJECTED}
    assert state.active == (wanted.sha256 if state.install is Install.COMMITTED else bundle(1).sha256)
    world.check_end()


def test_power_cuts_in_probation_end_in_a_rollback(new_world: Any, bundle: Any) -> None:
    world, seq, wanted, _ = prepared(new_world, bundle, update)
    world.direct(seq, wanted)
    world.pack()
    world.steps(20)
    for _ in range(3):
        assert world.state().install is Install.PROBATION
        world.restart()
    world.restart()
    assert world.state().install is Install.ROLLED_BACK
    assert world.state().active == bundle(1).sha256
    assert world.journal.quarantined(wanted.sha256) is not None
    world.check_end()
