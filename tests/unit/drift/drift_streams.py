"""Streams of frames with a known truth, and the profile of what they come from."""

import math
from collections.abc import Mapping

import numpy as np

from dsops.profile import Profile, Signal
from dsops_agent.drift.monitor import DriftMonitor, Verdict

ORDINAL = ("confidence", "margin", "entropy", "input_mean")
CLASSES = 10


def make_profile(seed: int, n_ref: int = 500, arl0: float = 1e6) -> Profile:
    rng = np.random.default_rng(seed)
    signals = []
    for name in ORDINAL:
        values = rng.normal(size=n_ref)
        edges = (values.min() - 1e-6, *np.quantile(values, np.arange(1, 10) / 10), values.max() + 1e-6)
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        signals.append(Signal(name=name, kind="ordinal", edges=tuple(edges), counts=tuple(counts.tolist())))
    counts = np.bincount(rng.integers(0, CLASSES, n_ref), minlength=CLASSES)
    signals.append(Signal(name="predicted_class", kind="categorical", counts=tuple(counts.tolist())))
    return Profile(n_ref=n_ref, signals=tuple(signals), arl0=arl0)


def stream(seed: int, length: int, hold: int = 1) -> list[dict[str, float]]:
    """Frames from the reference's distribution, each repeated ``hold`` times."""
    rng = np.random.default_rng(1000 + seed)
    frames = []
    for _ in range(math.ceil(length / hold)):
        frame = dict(zip(ORDINAL, rng.normal(size=len(ORDINAL)).tolist(), strict=True))
        frame["predicted_class"] = float(rng.integers(0, CLASSES))
        frames.extend([frame] * hold)
    return frames[:length]


def shifted(frames: list[dict[str, float]], by: float) -> list[dict[str, float]]:
    return [{name: value + by if name in ORDINAL else value for name, value in frame.items()} for frame in frames]


def one(monitor: DriftMonitor, frame: Mapping[str, float]) -> Verdict:
    """Feed one frame."""
    (verdict,) = monitor.feed({name: [value] for name, value in frame.items()})
    return verdict
