"""Frames as a source has them to the input of a model: axes, sizes and colours of pictures, scale, type. Pure."""

from dataclasses import dataclass

import numpy as np

from dsops.errors import InvalidInput
from dsops_agent.feed.decode import opencv
from dsops_agent.runtime.litert import Array

_TYPES = {"BOOL": "?", "UINT8": "u1", "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2"}


@dataclass(frozen=True)
class Form:
    """The input of a model.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type.
        shape: Shape of a frame, without the batch axis; -1 is any length.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its values."""
        return np.dtype(_TYPES.get(self.datatype, "f4"))

    @property
    def is_real(self) -> bool:
        """Whether it takes real values."""
        return self.dtype.kind == "f"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a frame has its shape."""
        return len(shape) == len(self.shape) and all(
            wanted in (-1, found) for wanted, found in zip(self.shape, shape, strict=True)
        )


def batch(values: Array, form: Form) -> Array:
    """Return values as frames [n, *shape]: they are a frame, several, or either but for axes of length 1.

    Raises:
        InvalidInput: They do not fit.
    """
    if form.fits(values.shape):
        return values[None]
    if values.ndim and form.fits(values.shape[1:]):
        return values
    if -1 not in form.shape:
        plain = _without_ones(form.shape)
        if _without_ones(values.shape) == plain:
            return values.reshape(1, *form.shape)
        if values.ndim and _without_ones(values.shape[1:]) == plain:
            return values.reshape(-1, *form.shape)
    raise InvalidInput(
        f"values of shape {_text(values.shape)} do not fit input {form.name}", why=f"a frame is {_text(form.shape)}"
    )


def picture(pixels: Array, form: Form, colour: str) -> Array:
    """Return a picture as one frame of the input's height, width and channels, [1, ...].

    Args:
        pixels: [height, width, 3], blue first.
        form: The input: [height, width, channels] with one, three or any channels.
        colour: ``rgb`` or ``bgr``: the order that the model wants.

    Raises:
        InvalidInput: The input is not for pictures.
        MissingExtra: OpenCV is not installed.
    """
    shape = (*form.shape, 1) if len(form.shape) == 2 else form.shape
    if len(shape) != 3 or shape[2] not in (1, 3, -1):
        raise InvalidInput(f"input {form.name} is of shape {_text(form.shape)}, which is not a picture's")
    cv2 = opencv()
    height, width = (wanted if wanted > 0 else found for wanted, found in zip(shape[:2], pixels.shape[:2], strict=True))
    if (height, width) != pixels.shape[:2]:
        is_smaller = height * width < pixels.shape[0] * pixels.shape[1]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)
    if shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    elif colour == "rgb":
        pixels = pixels[:, :, ::-1]
    found = np.ascontiguousarray(pixels)
    return found.reshape(1, *(found.shape[:2] if len(form.shape) == 2 else (height, width, -1)))


def typed(frames: Array, form: Form, scale: float, offset: float) -> Array:
    """Return frames as values of the input's type, scaled.

    Raises:
        InvalidInput: A value does not fit the type.
    """
    if scale != 1.0 or offset:
        frames = frames.astype(np.float32) * np.float32(scale) + np.float32(offset)
    if frames.dtype == form.dtype:
        return frames
    if form.is_real:
        return frames.astype(form.dtype)
    if frames.dtype.kind == "f":
        if not np.isfinite(frames).all():
            raise InvalidInput(f"input {form.name} takes whole numbers, and a value is none")
        frames = np.rint(frames)
    if form.dtype.kind != "b":
        bounds = np.iinfo(form.dtype.char)
        if frames.size and not (bounds.min <= frames.min() and frames.max() <= bounds.max):
            raise InvalidInput(f"input {form.name} takes values from {bounds.min} to {bounds.max}")
    return frames.astype(form.dtype)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join("any" if length < 0 else str(length) for length in shape) or "one value"
