"""A bit of a stored bundle flips: it is found at the next start, and the release before answers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_acks import Acks, read_acks
from fault_device import MODEL, Device, Kit

from dsops_agent.install.slots import damage

pytestmark = pytest.mark.faults


@pytest.fixture
def start(tmp_path: Path, kit: Path) -> Iterator[Callable[[], Device]]:
    """Start a device on one state folder, again and again."""
    started: list[Device] = []

    def begin() -> Device:
        if started:
            started[-1].journal.close()
        (tmp_path / "state").mkdir(exist_ok=True)
        started.append(Device(tmp_path / "state", Kit.load(kit), Acks(tmp_path / "acks")))
        started[-1].installer.recover()
        return started[-1]

    yield begin
    started[-1].journal.close()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_any_flipped_bit_is_found_at_the_start(start: Callable[[], Device], tmp_path: Path, share: float) -> None:
    device = start()
    for seq, name in ((1, "1"), (2, "2")):
        device.wants(seq, name)
        device.end()
    active = device.slots.active(MODEL)
    assert active is not None
    flip(active.path, int(share * active.length_bytes))
    device = start()
    fallback = device.slots.active(MODEL)
    assert fallback is not None
    assert fallback.release == 1
    assert damage(fallback, MODEL) == ""
    assert device.runtime.is_serving(MODEL, fallback.digest)
    device.step()
    assert "slot_damaged" in [ack["event"][0] for ack in read_acks(tmp_path / "acks") if "event" in ack]
    device.wants(2, "2")  # the broker retains it; the damaged release is fetched again
    device.end()
    mended = device.slots.active(MODEL)
    assert mended is not None
    assert (mended.release, damage(mended, MODEL)) == (2, "")


def test_bits_flipped_in_both_slots_leave_nothing_that_lies(start: Callable[[], Device]) -> None:
    device = start()
    for seq, name in ((1, "1"), (2, "2")):
        device.wants(seq, name)
        device.end()
    for path in device.slots.folder.glob(f"{MODEL}/[ab]/bundle"):
        flip(path, 500)
    device = start()
    assert device.slots.active(MODEL) is None
    assert device.runtime.serving == {}
    device.wants(2, "2")
    assert device.end().active_release == 2
    device.check_end()
