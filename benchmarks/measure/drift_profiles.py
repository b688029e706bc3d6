"""Profiles of other frames than a camera's own reference."""

import numpy as np
from numpy.typing import NDArray

from dsops.profile import Profile, Signal
from dsops_controller.build.profile import quantile_edges
from measure.cameras import Camera, Floats


def profile_of(camera: Camera, columns: Floats, arl0: float) -> Profile:
    """Return the profile of some frames' signals [n, S], as a build makes it."""
    made = [_signal(one, columns[:, at]) for at, one in enumerate(camera.profile.signals)]
    return Profile(n_ref=len(columns), signals=tuple(made), arl0=arl0)


def _signal(like: Signal, values: NDArray[np.float64]) -> Signal:
    if like.kind == "categorical":
        edges, bins, count = (), values.astype(np.intp), len(like.counts)
    else:
        edges = quantile_edges(values)
        bins, count = np.searchsorted(edges, values, "right"), len(edges) + 1
    return Signal(
        name=like.name, kind=like.kind, edges=edges, counts=tuple(np.bincount(bins, minlength=count).tolist())
    )
