"""What the device does while faults strike: each thing that the agent can be told, or comes upon."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fault_acks import Acks
from fault_device import MODEL, Device, Kit, scenario
from fault_trust import fill, judge_spool, judge_trust, take_in
from fault_verdict import Verdict

from dsops.errors import GoldenMismatch
from dsops.states import Install


@dataclass(frozen=True)
class Story:
    """One command of the device.

    Attributes:
        before: Stories that lead to where it begins.
        wants: ``seq`` and bundle of the directive that it works on; none for a mere start.
        end: How it must end.
        active: The release that must answer then; 0 for none.
        under: Makes the device what it is before it starts, such as a runtime that finds a bundle wrong.
        ill: What befalls it once it has started, before faults strike.
        goes_on: Lets what the directive does not bring about happen.
        stop: Where it stops of itself; at the end when absent.
        struck: From when on faults strike: from the opening of the journal, the recovery, or the directive.
    """

    before: tuple[str, ...] = ()
    wants: tuple[int, str] | None = None
    end: Install = Install.COMMITTED
    active: int = 0
    under: Callable[[Device], None] = lambda _device: None
    ill: Callable[[Device], None] | None = None
    goes_on: Callable[[Device], None] = lambda _device: None
    stop: Callable[[Device], bool] | None = None
    struck: Literal["opening", "recovery", "directive"] = "directive"


def _third_is_wrong(device: Device) -> None:
    device.runtime.check_faults[device.kit.bundles["3"].sha256] = GoldenMismatch("it answers something else")


def _chunks_lost(device: Device) -> None:
    """Let the broker lack the last chunks of release 9, so that its transfer stays half done."""
    data = device.kit.bundles["9"].data
    pieces = list(scenario.split(data, scenario.CHUNK_BYTES))
    device.broker.lost = {scenario.hashlib.sha256(piece).hexdigest() for piece in pieces[3:]}


def _flip_a_bit(device: Device) -> None:
    """Damage the active bundle, as a worn-out flash does."""
    active = device.slots.active(MODEL)
    assert active is not None
    data = bytearray(active.path.read_bytes())
    data[700] ^= 4
    active.path.write_bytes(data)


def _scrub(device: Device) -> None:
    """Let a day pass, and a round over the stored bundles with it."""
    device.step(24 * 3600)
    device.steps(80, 1)


def _is_half(device: Device) -> bool:
    return device.install_state() is Install.FETCHING and device.state().progress > 0


def _is_in_probation(device: Device) -> bool:
    return device.install_state() is Install.PROBATION


@dataclass(frozen=True)
class Other:
    """A story of another part than the installer.

    Attributes:
        play: Does it, in a folder; calls its last argument where faults may begin.
        judge: Says what is wrong with the folder afterwards.
        before: Stories that lead to where it begins.
    """

    play: Callable[[Path, Kit, Acks, Callable[[], None]], None]
    judge: Callable[[Path, Kit, Path], Verdict]
    before: tuple[str, ...] = ()


_OTHERS = {
    "trust_first": Other(
        lambda folder, kit, acks, ready: take_in(folder, kit.trust, acks, ready, kit.trust.old),
        lambda folder, kit, acks: judge_trust(folder, kit.trust, acks, is_update=False),
    ),
    "trust_update": Other(
        lambda folder, kit, acks, ready: take_in(folder, kit.trust, acks, ready, kit.trust.new),
        lambda folder, kit, acks: judge_trust(folder, kit.trust, acks, is_update=True),
        before=("trust_first",),
    ),
    "spool": Other(
        lambda folder, _kit, acks, ready: fill(folder, acks, ready),
        lambda folder, _kit, acks: judge_spool(folder, acks),
    ),
}

STORIES: dict[str, Story | Other] = _OTHERS | {
    "create": Story(struck="opening"),
    "first": Story(wants=(1, "1"), active=1),
    "start": Story(before=("first",), wants=(1, "1"), active=1, struck="opening"),
    "install": Story(before=("first",), wants=(2, "2"), active=2),
    "sealed": Story(before=("first",), wants=(2, "sealed"), active=5),
    "until_probation": Story(before=("first",), wants=(2, "2"), active=2, stop=_is_in_probation),
    "commit": Story(before=("first", "until_probation"), wants=(2, "2"), active=2, struck="recovery"),
    "rollback": Story(
        before=("first", "install"), wants=(3, "3"), end=Install.ROLLED_BACK, active=2, under=_third_is_wrong
    ),
    "half": Story(before=("first", "install"), wants=(3, "9"), active=2, under=_chunks_lost, stop=_is_half),
    "collect": Story(before=("first", "install", "half"), wants=(4, "3"), active=3),
    "delta": Story(before=("first", "install"), wants=(3, "delta"), active=4),
    "cancel": Story(
        before=("first", "install", "half"), wants=(4, "nothing"), end=Install.REJECTED, active=2, under=_chunks_lost
    ),
    "pardon": Story(before=("first", "install", "rollback"), wants=(4, "pardoned"), active=3),
    "scrub": Story(before=("first", "install"), wants=(2, "2"), active=2, ill=_flip_a_bit, goes_on=_scrub),
    "killed": Story(before=("first",), wants=(2, "2"), active=2),
    "recover": Story(before=("first", "killed"), wants=(2, "2"), active=2, struck="recovery"),
}
"""``killed`` is ``install``, killed where the link is about to flip; ``recover`` starts from there."""


def begin(device: Device, story: Story) -> None:
    """Start the device, up to where the story itself begins."""
    story.under(device)
    device.installer.recover()


def play(device: Device, story: Story) -> None:
    """Bring the story to its end."""
    if story.wants is None:
        return
    device.wants(*story.wants)
    story.goes_on(device)
    if story.stop is None:
        device.end()
        return
    for _ in range(60):
        if story.stop(device):
            return
        device.step(1)
    raise AssertionError("it does not come to where it stops")
