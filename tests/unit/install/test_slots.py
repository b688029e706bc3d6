"""Slots on a real disk."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from slot_disk import Disk, FailsOnce, bundle, row

from dsops.bundle import file_digest
from dsops.errors import DigestMismatch, MalformedBundle, NoSpace, StateDamaged
from dsops_agent.install.journal import Journal, SlotRow
from dsops_agent.install.slots import Slots, damage


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.journal.close()


def test_nothing_is_installed_at_first(disk: Disk) -> None:
    assert disk.slots.models() == []
    assert disk.slots.active("digits") is None
    assert disk.slots.previous("digits") is None
    assert disk.slots.sound("digits") == (None, "")


def test_slots_take_turns_and_hold_two(disk: Disk) -> None:
    assert [disk.install(release) for release in (1, 2, 3)] == ["a", "b", "a"]
    active, previous = disk.slots.active("digits"), disk.slots.previous("digits")
    assert active is not None
    assert previous is not None
    assert (active.release, previous.release) == (3, 2)
    assert active.path.read_bytes() == bundle(3)
    assert (disk.folder / "slots" / "digits" / "active").readlink() == Path("a")
    assert not (disk.folder / "part").exists()


def test_staged_bundle_is_neither_active_nor_previous(disk: Disk) -> None:
    disk.install(1)
    disk.stage(2)
    active = disk.slots.active("digits")
    assert active is not None
    assert active.release == 1
    assert disk.slots.previous("digits") is None


def test_staging_again_after_a_kill_finds_the_moved_file(disk: Disk) -> None:
    disk.install(1)
    name = disk.stage(2)
    disk.journal.clear_slot("digits", name)
    data = bundle(2)
    again = disk.slots.stage("digits", row(data, 2), disk.folder / "part")
    assert again.name == name
    assert disk.slots.holding("digits", again.digest) == again


def test_file_that_differs_is_not_staged_and_the_slot_stays(disk: Disk) -> None:
    disk.install(1)
    disk.install(2)
    source = disk.folder / "part"
    source.write_bytes(bundle(3)[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        disk.slots.stage("digits", row(bundle(3), 3), source)
    previous = disk.slots.previous("digits")
    assert previous is not None
    assert not damage(previous, "digits")


def test_signed_file_that_is_no_bundle_of_the_release_is_malformed(disk: Disk) -> None:
    source = disk.folder / "part"
    for data in (b"signed junk", bundle(9), bundle(3, "words")):
        source.write_bytes(data)
        with pytest.raises(MalformedBundle):
            disk.slots.stage("digits", row(data, 3), source)
    data = bundle(3)[:-1] + b"?"
    source.write_bytes(data)
    with pytest.raises(MalformedBundle, match="contradicts"):
        disk.slots.stage("digits", row(data, 3), source)


def test_missing_file_is_told(disk: Disk) -> None:
    with pytest.raises(DigestMismatch):
        disk.slots.stage("digits", row(bundle(1), 1), disk.folder / "absent")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_active_bundle_falls_back(disk: Disk, harm: str) -> None:
    disk.install(1)
    disk.install(2)
    path = disk.folder / "slots" / "digits" / "b" / "bundle"
    data = path.read_bytes()
    path.unlink() if harm == "remove" else path.write_bytes(data[:-1] + (b"?" if harm == "flip" else b""))
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert (file.release, bool(problem)) == (1, True)
    assert disk.slots.sound("digits") == (file, "")


def test_damaged_active_bundle_without_a_sound_one_before_leaves_none(disk: Disk) -> None:
    disk.install(1)
    disk.stage(2)
    (disk.folder / "slots" / "digits" / "a" / "bundle").write_bytes(b"")
    file, problem = disk.slots.sound("digits")
    assert file is None
    assert problem
    assert disk.slots.active("digits") is None


def test_room_is_checked(disk: Disk) -> None:
    disk.slots.check_room(1000, 500)
    disk.free = 1499
    with pytest.raises(NoSpace, match="1499 bytes are free, 1500 are needed"):
        disk.slots.check_room(1000, 500)
    disk.slots.check_room(1000, 500, already_bytes=100)


def test_leftovers_are_swept(disk: Disk) -> None:
    disk.install(1)
    leftover = disk.folder / "slots" / "digits" / ".active.new"
    leftover.symlink_to("b")
    disk.slots.sweep()
    assert not leftover.is_symlink()
    assert disk.slots.active("digits") is not None


@pytest.mark.parametrize("target", ["../../etc", "c", ""])
def test_strange_link_counts_as_none(disk: Disk, target: str) -> None:
    disk.install(1)
    link = disk.folder / "slots" / "digits" / "active"
    link.unlink()
    if target:
        link.symlink_to(target)
    assert disk.slots.active("digits") is None


def test_deactivated_model_can_be_installed_again(disk: Disk) -> None:
    disk.install(1)
    disk.slots.deactivate("digits")
    assert disk.slots.active("digits") is None
    assert disk.install(2) == "b", "what was committed is not given up for it"


def test_unusable_folder_is_told(tmp_path: Path, disk: Disk) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateDamaged):
        Slots(tmp_path / "file" / "slots", disk.journal)


class KilledTable:
    """The journal of a process that is killed before it writes what the slot holds now."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def put_slot(self, model: str, row: SlotRow) -> None:
        raise KeyboardInterrupt(model, row.name)

    def clear_slot(self, model: str, name: str) -> None:
        self.journal.clear_slot(model, name)

    def slot(self, model: str, name: str) -> SlotRow | None:
        return self.journal.slot(model, name)


