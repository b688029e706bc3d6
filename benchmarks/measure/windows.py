"""The peers of the drift monitor: tests of one window of frames after another against the reference.

Both use the bins of the profile and raise an alarm when any signal is over its threshold: the population stability
index above 0.2, the usual rule of credit scoring, and Pearson's two-sample chi-square test at 5 %. That is what common
drift reports do by default, a window at a time.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsops.profile import Profile, Signal

WINDOW = 500
PSI_LIMIT = 0.2
_Z = 1.6449
"""Normal quantile of 95 %."""
_SMALL = 1e-4

Floats = NDArray[np.float64]


class WindowTest:
    """Collects frames; tests every full window and begins the next."""

    def __init__(self, profile: Profile, rule: Literal["psi", "chi-square"]) -> None:
        self._signals = profile.signals
        self._is_drift: Callable[[Floats, Floats], bool] = {"psi": psi_exceeds, "chi-square": chi_square_exceeds}[rule]
        self._window = np.zeros((WINDOW, len(profile.signals)))
        self._filled = 0

    @property
    def state_bytes(self) -> int:
        """Size of everything that is kept of the stream."""
        return self._window.nbytes

    def feed(self, signals: Mapping[str, float]) -> bool:
        """Take one frame's signals; return whether a window ended with an alarm."""
        self._window[self._filled] = [signals[signal.name] for signal in self._signals]
        self._filled += 1
        if self._filled < WINDOW:
            return False
        self._filled = 0
        return any(
            self._is_drift(np.array(signal.counts, float), counts(signal, self._window[:, at]))
            for at, signal in enumerate(self._signals)
        )


def counts(signal: Signal, values: Floats) -> Floats:
    """Return how many values fall into each bin of the profile."""
    bins = np.searchsorted(signal.edges, values, "right") if signal.kind == "ordinal" else values.astype(int)
    return np.bincount(bins, minlength=len(signal.counts)).astype(float)


def psi_exceeds(reference: Floats, window: Floats) -> bool:
    """Return whether the population stability index is above its limit; empty bins count as 0.01 %."""
    p = np.maximum(reference / reference.sum(), _SMALL)
    q = np.maximum(window / window.sum(), _SMALL)
    return bool(((q - p) * np.log(q / p)).sum() > PSI_LIMIT)


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
