"""How many frames of a stream count as one: the correlation time of each signal.

Consecutive frames of a camera resemble each other. A detector that takes them for independent raises false alarms, so
each signal is fed only every so many frames (integrated autocorrelation time; Sokal, "Monte Carlo Methods in
Statistical Mechanics", section 3, with the window closed where the estimate becomes noise).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_THIN = 100
_MIN_FRAMES = 20
_CORRECTIONS = 4
_ROUND_DOWN = 0.35
"""A correlation time of up to 1.35 is within the noise of the estimate and counts as 1."""

_SURE = 1.3
"""A few hundred frames hold few scenes, so that a correlation time is known to about a third; too little is worse."""

Series = NDArray[np.integer]


def correlation_time(series: Series, *, categorical: bool, lags: int = 0) -> float:
    """Return ``1 + 2 * (sum of autocorrelations)``, up to the first below ``2 / sqrt(n)``, in frames.

    Args:
        series: Bin of the signal in each frame, in order, [n].
        categorical: Whether bins are classes without an order; two frames then agree or differ.
        lags: Autocorrelations to add at least.
    """
    correlations = _corrected(series, categorical=categorical)
    end = _window(correlations, len(series))
    times = [1.0 + 2.0 * float(correlations[:last].sum()) for last in {end, max(end, lags)}]
    return max(times)


def _corrected(series: Series, *, categorical: bool) -> NDArray[np.float64]:
    """Return autocorrelations about the true mean; that of the same frames lowers each by its variance, time / n."""
    raw = _autocorrelations(series, categorical=categorical)
    time, corrected = 1.0, raw
    for _ in range(_CORRECTIONS):
        share = min(time / len(series), 0.5)
        corrected = raw * (1 - share) + share
        time = 1.0 + 2.0 * float(corrected[: _window(corrected, len(series))].sum())
    return corrected


def _window(correlations: NDArray[np.float64], frames: int) -> int:
    """Return how many autocorrelations come before the first that is noise."""
    below = np.flatnonzero(correlations < 2 / math.sqrt(frames))
    return int(below[0]) if len(below) else len(correlations)


def _autocorrelations(series: Series, *, categorical: bool) -> NDArray[np.float64]:
    """Return the sample autocorrelations at lags 1 to n / 2; a constant series is correlated with itself entirely."""
    length = len(series)
    # Not np.unique: it imports numpy.ma, which takes a megabyte.
    parts = (series[:, None] == np.array(sorted(set(series.tolist())))) if categorical else series[:, None]
    centred = parts - parts.mean(axis=0)
    variance = float((centred * centred).sum()) / length
    if variance == 0.0:
        return np.ones(length // 2)
    spectrum = np.fft.rfft(centred, 2 * length, axis=0)  # padded, so that the ends do not meet
    products = np.fft.irfft((spectrum * spectrum.conj()).sum(axis=1))[1 : length // 2 + 1]
    counts = length - np.arange(1, length // 2 + 1)
    correlations: NDArray[np.float64] = products / counts / variance
    return correlations


def thinnings(early: Series, categorical: Sequence[bool]) -> list[int]:
    """Return how many frames of each signal [n, S] make one independent frame, 1 to ``MAX_THIN``; 1 if too few tell.

    How long frames resemble each other is a matter of the scene, not of the signal: what moves one signal moves the
    others, if less. So all are summed as far as the one whose autocorrelations last longest; by itself a weak
    correlation is soon taken for noise.
    """
    frames = len(early)
    if frames < _MIN_FRAMES:
        return [1] * len(categorical)
    columns = list(zip(early.T, categorical, strict=True))
    lags = max((_window(_corrected(one, categorical=flag), frames) for one, flag in columns), default=0)
    times = [correlation_time(one, categorical=flag, lags=lags) for one, flag in columns]
    wanted = [math.ceil(1.0 + _SURE * (time - 1.0) - _ROUND_DOWN) for time in times]
    return [min(max(thin, 1), MAX_THIN) for thin in wanted]
