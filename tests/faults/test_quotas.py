"""A disk in which an install does not fit: said by name, the release before stays, it goes on when there is room."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_acks import Acks, read_acks
from fault_device import MODEL, Device, Kit, scenario
from fault_disks import Small

from dsops.bundle import sha256_hex
from dsops.errors import NoSpace
from dsops.states import Install
from dsops_agent.install.pardons import PardonBox
from dsops_agent.install.slots import damage, disk_free_bytes

pytestmark = pytest.mark.faults

BIG_BYTES = 120_000
MORE = "6m"
PAGE = 4096


@pytest.fixture
def device(small: Small, kit: Path, tmp_path: Path) -> Iterator[Device]:
    """A device that runs release 1, and whose disk has more room for now."""
    small.limit(size=MORE, nr_inodes=1000)
    (small.folder / "state").mkdir()
    made = Device(small.folder / "state", Kit.load(kit), Acks(tmp_path / "acks"))
    made.installer.recover()
    made.wants(1, "1")
    made.end()
    yield made
    made.journal.close()


def want_big(device: Device) -> Any:
    big = scenario.make_bundle(7, size=BIG_BYTES)
    device.publish(big)
    device.envelopes[(2, "", (big,))] = device.signed(2, (big,))
    device.direct(2, big)
    device.pack()
    return big


def assert_serves(device: Device) -> None:
    active = device.slots.active(MODEL)
    assert active is not None
    assert damage(active, MODEL) == ""
    assert device.runtime.is_serving(MODEL, active.digest)


def assert_refused_by_name(device: Device, tmp_path: Path) -> None:
    """Assert that release 1 answers, whole, and that what keeps the other away is said by name."""
    device.steps(120, 2)
    state = device.state()
    assert state.install in (Install.TRUSTED, Install.FETCHING)
    assert state.problem is not None
    assert state.problem.code == NoSpace.code
    assert_serves(device)
    assert state.active_release == 1
    assert not list(device.folder.rglob("*.tmp"))
    assert [ack for ack in read_acks(tmp_path / "acks") if "unnamed" in ack] == []


def assert_it_goes_on(device: Device, big: Any) -> None:
    state = device.settle(seconds=30)
    assert (state.install, state.active) == (Install.COMMITTED, big.sha256)
    device.check_end()


def test_a_full_disk_is_seen_before_the_first_chunk(device: Device, small: Small, tmp_path: Path) -> None:
    """All that is fetched is the document which says how much room the bundle needs."""
    small.limit(size=small.used_bytes() + BIG_BYTES // 2)
    device.slots._free_bytes = disk_free_bytes  # what the agent asks; the simulated device has no end of room
    device.broker.asked.clear()
    big = want_big(device)
    assert_refused_by_name(device, tmp_path)
    assert set(device.broker.asked) == {sha256_hex(big.needs)}
    small.limit(size=MORE)
    assert_it_goes_on(device, big)


def test_a_disk_that_fills_up_meanwhile(device: Device, small: Small, tmp_path: Path) -> None:
    """Something else takes the room after the check: writing itself fails."""
    other = small.fill(BIG_BYTES // 2)
    big = want_big(device)
    assert_refused_by_name(device, tmp_path)
    assert device.broker.asked != []
    other.unlink()
    assert_it_goes_on(device, big)


@pytest.mark.parametrize("pages", range(0, 16, 2))
def test_the_room_ends_in_any_step(device: Device, small: Small, pages: int) -> None:
    """The chunks fit and so many pages more: index, files, folders and link are what fails."""
    other = small.fill(BIG_BYTES + pages * PAGE)
    big = want_big(device)
    device.steps(120, 2)
    assert_serves(device)
    other.unlink()
    assert_it_goes_on(device, big)


def test_no_inode_is_left(device: Device, small: Small, tmp_path: Path) -> None:
    used = sum(1 for _ in small.folder.rglob("*")) + 1
    small.limit(nr_inodes=used)
    assert os.statvfs(small.folder).f_ffree < 2
    big = want_big(device)
    assert_refused_by_name(device, tmp_path)
    small.limit(nr_inodes=1000)
    assert_it_goes_on(device, big)


@pytest.mark.parametrize("spare", range(1, 9))
def test_the_inodes_end_in_any_step(device: Device, small: Small, spare: int) -> None:
    """An install, a rollback included, that runs out of inodes leaves a device that serves, and ends well later."""
    small.limit(nr_inodes=sum(1 for _ in small.folder.rglob("*")) + 1 + spare)
    big = want_big(device)
    device.steps(120, 2)
    assert_serves(device)
    small.limit(nr_inodes=1000)
    state = device.settle(seconds=30)
    assert state.install in {Install.COMMITTED, Install.ROLLED_BACK}
    assert state.install is Install.COMMITTED or state.problem is None or state.problem.code == NoSpace.code
    assert device.journal.quarantined(big.sha256) is None


@pytest.mark.parametrize("is_pardoned", [False, True])
@pytest.mark.parametrize("under_way", [False, True])
def test_a_device_whose_disk_is_full_starts_and_serves(
    device: Device, small: Small, tmp_path: Path, under_way: bool, is_pardoned: bool
) -> None:
    """Whatever was under way, and although somebody asked for a pardon that the journal may not take."""
    big = want_big(device) if under_way else None
    device.steps(3, 2)
    if is_pardoned:
        PardonBox(device.folder / "pardons").ask("0" * 64)
    other = small.fill(0)
    device.runtime.serving.clear()
    device.restart()
    device.steps(20, 2)
    assert_serves(device)
    assert [ack for ack in read_acks(tmp_path / "acks") if "unnamed" in ack] == []
    other.unlink()
    if big:
        device.direct(2, big)
        device.pack()
        assert_it_goes_on(device, big)
