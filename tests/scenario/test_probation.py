"""What a served bundle does decides over it, on probation and later, and no network is needed for that."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dsops.errors import RuntimeCrashed
from dsops.states import Install
from dsops_agent.install.ports import Death, Suspect
from dsops_agent.runtime.figures import Figures


@pytest.fixture(autouse=True)
def no_surprise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when the worker met an error that nobody expected."""
    yield
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("dsops_agent")]


def did(made: Any, **fields: Any) -> Figures:
    """What a bundle did: quick, right, and evenly spread, unless told otherwise."""
    usual = {"requests": 1000, "frames": 1000, "latency": {36: 1000}, "meaning": "m", "reference": (500,) * 4}
    return Figures.model_validate({"digest": made.sha256, "bins": (250,) * 4, **usual, **fields})


def on_probation(world: Any, bundle: Any, **before: Any) -> tuple[Any, Any]:
    """Bring release 2 to its probation after release 1; ``before`` is what that did."""
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.did[one.sha256] = did(one, **before)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    assert world.state().install is Install.PROBATION
    return one, two


def die(world: Any, *suspects: Any, hung_s: float = 0.0) -> None:
    """Let the inference process die with frames of bundles in flight, and come back."""
    world.runtime.alive = False
    world.runtime.serving.clear()
    ran = tuple(Suspect(made.model, made.sha256) for made in suspects)
    world.installer.runtime_died(Death("signal 11", ran, hung_s=hung_s))
    world.step()
    world.runtime.alive = True
    world.installer.runtime_restarted()
    world.step()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"requests": 100, "failures": 60, "frames": 40}, "unfit.errors"),
        ({"latency": {60: 1000}}, "unfit.latency"),
        ({"bins": (1000, 0, 0, 0)}, "unfit.outputs"),
    ],
)
def test_a_bundle_that_does_badly_goes_back_before_its_time_is_over(
    world: Any, bundle: Any, fault: Any, code: str
) -> None:
    one, two = on_probation(world, bundle)
    world.step(2)
    assert world.state().install is Install.PROBATION
    world.runtime.did[two.sha256] = did(two, **fault)
    world.step(2)
    state = world.state()
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, one.sha256, code)
    assert state.quarantined == (two.sha256,)
    assert world.runtime.serving == {"digits": one.sha256}
    assert ("rolled_back", "digits", 2, code) in world.events.kept
    world.check_end()


