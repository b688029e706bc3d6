"""The disk or the journal fails for a moment, or for long, while a bundle is changed over: no bundle is blamed."""

import errno
from typing import Any

import pytest

from dsops.errors import (
    DigestMismatch,
    DsopsError,
    GoldenMismatch,
    MalformedBundle,
    NoSpace,
    RuntimeBusy,
    StateDamaged,
    UnreadableBundle,
)
from dsops.states import Install
from dsops_agent.install.slots import Slots


class FailingLink(Slots):
    """Slots whose link to one slot cannot be flipped so many times."""

    faults: int = 0
    target: str = "b"

    def activate(self, model: str, name: str) -> None:
        if self.faults and name == self.target:
            self.faults -= 1
            raise NoSpace(f"cannot flip the active slot of {model}", why="No space left on device")
        super().activate(model, name)


@pytest.fixture
def device(new_world: Any, bundle: Any) -> Any:
    """A device that runs release 1 from slot a."""
    world = new_world()
    world.journal.close()
    world.slots_class = FailingLink
    world.boot()
    world.installer.recover()
    world.install(1, bundle(1))
    return world


@pytest.mark.parametrize("faults", [1, 3])
def test_a_change_over_waits_for_the_disk(device: Any, bundle: Any, faults: int) -> None:
    device.slots.faults = faults
    assert device.install(2, bundle(2)).install is Install.COMMITTED
    device.check_end()


def test_a_disk_that_stays_full_undoes_the_install_and_condemns_nothing(device: Any, bundle: Any) -> None:
    device.slots.faults = 99
    state = device.install(2, bundle(2))
    assert (state.install, state.active) == (Install.ROLLED_BACK, bundle(1).sha256)
    assert state.problem.code == NoSpace.code
    assert device.journal.quarantined(bundle(2).sha256) is None
    assert device.events.kinds() == ["committed", "rolled_back"]
    device.slots.faults = 0
    assert device.install(3, bundle(2)).install is Install.COMMITTED
    device.check_end()


@pytest.mark.parametrize("faults", [1, 3])
def test_a_rollback_waits_for_the_disk_and_the_release_before_answers_meanwhile(
    device: Any, bundle: Any, faults: int
) -> None:
    one, two = bundle(1), bundle(2)
    device.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
    device.slots.faults, device.slots.target = faults, "a"
    device.publish(two)
    device.direct(2, two)
    device.pack()
    while device.slots.faults == faults:
        device.step(1)
    assert device.state().install is Install.ROLLING_BACK
    assert device.runtime.serving == {one.model: one.sha256}
    state = device.settle()
    assert (state.install, state.active) == (Install.ROLLED_BACK, one.sha256)
    device.check_end()


def test_an_install_whose_first_row_could_not_be_kept_begins_later(device: Any, bundle: Any) -> None:
    accepted = []

    def fail_after_the_directive(moment: str) -> None:
        if moment == "before" and accepted and len(accepted) < 3:
            accepted.append(moment)
            raise StateDamaged("cannot use the journal", why="disk I/O error")
        if moment == "after" and device.journal.seq() == 2 and not accepted:
            accepted.append(moment)

    device.journal._hook = fail_after_the_directive
    assert device.install(2, bundle(2)).deployment == "de-1"
    device.steps(10, 10)
    assert len(accepted) == 3
    state = device.settle()
    assert (state.install, state.active, state.deployment) == (Install.COMMITTED, bundle(2).sha256, "de-2")
    device.check_end()


def test_a_directive_counts_although_the_refusal_before_it_cannot_be_cleared(device: Any, bundle: Any) -> None:
    device.installer.on_directive(b"{}")
    device.steps(2)
    assert device.installer.refused() is not None
    moments = []

    def fail_after_the_directive(moment: str) -> None:
        if moment == "before" and moments == ["accepted"]:
            moments.append("failed")
            raise StateDamaged("cannot use the journal", why="disk I/O error")
        if moment == "after" and device.journal.seq() == 2 and not moments:
            moments.append("accepted")

    device.journal._hook = fail_after_the_directive
    assert device.install(2, bundle(2)).deployment == "de-2"
    assert moments == ["accepted", "failed"]
    assert device.state().active == bundle(2).sha256
    device.check_end()


