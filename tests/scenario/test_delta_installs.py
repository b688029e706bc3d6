"""A device that has a release gets the next one by a delta; whatever is wrong with that, it gets it all the same."""

import hashlib
from typing import Any

import pytest

from dsops.bundle import sha256_hex
from dsops.chunks import index_of, split
from dsops.errors import DeltaFailed
from dsops.needs import Needs
from dsops.states import Install
from dsops_agent.install import delivery, rebuild
from dsops_agent.install.delivery import held_bytes

SIZE = 40_000
SMALL = 8_000
CHUNK_BYTES = 512
EVENT = ("delta_failed", "digits", 2, DeltaFailed.code)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bundle be made in several slices, and a delta be made of several blocks."""
    monkeypatch.setattr(rebuild.Rebuild.go_on, "__defaults__", (10_000,))
    monkeypatch.setattr("dsops.delta.BLOCK_BYTES", 4096)


@pytest.fixture
def old(bundle: Any) -> Any:
    return bundle(1, size=SIZE)


@pytest.fixture
def new(bundle: Any) -> Any:
    return bundle(2, size=SIZE, tuned_from=1)


def chunks_of(data: bytes) -> set[str]:
    return {hashlib.sha256(piece).hexdigest() for piece in split(data, CHUNK_BYTES)}


@pytest.fixture
def ready(world: Any, old: Any, new: Any) -> Any:
    """The device runs release 1; the broker has release 2."""
    world.install(1, old)
    world.publish(new)
    world.broker.asked.clear()
    return world


def play(world: Any, new: Any) -> Any:
    world.direct(2, new)
    world.pack()
    return world.settle()


def staging(world: Any) -> list[str]:
    return sorted(path.name for path in (world.folder / "staging").iterdir())


def check_installed(world: Any, new: Any, *, by_delta: bool) -> None:
    state = world.state()
    assert (state.install, state.active) == (Install.COMMITTED, new.sha256)
    assert staging(world) == []
    assert bool(chunks_of(new.data) & set(world.broker.asked)) is not by_delta
    world.check_end()


def test_the_next_release_comes_as_a_delta(ready: Any, old: Any, new: Any) -> None:
    delta = ready.offer(old, new)
    assert len(delta) < 0.2 * len(new.data)
    play(ready, new)
    check_installed(ready, new, by_delta=True)
    assert EVENT not in ready.events.kept
    assert set(ready.broker.asked) == chunks_of(delta) | {ready.offers[new.sha256].index, sha256_hex(new.needs)}


def test_progress_rises_while_a_delta_is_fetched_and_applied(ready: Any, old: Any, new: Any) -> None:
    ready.offer(old, new)
    ready.direct(2, new)
    ready.pack()
    seen = [0.0]
    while ready.state().install is not Install.PROBATION:
        ready.step()
        if ready.state().install is Install.FETCHING:
            seen.append(ready.state().progress)
    assert seen == sorted(seen)
    assert len({value for value in seen if 0 < value < 0.9}) >= 2
    assert len({value for value in seen if 0.9 < value < 1}) >= 2


def test_one_that_saves_too_little_is_left_alone(ready: Any, old: Any, bundle: Any) -> None:
    other = bundle(2, size=SIZE)
    ready.publish(other)
    delta = ready.offer(old, other)
    assert len(delta) > 0.6 * len(other.data)
    play(ready, other)
    check_installed(ready, other, by_delta=False)
    assert not chunks_of(delta) & set(ready.broker.asked)
    assert EVENT not in ready.events.kept


def test_what_is_there_of_the_bundle_counts(ready: Any, old: Any, new: Any) -> None:
    """Most of the bundle came before the delta was offered: what is missing is less than the delta."""
    delta = ready.offer(old, new)
    index = index_of(new.data, CHUNK_BYTES)
    folder = ready.folder / "staging"
    (folder / f"{new.sha256}.index").write_bytes(index.encode())
    (folder / f"{new.sha256}.part").write_bytes(new.data[: len(new.data) - len(delta)] + bytes(len(delta)))
    assert held_bytes(folder, new.sha256, index.digest) > len(new.data) - 2 * len(delta)
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert not chunks_of(delta) & set(ready.broker.asked)


def test_a_bundle_that_lies_on_the_device_needs_no_delta(ready: Any, old: Any, new: Any) -> None:
    delta = ready.offer(old, new)
    ready.at_hand.add(new.sha256)
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert EVENT not in ready.events.kept
    assert not chunks_of(delta) & set(ready.broker.asked)


def test_a_base_that_is_not_installed_is_passed_over(ready: Any, new: Any, bundle: Any) -> None:
    ready.offer(bundle(3, size=SIZE, tuned_from=1), new)
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert ready.events.kept.count(EVENT) == 1


def test_a_damaged_base_is_noticed_before_a_byte_is_fetched(ready: Any, old: Any, new: Any) -> None:
    delta = ready.offer(old, new)
    path = ready.slots.active("digits").path
    path.write_bytes(old.data[:-1] + b"?")
    play(ready, new)
    assert not chunks_of(delta) & set(ready.broker.asked)
    assert ready.state().active == new.sha256
    assert ready.events.kept.count(EVENT) == 1


def test_a_base_that_is_damaged_meanwhile_is_noticed_at_the_end(ready: Any, old: Any, new: Any) -> None:
    ready.offer(old, new)
    ready.direct(2, new)
    ready.pack()
    ready.steps(3)
    path = ready.slots.active("digits").path
    path.write_bytes(old.data[:9000] + b"?" + old.data[9001:])
    ready.settle()
    assert ready.state().active == new.sha256
    assert ready.events.kept.count(EVENT) == 1
    assert chunks_of(new.data) & set(ready.broker.asked)


LIES = {
    "garbage": lambda good, new: b"no delta at all" * 100,
    "cut short": lambda good, new: good[:-9],
    "of another target": lambda good, new: good[:56] + bytes(32) + good[88:],
    "that makes something else": lambda good, new: good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
    "the bundle itself, cut": lambda good, new: new.data[:10_000],
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_delta_costs_its_own_bytes_only(ready: Any, old: Any, new: Any, name: str) -> None:
    good = ready.offer(old, new)
    lie = ready.offer(old, new, LIES[name](good, new))
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert ready.events.kept.count(EVENT) == 1
    asked = [digest for digest in ready.broker.asked if digest in chunks_of(lie) - chunks_of(new.data)]
    assert len(asked) == len(set(asked)), "no byte of it is fetched twice"


def test_a_delta_without_chunks_is_given_up_when_others_come(ready: Any, old: Any, new: Any) -> None:
    delta = ready.offer(old, new)
    ready.broker.lost |= chunks_of(delta)
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert ready.events.kept.count(EVENT) == 1


def test_a_silent_network_does_not_condemn_a_delta(ready: Any, old: Any, new: Any) -> None:
    ready.offer(old, new)
    silent = set(ready.broker.chunks) - {sha256_hex(new.needs)}
    ready.broker.lost |= silent
    ready.direct(2, new)
    ready.pack()
    while ready.state().problem is None:  # until neither the delta nor the bundle came
        ready.step(5)
    assert ready.state().install is Install.FETCHING
    ready.broker.lost -= silent
    ready.broker.asked.clear()
    ready.settle()
    check_installed(ready, new, by_delta=True)
    assert EVENT not in ready.events.kept


def test_chunks_that_came_before_the_delta_failed_are_kept(ready: Any, old: Any, new: Any) -> None:
    """The first quarter of the bundle is there; the delta is taken, fails, and only the rest is asked for."""
    ready.offer(old, new, lie=b"no delta at all" * 100)
    folder, index = ready.folder / "staging", index_of(new.data, CHUNK_BYTES)
    (folder / f"{new.sha256}.index").write_bytes(index.encode())
    (folder / f"{new.sha256}.part").write_bytes(new.data[:10_240] + bytes(len(new.data) - 10_240))
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert not chunks_of(new.data[:10_240]) & set(ready.broker.asked)


def test_a_failed_delta_is_not_tried_again_after_a_restart(ready: Any, old: Any, new: Any) -> None:
    lie = ready.offer(old, new, lie=b"no delta at all" * 100)
    ready.direct(2, new)
    ready.pack()
    while EVENT not in ready.events.kept:
        ready.step()
    ready.broker.asked.clear()
    ready.restart()
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert not chunks_of(lie) & set(ready.broker.asked)
    assert ready.events.kept.count(EVENT) == 1


def test_a_disk_that_cannot_take_the_delta_besides_takes_the_bundle(ready: Any, old: Any, new: Any) -> None:
    delta = ready.offer(old, new)
    ready.free_bytes = len(new.data) + ready.config.free_bytes + len(delta) - 1
    assert Needs.decode(new.needs).disk_bytes < len(new.data) + len(delta), "without the delta there is room"
    play(ready, new)
    check_installed(ready, new, by_delta=False)
    assert EVENT not in ready.events.kept


def test_a_newer_directive_takes_the_place_of_one_that_is_applied(ready: Any, old: Any, new: Any, bundle: Any) -> None:
    ready.offer(old, new)
    three = bundle(3, size=SIZE)
    ready.publish(three)
    ready.direct(2, new)
    ready.pack()
    while not list((ready.folder / "staging").glob("*.made")):
        ready.step()
    ready.direct(3, three)
    ready.settle()
    check_installed(ready, three, by_delta=False)


@pytest.mark.slow
def test_a_kill_at_every_step_ends_with_the_delta_applied(
    new_world: Any, old: Any, new: Any, crash: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every journalled step, call of a port and durable change of a file."""

    def prepared() -> Any:
        world = new_world()
        world.install(1, old)
        world.publish(new)
        world.offer(old, new)
        world.broker.asked.clear()
        world.fuse.count = 0
        for module in (rebuild, delivery):
            hook_files(monkeypatch, module, world.fuse)
        return world

    calm = prepared()
    play(calm, new)
    steps = calm.fuse.count
    assert steps > 20
    for at in range(1, steps + 1):
        world = prepared()
        world.fuse.at = at
        try:
            play(world, new)
            raise AssertionError(at)
        except crash:
            world.restart()
            world.check_invariants()
        play(world, new)
        check_installed(world, new, by_delta=True)
        world.journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("lie", [b"no delta at all" * 100, None])
