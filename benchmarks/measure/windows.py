"""A peer of the drift monitor: a test of one window of frames after another against the reference.

It uses the bins of the profile and alarms when any signal is over its threshold, Pearson's two-sample chi-square
test at 5 %. That is what common drift reports do by default, a window at a time.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dsops.profile import Profile, Signal

WINDOW = 500
_Z = 1.6449
"""Normal quantile of 95 %."""

Floats = NDArray[np.float64]


class WindowTest:
    """Collects frames; tests every full window and begins the next."""

    def __init__(self, profile: Profile) -> None:
        self._signals = profile.signals
        self._window = np.zeros((WINDOW, len(profile.signals)))
        self._filled = 0

    def feed(self, signals: Mapping[str, float]) -> bool:
        """Take one frame's signals; return whether a window ended with an alarm."""
        self._window[self._filled] = [signals[signal.name] for signal in self._signals]
        self._filled += 1
        if self._filled < WINDOW:
            return False
        self._filled = 0
        return any(
            chi_square_exceeds(np.array(signal.counts, float), counts(signal, self._window[:, at]))
            for at, signal in enumerate(self._signals)
        )


def counts(signal: Signal, values: Floats) -> Floats:
    """Return how many values fall into each bin of the profile."""
    bins = np.searchsorted(signal.edges, values, "right") if signal.kind == "ordinal" else values.astype(int)
    return np.bincount(bins, minlength=len(signal.counts)).astype(float)


def chi_square_exceeds(reference: Floats, window: Floats) -> bool:
    """Return whether the two-sample chi-square statistic is above its quantile; bins empty in both are left out."""
    a, b = np.sqrt(window.sum() / reference.sum()), np.sqrt(reference.sum() / window.sum())
    both = reference + window
    there = both > 0
    statistic = float(((a * reference - b * window)[there] ** 2 / both[there]).sum())
    return statistic > chi_square_quantile(int(there.sum()) - 1)


def chi_square_quantile(freedom: int) -> float:
    """Return the 95 % quantile of chi-square, by Wilson and Hilferty's (1931) approximation."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + _Z * np.sqrt(part)) ** 3)
