"""Says in words what a signal shows: which class comes more often, on which side of its usual range a quantity lies."""

import math
from collections.abc import Sequence

from dsops_agent.drift.monitor import Watched

_MOST = 2
"""Bins that are named at most."""
_LEAST = 0.03
"""A bin whose share changed by less is not named."""
_RARE = 1e-3


def because(one: Watched, labels: Sequence[str] = ()) -> str:
    """Return how the signal's recent frames differ from the usual ones, or nothing when they hardly do.

    Args:
        one: How the signal stands.
        labels: Names of classes, for the predicted class.
    """
    pairs = list(zip(one.recent, one.usual, strict=True))
    order = sorted(range(len(pairs)), key=lambda at: -_weight(*pairs[at]))[:_MOST]
    named = [at for at in order if abs(one.recent[at] - one.usual[at]) >= _LEAST]
    return ", ".join(
        f"{one.signal.name_of(at, labels)} {one.recent[at]:.0%} instead of {one.usual[at]:.0%}" for at in named
    )


def _weight(recent: float, usual: float) -> float:
    """Return what a bin adds to the divergence of the two (Jeffreys, 1946): a rare one that comes weighs most."""
    ratio = max(recent, _RARE) / max(usual, _RARE)
    return (recent - usual) * math.log(ratio)