def test_kill_while_staging_leaves_no_false_row(disk: Disk) -> None:
    disk.install(1)
    disk.install(2)
    source = disk.folder / "part"
    source.write_bytes(bundle(3))
    killed = Slots(disk.folder / "slots", KilledTable(disk.journal))
    with pytest.raises(KeyboardInterrupt):
        killed.stage("digits", row(bundle(3), 3), source)
    assert disk.slots.previous("digits") is None
    assert disk.slots.holding("digits", row(bundle(1), 1).digest) is None
    active = disk.slots.active("digits")
    assert active is not None
    assert not damage(active, "digits")


def test_without_a_link_a_bundle_stays_in_the_slot_that_holds_it(disk: Disk) -> None:
    disk.install(1)
    disk.install(2)
    disk.slots.deactivate("digits")
    data = bundle(2)
    staged = disk.slots.stage("digits", row(data, 2), disk.folder / "absent")
    assert (staged.name, staged.path.read_bytes()) == ("b", data)
    previous = disk.slots.other("digits", staged.digest)
    assert previous is not None
    assert not damage(previous, "digits")


def test_a_link_that_cannot_be_read_is_not_taken_for_none(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.install(1)

    def fail(path: Path) -> Path:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "readlink", fail)
        with pytest.raises(StateDamaged, match="which slot of digits is active"):
            disk.stage(2)
    active = disk.slots.active("digits")
    assert active is not None
    assert active.path.read_bytes() == bundle(1)


def test_a_flip_that_was_not_made_durable_is_made_so(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.install(1)
    synced: list[Path] = []
    monkeypatch.setattr("dsops_agent.install.slots.fsync_folder", synced.append)
    disk.slots.activate("digits", "a")  # the link names it already: a kill came between the flip and its fsync
    assert synced == [disk.folder / "slots" / "digits"]


class Killed(BaseException):
    """The process was killed."""


def test_a_kill_on_the_way_to_the_bundle_before_leaves_a_way(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.install(1)
    disk.install(2)
    (disk.place("b") / "bundle").write_bytes(b"spoiled")

    def kill(model: str, name: str) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(disk.journal, "clear_slot", kill)
        with pytest.raises(Killed):
            disk.slots.sound("digits")
    found, _ = disk.slots.sound("digits")
    assert found is not None
    assert found.path.read_bytes() == bundle(1)


def test_the_active_slot_is_never_emptied(disk: Disk) -> None:
    name = disk.install(1)
    with pytest.raises(AssertionError, match="never given up"):
        disk.slots.empty("digits", name)
    candidate = disk.stage(2)
    disk.slots.empty("digits", candidate)
    assert not disk.place(candidate).exists()
    assert disk.slots.holding("digits", row(bundle(2), 2).digest) is None
    assert disk.install(3) == candidate


def test_a_read_that_fails_once_condemns_no_bundle(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.install(1)
    disk.install(2)
    faults = [OSError(errno.EIO, "Input/output error")]

    def read(path: Path) -> tuple[str, int]:
        if faults:
            raise faults.pop()
        return file_digest(path)

    monkeypatch.setattr("dsops_agent.install.slots.file_digest", read)
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert (file.release, problem, faults) == (2, "", [])
    faults += [OSError(errno.EIO, "Input/output error")] * 2
    fallback, problem = disk.slots.sound("digits")
    assert fallback is not None
    assert fallback.release == 1
    assert "Input/output error" in problem


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_host_that_reads_no_file_condemns_no_bundle(disk: Disk, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    disk.install(1)

    def fail(path: Path) -> tuple[str, int]:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("dsops_agent.install.slots.file_digest", fail)
        with pytest.raises(StateDamaged, match=os.strerror(number)):
            disk.slots.sound("digits")
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert (file.release, problem) == (1, "")


def test_a_staged_file_that_the_disk_did_not_sync_is_not_taken_for_durable(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second fsync of the same file would succeed, though what the first one lost is not on the disk."""
    disk.install(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FailsOnce(disk.place("b") / "bundle"))
        with pytest.raises(StateDamaged, match="Input/output error"):
            disk.stage(2)
    assert not (disk.place("b") / "bundle").exists()
    with pytest.raises(DigestMismatch):
        disk.slots.stage("digits", row(bundle(2), 2), disk.folder / "part")
    assert disk.stage(2) == "b"
