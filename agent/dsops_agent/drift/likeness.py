"""Prints of frames: small, cheap to make, and close where frames are nearly identical.

A picture is averaged over a grid of at most 8 x 8 fields; a bit of the print says whether a field is brighter than the
next one, across and down, by more than noise (a difference hash). Two prints are alike that differ in at most one of 32
bits. Anything else, a row of a table or a tiny picture, is rounded to steps that grow with the value; equal prints are
alike.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GRID = 8
_PIXELS = 32
"""Of a side that are looked at, about."""
_NOISE = 1 / 16
"""Of the span from the darkest to the brightest field; smaller steps are noise."""
_BITS_THAT_DIFFER = 32
_STEPS = 16
"""Of a value near zero, by unit; a larger one is rounded to about a sixteenth of itself."""

Array = NDArray[Any]


class Picture(NamedTuple):
    """The print of a picture: its bits, and how many there are."""

    length: int
    bits: int


def print_of(frame: Array) -> Hashable:
    """Return the print of a frame [H, W, C], [F] or any other, in numbers."""
    is_picture = frame.ndim == 3 and min(frame.shape[:2]) >= GRID
    if is_picture:  # a few hundred pixels tell as much as all, and take a twentieth of the time
        height, width = frame.shape[:2]
        frame = frame[:: max(height // _PIXELS, 1), :: max(width // _PIXELS, 1)]
    values = np.nan_to_num(np.asarray(frame, np.float64), posinf=0.0, neginf=0.0)
    if is_picture:
        return _picture(values)
    steps: NDArray[np.int32] = np.rint(np.arcsinh(values) * _STEPS).astype(np.int32)
    return steps.tobytes()


def alike(one: Hashable, two: Hashable) -> bool:
    """Whether two prints are of frames that are nearly identical."""
    if isinstance(one, Picture) and isinstance(two, Picture) and one.length == two.length:
        return (one.bits ^ two.bits).bit_count() <= one.length // _BITS_THAT_DIFFER
    return one == two


def _picture(values: Array) -> Picture:
    grid = _fields(_fields(values.mean(axis=2), 0), 1)
    noise = float(grid.max() - grid.min()) * _NOISE
    across, down = np.diff(grid, axis=1), np.diff(grid, axis=0)
    bits = np.concatenate([part.ravel() for step in (across, down) for part in (step > noise, step < -noise)])
    return Picture(len(bits), int.from_bytes(np.packbits(bits).tobytes(), "big"))


def _fields(values: Array, axis: int) -> Array:
    """Return the means of at most ``GRID`` parts of an axis."""
    starts = np.linspace(0, values.shape[axis], GRID + 1).astype(np.intp)
    sums = np.add.reduceat(values, starts[:-1], axis=axis)
    sizes = np.diff(starts)
    means: Array = sums / (sizes[:, None] if axis == 0 else sizes)
    return means