def test_a_bundle_that_nobody_asks_goes_back_by_the_time_of_its_golden_inputs(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    world.runtime.did[two.sha256] = Figures(digest=two.sha256, golden={60: 20}, budget_ms=20.0)
    world.steps(2, 2)
    state = world.state()
    assert (state.install, state.problem.code) == (Install.ROLLED_BACK, "unfit.latency")
    assert "20 of 20 frames took longer than 20 ms" in state.problem.message
    assert "budget of its manifest" in state.problem.message
    assert world.runtime.serving == {"digits": one.sha256}


def test_a_bundle_that_does_well_is_committed_in_time(world: Any, bundle: Any) -> None:
    _, two = on_probation(world, bundle)
    world.runtime.did[two.sha256] = did(two)
    world.steps(29, 2)
    assert world.state().install is Install.PROBATION
    world.steps(2, 2)
    assert (world.state().install, world.state().active) == (Install.COMMITTED, two.sha256)


def test_what_it_is_measured_by_outlives_a_restart_on_probation(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    world.runtime.did.pop(one.sha256)
    world.runtime.did[two.sha256] = did(two, latency={60: 1000})
    world.restart()
    world.steps(3, 2)
    assert (world.state().install, world.state().problem.code) == (Install.ROLLED_BACK, "unfit.latency")


def test_a_release_tried_again_is_measured_anew(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle, latency={20: 1000})
    world.runtime.did[two.sha256] = did(two, latency={60: 1000})
    world.steps(2, 2)
    assert world.state().install is Install.ROLLED_BACK
    world.runtime.did[one.sha256] = did(one, latency={59: 1000})
    world.installer.on_directive(world.envelope(3, two, deployment="de-3", pardoned=(two.sha256,)))
    assert world.settle().install is Install.COMMITTED


@pytest.mark.parametrize(
    ("hung_s", "deaths", "code"), [(0.0, 3, "unfit.crashes"), (5.4, 2, "unfit.hangs"), (20.6, 1, "unfit.hangs")]
)
def test_a_committed_bundle_that_ends_the_runtime_later_goes_back_alone(
    world: Any, bundle: Any, hung_s: float, deaths: int, code: str
) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for _ in range(deaths - 1):
        die(world, two, hung_s=hung_s)
        assert world.runtime.serving == {"digits": two.sha256}
    die(world, two, hung_s=hung_s)
    state = world.state()
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, one.sha256, code)
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.events.kinds() == ["committed", "committed", "rolled_back"]
    world.restart()
    world.steps(10, 10)
    assert world.runtime.serving == {"digits": one.sha256}, "it is not tried again"
    world.check_end()


def test_a_crash_loop_is_found_though_the_control_process_starts_again_each_time(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for number in range(3):
        assert world.runtime.serving == {"digits": two.sha256}, f"after {number} deaths"
        world.restart()
        die(world, two)
        world.step(5)
    assert (world.state().install, world.state().problem.code) == (Install.ROLLED_BACK, "unfit.crashes")
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.state().quarantined == (two.sha256,)
    world.restart()
    world.steps(3, 2)
    assert world.runtime.serving == {"digits": one.sha256}
    world.check_end()


def test_on_probation_restarts_of_the_control_process_count_besides(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    for _ in range(2):
        assert world.runtime.serving == {"digits": two.sha256}
        world.restart()
        die(world, two)
        world.step(5)
    assert world.state().install is Install.ROLLED_BACK
    assert world.runtime.serving == {"digits": one.sha256}
    assert world.state().quarantined == (two.sha256,)
    world.check_end()


def test_strikes_are_of_one_start_of_the_host_and_of_late(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    die(world, two)
    die(world, two)
    world.boot_id = "another start of the host"
    world.restart()
    die(world, two)
    die(world, two)
    assert world.runtime.serving == {"digits": two.sha256}, "times of another start mean nothing"
    world.step(700)
    world.restart()
    die(world, two)
    assert world.runtime.serving == {"digits": two.sha256}, "what is long ago counts no more"


def test_a_pardon_begins_at_nothing_after_a_restart_too(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for _ in range(3):
        die(world, two)
    assert world.runtime.serving == {"digits": one.sha256}
    world.installer.on_directive(world.envelope(3, two, deployment="de-3", pardoned=(two.sha256,)))
    world.settle()
    world.restart()
    die(world, two)
    assert world.runtime.serving == {"digits": two.sha256}


def test_a_bundle_on_probation_goes_back_at_its_third_crash(world: Any, bundle: Any) -> None:
    one, two = on_probation(world, bundle)
    for _ in range(3):
        die(world, two)
    assert (world.state().install, world.state().problem.code) == (Install.ROLLED_BACK, "unfit.crashes")
    assert world.runtime.serving == {"digits": one.sha256}


@pytest.mark.parametrize(("hung_s", "deaths"), [(5.4, 2), (20.6, 1)])
def test_a_bundle_that_hangs_on_probation_goes_back_sooner_than_one_that_crashes(
    world: Any, bundle: Any, hung_s: float, deaths: int
) -> None:
    one, two = on_probation(world, bundle)
    for _ in range(deaths):
        assert world.runtime.serving == {"digits": two.sha256}
        die(world, two, hung_s=hung_s)
    assert (world.state().install, world.state().problem.code) == (Install.ROLLED_BACK, "unfit.hangs")
    assert world.runtime.serving == {"digits": one.sha256}


def test_the_only_release_may_hang_as_often_as_it_may_crash(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    for _ in range(2):
        die(world, one, hung_s=20.6)
        assert world.runtime.serving == {"digits": one.sha256}
    die(world, one, hung_s=20.6)
    assert (world.runtime.serving, world.state().problem.code) == ({}, "unfit.nothing_left")


def test_a_runtime_that_is_killed_from_outside_condemns_nothing(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    for _ in range(10):
        die(world)
    assert (world.state().install, world.runtime.serving) == (Install.COMMITTED, {"digits": one.sha256})


def test_crashes_far_apart_condemn_nothing(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for _ in range(6):
        die(world, two)
        world.step(400)
    assert world.runtime.serving == {"digits": two.sha256}


def test_of_two_models_in_flight_the_newer_goes_back_and_the_other_serves_on(world: Any, bundle: Any) -> None:
    others = [bundle(release, model="faces") for release in (1, 2)]
    digits = bundle(1)
    world.pack("faces")
    world.install(1, digits)
    world.publish(*others)
    for seq, other in enumerate(others, 2):
        world.direct(seq, digits, other)
        world.settle()
    assert world.runtime.serving == {"digits": digits.sha256, "faces": others[1].sha256}
    for _ in range(3):
        die(world, digits, others[1])
    assert world.runtime.serving == {"digits": digits.sha256, "faces": others[0].sha256}
    assert world.state("digits").install is Install.COMMITTED
    assert world.state("faces").install is Install.ROLLED_BACK


def test_when_the_release_before_breaks_too_nothing_is_served_and_nothing_flaps(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for _ in range(3):
        die(world, two)
    for _ in range(3):
        assert world.runtime.serving == {"digits": one.sha256}
        die(world, one)
    state = world.state()
    assert (state.active, state.previous, state.problem.code) == (None, None, "unfit.nothing_left")
    assert set(state.quarantined) == {one.sha256, two.sha256}
    assert world.runtime.serving == {}
    assert world.events.kept[-1] == ("failed", "digits", 1, "unfit.nothing_left")
    activations = world.runtime.log.count(f"activate {one.sha256[:8]}")
    world.restart()
    world.installer.runtime_restarted()
    world.steps(20, 30)
    assert world.runtime.serving == {}
    assert world.runtime.log.count(f"activate {one.sha256[:8]}") == activations
    world.check_end()
    three = bundle(3)
    assert world.install(3, three).active == three.sha256, "until a sound release comes"


def test_the_only_release_that_breaks_is_not_served_until_it_is_pardoned(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    for _ in range(3):
        die(world, one)
    state = world.state()
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, None, "unfit.nothing_left")
    assert world.runtime.serving == {}
    world.installer.on_directive(world.envelope(2, one, deployment="de-2", pardoned=(one.sha256,)))
    assert world.settle().active == one.sha256


def test_a_champion_that_breaks_while_another_release_comes_goes_back_and_the_other_goes_on(
    world: Any, bundle: Any
) -> None:
    one, two, three = bundle(1), bundle(2), bundle(3)
    world.install(1, one)
    world.install(2, two)
    lost = set(world.broker.chunks)
    world.publish(three)
    world.broker.lost = set(world.broker.chunks) - lost
    world.direct(3, three)
    world.steps(3)
    assert not world.state().install.is_final
    for _ in range(3):
        die(world, two)
    assert world.runtime.serving == {"digits": one.sha256}
    assert two.sha256 in world.state().quarantined
    world.broker.lost.clear()
    assert world.settle().active == three.sha256


def test_the_way_back_waits_for_a_runtime_that_is_away(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    for _ in range(2):
        die(world, two)
    world.runtime.activate_faults[one.sha256] = RuntimeCrashed("it is being started")
    die(world, two)
    assert (world.state().install, world.state().active) == (Install.ROLLING_BACK, one.sha256)
    world.runtime.activate_faults.clear()
    world.steps(3, 5)
    assert (world.state().install, world.runtime.serving) == (Install.ROLLED_BACK, {"digits": one.sha256})


def test_a_kill_of_the_control_process_at_any_moment_of_the_way_back_does_no_harm(
    new_world: Any, bundle: Any, crash: Any
) -> None:
    one, two = bundle(1), bundle(2)
    for at in range(1, 200):
        world = new_world()
        world.install(1, one)
        world.install(2, two)
        for _ in range(2):
            die(world, two)
        world.fuse.count, world.fuse.at = 0, at
        try:
            die(world, two)
            is_over = True
        except crash:
            is_over = False
        world.fuse.at = 0
        if is_over:
            assert at > 3
            break
        world.runtime.alive = True
        world.restart()
        for _ in range(3):
            if world.runtime.serving.get("digits") == two.sha256:
                die(world, two)
        world.steps(10, 10)
        assert world.runtime.serving == {"digits": one.sha256}
        world.check_end()


def long_on_probation(world: Any, bundle: Any) -> tuple[Any, Any]:
    """Bring release 2 to a probation of six hours, release 1 before it."""
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.config = replace(world.config, probation_s=6 * 3600.0)
    world.restart()
    world.publish(two)
    world.direct(2, two)
    world.pack()
    world.steps(20)
    assert (world.state().install, world.runtime.serving) == (Install.PROBATION, {"digits": two.sha256})
    return one, two


@pytest.mark.parametrize("is_restarted", [False, True], ids=["one start", "killed each time"])
def test_a_bundle_that_ends_the_process_now_and_then_does_not_pass_a_long_probation(
    world: Any, bundle: Any, is_restarted: bool
) -> None:
    one, two = long_on_probation(world, bundle)
    for number in range(3):
        assert world.runtime.serving == {"digits": two.sha256}, f"after {number} deaths"
        world.step(660)
        if is_restarted:
            world.boot_id = f"start {number} of the host"
            world.restart()
        die(world, two)
    state = world.state()
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, one.sha256, "unfit.crashes")
    assert "3 times on probation" in state.problem.message
    assert world.runtime.serving == {"digits": one.sha256}
    world.check_end()


def test_deaths_on_probation_do_not_count_after_the_commit(world: Any, bundle: Any) -> None:
    _, two = long_on_probation(world, bundle)
    for _ in range(2):
        world.step(660)
        die(world, two)
    world.steps(50, 500)
    assert world.state().install is Install.COMMITTED
    for _ in range(4):
        die(world, two)
        world.step(660)
    assert world.runtime.serving == {"digits": two.sha256}, "a release in service keeps the span of a strike"


def test_deaths_of_another_trial_do_not_count(world: Any, bundle: Any) -> None:
    one, two = long_on_probation(world, bundle)
    for _ in range(2):
        world.step(660)
        die(world, two)
    world.direct(3, one)
    world.steps(5)
    assert world.runtime.serving == {"digits": one.sha256}
    world.direct(4, two)
    world.steps(20)
    for _ in range(2):
        assert (world.state().install, world.runtime.serving) == (Install.PROBATION, {"digits": two.sha256})
        world.step(660)
        die(world, two)
    assert world.runtime.serving == {"digits": two.sha256}


def test_a_kill_of_the_control_process_at_any_moment_of_a_death_on_probation_forgets_none_before(
    new_world: Any, bundle: Any, crash: Any
) -> None:
    one, two = bundle(1), bundle(2)
    for at in range(1, 200):
        world = new_world()
        long_on_probation(world, bundle)
        for _ in range(2):
            world.step(660)
            die(world, two)
        world.step(660)
        world.fuse.count, world.fuse.at = 0, at
        try:
            die(world, two)
            is_over = True
        except crash:
            is_over = False
        world.fuse.at = 0
        if not is_over:
            world.runtime.alive = True
            world.restart()
            world.check_invariants()
            world.step(660)
            if world.runtime.serving.get("digits") == two.sha256:  # killed before the death was taken back with
                die(world, two)
            world.steps(3, 10)
        assert world.runtime.serving == {"digits": one.sha256}, f"killed at {at}"
        assert two.sha256 in world.state().quarantined
        world.check_end()
        if is_over:
            assert at > 3
            break
