"""Decoded values to frames of a model: cut into windows where they are a stream, fitted, scaled. Pure."""

from dsops.errors import InvalidInput
from dsops_agent.feed.fit import Form, batch, picture, typed
from dsops_agent.feed.settings import Source
from dsops_agent.feed.windows import Windows
from dsops_agent.runtime.litert import Array

_BYTE = 255.0


def new_windows(source: Source) -> Windows | None:
    """Return what cuts a source's stream; None when it is no stream."""
    return Windows(source.window, source.stride or source.window) if source.window else None


def sample_shape(source: Source, form: Form) -> tuple[int, ...]:
    """Return the shape of one raw frame, or with a window of one sample.

    Raises:
        InvalidInput: The model takes frames of any length, and the source says none.
    """
    if source.shape:
        return source.shape
    shape = form.shape[1:] if source.window else form.shape
    if any(length < 1 for length in shape):
        raise InvalidInput(f"input {form.name} has no fixed shape", hint="set shape")
    return shape


def frames_of(values: Array, form: Form, source: Source, windows: Windows | None) -> Array:
    """Return values as frames that the model takes, [n, ...]; n may be 0 while a window is not full.

    Args:
        values: A frame, several, or samples that follow those before.
        form: The model's input.
        source: How they are scaled.
        windows: Cuts the stream, if it is one.

    Raises:
        InvalidInput: They do not fit the model.
    """
    if windows is None:
        return typed(batch(values, form), form, source.scale if source.scale is not None else 1.0, source.offset)
    try:
        cut = windows.add(values.reshape(-1) if values.ndim == 0 else values)
    except ValueError as error:
        raise InvalidInput("samples of a stream have one shape", why=str(error)) from error
    if not len(cut):
        return cut
    fitted = cut if form.fits(cut.shape[1:]) else _each(cut, form)
    return typed(fitted, form, source.scale if source.scale is not None else 1.0, source.offset)


def frame_of_picture(pixels: Array, form: Form, source: Source) -> Array:
    """Return a picture as one frame that the model takes, [1, ...].

    Raises:
        InvalidInput: The model takes no pictures.
        MissingExtra: OpenCV is not installed.
    """
    scale = source.scale if source.scale is not None else (1 / _BYTE if form.is_real else 1.0)
    return typed(picture(pixels, form, source.colour), form, scale, source.offset)


def _each(cut: Array, form: Form) -> Array:
    one = batch(cut[0], form)
    if len(one) != 1:
        raise InvalidInput(f"a window of {cut.shape[1]} samples does not fit input {form.name}")
    return cut.reshape(len(cut), *one.shape[1:])
