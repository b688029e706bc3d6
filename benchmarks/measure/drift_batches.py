"""The controller's test of one report, and of one with noise: false positives and power over the 27 settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport
from dsops.profile import Profile
from dsops_agent.drift.privacy import noisy
from dsops_controller.dataops.drift.fleet_drift import LEVEL, merged
from measure.cameras import Camera, Floats
from measure.drift_profiles import profile_of
from measure.drift_streams import Pool, Rows, drifting
from measure.shifts import Scenario, scenarios

ARL0 = 1e4
EPSILON = Fraction(1)
NOISY_FRAMES = 1000
NOISY_SHIFTS = ("small_img_0.5", "large_gn_0.1", "medium_img_0.1")


@dataclass(frozen=True)
class Found:
    """Share of windows in which a test found a difference."""

    false: float
    power: float


def window_test(camera: Camera, pool: Pool, size: int, runs: int, rng: np.random.Generator) -> Found:
    """Return false positives and power at one size of window."""
    null = [_differs_by_chance(camera, pool, size, rng) for _ in range(runs * 60)]
    found = [
        _differs(camera.profile, pool, drifting(camera, one, size, rng)) for one in scenarios() for _ in range(runs)
    ]
    return Found(float(np.mean(null)), float(np.mean(found)))


def noisy_test(camera: Camera, pool: Pool, runs: int, rng: np.random.Generator) -> Found:
    """Return the same for reports with noise, over three shifts; the power is that of the worst."""
    by_name = {one.name: one for one in scenarios()}

    def share(scenario: Scenario | None) -> float:
        if scenario is None:
            return float(
                np.mean([_differs_by_chance(camera, pool, NOISY_FRAMES, rng, EPSILON) for _ in range(runs * 4)])
            )
        rows = [drifting(camera, scenario, NOISY_FRAMES, rng) for _ in range(runs)]
        return float(np.mean([_differs(camera.profile, pool, one, EPSILON) for one in rows]))

    return Found(share(None), min(share(by_name[name]) for name in NOISY_SHIFTS))


def _differs_by_chance(
    camera: Camera, pool: Pool, size: int, rng: np.random.Generator, epsilon: Fraction = Fraction(0)
) -> bool:
    """Split the frames anew into a reference and a window, so that there is nothing but chance between the two."""
    every = np.concatenate([pool.columns[: len(camera.y)], camera.reference.columns])
    order = rng.permutation(len(every))
    count = len(camera.reference.columns)
    profile = profile_of(camera, every[order[:count]], ARL0)
    return _differs(profile, replace(pool, columns=every), order[count : count + size].astype(np.int32), epsilon)


def _differs(profile: Profile, pool: Pool, rows: Rows, epsilon: Fraction = Fraction(0)) -> bool:
    report = DriftReport(epsilon=float(epsilon))
    signals = profile.signals
    if epsilon:
        signals = tuple(one for one in signals if one.name not in ("confidence", "margin"))  # as a device does
    share = epsilon / len(signals)
    for signal in signals:
        counts = _counts(signal.edges, len(signal.counts), pool.columns[rows, pool.names.index(signal.name)])
        report.signals.append(SignalReport(name=signal.name, counts=noisy(counts, share) if epsilon else counts))
    return merged(profile, [report]).p_value < LEVEL


def _counts(edges: Sequence[float], bins: int, values: Floats) -> list[int]:
    at = np.searchsorted(edges, values, "right") if edges else values.astype(np.intp)
    counts: list[int] = np.bincount(at, minlength=bins).tolist()
    return counts