class BlindLink(Slots):
    """Slots of which the disk does not tell, the ``blind``-th time that it is asked, which one is active."""

    asked: int = 0
    blind: int = 0

    def active_name(self, model: str) -> str:
        self.asked += 1
        if self.asked == self.blind:
            raise StateDamaged(f"cannot read which slot of {model} is active", why="Input/output error")
        return super().active_name(model)


@pytest.mark.slow
def test_an_install_ends_whenever_the_disk_does_not_tell_for_a_moment_what_is_active(
    new_world: Any, bundle: Any
) -> None:
    def ready() -> Any:
        world = new_world()
        world.journal.close()
        world.slots_class = BlindLink
        world.boot()
        world.installer.recover()
        world.install(1, bundle(1))
        world.slots.asked = 0
        return world

    calm = ready()
    calm.install(2, bundle(2))
    assert calm.slots.asked > 20
    for at in range(1, calm.slots.asked + 1):
        world = ready()
        world.slots.blind = at
        state = world.install(2, bundle(2))
        world.steps(10, 10)
        assert (state.install, world.state().active) == (Install.COMMITTED, bundle(2).sha256), at
        world.restart()  # tidies what could not be tidied
        world.check_end()
        world.journal.close()


class BlindOnce(Slots):
    """Slots of which the disk does not tell which one is active just when a probation has begun."""

    blind: bool = False

    def active_name(self, model: str) -> str:
        if self.blind and self._table.installs()[model].state is Install.PROBATION:  # type: ignore[attr-defined]
            self.blind = False
            raise StateDamaged(f"cannot read which slot of {model} is active", why="Input/output error")
        return super().active_name(model)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_probation_whose_beginning_the_disk_disturbs_is_as_long_as_any(
    new_world: Any, bundle: Any, is_restarted: bool
) -> None:
    world = new_world()
    world.journal.close()
    world.slots_class = BlindOnce
    world.boot()
    world.installer.recover()
    world.install(1, bundle(1))
    if is_restarted:
        world.restart()
    two = bundle(2)
    world.slots.blind = True
    world.publish(two)
    world.direct(2, two)
    world.pack()
    world.steps(20)
    assert not world.slots.blind
    for _ in range(12):
        assert world.state().install in (Install.ACTIVATING, Install.PROBATION)
        world.step(5)
    assert world.settle().active == two.sha256
    world.check_end()


@pytest.mark.parametrize(("faults", "end"), [(2, Install.COMMITTED), (9, Install.REJECTED)])
def test_a_candidate_that_cannot_be_read_is_proved_again_and_never_condemned(
    device: Any, bundle: Any, faults: int, end: Install
) -> None:
    two, left = bundle(2), [UnreadableBundle("cannot read bundle bundle", why="Input/output error")] * faults
    prove = device.runtime.prove

    def fail(*arguments: Any) -> None:
        if left:
            raise left.pop()
        prove(*arguments)

    device.runtime.prove = fail
    state = device.install(2, two)
    assert state.install is end
    assert device.journal.quarantined(two.sha256) is None
    assert end is Install.COMMITTED or state.problem.code == StateDamaged.code
    device.runtime.prove = prove
    assert device.install(3, two).install is Install.COMMITTED


