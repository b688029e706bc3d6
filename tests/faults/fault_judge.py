"""The judge: what must hold after a fault, whatever was under way (invariants I1 to I8 of the design)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_acks import Acks, read_acks
from fault_device import MODEL, Device, Kit
from fault_stories import Story, begin
from fault_verdict import Verdict

from dsops.bundle import file_digest
from dsops.errors import DeviceError, DsopsError
from dsops.states import Install
from dsops_agent.install.fetch import part_path
from dsops_agent.install.slots import Slots, damage

logger = logging.getLogger(__name__)

_AGAIN_SEQ = 9
_ORDER = [
    *("idle", "received", "trusted", "fetching", "verified", "staged", "proved", "activating", "probation"),
    *("rolling_back", "rolled_back", "rejected", "failed", "committed"),
]
_ORDER_OF = {Install(name): number for number, name in enumerate(_ORDER)}


@dataclass
class Judge:
    """Starts the device again after a fault, offline first, and says what is wrong.

    Attributes:
        kit: Bundles and directives.
        story: What it did when the fault struck.
        acks: What it had acknowledged.
        is_disk_fault: Whether the disk failed: then it may have refused the install, for that reason.
        slots: Its slots.
    """

    kit: Kit
    story: Story
    acks: Path
    is_disk_fault: bool = False
    slots: type[Slots] = Slots
    verdict: Verdict = field(default_factory=Verdict)

    def judge(self, folder: Path) -> Verdict:
        """Return what is wrong with a state folder."""
        before = read_acks(self.acks)
        had = bool(self.story.before)
        try:
            device = Device(folder, self.kit, Acks(self.acks), self.slots)
            begin(device, self.story)
        except Exception as error:
            logger.exception("the device does not start")
            self.verdict.bricked.append(f"it does not start: {error!r}")
            return self.verdict
        self._check_serving(device, had=had or _has_committed(before))
        self._check_acknowledged(device, before)
        self._claim(self.verdict.broken, device.check_invariants)
        self._go_on(device, before)
        device.journal.close()
        return self.verdict

    def _claim(self, where: list[str], check: Callable[[], Any]) -> bool:
        try:
            check()
        except (AssertionError, DsopsError, OSError) as error:
            where.append(f"{type(error).__name__}: {error}")
            return False
        return True

    def _check_serving(self, device: Device, *, had: bool) -> None:
        active = device.slots.active(MODEL)
        if active is None:
            if had:
                self.verdict.bricked.append("no slot is active")
            return
        problem = damage(active, MODEL)
        if problem:
            self.verdict.bricked.append(f"the active bundle is damaged: {problem}")
        elif not device.runtime.is_serving(MODEL, active.digest):
            self.verdict.bricked.append(f"release {active.release} is active and not served")

    def _check_acknowledged(self, device: Device, acks: list[dict[str, Any]]) -> None:
        lost = self.verdict.lost
        states = [ack for ack in acks if "state" in ack]
        if states:
            self._check_state(device, states[-1])
        reports = [ack["report"] for ack in acks if "report" in ack]
        number = device.report()
        if reports and number <= max(reports):
            lost.append(f"report {number} is numbered again")

    def _check_state(self, device: Device, acked: dict[str, Any]) -> None:
        lost, row = self.verdict.lost, device.row()
        if device.installer.seq() < acked["seq"]:
            lost.append(f"seq fell from {acked['seq']} to {device.installer.seq()}")
        state = Install(acked["state"])
        if row is None:
            if state is not Install.IDLE:
                lost.append(f"the install that was {state.value}")
            return
        active = device.slots.active(MODEL)
        is_replaced = row.wanted.deployment != acked["of"]  # by a newer directive, accepted and durable
        if is_replaced or (self.story.ill and state.is_final):  # or it was damaged since, and is installed again
            return
        if state.is_final and row.state.is_final and (active.digest if active else None) != acked["active"]:
            lost.append(f"{state.value} was acknowledged with another active bundle")
        if _fell(row.state, state):
            lost.append(f"{state.value} was acknowledged, it is {row.state.value}")
        if state in (Install.STAGED, Install.PROVED, Install.ACTIVATING, Install.PROBATION):
            held = device.slots.holding(MODEL, row.wanted.sha256)
            if row.state is not Install.ROLLED_BACK and (held is None or damage(held, MODEL)):
                lost.append(f"{state.value} was acknowledged, and no slot holds the bundle")
        if state is Install.VERIFIED and not _is_kept(device, row.wanted.sha256):
            lost.append("the verified bundle is gone")

    def _go_on(self, device: Device, before: list[dict[str, Any]]) -> None:
        """Let the network come back: the wanted install must end as it would have, or as it refused to for a reason."""
        if self.story.wants is None:
            return
        verdict = self.verdict
        device.wants(*self.story.wants)
        device.broker.lost = set()
        if not self._claim(verdict.broken, device.end):
            return
        row = device.row()
        verdict.end = row.state.value
        is_again = self.is_disk_fault or self.story.ill is not None
        if device.broker.asked and not is_again and _was_fetched(before, row.wanted.deployment):
            verdict.broken.append("chunks were asked for again, although all of them were there")
        if row.state is not self.story.end:
            self._check_refusal(device, row)
        self._check_end(device)

    def _check_refusal(self, device: Device, row: Any) -> None:
        """Accept that the failing disk kept the bundle away: said by name, and undone when it is wanted again."""
        code = row.problem.code if row.problem else ""
        if not (self.is_disk_fault and code.startswith(DeviceError.code)):
            self.verdict.broken.append(f"it ended in {row.state.value} ({code})")
            return
        assert self.story.wants is not None
        if not self._claim(self.verdict.broken, lambda: self._want_again(device)):
            return
        again = device.row()
        if again.state is not self.story.end:
            self.verdict.broken.append(f"after {code} it stays {again.state.value} ({again.problem})")

    def _want_again(self, device: Device) -> None:
        assert self.story.wants is not None
        device.wants(_AGAIN_SEQ, self.story.wants[1])
        device.end()

    def _check_end(self, device: Device) -> None:
        verdict, row = self.verdict, device.row()
        self._claim(verdict.broken, device.check_end)
        active = device.slots.active(MODEL)
        if (active.release if active else 0) != self.story.active:
            verdict.broken.append(f"release {active.release if active else 0} is active")
        told = [tuple(ack["event"]) for ack in read_acks(self.acks) if "event" in ack]
        verdict.repeated = len(told) - len(set(told))
        if row.state.is_final and not any(event[0] == row.state.value for event in _named(told)):
            verdict.broken.append(f"no event tells of {row.state.value}")
        if row.state is Install.ROLLED_BACK and not device.journal.quarantined(row.wanted.sha256):
            verdict.broken.append("what was rolled back is not in quarantine")


def _named(told: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return events with ``refused`` as the state that it stands for."""
    return [("rejected", *event[1:]) if event[0] == "refused" else event for event in told]


def _has_committed(acks: list[dict[str, Any]]) -> bool:
    return any(ack.get("state") == Install.COMMITTED.value for ack in acks)


def _was_fetched(acks: list[dict[str, Any]], deployment: str) -> bool:
    states = [Install(ack["state"]) for ack in acks if ack.get("of") == deployment]
    return any(_ORDER_OF[state] >= _ORDER_OF[Install.VERIFIED] for state in states)


def _is_kept(device: Device, digest: str) -> bool:
    places = (part_path(device.folder / "staging", digest), *device.slots.folder.glob(f"{MODEL}/[ab]/bundle"))
    return any(place.exists() and file_digest(place)[0] == digest for place in places)


def _fell(now: Install, acked: Install) -> bool:
    """Return whether an install stands before what it had acknowledged; a repeated step is no fall."""
    if acked.is_final:
        return now is not acked
    if acked is Install.PROBATION:
        return _ORDER_OF[now] < _ORDER_OF[Install.ACTIVATING]
    if acked is Install.VERIFIED:
        return _ORDER_OF[now] < _ORDER_OF[Install.FETCHING]
    return _ORDER_OF[now] < _ORDER_OF[acked]
