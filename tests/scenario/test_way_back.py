"""What never passed its probation is not what a device is left with: whatever keeps the way back, it is gone later."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dsops.errors import GoldenMismatch, NoSpace, StateDamaged
from dsops.manifest import Compatibility
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.ports import Death, Suspect
from dsops_agent.install.slots import Slots


class StuckLink(Slots):
    """Slots whose link the disk does not let be flipped to the slots in ``stuck``."""

    stuck: frozenset[str] = frozenset()

    def activate(self, model: str, name: str) -> None:
        if name in self.stuck and self.active_name(model) != name:
            raise NoSpace(f"cannot flip the active slot of {model}", why="No space left on device")
        super().activate(model, name)


@pytest.fixture
def device(new_world: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A device that runs release 1 from slot a, after whose installs no way leads back there."""
    world = new_world()
    world.journal.close()
    world.slots_class = StuckLink
    world.boot()
    world.installer.recover()
    world.install(1, bundle(1))
    monkeypatch.setattr(StuckLink, "stuck", frozenset({"a"}))
    return world


def fail(device: Any, bundle: Any) -> None:
    """Let release 2 fail its probation while the disk does not take the way back."""
    one, two = bundle(1), bundle(2)
    device.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
    assert device.install(2, two).install is Install.FAILED
    assert device.runtime.serving == {"digits": one.sha256}, "the release before answers all the same"
    assert device.journal.quarantined(two.sha256)


def test_a_way_back_that_the_disk_did_not_take_is_gone_once_it_does(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(device, bundle)
    device.runtime.log.clear()
    device.steps(60, 10)
    assert device.state().active == bundle(2).sha256, "the link still names it"
    assert 1 <= len(device.runtime.log) <= 4, "whole bundles are not read again and again"
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    device.steps(40, 10)
    state = device.state()
    assert (state.install, state.active) == (Install.FAILED, bundle(1).sha256)
    device.check_end()


def test_a_start_serves_the_release_before_and_not_the_condemned_one(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(device, bundle)
    for stuck in (frozenset({"a"}), frozenset[str]()):
        monkeypatch.setattr(StuckLink, "stuck", stuck)
        device.runtime.serving.clear()
        device.runtime.log.clear()
        device.restart()
        assert device.runtime.serving == {"digits": bundle(1).sha256}
        assert f"activate {bundle(2).sha256[:8]}" not in device.runtime.log
    assert device.state().active == bundle(1).sha256
    device.check_end()


def test_another_install_does_not_take_the_slot_of_the_release_that_answers(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(device, bundle)
    three = bundle(3)
    device.publish(three)
    device.direct(3, three)
    device.steps(60, 5)
    state = device.state()
    assert (state.install, state.problem.code) == (Install.FETCHING, NoSpace.code)
    assert device.slots.holding("digits", bundle(1).sha256) is not None
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    state = device.settle(20)
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, three.sha256, bundle(1).sha256)
    device.check_end()


@pytest.mark.parametrize("releases", [1, 2])
def test_a_kill_between_the_quarantine_of_a_committed_bundle_and_the_way_back(
    world: Any, bundle: Any, releases: int
) -> None:
    made = [bundle(release) for release in range(1, releases + 1)]
    for seq, one in enumerate(made, 1):
        world.install(seq, one)
    guilty, before = made[-1].sha256, made[0].sha256 if releases > 1 else None
    with world.journal.transaction():  # as when it ended the inference process too often
        world.journal.quarantine("digits", guilty, Problem(code="unfit.crashes"))
        world.slots.discredit("digits", guilty)
    world.runtime.log.clear()
    world.restart()
    assert world.state().active == world.runtime.serving.get("digits") == before
    assert f"activate {guilty[:8]}" not in world.runtime.log


def test_the_way_back_from_a_committed_bundle_that_breaks_down_is_gone_once_the_disk_takes_it(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = bundle(1), bundle(2)
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    device.install(2, two)
    unfit = bundle(3, compatibility=Compatibility(min_litert="99"))
    assert device.install(3, unfit).install is Install.REJECTED  # the newest install is about another bundle
    monkeypatch.setattr(StuckLink, "stuck", frozenset({"a"}))
    for _ in range(3):
        device.installer.runtime_died(Death("it crashed", (Suspect("digits", two.sha256),)))
        device.step(1)
    assert device.journal.quarantined(two.sha256)
    assert device.runtime.serving == {"digits": one.sha256}
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    device.steps(10, 2)
    assert device.state().active == one.sha256
    device.check_end()


def test_a_disk_that_does_not_take_the_way_back_keeps_no_other_model_from_answering(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The active bundle of one model is damaged, the one before sound, and the disk full: all of it at a start."""
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    two, other = bundle(2), bundle(1, model="words")
    device.install(2, two)
    device.publish(other)
    device.direct(3, two, other)
    device.pack("words")
    device.settle()
    path = device.slots.active("digits").path
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(StuckLink, "stuck", frozenset({"a"}))
    device.broker.lost = set(device.broker.chunks)
    device.runtime.serving.clear()
    device.restart()
    assert device.runtime.serving == {"digits": bundle(1).sha256, "words": other.sha256}
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    device.steps(40, 10)
    assert device.state().active == bundle(1).sha256
    assert device.events.kinds().count("slot_damaged") == 1
    device.broker.lost.clear()
    assert device.settle().active == two.sha256
    device.check_end()


def test_a_disk_that_never_keeps_a_whole_file_is_tried_ever_more_seldom(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def stage(_slots: Any, _model: str, _row: Any, _source: Path) -> None:
        tried.append(device.clock.monotonic_s())
        raise StateDamaged("cannot stage the release", why="Input/output error")

    monkeypatch.setattr(StuckLink, "stage", stage, raising=False)
    two = bundle(2)
    device.publish(two)
    device.direct(2, two)
    device.pack()
    device.steps(400, 1)
    pauses = [later - before for before, later in pairwise(tried)]
    assert len(pauses) > 3
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_what_was_left_without_a_way_back_is_proved_again_when_it_is_pardoned(
    device: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link is still there; what is committed answers, and has passed its proof and its probation."""
    fail(device, bundle)
    two = bundle(2)
    assert device.state().active == two.sha256, "the link still names it"
    device.runtime.check_faults.clear()
    device.runtime.log.clear()
    monkeypatch.setattr(StuckLink, "stuck", frozenset())
    device.installer.on_directive(device.envelope(3, two, deployment="de-3", pardoned=(two.sha256,)))
    assert device.settle().install is Install.COMMITTED
    assert device.runtime.serving == {"digits": two.sha256}
    assert f"prove {two.sha256[:8]}" in device.runtime.log
    device.check_end()


def test_a_first_release_that_failed_answers_no_more_though_the_disk_keeps_its_link(
    new_world: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world()
    one = bundle(1)
    world.runtime.check_faults[one.sha256] = GoldenMismatch("it answers something else")

    def deactivate(_slots: Any, model: str) -> None:
        raise StateDamaged(f"cannot deactivate {model}", why="Input/output error")

    monkeypatch.setattr(Slots, "deactivate", deactivate)
    assert world.install(1, one).install is Install.FAILED
    assert world.runtime.serving == {}
