"""Makes the real input of raw frames: the one function for it, at the build and on the device.

Both sides run these very lines, so a model is evaluated, calibrated, profiled and proved on what it will see, to the
last bit. The order is: grey, resize, other colours, ``raw * scale + offset``, layout. Everything is float32, element by
element and in a fixed order, without a matrix product, whose sums differ between processors. What is resized is not
rounded to whole numbers again.

Pixels have their centres at halves: pixel ``i`` of ``target`` looks at ``(i + 0.5) * source / target - 0.5``, as in
OpenCV's ``resize``, Pillow, and TensorFlow 2's ``tf.image.resize``. ``area`` is the mean of what a pixel covers, each
source pixel weighed by the part that is covered. Grey is that of ITU-R BT.601, section 2.5.1.

The only module of the core that needs NumPy: import it where frames are, and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.manifest import IMAGE_LAYOUTS, Preprocessing, TensorSpec

Array = NDArray[Any]
Floats = NDArray[np.float32]

_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""
_KEPT_AXES = 64
"""Sizes of frames for which the weights of resizing are kept."""


@dataclass(frozen=True)
class _Taps:
    """Of which source pixels each pixel along one axis is made: K indices [target], and the weight of each."""

    indices: tuple[NDArray[np.intp], ...]
    weights: tuple[Floats, ...]


def prepare(section: Preprocessing, spec: TensorSpec, frames: Array) -> Floats:
    """Return the real input, float32 [n, ...] in the input's shape, of raw frames.

    Args:
        section: What is said of the input; ``raw`` must be set.
        spec: The input.
        frames: Raw frames [n, ...] that :func:`dsops.forms.form_of` takes for raw; of images [n, H, W, C].
    """
    places = IMAGE_LAYOUTS.get(section.layout)
    if places is None:
        return _scaled(section, frames)
    height, width = spec.shape[places[0]], spec.shape[places[1]]
    given = section.raw_color or section.color
    if section.color == "GRAY" and given != "GRAY":
        frames = _grey(frames, given)
    if section.resize:
        frames = _resized(section, frames, (height, width))
    if section.color not in (given, "GRAY"):
        frames = np.repeat(frames, 3, axis=-1) if given == "GRAY" else frames[..., ::-1]
    real = _scaled(section, frames)
    return np.ascontiguousarray(real.transpose(0, 3, 1, 2)) if section.layout == "NCHW" else real


def _scaled(section: Preprocessing, frames: Array) -> Floats:
    real = np.array(frames, np.float32, order="C")
    real *= np.array(section.scale, np.float32)
    real += np.array(section.offset, np.float32)
    return real


def _grey(frames: Array, given: str) -> Floats:
    weights = _GREY if given == "RGB" else _GREY[::-1]
    total = frames[..., :1].astype(np.float32) * np.float32(weights[0])
    for channel in (1, 2):
        total += frames[..., channel : channel + 1].astype(np.float32) * np.float32(weights[channel])
    return total


def _resized(section: Preprocessing, frames: Array, size: tuple[int, int]) -> Array:
    if frames.shape[1:3] == size:
        return frames
    kind = section.interpolation
    dtype = frames.dtype if kind == "nearest" and section.resize != "letterbox" else np.dtype(np.float32)
    made = np.full((len(frames), *size, frames.shape[3]), section.fill, dtype)
    for frame, place in zip(frames, made, strict=True):  # one by one: large frames would need much memory at once
        _FITS[section.resize](frame, place, kind)
    return made


def _stretch(frame: Array, place: Array, kind: str) -> None:
    place[...] = _along(_along(frame, 0, place.shape[0], kind), 1, place.shape[1], kind)


def _crop(frame: Array, place: Array, kind: str) -> None:
    """Stretch the largest middle part that has the sides' ratio."""
    (height, width), (rows, columns) = frame.shape[:2], place.shape[:2]
    if width * rows > height * columns:
        kept = max(1, _nearest(height * columns, rows))
        start = (width - kept) // 2
        frame = frame[:, start : start + kept]
    else:
        kept = max(1, _nearest(width * rows, columns))
        start = (height - kept) // 2
        frame = frame[start : start + kept]
    _stretch(frame, place, kind)


def _letterbox(frame: Array, place: Array, kind: str) -> None:
    """Stretch all of the frame to the middle of the place, as large as the sides' ratio lets it."""
    (height, width), (rows, columns) = frame.shape[:2], place.shape[:2]
    if width * rows > height * columns:
        filled = max(1, _nearest(height * columns, width))
        start = (rows - filled) // 2
        _stretch(frame, place[start : start + filled], kind)
    else:
        filled = max(1, _nearest(width * rows, height))
        start = (columns - filled) // 2
        _stretch(frame, place[:, start : start + filled], kind)


_FITS: dict[str, Callable[[Array, Array, str], None]] = {"stretch": _stretch, "crop": _crop, "letterbox": _letterbox}


def _nearest(number: int, divisor: int) -> int:
    """Return the quotient to the nearest whole number, halves upwards."""
    return (2 * number + divisor) // (2 * divisor)


def _along(frame: Array, axis: int, target: int, kind: str) -> Array:
    """Return a frame [H, W, C] with ``target`` pixels along one axis."""
    if frame.shape[axis] == target:
        return frame
    taps = _taps(frame.shape[axis], target, kind)
    if kind == "nearest":
        return frame.take(taps.indices[0], axis)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    parts = (
        frame.take(index, axis).astype(np.float32, copy=False) * weight.reshape(shape)
        for index, weight in zip(taps.indices, taps.weights, strict=True)
    )
    total = next(parts)
    for part in parts:
        total += part
    return total


@lru_cache(_KEPT_AXES)
def _taps(source: int, target: int, kind: str) -> _Taps:
    ratio = source / target
    rows = [_TAPS[kind](pixel, ratio, source) for pixel in range(target)]
    longest = max(map(len, rows))
    padded = [[*row, *[(row[-1][0], 0.0)] * (longest - len(row))] for row in rows]
    columns = list(zip(*padded, strict=True))
    return _Taps(
        tuple(np.array([index for index, _ in column], np.intp) for column in columns),
        tuple(np.array([weight for _, weight in column], np.float32) for column in columns),
    )


def _nearest_taps(pixel: int, ratio: float, source: int) -> list[tuple[int, float]]:
    return [(min(int((pixel + 0.5) * ratio), source - 1), 1.0)]


def _bilinear_taps(pixel: int, ratio: float, source: int) -> list[tuple[int, float]]:
    at = min(max((pixel + 0.5) * ratio - 0.5, 0.0), source - 1.0)
    low = int(at)
    return [(low, 1.0 - (at - low)), (min(low + 1, source - 1), at - low)]


def _area_taps(pixel: int, ratio: float, source: int) -> list[tuple[int, float]]:
    start, end = pixel * ratio, min((pixel + 1) * ratio, float(source))
    covered = [(at, min(end, at + 1.0) - max(start, float(at))) for at in range(int(start), source) if at < end]
    total = sum(part for _, part in covered)
    return [(at, part / total) for at, part in covered]


_TAPS: dict[str, Callable[[int, float, int], list[tuple[int, float]]]] = {
    "nearest": _nearest_taps,
    "bilinear": _bilinear_taps,
    "area": _area_taps,
}
