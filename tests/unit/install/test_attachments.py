"""Files that a bundle brings for programs: installed, changed, mended and removed with their model."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slot_disk import Disk, bundle

from dsops.errors import NoSpace
from dsops_agent.install.slots import Slots, damage

ONE = {"camera.toml": b"gain = 1", "lens.bin": bytes(range(200))}
TWO = {"camera.toml": b"gain = 2", "zones.json": b"[]"}
LINK = Path("slots") / "digits" / "active" / "files"


class Killed(BaseException):
    """The process was killed."""


class Disturbance:
    """Sees every change that this process makes to files; where it is told, it stops it or says that the disk is full.

    It listens to Python's audit events, so that the code under test does what it always does.
    """

    EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"})

    def __init__(self) -> None:
        self.is_armed = False
        self.count = 0
        self.kill_at = 0
        self.full_below = ""
        sys.addaudithook(self.hook)  # for as long as the process lives

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_armed or event not in self.EVENTS:
            return
        if event == "open" and self.full_below and self.full_below in str(arguments[0]):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.count += 1
        if self.count == self.kill_at:
            self.is_armed = False
            raise Killed(event)


DISTURBANCE = Disturbance()


@contextmanager
def full_disk(below: str) -> Iterator[None]:
    DISTURBANCE.full_below, DISTURBANCE.kill_at, DISTURBANCE.is_armed = below, 0, True
    try:
        yield
    finally:
        DISTURBANCE.is_armed = False


def killed_at(step: int, action: Callable[[], object]) -> bool:
    DISTURBANCE.full_below, DISTURBANCE.count, DISTURBANCE.kill_at, DISTURBANCE.is_armed = "", 0, step, True
    try:
        action()
    except Killed:
        return True
    finally:
        DISTURBANCE.is_armed = False
    return False


def seen(disk: Disk) -> dict[str, bytes]:
    """What a program finds under the stable path."""
    folder = disk.slots.files("digits")
    assert folder in (None, disk.folder / LINK)
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}


def leftovers(disk: Disk) -> list[str]:
    return [path.name for path in disk.folder.glob("slots/digits/*/.*")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, real_journal=False)
    yield made
    made.journal.close()


def test_files_come_and_go_with_their_model(disk: Disk) -> None:
    assert disk.slots.files("digits") is None
    disk.install(1, bundle(1, files=ONE))
    assert seen(disk) == ONE
    two = disk.stage(2, bundle(2, files=TWO))
    assert seen(disk) == ONE
    disk.slots.activate("digits", two)
    assert seen(disk) == TWO
    disk.slots.activate("digits", "a")
    assert seen(disk) == ONE
    disk.slots.activate("digits", two)
    disk.install(3)
    assert seen(disk) == {}
    assert not (disk.place("a") / "files").exists()
    assert leftovers(disk) == []
    disk.slots.deactivate("digits")
    assert disk.slots.files("digits") is None


def test_a_program_that_opened_the_folder_once_never_sees_files_of_two_releases(disk: Disk) -> None:
    disk.install(1, bundle(1, files=ONE))
    folder = os.open(disk.folder / LINK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.install(2, bundle(2, files=TWO))
        handle = os.open("camera.toml", os.O_RDONLY, dir_fd=folder)
        assert os.read(handle, 100) == b"gain = 1"
        os.close(handle)
        disk.install(3, bundle(3, files={"camera.toml": b"gain = 3"}))
        with pytest.raises(FileNotFoundError):
            os.open("camera.toml", os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(folder)


def harm(folder: Path, how: str) -> None:
    if how == "flip":
        (folder / "lens.bin").write_bytes(bytes(200))
    elif how == "cut":
        (folder / "lens.bin").write_bytes(b"")
    elif how == "remove":
        (folder / "lens.bin").unlink()
    elif how == "stranger":
        (folder / "extra").write_bytes(b"?")
    elif how == "link":
        (folder / "lens.bin").unlink()
        (folder / "lens.bin").symlink_to("camera.toml")
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        if how == "file":
            folder.write_bytes(b"")


@pytest.mark.parametrize("how", ["flip", "cut", "remove", "stranger", "link", "all", "file"])
def test_damaged_files_are_written_again_and_the_model_stays(disk: Disk, how: str) -> None:
    disk.install(1, bundle(1, files=ONE))
    disk.install(2, bundle(2, files=ONE))
    harm(disk.place("b") / "files", how)
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert (file.release, bool(problem)) == (2, True)
    assert seen(disk) == ONE
    assert disk.slots.sound("digits") == (file, "")
    assert leftovers(disk) == []


def test_files_that_a_bundle_does_not_bring_are_removed(disk: Disk) -> None:
    disk.install(1)
    (disk.place("a") / "files").mkdir()
    (disk.place("a") / "files" / "extra").write_bytes(b"?")
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert problem == "file 'extra' is not one of the bundle"
    assert not (disk.place("a") / "files").exists()


def test_a_fallback_has_its_files(disk: Disk) -> None:
    disk.install(1, bundle(1, files=ONE))
    disk.install(2, bundle(2, files=TWO))
    harm(disk.place("a") / "files", "flip")
    (disk.place("b") / "bundle").write_bytes(b"")
    file, problem = disk.slots.sound("digits")
    assert file is not None
    assert (file.release, bool(problem)) == (1, True)
    assert seen(disk) == ONE


def test_a_disk_that_refuses_to_mend_leaves_the_model(disk: Disk) -> None:
    disk.install(1, bundle(1, files=ONE))
    (disk.place("a") / "files" / "lens.bin").unlink()
    with full_disk(".files.new"):
        file, problem = disk.slots.sound("digits")
    assert file is not None
    assert problem.startswith("file 'lens.bin' is missing; cannot write the files of release 1 again")


def test_a_disk_that_is_full_takes_nothing_from_the_slot_before(disk: Disk) -> None:
    disk.install(1, bundle(1, files=ONE))
    disk.install(2, bundle(2, files=TWO))
    data = bundle(3, files=ONE)
    with full_disk(".files.new"), pytest.raises(NoSpace):
        disk.stage(3, data)
    previous = disk.slots.previous("digits")
    assert previous is not None
    assert previous.release == 1
    disk.slots.activate("digits", previous.name)
    assert seen(disk) == ONE


@pytest.mark.parametrize(("before", "after"), [(ONE, TWO), (ONE, {}), ({}, TWO)], ids=["change", "end", "begin"])
def test_kill_at_every_change_of_a_file(tmp_path: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    prepared = Disk(tmp_path / "prepared", real_journal=False)
    prepared.install(1, bundle(1, files=before))
    prepared.install(2, bundle(2, files=ONE))
    data = bundle(3, files=after)
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        disk = prepared.copy(folder)
        was_killed = killed_at(at, lambda disk=disk, data=data: disk.stage(3, data))
        again = Slots(folder / "slots", disk.journal)
        again.sweep()
        active = again.active("digits")
        assert active is not None
        assert active.release == 2
        assert again.sound("digits") == (active, ""), at
        assert seen(disk) == ONE, at
        previous = again.previous("digits")
        assert previous is None or not damage(previous, "digits"), at
        assert disk.install(3, data) == "a"
        assert seen(disk) == after, at
        assert leftovers(disk) == [], at
        disk.journal.close()
        if not was_killed:
            break
    assert at > 10


def test_kill_at_every_change_while_files_are_mended(tmp_path: Path) -> None:
    at = 0
    was_killed = True
    while was_killed:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = Disk(folder, real_journal=False)
        disk.install(1, bundle(1, files=ONE))
        harm(disk.place("a") / "files", "flip")
        was_killed = killed_at(at, lambda disk=disk: disk.slots.sound("digits"))
        again = Slots(folder / "slots", disk.journal)
        again.sweep()
        file, _ = again.sound("digits")
        assert file is not None
        assert seen(disk) == ONE, at
        assert leftovers(disk) == [], at
        assert again.sound("digits") == (file, ""), at
        disk.journal.close()
    assert at > 5
