"""Decoded values to frames of a model: cut into windows where they are a stream, fitted, scaled. Pure.

Where the device makes the input of raw frames, frames go to it raw: nothing is resized or scaled here. Otherwise
pictures are fitted as the manifest says, by the code of the device, as far as it says anything.
"""

from typing import Protocol

import numpy as np

from dsops.errors import InvalidInput
from dsops.forms import Form as Kind
from dsops.manifest import IMAGE_LAYOUTS, Preprocessing, TensorSpec
from dsops.preprocess import prepare
from dsops_agent.feed.fit import Form, Frames, batch, picture, typed
from dsops_agent.feed.settings import Source
from dsops_agent.feed.windows import Windows
from dsops_agent.runtime.litert import Array

_BYTE = 255.0
_UNSAID = ((1.0,), (0.0,))
"""Scale and offset of a manifest that says nothing of them."""


class Treatment(Protocol):
    """What somebody says of values."""

    @property
    def form(self) -> str:
        """``raw``, ``real``, or empty."""
        ...

    @property
    def scale(self) -> float | None:
        """What they are multiplied by; None when nothing is said."""
        ...

    @property
    def offset(self) -> float:
        """What is added."""
        ...


def new_windows(source: Source) -> Windows | None:
    """Return what cuts a source's stream; None when it is no stream."""
    return Windows(source.window, source.stride or source.window) if source.window else None


def meant(form: Form, said: Treatment, dtype: np.dtype[np.generic] | None) -> Form:
    """Return the form that values have: raw where the device takes raw frames, unless they are prepared already.

    They are when that is said, when a scale or an offset is, and when they are not whole where raw ones are.

    Args:
        form: The model's input.
        said: What is said of them.
        dtype: Their type; None when it tells nothing, as that of numbers in JSON.

    Raises:
        InvalidInput: They are raw, and the model takes no raw frames.
    """
    if said.form == Kind.RAW and form.raw is None:
        raise InvalidInput(
            f"input {form.name} takes no raw frames", why="the bundle's manifest does not say what they are"
        )
    if form.raw is None or said.form == Kind.REAL:
        return form
    if said.form == Kind.RAW:
        return form.raw
    is_real = dtype is not None and dtype.kind == "f" and not form.raw.is_real
    return form if is_real or said.scale is not None or said.offset else form.raw


def sample_shape(source: Source, form: Form) -> tuple[int, ...]:
    """Return the shape of one frame of raw bytes, or with a window of one sample.

    Raises:
        InvalidInput: The model takes frames of any length, and the source says none.
    """
    if source.shape:
        return source.shape
    found = meant(form, source, np.dtype(source.dtype)).shape
    shape = found[1:] if source.window else found
    if any(length < 1 for length in shape):
        raise InvalidInput(f"input {form.name} has no fixed shape", hint="set shape")
    return shape


def frames_of(values: Array, form: Form, source: Source, windows: Windows | None, *, is_typed: bool = True) -> Frames:
    """Return values as frames that the model takes, [n, ...]; n may be 0 while a window is not full.

    Args:
        values: A frame, several, or samples that follow those before.
        form: The model's input.
        source: How they are scaled.
        windows: Cuts the stream, if it is one.
        is_typed: Whether their type says what they are.

    Raises:
        InvalidInput: They do not fit the model.
    """
    found = meant(form, source, values.dtype if is_typed else None)
    scale = source.scale if source.scale is not None else 1.0
    if windows is None:
        return Frames(typed(batch(values, found), found, scale, source.offset), found)
    try:
        cut = windows.add(values.reshape(-1) if values.ndim == 0 else values)
    except ValueError as error:
        raise InvalidInput("samples of a stream have one shape", why=str(error)) from error
    if not len(cut):
        return Frames(cut, found)
    fitted = cut if found.fits(cut.shape[1:]) else _each(cut, found)
    return Frames(typed(fitted, found, scale, source.offset), found)


def frame_of_picture(pixels: Array, form: Form, source: Source) -> Frames:
    """Return a picture, blue first, as one frame that the model takes, [1, ...].

    Raises:
        InvalidInput: The model takes no pictures, or none of this size.
        MissingExtra: OpenCV is not installed.
    """
    found = meant(form, source, pixels.dtype)
    if found.said is Kind.RAW:
        colour = {"RGB": "rgb", "BGR": "bgr"}.get(found.colour, source.colour)
        scale = 1.0 if source.scale is None else source.scale
        return Frames(typed(picture(pixels, found, colour), found, scale, source.offset), found)
    section = found.section
    if section is not None and found.is_real and section.layout in IMAGE_LAYOUTS and len(found.shape) == 3:
        return Frames(_prepared(pixels, found, section, source), found)
    scale = source.scale if source.scale is not None else (1 / _BYTE if found.is_real else 1.0)
    return Frames(typed(picture(pixels, found, source.colour), found, scale, source.offset), found)


def sound_as_raw(values: Array, form: Form, source: Source) -> Array:
    """Return samples from -1 to 1 in the whole numbers of raw frames, where the model takes these."""
    raw = meant(form, source, None)
    if raw.said is not Kind.RAW or raw.is_real:
        return values
    bounds = np.iinfo(raw.dtype.char)
    middle = (bounds.max + bounds.min + 1) // 2
    whole = np.rint(values.astype(np.float64) * (bounds.max - middle + 1)) + middle
    found: Array = np.clip(whole, bounds.min, bounds.max).astype(raw.dtype)
    return found


def _prepared(pixels: Array, form: Form, section: Preprocessing, source: Source) -> Array:
    """Return the real values of a picture as a manifest tells them that leaves it to programs to make them."""
    rows, columns, channels = (form.shape[place - 1] for place in IMAGE_LAYOUTS[section.layout])
    is_smaller = rows * columns < pixels.shape[0] * pixels.shape[1]
    scale, offset = section.scale, section.offset
    if source.scale is not None or source.offset:
        scale, offset = (1.0 if source.scale is None else source.scale,), (source.offset,)
    elif (scale, offset) == _UNSAID:
        scale = (1 / _BYTE,)
    told = {
        "raw": "UINT8",
        "raw_color": "BGR",
        "color": section.color or ("GRAY" if channels == 1 else source.colour.upper()),
        "resize": section.resize or "stretch",
        "interpolation": section.interpolation or ("area" if is_smaller else "bilinear"),
        "scale": scale,
        "offset": offset,
    }
    spec = TensorSpec(name=form.name, datatype="FP32", shape=(1, *form.shape))
    return prepare(section.model_copy(update=told), spec, pixels[None])


def _each(cut: Array, form: Form) -> Array:
    one = batch(cut[0], form)
    if len(one) != 1:
        raise InvalidInput(f"a window of {cut.shape[1]} samples does not fit input {form.name}")
    return cut.reshape(len(cut), *one.shape[1:])