@pytest.mark.parametrize("which", [1, 2])
def test_a_bundle_that_cannot_be_read_for_a_moment_is_activated_later(device: Any, bundle: Any, which: int) -> None:
    """Whether it is the new one, or the one before that answers in its place."""
    one, two = bundle(1), bundle(2)
    left = [UnreadableBundle("cannot read bundle bundle", why="Input/output error")] * 2
    activate, digest = device.runtime.activate, bundle(which).sha256

    def fail(model: str, path: Any, wanted: str, *others: Any) -> None:
        if left and wanted == digest:
            raise left.pop()
        activate(model, path, wanted, *others)

    device.runtime.activate = fail
    if which == 1:
        device.runtime.check_faults[two.sha256] = GoldenMismatch("it answers something else")
    state = device.install(2, two)
    assert not left
    assert (state.install, state.active) == (
        (Install.COMMITTED, two.sha256) if which == 2 else (Install.ROLLED_BACK, one.sha256)
    )
    assert bool(device.journal.quarantined(two.sha256)) is (which == 1)
    device.check_end()


class FailingStick(set[str]):
    """A medium that fails so many times when it is asked whether a bundle lies on it."""

    faults: int = 0

    def __contains__(self, sha256: object) -> bool:
        self.faults -= 1
        if self.faults >= 0:
            raise OSError(errno.EIO, "Input/output error")
        return super().__contains__(sha256)


def test_a_medium_that_fails_while_a_transfer_begins_keeps_nothing_from_coming(device: Any, bundle: Any) -> None:
    two, other = bundle(2, tuned_from=1), bundle(1, model="words")
    device.at_hand = FailingStick()
    device.restart()
    device.offer(bundle(1), two)
    device.publish(two, other)
    device.at_hand.faults = 1
    device.direct(2, two, other)
    device.pack()
    device.pack("words")
    device.settle()
    assert device.at_hand.faults < 0, "it was asked, and failed"
    states = device.installer.observed()
    assert {model: state.install for model, state in states.items()} == {
        "digits": Install.COMMITTED,
        "words": Install.COMMITTED,
    }
    device.check_end()


@pytest.mark.parametrize("nth", [1, 3])
def test_a_source_that_fails_in_a_way_nobody_thought_of_costs_a_pause(
    device: Any, bundle: Any, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = bundle(2, size=20_000)
    request, asked = device.broker.request, []

    def fail_once(chunk: Any) -> None:
        asked.append(chunk)
        if chunk.file and sum(bool(one.file) for one in asked) == nth:
            raise OSError(errno.EIO, "Input/output error")
        request(chunk)

    monkeypatch.setattr(device.broker, "request", fail_once)
    device.publish(two)
    device.direct(2, two)
    device.pack()
    device.steps(20)
    assert device.state().install is Install.FETCHING
    assert len(asked) < 40, "it is not asked again and again at once"
    assert device.settle().active == two.sha256
    device.check_end()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (DigestMismatch("blob golden.bin is not what its manifest names"), StateDamaged.code),
        (MalformedBundle("cannot read bundle", why="Input/output error"), StateDamaged.code),
        (RuntimeBusy("the golden inputs were not answered in time"), RuntimeBusy.code),
    ],
)
def test_golden_inputs_that_cannot_be_read_or_asked_on_probation_condemn_nothing(
    device: Any, bundle: Any, fault: DsopsError, code: str
) -> None:
    one, two = bundle(1), bundle(2)
    device.runtime.check_faults[two.sha256] = fault
    state = device.install(2, two)
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, one.sha256, code)
    assert device.journal.quarantined(two.sha256) is None
    del device.runtime.check_faults[two.sha256]
    assert device.install(3, two).install is Install.COMMITTED
    device.check_end()


def test_a_proved_bundle_that_is_found_damaged_when_it_is_activated_is_not_condemned(device: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    device.runtime.activate_faults[two.sha256] = DigestMismatch("the payload is damaged")
    state = device.install(2, two)
    assert (state.install, state.active, state.problem.code) == (Install.ROLLED_BACK, one.sha256, StateDamaged.code)
    assert device.journal.quarantined(two.sha256) is None
