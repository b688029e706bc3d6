"""How often a detector cries wolf on clean streams, and how soon it sees shifts: ours, and peers in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dsops.profile import Profile
from dsops_agent.drift.monitor import DriftMonitor, Level
from measure.drift_streams import Pool, Rows
from measure.windows import WindowTest

TOGETHER = 64
"""Frames that are fed at a time; the verdicts are those of frames fed one by one."""


class Detector(Protocol):
    """Something that is shown rows of a pool."""

    def alarms(self, pool: Pool, rows: Rows) -> list[int]:
        """Return the numbers, from 0, of the frames at which it alarmed; after each it begins anew."""
        ...


class Monitor:
    """The product's monitor."""

    def __init__(self, profile: Profile) -> None:
        self._monitor = DriftMonitor(profile)

    def alarms(self, pool: Pool, rows: Rows) -> list[int]:
        """Feed frames in groups, and again from the one after an alarm."""
        found: list[int] = []
        at = 0
        while at < len(rows):
            group = rows[at : at + TOGETHER]
            verdicts = self._monitor.feed(pool.frames(group))
            first = next((n for n, verdict in enumerate(verdicts) if verdict.level is Level.DRIFT), None)
            if first is None:
                at += len(group)
                continue
            found.append(at + first)
            at += first + 1
            self._monitor.reset()
        return found


class Windows:
    """A test of windows of 500 frames."""

    def __init__(self, test: WindowTest) -> None:
        self._test = test

    def alarms(self, pool: Pool, rows: Rows) -> list[int]:
        """Feed frame by frame."""
        frames = pool.columns[rows].tolist()
        return [n for n, frame in enumerate(frames) if self._test.feed(dict(zip(pool.names, frame, strict=True)))]


Make = Callable[[], Detector]


@dataclass(frozen=True)
class Power:
    """Frames to the first alarm for each scenario and stream; infinite where there was none."""

    delays: tuple[tuple[float, ...], ...]

    def within(self, frames: float) -> float:
        """Return the share of streams in which the shift was found within so many frames."""
        return float(np.mean([delay <= frames for streams in self.delays for delay in streams]))

    @property
    def medians(self) -> list[float]:
        """Median of each scenario; infinite when most of its streams ended without an alarm."""
        return [float(np.median(streams)) for streams in self.delays]

    @property
    def median(self) -> float:
        """Median of all scenarios."""
        return float(np.median(self.medians))


def false_alarms(make: Make, pool: Pool, streams: Sequence[Rows]) -> float:
    """Return alarms per 10,000 frames of clean streams."""
    count = sum(len(make().alarms(pool, rows)) for rows in streams)
    return count / sum(map(len, streams)) * 10_000


def power(make: Make, pool: Pool, streams: Sequence[Sequence[Rows]], lead: int) -> Power:
    """Return the delays in streams whose first ``lead`` frames are clean, by scenario."""
    return Power(tuple(tuple(_delay(make(), pool, rows, lead) for rows in runs) for runs in streams))


def _delay(detector: Detector, pool: Pool, rows: Rows, lead: int) -> float:
    step = 250
    detector.alarms(pool, rows[:lead])
    for start in range(lead, len(rows), step):
        found = detector.alarms(pool, rows[start : start + step])
        if found:
            return float(start + found[0] + 1 - lead)
    return float("inf")
