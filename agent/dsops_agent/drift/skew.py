"""Whether the first frames of a device are those that the profile was made for: training-serving skew, not drift.

Drift is a change. A device whose camera hangs upside down from the start, or whose program scales pixels otherwise than
the training did, never changes: this looks once, at its first thousand frames. A chi-square test a signal, corrected
for their number (Bonferroni); frames that resemble each other count as fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dsops.chi_square import two_samples
from dsops_agent.drift.monitor import Watched

FRAMES = 1000
LEVEL = 0.001
"""Probability at most of finding skew where there is none."""


class State(StrEnum):
    """What is known."""

    PENDING = "pending"
    OK = "ok"
    SKEW = "skew"


@dataclass(frozen=True)
class Skew:
    """What the check found.

    Attributes:
        state: What is known.
        frames: Frames that were looked at.
        p_value: Smallest of all signals, corrected for their number.
        signals: Those that differ, most first.
    """

    state: State
    frames: int
    p_value: float = 1.0
    signals: tuple[str, ...] = ()


class SkewCheck:
    """Adds up windows of the first frames, and judges once. Not thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._frames = 0
        self.found = Skew(State.PENDING, 0)

    def add(self, frames: int, stand: Sequence[Watched]) -> Skew:
        """Take a window's frames; return what is known now. After the verdict nothing changes it."""
        if self.found.state is State.PENDING and frames:
            self._frames += frames
            for one in stand:
                before = self._counts.get(one.signal.name, [0] * len(one.counts))
                self._counts[one.signal.name] = [a + b for a, b in zip(before, one.counts, strict=True)]
            self.found = self._judge(stand) if self._frames >= FRAMES else Skew(State.PENDING, self._frames)
        return self.found

    def _judge(self, stand: Sequence[Watched]) -> Skew:
        values = {}
        for one in stand:
            counts = self._counts.pop(one.signal.name)
            test = two_samples(one.signal.counts, counts, thinning=one.thinning)
            values[one.signal.name] = min(test.p_value * len(stand), 1.0)
        lowest = min(values.values(), default=1.0)
        wrong = sorted((name for name, value in values.items() if value < LEVEL), key=lambda name: values[name])
        return Skew(State.SKEW if wrong else State.OK, self._frames, lowest, tuple(wrong))
