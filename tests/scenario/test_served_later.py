"""What is active and could not be served is tried again, whatever else goes on; what is condemned never answers."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_challengers import PLACE, SimProcesses, attach, bring

from dsops.errors import DsopsError, GoldenMismatch, InvalidModel, RuntimeCrashed, StateDamaged, UnreadableBundle
from dsops.sealing import ContentKey
from dsops.states import Install
from dsops_agent.install.ports import Death, Suspect


class Failing:
    """Lets the next ``times`` activations of one bundle fail."""

    def __init__(self, world: Any, digest: str, error: DsopsError) -> None:
        self._activate, self._digest, self._error = world.runtime.activate, digest, error
        self.times, self.failed = 0, 0
        world.runtime.activate = self.activate

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        if digest == self._digest and self.failed < self.times:
            self.failed += 1
            raise self._error
        self._activate(model, path, digest, release, key)


UNREADABLE = UnreadableBundle("cannot read bundle bundle", why="Input/output error")
UNTOLD = StateDamaged("cannot read release 1 of digits", why="Input/output error")


def fetching(world: Any, bundle: Any) -> tuple[Any, Any]:
    """Let release 1 answer while release 2 is fetched and does not come."""
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    had = set(world.broker.chunks)
    world.publish(two)
    world.broker.lost = set(world.broker.chunks) - had
    world.direct(2, two)
    world.steps(5)
    return one, two


@pytest.mark.parametrize("times", [1, 3])
def test_a_passing_read_error_at_a_start_is_got_over_while_another_release_is_fetched(
    world: Any, bundle: Any, times: int
) -> None:
    one, two = fetching(world, bundle)
    unfinished = world.state().install
    assert not unfinished.is_final
    disk = Failing(world, one.sha256, UNREADABLE)
    disk.times = times
    world.runtime.serving.clear()
    world.restart()
    assert world.runtime.serving == {}
    world.steps(3, 1)
    assert disk.failed == 1, "it is not read again and again at once"
    world.steps(60, 2)
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.state().install is unfinished
    world.broker.lost.clear()
    assert world.settle().active == two.sha256
    world.check_end()


def test_a_bundle_that_stays_unreadable_is_tried_ever_more_seldom(world: Any, bundle: Any) -> None:
    one, _ = fetching(world, bundle)
    disk = Failing(world, one.sha256, UNREADABLE)
    disk.times = 1000
    world.restart()
    world.steps(300, 2)
    assert 3 <= disk.failed <= 6


@pytest.fixture
def attended(world: Any) -> Iterator[SimProcesses]:
    """The processes of challengers, which are asked beside the worker."""
    made, stop = SimProcesses(), threading.Event()
    attach(world, made)
    thread = threading.Thread(target=world.installer.attend, args=(stop,))
    thread.start()
    yield made
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def until(world: Any, condition: Callable[[], bool], seconds: float = 0.0) -> None:
    """Let the worker and the thread of the challengers do their parts in turn."""
    for _ in range(400):
        world.clock.advance(seconds)
        world.installer.work(0.01)
        if condition():
            return
    raise AssertionError(f"it never came to it: {world.installer.observed()}")


@pytest.mark.parametrize("times", [1, 2])
def test_a_challenger_that_could_not_be_served_is_asked_for_again(
    world: Any, bundle: Any, attended: SimProcesses, times: int
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    bring(world, 2, one, two)
    assert world.runtime.serving == {"digits": one.sha256, PLACE: two.sha256}
    disk = Failing(world, two.sha256, UNREADABLE)
    disk.times = times
    del world.runtime.serving[PLACE]
    world.installer.challenger_started("digits", has_ended=False)
    until(world, lambda: disk.failed == 1)
    assert PLACE not in world.runtime.serving
    until(world, lambda: world.runtime.serving.get(PLACE) == two.sha256, 1.0)
    assert disk.failed == times


@pytest.mark.parametrize("times", [1, 2])
def test_a_challenger_whose_slot_could_not_be_looked_at_is_asked_for_again(
    world: Any, bundle: Any, attended: SimProcesses, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    bring(world, 2, one, two)
    sound, left = world.slots.sound, [UNTOLD] * times

    def fail(model: str) -> Any:
        if model == PLACE and left:
            raise left.pop()
        return sound(model)

    monkeypatch.setattr(world.slots, "sound", fail)
    del world.runtime.serving[PLACE]
    world.installer.challenger_started("digits", has_ended=False)
    until(world, lambda: not left, 1.0)
    until(world, lambda: world.runtime.serving.get(PLACE) == two.sha256, 1.0)
    assert world.runtime.serving == {"digits": one.sha256, PLACE: two.sha256}


@pytest.mark.parametrize("error", [InvalidModel("it cannot be loaded"), UNREADABLE, RuntimeCrashed("it ended")])
def test_a_condemned_release_answers_no_more_though_the_one_before_cannot(
    world: Any, bundle: Any, error: DsopsError
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
    world.runtime.activate_faults[one.sha256] = error
    state = world.install(2, two)
    assert state.install is Install.FAILED
    assert world.runtime.serving == {}
    world.steps(20, 60)
    world.restart()
    world.steps(20, 60)
    assert world.runtime.serving == {}
    world.runtime.activate_faults.clear()
    world.restart()
    assert world.runtime.serving == {"digits": one.sha256}
    world.check_end()


def test_a_condemned_release_in_a_runtime_that_is_silent_for_a_moment_answers_no_more(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
    world.runtime.activate_faults[one.sha256] = InvalidModel("it cannot be loaded")
    figures, silent = world.runtime.figures, [RuntimeCrashed("silent")] * 2

    def be_silent(model: str) -> Any:
        if silent and world.journal.quarantined(two.sha256):
            raise silent.pop()
        return figures(model)

    world.runtime.figures = be_silent
    assert world.install(2, two).install is Install.FAILED
    world.steps(30, 2)
    assert not silent
    assert world.runtime.serving == {}


def test_a_committed_release_that_breaks_down_answers_no_more_though_the_one_before_cannot(
    world: Any, bundle: Any
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    world.runtime.activate_faults[one.sha256] = InvalidModel("it cannot be loaded")
    for _ in range(3):  # its process came back so quickly that it answers again
        world.installer.runtime_died(Death("signal 11", (Suspect("digits", two.sha256),)))
        world.step()
    assert world.state().install is Install.FAILED
    assert world.runtime.serving == {}


def test_a_kill_at_any_moment_of_a_way_back_that_fails_leaves_no_condemned_release_answering(
    new_world: Any, bundle: Any, crash: Any
) -> None:
    one, two = bundle(1), bundle(2)

    def ready() -> Any:
        world = new_world()
        world.install(1, one)
        world.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
        world.runtime.activate_faults[one.sha256] = InvalidModel("it cannot be loaded")
        world.fuse.count = 0
        return world

    calm = ready()
    calm.install(2, two)
    assert calm.fuse.count > 20
    for at in range(calm.fuse.count - 14, calm.fuse.count + 1):  # from the proof on
        world = ready()
        world.fuse.at = at
        with pytest.raises(crash):
            world.install(2, two)
        world.fuse.at = 0
        world.restart()
        world.install(2, two)
        assert world.state().install is Install.FAILED, f"killed at {at}"
        assert world.runtime.serving == {}, f"killed at {at}"
