"""One stored bundle cannot be opened, or not be read, for good: no other bundle waits for it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.states import Install

Spoil = Callable[[Path, int], None]
DAY_S = 24 * 3600.0


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Let every attempt to open a file fail for as long as it is the same file."""
    path_open, os_open = Path.open, os.open
    barred: dict[int, int] = {}

    def check(path: Any) -> None:
        is_there = isinstance(path, str | Path) and Path(path).exists()
        number = barred.get(Path(path).stat().st_ino) if is_there else None
        if number:
            raise OSError(number, os.strerror(number), str(path))

    def open_path(path: Path, *args: Any, **kwargs: Any) -> Any:
        check(path)
        return path_open(path, *args, **kwargs)

    def open_handle(path: Any, *args: Any, **kwargs: Any) -> int:
        check(path)
        return os_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(os, "open", open_handle)
    return lambda path, number: barred.update({path.stat().st_ino: number})


def two_releases(world: Any, bundle: Any) -> tuple[Any, Any]:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    return one, two


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO])
def test_the_release_before_answers_when_the_active_one_cannot_be_opened(
    world: Any, bundle: Any, bar: Spoil, number: int
) -> None:
    one, two = two_releases(world, bundle)
    bar(world.slots.active("digits").path, number)
    world.runtime.serving.clear()
    world.broker.lost = set(world.broker.chunks)
    world.restart()
    assert world.runtime.serving["digits"] == one.sha256
    assert world.journal.quarantined(two.sha256) is None
    world.broker.lost.clear()
    assert world.settle().active == two.sha256, "fetched again, over the file that cannot be opened"
    world.check_end()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_scrub_gives_a_bundle_up_that_cannot_be_opened_and_reads_the_others(
    world: Any, bundle: Any, bar: Spoil, number: int
) -> None:
    _, two = two_releases(world, bundle)
    other = bundle(1, model="words")
    world.publish(other)
    world.direct(3, two, other)
    world.pack("words")
    world.settle()
    bar(world.slots.previous("digits").path, number)
    words = world.slots.active("words").path
    words.write_bytes(words.read_bytes()[:-1] + b"?")
    world.step(DAY_S)
    world.steps(100, 1)
    assert (world.state().active, world.state().previous) == (two.sha256, None)
    assert world.events.kinds().count("slot_damaged") == 2, "the one that cannot be opened, and the changed one"
    world.settle()
    assert world.state("words").active == other.sha256
    world.check_end()


def test_a_host_that_lets_nobody_open_any_bundle_gives_none_up(world: Any, bundle: Any, bar: Spoil) -> None:
    one, two = two_releases(world, bundle)
    for file in world.slots.stored("digits"):
        bar(file.path, errno.EACCES)
    world.restart()
    world.step(DAY_S)
    world.steps(100, 1)
    assert (world.state().active, world.state().previous) == (two.sha256, one.sha256)
    assert "slot_damaged" not in world.events.kinds()


@pytest.mark.parametrize("scrub_hours", [0, 168])
@pytest.mark.parametrize("has_another", [False, True])
def test_an_install_does_not_wait_for_a_bad_sector_under_the_active_bundle(
    new_world: Any, bundle: Any, bar: Spoil, scrub_hours: int, has_another: bool
) -> None:
    world = new_world()
    world.config = world.config.__class__(**{**world.config.__dict__, "scrub_hours": scrub_hours})
    world.restart()
    if has_another:
        two_releases(world, bundle)
    else:
        world.install(2, bundle(2))
    bar(world.slots.active("digits").path, errno.EIO)
    state = world.install(3, bundle(3))
    assert (state.install, state.active) == (Install.COMMITTED, bundle(3).sha256)
    assert world.events.kinds().count("slot_damaged") == 1
    assert world.installer.scrubbed() is None or scrub_hours, "one bundle is no round"
    world.check_end()


def test_a_sector_that_is_read_at_the_second_attempt_costs_no_bundle(
    world: Any, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_releases(world, bundle)
    active, left = world.slots.active("digits"), [errno.EIO]
    world.installer._fitness.suspect("digits", active)
    path_open = Path.open

    def fail_once(path: Path, *args: Any, **kwargs: Any) -> Any:
        if left and path == active.path:
            raise OSError(left.pop(), "Input/output error")
        return path_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail_once)
    world.steps(10, 1)
    assert not left
    assert (world.state().active, world.state().previous) == (two.sha256, one.sha256)
    assert "slot_damaged" not in world.events.kinds()
