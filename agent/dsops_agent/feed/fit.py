"""Frames as a source has them to the input of a model: axes, sizes and colours of pictures, scale, type. Pure."""

from dataclasses import dataclass, replace

import numpy as np

from dsops.described import Described
from dsops.errors import InvalidInput
from dsops.forms import Form as Kind
from dsops.manifest import Preprocessing
from dsops_agent.feed.decode import opencv
from dsops_agent.runtime.litert import Array

_TYPES = {"BOOL": "?", "UINT8": "u1", "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP16": "f2"}


@dataclass(frozen=True)
class Form:
    """The input of a model, in one of the forms in which frames of it may be given.

    Attributes:
        name: Its name.
        datatype: The protocol's name of its type.
        shape: Shape of a frame, without the batch axis; -1 is any length.
        said: What a request says that the values are.
        colour: What a picture's channels are, as the manifest says; empty when it does not.
        section: How real values are made; None of raw frames, and when the manifest says nothing.
        raw: The same input as raw frames; None when the device makes no input of these.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    said: Kind = Kind.REAL
    colour: str = ""
    section: Preprocessing | None = None
    raw: "Form | None" = None

    @classmethod
    def of(cls, described: Described) -> "Form":
        """Return the form that metadata names, with the raw one."""
        first, raw = described.accepted[0], described.takes(Kind.RAW)
        section = described.section
        form = cls(described.name, first.datatype, first.shape, first.form, section.color if section else "", section)
        if raw is None:
            return form
        return replace(form, raw=cls(described.name, raw.datatype, raw.shape, raw.form, described.raw_color))

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


@dataclass(frozen=True)
class Frames:
    """Frames [n, ...] for a model, and the form that they have."""

    values: Array
    form: Form

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Array) -> "Frames":
        return Frames(self.values[rows], self.form)


def batch(values: Array, form: Form) -> Array:
    """Return values as frames [n, *shape]: they are a frame, several, or either but for axes of length 1.

    Raises:
        InvalidInput: They do not fit.
    """
    if form.fits(values.shape):
        return values[None]
    if values.ndim and form.fits(values.shape[1:]):
        return values
    if form.shape[-1:] == (1,) and form.fits((*values.shape, 1)):
        return values[None, ..., None]
    if form.shape[-1:] == (1,) and form.fits((*values.shape[1:], 1)):
        return values[..., None]
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
    if form.said is Kind.RAW and not form.fits((*pixels.shape[:2], shape[2])):
        raise InvalidInput(
            f"input {form.name} takes pictures of {_text(shape[:2])}, and this is of {_text(pixels.shape[:2])}",
            why="the bundle's manifest does not say how raw frames are resized",
            hint="set resize in the recipe's preprocessing, or the size of the camera",
        )
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
        InvalidInput: A value does not fit the type; or, of raw frames, is no whole number where such are taken.
    """
    is_as_it_came = scale == 1.0 and not offset
    if scale != 1.0 or offset:
        frames = frames.astype(np.float32) * np.float32(scale) + np.float32(offset)
    if frames.dtype == form.dtype:
        return frames
    if form.is_real:
        return frames.astype(form.dtype)
    if frames.dtype.kind == "f":
        if not np.isfinite(frames).all():
            raise InvalidInput(f"input {form.name} takes whole numbers, and a value is none")
        whole = np.rint(frames)
        if form.said is Kind.RAW and is_as_it_came and not np.array_equal(whole, frames):
            raise InvalidInput(
                f"raw frames of input {form.name} are {form.datatype}, and a value is no whole number",
                hint='set form = "real" for values that are prepared already, or scale',
            )
        frames = whole
    if form.dtype.kind != "b":
        bounds = np.iinfo(form.dtype.char)
        if frames.size and not (bounds.min <= frames.min() and frames.max() <= bounds.max):
            raise InvalidInput(f"input {form.name} takes values from {bounds.min} to {bounds.max}")
    return frames.astype(form.dtype)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join("any" if length < 0 else str(length) for length in shape) or "one value"
