"""Stored bundles are read again now and then; what is damaged is given up, or replaced, before it is needed."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import utc_text
from dsops.errors import DsopsError, GoldenMismatch, StateDamaged
from dsops.states import Install
from dsops_agent.install.slots import Slots

DAY_S = 24 * 3600.0


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scrub(world: Any) -> None:
    """Let a day pass, and a round with it."""
    before = world.installer.scrubbed()
    world.step(DAY_S)
    for _ in range(100):
        world.step(1)
        if world.installer.scrubbed() != before:
            return
    raise AssertionError("the round does not end")


def two_releases(world: Any, bundle: Any) -> tuple[Any, Any]:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    return one, two


def test_whole_bundles_are_left_alone(world: Any, bundle: Any) -> None:
    one, two = two_releases(world, bundle)
    events, log = list(world.events.kept), list(world.runtime.log)
    scrub(world)
    state = world.state()
    assert (state.active, state.previous) == (two.sha256, one.sha256)
    assert (world.events.kept, world.runtime.log) == (events, log)


def test_a_damaged_previous_bundle_is_no_way_back_any_more(world: Any, bundle: Any) -> None:
    _, two = two_releases(world, bundle)
    spoil(world.slots.previous("digits").path)
    scrub(world)
    state = world.state()
    assert (state.active, state.previous, state.install) == (two.sha256, None, Install.COMMITTED)
    assert world.events.kept[-1] == ("slot_damaged", "digits", 1, "bundle.digest_mismatch")
    world.check_end()


def test_a_damaged_active_bundle_falls_back_and_is_fetched_again(world: Any, bundle: Any) -> None:
    one, two = two_releases(world, bundle)
    spoil(world.slots.active("digits").path)
    asked = len(world.broker.asked)
    world.broker.lost = set(world.broker.chunks)
    scrub(world)
    assert world.state().active == one.sha256
    assert world.runtime.serving["digits"] == one.sha256
    assert "slot_damaged" in world.events.kinds()
    world.broker.lost.clear()
    state = world.settle()
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, two.sha256, one.sha256)
    assert len(world.broker.asked) > asked
    world.check_end()


def test_a_damaged_only_bundle_answers_on_until_it_is_fetched_again(world: Any, bundle: Any) -> None:
    one = bundle(1)
    world.install(1, one)
    world.slots.active("digits").path.unlink()
    scrub(world)
    assert world.runtime.serving["digits"] == one.sha256
    assert world.settle().active == one.sha256
    assert "deactivate digits" not in world.runtime.log
    world.check_end()


def test_a_model_that_nobody_wants_falls_back_too(world: Any, bundle: Any) -> None:
    one, _ = two_releases(world, bundle)
    world.direct(3)
    world.step()
    spoil(world.slots.active("digits").path)
    scrub(world)
    world.steps(20, 5)
    assert world.state().active == one.sha256
    world.check_end()


def test_the_time_of_the_last_round_survives_a_restart(world: Any, bundle: Any) -> None:
    world.install(1, bundle(1))
    scrub(world)
    last = world.installer.scrubbed()
    world.restart()
    assert world.installer.scrubbed() == last
    spoil(world.slots.active("digits").path)
    world.steps(100, 60)
    assert world.installer.scrubbed() == last, "a restart begins no round"
    world.journal.set("scrubbed", utc_text(world.clock.now().replace(year=2030)))
    world.steps(30, 60)
    assert world.installer.scrubbed() < world.clock.now(), "a time that lies ahead holds no round up"


def test_files_of_a_whole_bundle_that_changed_on_disk_are_written_again(world: Any, bundle: Any) -> None:
    one, two = two_releases(world, bundle)
    active = world.slots.files("digits") / "camera.toml"
    previous = world.slots.previous("digits").path.parent / "files" / "camera.toml"
    for path in (active, previous):
        path.write_bytes(b"release = 7")
    scrub(world)
    assert (active.read_bytes(), previous.read_bytes()) == (b"release = 2", b"release = 1")
    state = world.state()
    assert (state.active, state.previous) == (two.sha256, one.sha256)
    assert world.events.kinds().count("slot_damaged") == 1, "of the files that programs read"
    world.check_end()


def test_a_host_that_can_open_no_file_for_a_moment_gives_no_bundle_up(world: Any, bundle: Any) -> None:
    one, two = two_releases(world, bundle)
    scrub(world)
    before, kinds = world.installer.scrubbed(), world.events.kinds()
    world.step(DAY_S)
    for _ in range(2):  # in the middle of a file, and at the beginning of a round
        with no_descriptors():
            world.clock.advance(61)
            with pytest.raises(DsopsError, match="Too many open files"):
                world.installer._scrub.turn()
    world.steps(300, 1)
    assert (world.state().active, world.state().previous) == (two.sha256, one.sha256)
    assert world.events.kinds() == kinds
    assert world.installer.scrubbed() > before, "the round was made from its beginning"


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slots_are_not_read_while_they_change(world: Any, bundle: Any) -> None:
    world.install(1, bundle(1))
    two = bundle(2)
    world.publish(two)
    world.direct(2, two)
    world.steps(20)
    assert world.state().install is Install.PROBATION
    spoil(world.slots.previous("digits").path)
    assert world.installer._installs.is_changing("digits")
    kinds = world.events.kinds()
    world.journal.set("scrubbed", "2020-01-01T00:00:00.000Z")
    world.steps(50, 1)
    assert world.events.kinds() == kinds


def test_a_candidate_makes_room_for_another_model_when_the_disk_is_short(world: Any, bundle: Any) -> None:
    one, two, other = bundle(1), bundle(2), bundle(1, model="words")
    world.install(1, one)
    world.runtime.prove_faults[two.sha256] = GoldenMismatch("no")
    world.install(2, two)
    left = world.folder / "slots" / "digits" / "b"
    assert (left / "bundle").exists(), "what failed is kept as long as there is room: it may be pardoned"

    def free(_folder: Path) -> int:
        return 0 if left.exists() else 10**9

    world.slots._free_bytes = free
    world.publish(other)
    world.direct(3, one, other)
    world.pack("words")
    world.settle()
    assert not left.exists()
    assert world.state().active == one.sha256
    assert world.state("words").active == other.sha256
    world.check_end()


def test_a_damaged_bundle_that_was_given_up_makes_room(world: Any, bundle: Any) -> None:
    _, two = two_releases(world, bundle)
    spoil(world.slots.previous("digits").path)
    scrub(world)
    left = world.folder / "slots" / "digits" / "a"
    assert (left / "bundle").exists()

    def free(_folder: Path) -> int:
        return 0 if left.exists() else 10**9

    world.slots._free_bytes = free
    three = bundle(3)
    state = world.install(3, three)
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, three.sha256, two.sha256)
    world.check_end()


class FailingFlip(Slots):
    """Slots whose link cannot be flipped so many times."""

    faults: int = 0

    def activate(self, model: str, name: str) -> None:
        if self.faults:
            self.faults -= 1
            raise StateDamaged(f"cannot flip the active slot of {model}", why="Input/output error")
        super().activate(model, name)


def test_damage_is_dealt_with_later_when_the_disk_does_not_take_the_way_back(new_world: Any, bundle: Any) -> None:
    world = new_world()
    world.journal.close()
    world.slots_class = FailingFlip
    world.boot()
    world.installer.recover()
    one, _ = two_releases(world, bundle)
    spoil(world.slots.active("digits").path)
    world.broker.lost = set(world.broker.chunks)
    world.slots.faults = 2
    world.step(DAY_S)
    world.steps(20, 30)
    assert (world.slots.faults, world.state().active) == (0, one.sha256)
    assert world.runtime.is_serving("digits", one.sha256)
    assert world.events.kinds().count("slot_damaged") == 1


def test_a_disk_that_does_not_take_the_date_is_not_read_without_a_pause(world: Any, bundle: Any) -> None:
    two_releases(world, bundle)
    before, failed = world.installer.scrubbed(), []

    def fail(moment: str) -> None:
        if moment == "before":
            failed.append(world.clock.monotonic_s())
            raise StateDamaged("cannot use the journal", why="disk I/O error")

    world.journal._hook = fail
    world.step(DAY_S)
    world.steps(600, 0.5)
    assert 2 <= len(failed) <= 6
    assert world.installer.scrubbed() == before
