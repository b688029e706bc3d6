"""Drift over many devices: which of them have drifted, and whether their frames together are still the profile's.

Pure: reports in, verdicts out. One device in a thousand alarms by chance now and then; e-BH bounds the share of false
ones among those that are named (Wang and Ramdas, "False discovery rate control with e-values", JRSS-B 2022), whatever
the dependence between devices that watch the same sky. Reports add up bin by bin, because all devices of a bundle have
the bins of its profile.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport
from dsops.chi_square import Test, filled, two_samples
from dsops.profile import Profile, Signal

FDR = 0.05
LEVEL = 0.05


@dataclass(frozen=True)
class FleetTest:
    """Whether the frames of some reports come from the distribution of the profile.

    Attributes:
        reports: Reports that had counts.
        frames: Frames in them.
        p_value: Smallest of all signals, corrected for their number (Bonferroni).
        signals: The test of each signal, most different first.
    """

    reports: int
    frames: int
    p_value: float
    signals: Mapping[str, Test]

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of the signals that differ at the corrected level."""
        limit = LEVEL / max(len(self.signals), 1)
        return tuple(name for name, test in self.signals.items() if test.p_value < limit)


def drifted(log_es: Mapping[str, float], fdr: float = FDR, devices: int | None = None) -> tuple[str, ...]:
    """Return the devices that have drifted, surest first, by the logarithms of their e-processes.

    Of those that are named, a share of ``fdr`` at most is wrong, on average. An e-process that is not a number counts
    for nothing.

    Args:
        log_es: By device.
        fdr: That share.
        devices: How many there are, when some with e-values below ``1 / fdr`` are left out: they change nothing.
    """
    ranked = sorted((name for name, value in log_es.items() if not math.isnan(value)), key=lambda name: -log_es[name])
    of, count = len(log_es) if devices is None else devices, 0
    for rank, name in enumerate(ranked, 1):
        if log_es[name] >= math.log(of / (fdr * rank)):
            count = rank
    return tuple(ranked[:count])


class Merged:
    """Adds reports of one bundle up. A signal that the profile does not have, or has with other bins, is left out."""

    def __init__(self, profile: Profile) -> None:
        self._signals = {signal.name: signal for signal in profile.signals}
        self._sums = {name: _Sum(signal) for name, signal in self._signals.items()}
        self._reports = 0

    def add(self, report: DriftReport) -> None:
        """Add a report's counts; one without counts changes nothing."""
        share = report.epsilon / max(sum(bool(one.counts) for one in report.signals), 1)
        noise = noise_variance(share) if math.isfinite(share) and share > 0.0 else 0.0
        fitting = [one for one in report.signals if self._fits(one)]
        for one in fitting:
            self._sums[one.name].add(one, report.suppressed_below, noise)
        self._reports += bool(fitting)

    def test(self) -> FleetTest:
        """Return whether the frames so far are the profile's."""
        tests = {name: one.test() for name, one in self._sums.items() if one.total > 0.0}
        ranked = dict(sorted(tests.items(), key=lambda item: item[1].p_value))
        lowest = min((test.p_value for test in tests.values()), default=1.0)
        frames = round(max((one.total for one in self._sums.values()), default=0.0))
        return FleetTest(self._reports, frames, min(lowest * max(len(tests), 1), 1.0), ranked)

    def counts(self) -> dict[str, tuple[Signal, list[float], float]]:
        """Return each signal with its merged counts and the variance of the noise in each, where anything was seen."""
        return {
            name: (self._signals[name], one.counts, one.noise) for name, one in self._sums.items() if one.total > 0.0
        }

    def _fits(self, one: SignalReport) -> bool:
        signal = self._signals.get(one.name)
        return signal is not None and len(one.counts) == len(signal.counts)


def merged(profile: Profile, reports: Iterable[DriftReport]) -> FleetTest:
    """Return whether the frames of all reports together are the profile's."""
    whole = Merged(profile)
    for report in reports:
        whole.add(report)
    return whole.test()


def noise_variance(epsilon: float) -> float:
    """Return the variance of discrete Laplace noise: ``2 a / (1 - a)^2`` with ``a = exp(-epsilon)``."""
    a = math.exp(-epsilon)
    return 2.0 * a / (1.0 - a) ** 2


class _Sum:
    """The counts of one signal, and how much they vary by chance."""

    def __init__(self, signal: Signal) -> None:
        self._reference = signal.counts
        self.counts = [0.0] * len(signal.counts)
        self._thinned = 0.0
        self.noise = 0.0
        self.total = 0.0

    def add(self, one: SignalReport, suppressed_below: int, noise: float) -> None:
        counts: list[float] = [float(count) for count in one.counts]
        if suppressed_below > 1:
            counts = filled(self._reference, counts, suppressed_below)
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        seen = math.fsum(counts)
        self._thinned += seen * max(one.thinning, 1)
        self.noise += noise
        self.total += seen

    def test(self) -> Test:
        return two_samples(self._reference, self.counts, noise=self.noise, thinning=self._thinned / self.total)
