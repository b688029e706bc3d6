"""What the drift monitor costs a frame, how often it cries wolf, and how soon it sees a camera go bad.

Every detector is fed the same signals of real digits, measured on the device's own int8 model. For false alarms the
frames are drawn with replacement, independently, from the 500 frames of the profile: there is no drift by construction.
A second row draws from held-out frames as well, which the profile has not seen. Delays count from the first bad frame,
after a clean stretch of a random length.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from measure.interpreter import BareInterpreter
from measure.model import SEED, make_bundle
from measure.report import Limit, Report, Row, run
from measure.windows import WindowTest

from dsops import signals
from dsops.manifest import Task
from dsops.profile import Profile
from dsops_agent.drift.monitor import DriftMonitor, Level
from dsops_agent.runtime.observe import SLICE_FRAMES
from dsops_controller.demo.digits import Images, bad_camera, splits

OURS, PSI, CHI = "monitor", "PSI > 0.2, windows of 500", "chi-square 5 %, windows of 500"
CLEAN_FRAMES = 60_000
COST_FRAMES = 2_000
COST_ROUNDS = 7
TOGETHER = SLICE_FRAMES
STREAMS = 15
CLEAN_BEFORE = (600, 1600)
LONGEST = 3_000
"""Frames after which a drift counts as not seen."""
FALSE_LIMIT = Limit("figure", "<=", 1.0)
DELAY_LIMIT = Limit("figure", "<=", 100.0)

Frame = Mapping[str, float]


class Detector(Protocol):
    """Something that is fed frames."""

    state_bytes: int

    def alarm(self, frame: Frame) -> bool:
        """Take a frame; return whether an alarm begins with it. After an alarm the detector starts anew."""
        ...


class Monitor:
    """The product's monitor, armed again after each alarm."""

    def __init__(self, profile: Profile) -> None:
        self._monitor = DriftMonitor(profile)
        self.state_bytes = self._monitor.state_bytes  # most at the start: early frames are kept for a while

    def alarm(self, frame: Frame) -> bool:
        """Feed one frame."""
        verdict = self._monitor.feed({name: [value] for name, value in frame.items()})[-1]
        is_alarm = verdict.level is Level.DRIFT
        if is_alarm:
            self._monitor.reset()
        return is_alarm


class Windows:
    """A test of windows."""

    def __init__(self, test: WindowTest) -> None:
        self._test = test
        self.state_bytes = test.state_bytes

    def alarm(self, frame: Frame) -> bool:
        """Feed one frame."""
        return self._test.feed(frame)


@dataclass(frozen=True)
class Data:
    """Signals of frames: those of the profile, held-out ones with them, and held-out ones behind each bad camera."""

    profile: Profile
    reference: list[Frame]
    held_out: list[Frame]
    bad: Mapping[str, list[Frame]]
    signals_us: float


def darker(x: Images, seed: int) -> Images:
    """Return frames with 95 % of their light."""
    return (0.95 * x).astype(np.float32)


def moved(x: Images, seed: int) -> Images:
    """Return frames as a camera sees them that was moved by one pixel to the right."""
    return np.roll(x, -1, axis=2)


CAMERAS: Mapping[str, Callable[[Images, int], Images]] = {
    "bad camera": bad_camera,
    "light at 95 %": darker,
    "moved by a pixel": moved,
}


def signals_of(x: Images, scores: Images) -> list[Frame]:
    """Return the signals of each frame, given its probabilities; measured together as a device does under load."""
    found: list[Frame] = []
    for start in range(0, len(x), TOGETHER):
        rows = slice(start, start + TOGETHER)
        values = signals.measure(Task.CLASSIFICATION, [(0, x[rows])], scores[rows], scores[rows])
        found += [dict(zip(values, frame, strict=True)) for frame in zip(*values.values(), strict=True)]
    return found


def read_data() -> Data:
    """Build the model and measure every signal that is needed."""
    parts = splits(SEED)
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        bundle = make_bundle(Path(name))
        model = BareInterpreter(bundle.payload)
    scores = model.run(parts.test.x)
    reference, test = signals_of(parts.reference.x, model.run(parts.reference.x)), signals_of(parts.test.x, scores)
    seen = {name: camera(parts.test.x, SEED) for name, camera in CAMERAS.items()}
    bad = {name: signals_of(x, model.run(x)) for name, x in seen.items()}
    taken = []
    for _ in range(COST_ROUNDS):
        began_s = time.perf_counter()
        signals_of(parts.test.x, scores)
        taken.append((time.perf_counter() - began_s) / len(scores) * 1e6)
    return Data(bundle.profile, reference, reference + test, bad, statistics.median(taken))


