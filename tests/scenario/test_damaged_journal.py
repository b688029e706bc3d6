"""The journal's file is damaged while the agent does not run: it begins anew with what must outlive it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dsops.errors import GoldenMismatch, JournalLost, ReplayedDirective
from dsops.states import Install

PAGE_BYTES = 4096


def header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(PAGE_BYTES // 2) + data[PAGE_BYTES // 2 :])


def page_of_slots(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        (number,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'slot'").fetchone()
    data = path.read_bytes()
    start = (number - 1) * PAGE_BYTES
    path.write_bytes(data[:start] + b"\x5a" * PAGE_BYTES + data[start + PAGE_BYTES :])


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def absent(path: Path) -> None:
    path.unlink()


DAMAGES = [header, page_of_slots, half, nothing, absent]


def damage(world: Any, how: Callable[[Path], None]) -> None:
    """End the agent, damage its journal, let the inference process end too, and start both again."""
    world.journal.close()
    how(world.folder / "journal.db")
    world.runtime.serving.clear()
    world.restart()


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_installed_answers_on_and_a_new_directive_installs(world: Any, bundle: Any, how: Any) -> None:
    one, two, three = bundle(1), bundle(2), bundle(3)
    world.install(1, one)
    world.install(2, two)
    damage(world, how)
    assert world.runtime.serving["digits"] == two.sha256
    assert (world.state().active, world.state().previous) == (two.sha256, one.sha256)
    assert world.journal.loss()
    world.step()
    assert world.events.kept[-1] == ("journal_lost", "", 0, "device.journal_lost")
    assert (world.folder / "journal.db.damaged").exists() is (how not in (nothing, absent))
    state = world.install(3, three)
    assert (state.install, state.active, state.previous) == (Install.COMMITTED, three.sha256, two.sha256)
    assert not world.journal.loss()
    world.restart()
    world.steps(5)
    assert world.events.kinds().count("journal_lost") == 1
    world.check_end()


@pytest.mark.parametrize("how", DAMAGES)
def test_no_older_directive_is_believed_afterwards_and_the_newest_is(world: Any, bundle: Any, how: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    asked = len(world.broker.asked)
    damage(world, how)
    world.direct(1, one)
    world.pack()
    world.steps(5)
    assert world.installer.refused().code == ReplayedDirective.code
    assert world.state().active == two.sha256
    world.direct(2, two)
    state = world.settle()
    assert (state.install, state.active, world.installer.seq()) == (Install.COMMITTED, two.sha256, 2)
    assert len(world.broker.asked) == asked, "nothing is fetched that is there"
    world.check_end()


def test_what_was_condemned_stays_condemned(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.runtime.prove_faults[two.sha256] = GoldenMismatch("no")
    world.install(2, two)
    del world.runtime.prove_faults[two.sha256]
    damage(world, header)
    assert [row.digest for row in world.installer.quarantine()] == [two.sha256]
    assert world.install(3, two).install is Install.REJECTED
    assert world.state().active == one.sha256


def test_a_bundle_that_was_on_probation_gives_way_to_the_one_before(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.publish(two)
    world.direct(2, two)
    world.pack()
    world.steps(20)
    assert world.state().install is Install.PROBATION
    damage(world, header)
    assert world.runtime.serving["digits"] == one.sha256
    world.direct(2, two)
    assert world.settle().active == two.sha256, "proved anew"
    world.check_end()


def test_a_bundle_that_was_damaged_as_well_does_not_answer(world: Any, bundle: Any) -> None:
    one, two = bundle(1), bundle(2)
    world.install(1, one)
    world.install(2, two)
    path = world.slots.active("digits").path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    damage(world, half)
    assert world.runtime.serving["digits"] == one.sha256


def test_a_sealed_bundle_is_opened_with_the_key_that_came_before(world: Any, bundle: Any) -> None:
    one = bundle(1, secret=bytes(range(32)))
    world.install(1, one)
    damage(world, header)
    assert world.runtime.serving["digits"] == one.sha256


def test_numbers_that_were_used_are_never_used_again(world: Any, bundle: Any) -> None:
    world.install(1, bundle(1))
    used = [world.journal.next("connection") for _ in range(1500)]
    damage(world, header)
    assert world.journal.next("connection") > used[-1] + 1


def test_without_what_outlives_it_a_damaged_journal_is_told_and_left_alone(world: Any, bundle: Any) -> None:
    world.install(1, bundle(1))
    world.journal.close()
    kept, path = world.folder / "journal.keepsake", world.folder / "journal.db"
    kept.write_bytes(kept.read_bytes().replace(b"1", b"2"))
    header(path)
    before = path.read_bytes()
    with pytest.raises(JournalLost, match="too") as caught:
        world.boot()
    assert "move journal.db and journal.keepsake away" in caught.value.hint
    assert path.read_bytes() == before
