"""Says in words what a signal shows: which class comes more often, on which side of its usual range a quantity lies."""

from collections.abc import Sequence

from dsops_agent.drift.monitor import Watched

_MOST = 2
"""Bins that are named at most."""
_LEAST = 0.03
"""A bin whose share changed by less is not named."""


def because(one: Watched, labels: Sequence[str] = ()) -> str:
    """Return how the signal's recent frames differ from the usual ones, or nothing when they hardly do.

    Args:
        one: How the signal stands.
        labels: Names of classes, for the predicted class.
    """
    changes = [recent - usual for recent, usual in zip(one.recent, one.usual, strict=True)]
    order = sorted(range(len(changes)), key=lambda at: -abs(changes[at]))[:_MOST]
    named = [at for at in order if abs(changes[at]) >= _LEAST]
    return ", ".join(f"{_name(one, at, labels)} {one.recent[at]:.0%} instead of {one.usual[at]:.0%}" for at in named)


def _name(one: Watched, at: int, labels: Sequence[str]) -> str:
    signal = one.signal
    if signal.kind == "categorical":
        return labels[at] if at < len(labels) else f"class {at}"
    marks = at - len(signal.edges) - 1
    if marks >= len(signal.marks):
        return "missing"
    if marks >= 0:
        return f"exactly {signal.marks[marks]:g}"
    if at == 0:
        return f"below {signal.edges[0]:.3g}" if signal.edges else "any"
    if at == len(signal.edges):
        return f"from {signal.edges[-1]:.3g} on"
    return f"{signal.edges[at - 1]:.3g} to {signal.edges[at]:.3g}"
