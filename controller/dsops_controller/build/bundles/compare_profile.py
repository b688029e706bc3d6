"""How far two reference profiles lie apart, signal by signal."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops.profile import Profile, Signal

Shares = NDArray[np.float64]
_PSEUDO_COUNT = 0.5
"""Added to each bin for the stability index, which an empty bin would make infinite (Krichevsky and Trofimov 1981)."""


@dataclass(frozen=True)
class SignalChange:
    """How one signal's reference distribution differs.

    Attributes:
        distance: Total variation, 0 (the same) to 1 (nothing in common); None for a signal that only one profile has,
            or whose classes are others.
        stability: Population stability index (the symmetrized Kullback-Leibler divergence), in nats; None likewise.
        is_rebinned: Whether the bins differ, so that the distributions were compared on the edges of both, with the
            values of a bin spread evenly over it.
        note: Why there is no figure.
    """

    name: str
    distance: float | None
    stability: float | None
    is_rebinned: bool = False
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "total_variation": self.distance,
            "stability_index": self.stability,
            "rebinned": self.is_rebinned,
            "note": self.note,
        }


def compare_profiles(before: Profile, after: Profile) -> tuple[SignalChange, ...]:
    """Return the difference of every signal, in the order of the newer profile, then those that are gone."""
    old = {signal.name: signal for signal in before.signals}
    new = {signal.name: signal for signal in after.signals}
    changes = [
        _compare(old[name], signal) if name in old else SignalChange(name, None, None, note="added")
        for name, signal in new.items()
    ]
    return (*changes, *(SignalChange(name, None, None, note="removed") for name in old if name not in new))


def _compare(old: Signal, new: Signal) -> SignalChange:
    if old.kind != new.kind or (old.kind == "categorical" and len(old.counts) != len(new.counts)):
        return SignalChange(new.name, None, None, note="other classes")
    if old.edges == new.edges:
        p, q = np.asarray(old.counts, np.float64), np.asarray(new.counts, np.float64)
    else:
        edges = np.union1d(old.edges, new.edges)
        p, q = _spread(old, edges), _spread(new, edges)
    return SignalChange(new.name, _total_variation(p, q), _stability(p, q), is_rebinned=old.edges != new.edges)


def _spread(signal: Signal, edges: Shares) -> Shares:
    """Return counts on other edges: an inner bin is spread evenly, what is outside stays at its edge."""
    cumulated = np.cumsum(signal.counts[:-1], dtype=np.float64)
    at_edges = np.interp(edges, signal.edges, cumulated, left=0.0, right=cumulated[-1])
    return np.diff(np.concatenate([[0.0], at_edges, [float(sum(signal.counts))]]))


def _total_variation(p: Shares, q: Shares) -> float:
    return float(np.abs(p / max(p.sum(), 1.0) - q / max(q.sum(), 1.0)).sum() / 2)


def _stability(p: Shares, q: Shares) -> float:
    a, b = (p + _PSEUDO_COUNT) / (p + _PSEUDO_COUNT).sum(), (q + _PSEUDO_COUNT) / (q + _PSEUDO_COUNT).sum()
    return float(((a - b) * np.log(a / b)).sum())
