"""The runtime dies or is away while a device installs: a crash alone condemns no release, a crash loop does."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dsops.errors import GoldenMismatch, RuntimeCrashed
from dsops.states import Install


@pytest.fixture(autouse=True)
def no_surprise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when the worker met an error that nobody expected."""
    yield
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("dsops_agent")]


def on_probation(world: Any, bundle: Any) -> tuple[Any, Any]:
    """Bring release 2 to its probation, release 1 before it; return both."""
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    assert world.state().install is Install.PROBATION
    return one, two


def kill_runtime(world: Any) -> None:
    world.runtime.alive = False
    world.runtime.serving.clear()


def start_runtime(world: Any) -> None:
    world.runtime.alive = True
    world.installer.runtime_restarted()
    world.step()


def test_model_that_crashes_the_runtime_again_and_again_goes_back(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.runtime.activate_faults[two.sha256] = RuntimeCrashed("died")
    world.direct(2, two)
    world.steps(20)
    for crashes in range(1, 4):
        assert world.state().install is Install.ACTIVATING
        assert world.runtime.log.count(f"activate {two.sha256[:8]}") == crashes
        world.installer.runtime_restarted()
        world.step()
    state = world.settle()
    assert (state.install, state.active, state.previous) == (Install.ROLLED_BACK, one.sha256, None)
    assert state.problem.code == "device.runtime_crashed"
    assert world.journal.quarantined(two.sha256).code == "device.runtime_crashed"
    assert world.events.kinds() == ["committed", "rolled_back"]
    world.check_end()


def test_model_that_hangs_the_runtime_goes_back_though_no_restart_is_told(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.activate_faults[two.sha256] = RuntimeCrashed("silent")
    state = world.install(2, two)
    assert (state.install, state.active) == (Install.ROLLED_BACK, one.sha256)
    assert world.runtime.log.count(f"activate {two.sha256[:8]}") == 4
    world.check_end()


def test_a_runtime_that_dies_during_the_activation_delays_the_release(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.runtime.activate_faults[two.sha256] = RuntimeCrashed("killed")
    world.direct(2, two)
    world.steps(20)
    state = world.state()
    assert (state.install, state.problem.code) == (Install.ACTIVATING, "device.runtime_crashed")
    world.runtime.activate_faults.clear()
    start_runtime(world)
    assert (world.state().install, world.state().problem) == (Install.PROBATION, None)
    assert world.settle().active == two.sha256
    assert world.events.kinds() == ["committed", "committed"]
    world.check_end()


@pytest.mark.parametrize("away_s", [1, 70])
def test_a_runtime_that_dies_in_probation_delays_the_release(world: Any, bundle: Any, away_s: int) -> None:
    _, two = on_probation(world, bundle)
    kill_runtime(world)
    world.step(away_s)
    start_runtime(world)
    assert world.state().install is Install.PROBATION
    world.step(59)
    assert world.state().install is Install.PROBATION, "probation begins anew"
    assert world.journal.installs()["digits"].attempt == 1
    world.step(2)
    assert (world.state().install, world.state().active) == (Install.COMMITTED, two.sha256)
    assert world.events.kinds() == ["committed", "committed"]
    world.check_end()


def test_restarts_neither_begin_a_long_probation_anew_nor_add_up(world: Any, bundle: Any) -> None:
    """A device that is switched off every hour, and releases that must answer for six."""
    one, two = bundle(1), bundle(2)
    world.config = replace(world.config, probation_s=6 * 3600.0)
    world.restart()
    for seq, made in enumerate((one, two), 1):
        world.publish(made)
        world.direct(seq, made)
        world.pack()
        world.steps(10)
        for _ in range(6):
            assert world.state().install is Install.PROBATION
            world.steps(6, 550)
            world.restart()
        world.steps(12, 550)
        assert (world.state().install, world.state().active) == (Install.COMMITTED, made.sha256)
    world.check_end()


def test_restarts_in_quick_succession_add_up_in_a_long_probation(world: Any, bundle: Any) -> None:
    world.install(1, bundle(1))
    two = bundle(2)
    world.config = replace(world.config, probation_s=6 * 3600.0)
    world.restart()
    world.publish(two)
    world.direct(2, two)
    world.pack()
    world.steps(10)
    world.steps(3, 550)
    for _ in range(5):
        world.restart()
        world.steps(2, 200)
    assert (world.state().install, world.state().active) == (Install.ROLLED_BACK, bundle(1).sha256)


def test_a_runtime_that_stays_away_ends_in_a_rollback(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    kill_runtime(world)
    world.step(61)
    for _ in range(3):
        assert world.state().install is Install.ACTIVATING
        world.step(31)
    assert (world.state().install, world.state().active) == (Install.ROLLING_BACK, one.sha256)
    start_runtime(world)
    assert world.state().install is Install.ROLLED_BACK
    assert world.journal.quarantined(two.sha256).code == "device.runtime_crashed"
    world.check_end()


def test_model_that_stops_answering_again_and_again_goes_back(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    for _ in range(3):
        world.runtime.serving["digits"] = one.sha256
        world.step(61)
        assert world.state().install is Install.ACTIVATING
        world.step(31)
        assert (world.state().install, world.runtime.serving) == (Install.PROBATION, {"digits": two.sha256})
    world.runtime.serving["digits"] = one.sha256
    world.step(61)
    assert world.state().install is Install.ROLLED_BACK
    assert world.runtime.serving == {"digits": one.sha256}


def test_wrong_answers_after_a_crash_go_back_at_once(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    kill_runtime(world)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("row 1 differs")
    start_runtime(world)
    state = world.state()
    assert (state.install, state.active, state.problem.code) == (
        Install.ROLLED_BACK, one.sha256, GoldenMismatch.code,
    )  # fmt: skip


def test_restarted_runtime_gets_its_models_back(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    world.runtime.serving.clear()
    world.installer.runtime_restarted()
    world.step()
    assert world.runtime.serving == {"digits": one.sha256}


def test_runtime_that_keeps_crashing_in_probation_goes_back(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    for _ in range(4):
        assert world.state().install is Install.PROBATION
        world.runtime.serving.clear()
        world.installer.runtime_restarted()
        world.steps(2)
    assert world.state().install is Install.ROLLED_BACK
    assert world.runtime.serving == {"digits": one.sha256}


def test_rollback_waits_for_a_runtime_that_is_away(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    world.runtime.check_faults[two.sha256] = GoldenMismatch("no")
    world.runtime.activate_faults[one.sha256] = RuntimeCrashed("away")
    world.step(61)
    assert world.state().install is Install.ROLLING_BACK
    assert world.state().active == one.sha256
    world.runtime.activate_faults.clear()
    world.installer.runtime_restarted()
    world.steps(2)
    assert world.state().install is Install.ROLLED_BACK
    world.check_end()


def test_recovery_with_a_late_runtime(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    world.runtime.alive = False
    world.runtime.serving.clear()
    world.restart()
    assert world.state().install is Install.ACTIVATING
    world.runtime.alive = True
    world.installer.runtime_restarted()
    state = world.settle()
    assert (state.install, state.active) == (Install.COMMITTED, two.sha256)