def test_a_kill_at_every_step_of_a_delta_that_fails(
    new_world: Any, bundle: Any, crash: type[BaseException], monkeypatch: pytest.MonkeyPatch, lie: bytes | None
) -> None:
    """It may be told twice, never not at all; the bundle is installed whatever happens."""
    old, new = bundle(1, size=SMALL), bundle(2, size=SMALL, tuned_from=1)

    def prepared() -> Any:
        world = new_world()
        world.install(1, old)
        world.publish(new)
        good = world.offer(old, new)
        world.offer(old, new, lie or good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        world.fuse.count = 0
        for module in (rebuild, delivery):
            hook_files(monkeypatch, module, world.fuse)
        return world

    calm = prepared()
    play(calm, new)
    for at in range(1, calm.fuse.count + 1, 5):
        world = prepared()
        world.fuse.at = at
        with pytest.raises(crash):
            play(world, new)
        world.restart()
        world.check_invariants()
        play(world, new)
        assert world.state().active == new.sha256, at
        assert EVENT in world.events.kept, at
        assert staging(world) == []
        world.check_end()
        world.journal.close()


def hook_files(monkeypatch: pytest.MonkeyPatch, module: Any, fuse: Any) -> None:
    """Let the fuse count before and after each durable change that a module makes by itself."""
    for name in ("fsync_folder", "write_atomically"):
        if hasattr(module, name):
            real = getattr(module, name)
            real = getattr(real, "real", real)

            def hooked(*args: Any, _real: Any = real) -> None:
                fuse()
                _real(*args)
                fuse()

            hooked.real = real  # type: ignore[attr-defined]
            monkeypatch.setattr(module, name, hooked)
