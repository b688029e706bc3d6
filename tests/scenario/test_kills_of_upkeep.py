"""The control process is killed at every step of a cancel, a pardon and a scrub; the next one ends what it began."""

from typing import Any

import pytest

from dsops.errors import GoldenMismatch
from dsops.states import Install
from dsops_agent.install.pardons import PardonBox

pytestmark = pytest.mark.slow

DAY_S = 24 * 3600.0


class Cancel:
    """A transfer under way is not wanted any more."""

    end = (Install.REJECTED, 1, 0, ())

    def prepare(self, world: Any, bundle: Any) -> None:
        world.install(1, bundle(1))
        world.publish(bundle(2, size=9000))
        world.direct(2, bundle(2, size=9000))
        while world.state().install is not Install.FETCHING or not world.state().progress:
            world.step()

    def act(self, world: Any, bundle: Any) -> None:
        world.direct(3)


class PardonByDirective:
    """A quarantined bundle is pardoned and still wanted."""

    end = (Install.COMMITTED, 2, 1, ())

    def prepare(self, world: Any, bundle: Any) -> None:
        world.install(1, bundle(1))
        world.runtime.check_faults[bundle(2).sha256] = GoldenMismatch("no")
        assert world.install(2, bundle(2)).install is Install.ROLLED_BACK
        world.runtime.check_faults.clear()
        self.envelope = world.envelope(3, bundle(2), deployment="de-2", pardoned=(bundle(2).sha256,))

    def act(self, world: Any, bundle: Any) -> None:
        world.installer.on_directive(self.envelope)


class PardonAtTheDevice(PardonByDirective):
    """Likewise, asked for at the device."""

    def act(self, world: Any, bundle: Any) -> None:
        if world.state().quarantined:
            PardonBox(world.folder / "pardons").ask(bundle(2).sha256)


class ScrubOfTheActive:
    """The active bundle is damaged."""

    end = (Install.COMMITTED, 2, 1, ())

    def prepare(self, world: Any, bundle: Any) -> None:
        world.install(1, bundle(1))
        world.install(2, bundle(2))
        path = world.slots.active("digits").path
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        world.clock.advance(DAY_S)

    def act(self, world: Any, bundle: Any) -> None:
        world.direct(2, bundle(2))  # the broker retains it


def play(world: Any, bundle: Any, story: Any) -> tuple[object, ...]:
    story.act(world, bundle)
    world.pack()
    world.steps(80, 2)
    state = world.settle()
    return state.install, state.active_release, state.previous_release, state.quarantined


@pytest.mark.parametrize("story", [Cancel, PardonByDirective, PardonAtTheDevice, ScrubOfTheActive])
def test_killed_at_every_step_it_ends_well(new_world: Any, bundle: Any, crash: Any, story: Any) -> None:
    at, was_killed = 0, True
    while was_killed:
        at += 1
        world, told = new_world(), story()
        told.prepare(world, bundle)
        world.fuse.count, world.fuse.at = 0, at
        was_killed = False
        try:
            end = play(world, bundle, told)
        except crash:
            was_killed = True
            world.restart()
            if story is not ScrubOfTheActive:
                world.check_invariants()
            end = play(world, bundle, told)
        assert end == story.end, at
        assert world.runtime.serving["digits"], at
        world.check_end()
        world.journal.close()
    assert at > 5
