"""How many frames of a stream count as one: the correlation time of each signal.

Consecutive frames of a camera resemble each other. A detector that takes them for independent raises false alarms, so
each signal is fed only every so many frames (integrated autocorrelation time; Sokal, "Monte Carlo Methods in
Statistical Mechanics", section 3, with the window closed where the estimate becomes noise).
"""

import math

import numpy as np
from numpy.typing import NDArray

MAX_THIN = 100
_MIN_FRAMES = 20
_CORRECTIONS = 4
_ROUND_DOWN = 0.35
"""A correlation time of up to 1.35 is within the noise of the estimate and counts as 1."""

Series = NDArray[np.integer]


def correlation_time(series: Series, *, categorical: bool) -> float:
    """Return ``1 + 2 * (sum of autocorrelations)``, up to the first below ``2 / sqrt(n)``, in frames.

    Args:
        series: Bin of the signal in each frame, in order, [n].
        categorical: Whether bins are classes without an order; two frames then agree or differ.
    """
    raw = _autocorrelations(series, categorical=categorical)
    noise = 2 / math.sqrt(len(series))
    time = 1.0
    for _ in range(_CORRECTIONS):
        # The mean is that of the same frames, which lowers every estimate by the mean's own variance, time / n.
        share = min(time / len(series), 0.5)
        corrected = raw * (1 - share) + share
        below = np.flatnonzero(corrected < noise)
        end = int(below[0]) if len(below) else len(corrected)
        time = 1.0 + 2.0 * float(corrected[:end].sum())
    return time


def _autocorrelations(series: Series, *, categorical: bool) -> NDArray[np.float64]:
    """Return the sample autocorrelations at lags 1 to n / 2; a constant series is correlated with itself entirely."""
    length = len(series)
    parts = (series[:, None] == np.unique(series)) if categorical else series[:, None]
    centred = parts - parts.mean(axis=0)
    variance = float((centred * centred).sum()) / length
    if variance == 0.0:
        return np.ones(length // 2)
    spectrum = np.fft.rfft(centred, 2 * length, axis=0)  # padded, so that the ends do not meet
    products = np.fft.irfft((spectrum * spectrum.conj()).sum(axis=1))[1 : length // 2 + 1]
    counts = length - np.arange(1, length // 2 + 1)
    correlations: NDArray[np.float64] = products / counts / variance
    return correlations


def thinning(series: Series, *, categorical: bool) -> int:
    """Return how many frames make one independent frame, 1 to ``MAX_THIN``; 1 when there are too few to tell."""
    if len(series) < _MIN_FRAMES:
        return 1
    time = correlation_time(series, categorical=categorical)
    return min(max(math.ceil(time - _ROUND_DOWN), 1), MAX_THIN)