def detectors(profile: Profile) -> dict[str, Detector]:
    """Return every detector, new."""
    return {
        OURS: Monitor(profile),
        PSI: Windows(WindowTest(profile, "psi")),
        CHI: Windows(WindowTest(profile, "chi-square")),
    }


def cost_us(data: Data) -> tuple[dict[str, float], dict[str, int]]:
    """Return the time a frame of each detector, medians of rounds in turns, and the bytes that it keeps."""
    rng = np.random.default_rng(SEED)
    frames = [data.reference[at] for at in rng.integers(len(data.reference), size=COST_FRAMES)]
    every = detectors(data.profile)
    taken: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(COST_ROUNDS):
        for name in (PSI, CHI):
            detector = every[name]
            began_s = time.perf_counter()
            for frame in frames:
                detector.alarm(frame)
            taken[name].append((time.perf_counter() - began_s) / COST_FRAMES * 1e6)
        taken[OURS].append(together_us(data.profile, frames))
    sizes = {name: detector.state_bytes for name, detector in every.items()}
    return {name: statistics.median(values) for name, values in taken.items()}, sizes


def together_us(profile: Profile, frames: list[Frame]) -> float:
    """Return the time a frame of a monitor that is fed groups, as a device does under load."""
    monitor = DriftMonitor(profile)
    groups = [frames[start : start + TOGETHER] for start in range(0, len(frames), TOGETHER)]
    columns = [{name: [frame[name] for frame in group] for name in group[0]} for group in groups]
    began_s = time.perf_counter()
    for group in columns:
        monitor.feed(group)
    return (time.perf_counter() - began_s) / len(frames) * 1e6


def false_alarms(profile: Profile, frames: list[Frame], seed: int) -> dict[str, float]:
    """Return alarms per 10,000 frames without drift."""
    every = detectors(profile)
    alarms = dict.fromkeys(every, 0)
    for at in np.random.default_rng(seed).integers(len(frames), size=CLEAN_FRAMES):
        for name, detector in every.items():
            alarms[name] += detector.alarm(frames[at])
    return {name: count / CLEAN_FRAMES * 10_000 for name, count in alarms.items()}


def delays(data: Data, bad: list[Frame]) -> dict[str, float | None]:
    """Return the median frames from the first bad one to the alarm; None when most streams ended without one."""
    found: dict[str, list[float]] = {name: [] for name in detectors(data.profile)}
    for seed in range(STREAMS):
        rng = np.random.default_rng(seed)
        every = detectors(data.profile)
        for at in rng.integers(len(data.held_out), size=int(rng.integers(*CLEAN_BEFORE))):
            for detector in every.values():
                detector.alarm(data.held_out[at])
        stream = [bad[at] for at in rng.integers(len(bad), size=LONGEST)]
        for name, detector in every.items():
            seen = next((number for number, frame in enumerate(stream, 1) if detector.alarm(frame)), None)
            found[name].append(seen or float("inf"))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {name: value if value < float("inf") else None for name, value in medians.items()}


def measure() -> Report:
    """Measure cost, false alarms and delays."""
    data = read_data()
    cost, size = cost_us(data)
    figures: list[tuple[str, str, Mapping[str, float | None], Limit | None]] = [
        ("detector, a frame", "us", dict(cost), None),
        ("state", "bytes", dict(size), None),
        (
            "false alarms, frames of the profile",
            "per 10,000",
            dict(false_alarms(data.profile, data.reference, 1)),
            FALSE_LIMIT,
        ),
        ("false alarms, held-out frames too", "per 10,000", dict(false_alarms(data.profile, data.held_out, 2)), None),
    ]
    for name, bad in data.bad.items():
        limit = DELAY_LIMIT if name == next(iter(CAMERAS)) else None
        figures.append((f"to the alarm, {name}", "frames", delays(data, bad), limit))
    rows = [Row("signals of a frame, for all detectors", "us", data.signals_us)]
    for name, unit, found, limit in figures:
        rows.append(Row(name, unit, found[OURS], found[PSI], PSI, limit))
        rows.append(Row(name, unit, found[OURS], found[CHI], CHI))
    facts = {"ARL0": f"{data.profile.arl0:,.0f}", "clean frames": f"{CLEAN_FRAMES:,}", "streams a camera": STREAMS}
    return Report("drift", f"Drift: a dash is a drift not seen within {LONGEST:,} frames", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
