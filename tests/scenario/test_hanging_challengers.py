"""The process of a challenger hangs, or gets no processor: the champion is installed and rolled back all the same."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_challengers import PLACE, SimProcesses, challenge, told

from dsops.errors import ChallengerAway, GoldenMismatch
from dsops.sealing import ContentKey
from dsops.states import Install


class Hanging:
    """Lets whatever asks for the challenger wait, as a process does that gets no processor, until ``freed``."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._activate, self._check = world.runtime.activate, world.runtime.check
        self.waits, self.freed = threading.Event(), threading.Event()
        world.runtime.activate, world.runtime.check = self.activate, self.check
        self.asks: set[str] = set()
        self.is_worker_kept = False

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        self._wait("activate", model)
        self._activate(model, path, digest, release, key)

    def check(self, model: str) -> None:
        self._wait("check", model)
        self._check(model)

    def _wait(self, op: str, model: str) -> None:
        if model != PLACE or op not in self.asks:
            return
        self.waits.set()
        if threading.current_thread() is threading.main_thread():
            self.is_worker_kept = True
        else:
            self.freed.wait(60)
        raise ChallengerAway("the challenger of digits does not answer", why="silent for 60 s")

    def step_until(self, condition: Callable[[], bool], seconds: float = 0.0) -> None:
        """Let the worker and the thread of the challengers do their parts in turn."""
        for _ in range(400):
            self._world.step(seconds)
            assert not self.is_worker_kept, "the worker waits for the challenger"
            if condition():
                return
            threading.Event().wait(0.005)
        raise AssertionError(f"it never came to it: {self._world.installer.observed()}")


@pytest.fixture
def processes(world: Any) -> SimProcesses:
    made = SimProcesses()
    world.installer.challengers = made
    world.installer._challengers.processes = made
    return made


@pytest.fixture
def hanging(world: Any, processes: SimProcesses) -> Iterator[Hanging]:
    stop = threading.Event()
    thread = threading.Thread(target=world.installer.attend, args=(stop,))
    thread.start()
    made = Hanging(world)
    yield made
    stop.set()
    made.freed.set()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("op", ["activate", "check"])
def test_while_a_challenger_hangs_the_champion_changes_and_goes_back(
    world: Any, bundle: Any, hanging: Hanging, op: str
) -> None:
    one, two, three, four = (bundle(release) for release in (1, 2, 3, 4))
    world.install(1, one)
    world.publish(two, three, four)
    hanging.asks = {op}
    challenge(world, 2, one, two)
    hanging.step_until(hanging.waits.is_set)
    challenge(world, 3, three, two)
    hanging.step_until(lambda: world.state().active == three.sha256 and world.state().install is Install.COMMITTED, 2.0)
    world.runtime.check_faults[four.sha256] = GoldenMismatch("row 1 differs")
    challenge(world, 4, four, two)
    hanging.step_until(lambda: world.state().install is Install.ROLLED_BACK, 2.0)
    assert world.state().active == three.sha256
    assert world.runtime.serving["digits"] == three.sha256
    assert not hanging.freed.is_set()


def test_a_challenger_that_is_silent_again_and_again_is_given_up_and_not_condemned(
    world: Any, bundle: Any, processes: SimProcesses, hanging: Hanging
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    hanging.asks = {"activate"}
    hanging.freed.set()
    challenge(world, 2, one, two)
    hanging.step_until(lambda: told(world).install is Install.ROLLED_BACK, 2.0)
    assert told(world).problem.code == ChallengerAway.code
    assert world.state().quarantined == (), "that the device is busy is no fault of the bundle"
    hanging.step_until(lambda: processes.wanted == {})
    hanging.asks = set()
    challenge(world, 3, one, None)
    hanging.step_until(lambda: world.state().challenger is None)
    challenge(world, 4, one, two)
    hanging.step_until(lambda: world.state().challenger and told(world).install is Install.COMMITTED, 2.0)
    assert world.runtime.serving == {"digits": one.sha256, PLACE: two.sha256}
    world.check_end()


def test_a_hanging_challenger_that_is_not_wanted_any_more_goes_when_it_lets_go(
    world: Any, bundle: Any, processes: SimProcesses, hanging: Hanging
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    hanging.asks = {"check"}
    challenge(world, 2, one, two)
    hanging.step_until(hanging.waits.is_set)
    challenge(world, 3, one, None)
    world.steps(5)
    hanging.freed.set()
    hanging.step_until(lambda: world.state().challenger is None, 2.0)
    assert processes.wanted == {}
    assert world.runtime.serving == {"digits": one.sha256}
    world.check_end()


def test_a_process_that_starts_again_while_one_is_asked_is_asked_anew(
    world: Any, bundle: Any, hanging: Hanging
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    hanging.asks = {"activate"}
    challenge(world, 2, one, two)
    hanging.step_until(hanging.waits.is_set)
    hanging.asks = set()
    world.installer.challenger_started("digits", has_ended=True)
    world.steps(2)
    hanging.freed.set()
    hanging.step_until(lambda: told(world).install is Install.COMMITTED, 2.0)
    assert world.runtime.serving == {"digits": one.sha256, PLACE: two.sha256}
    world.check_end()
