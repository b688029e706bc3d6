"""How little a single frame fits the profile, by the same signals and histograms as the drift monitor."""

import math
from collections.abc import Collection, Mapping, Sequence

from dsops.profile import Profile


class Oddness:
    """Scores frames: the sum over the signals of ``-ln p``, where ``p`` is the probability of the frame's bin.

    With signals that were independent this would be the frame's negative log-likelihood. An empty bin counts as half a
    frame of the reference.

    Args:
        profile: The reference.
        known: Names of the signals that are measured.
    """

    def __init__(self, profile: Profile, known: Collection[str]) -> None:
        self._signals = [signal for signal in profile.signals if signal.name in known]
        self._costs = []
        for signal in self._signals:
            total = sum(signal.counts) + 0.5 * len(signal.counts)
            self._costs.append([-math.log((count + 0.5) / total) for count in signal.counts])

    def of(self, signals: Mapping[str, Sequence[float]]) -> list[float]:
        """Return the score of each frame, given the value of every signal for each."""
        count = len(next(iter(signals.values()), ()))
        scores = [0.0] * count
        for signal, costs in zip(self._signals, self._costs, strict=True):
            for at, value in enumerate(signals[signal.name]):
                scores[at] += costs[signal.bin(value)]
        return scores
