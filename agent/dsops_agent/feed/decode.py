"""Bytes to arrays: .npy, .npz, pictures, sound, raw values and JSON. What is hostile in them is an error."""

import importlib
import io
import wave
import zipfile
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from dsops import strictjson
from dsops.errors import InvalidInput, MissingExtra
from dsops_agent.feed.settings import MAX_VALUES
from dsops_agent.runtime.litert import Array

_WAV_TYPES = {1: "u1", 2: "<i2", 4: "<i4"}
MAX_BYTES = MAX_VALUES * 8
PICTURES = (".png", ".jpg", ".jpeg")


def from_npy(data: bytes) -> Array:
    """Return the array of a .npy file; one of Python objects is refused.

    Raises:
        InvalidInput: It is none, or too large.
    """
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > len(data):
            raise InvalidInput("its header promises what it does not hold", why=f"shape {shape}")
        return _numbers(np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)))
    except (ValueError, EOFError, OverflowError, TypeError, KeyError, SyntaxError, MemoryError) as error:
        raise InvalidInput("it is not a .npy file", why=str(error)[:200]) from error


def from_npz(data: bytes) -> Array:
    """Return the only array of a .npz file.

    Raises:
        InvalidInput: It is none, has another number of arrays, or is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) != 1:
                raise InvalidInput(f"it has {len(entries)} arrays, and one is needed")
            if entries[0].file_size > MAX_BYTES:
                raise InvalidInput("it is too large", why=f"it has {entries[0].file_size} bytes unpacked")
            return from_npy(archive.read(entries[0]))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, ValueError) as error:
        raise InvalidInput("it is not a .npz file", why=str(error)[:200]) from error


def from_picture(data: bytes) -> Array:
    """Return a picture's pixels [height, width, 3], blue first, as OpenCV has them.

    Raises:
        InvalidInput: It is no picture, or too large.
        MissingExtra: OpenCV is not installed.
    """
    cv2 = opencv()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InvalidInput("the picture cannot be read", why=str(error)[:200]) from error
    if pixels is None:
        raise InvalidInput("it is no picture that can be read")
    return np.asarray(pixels)


def opencv() -> ModuleType:
    """Return OpenCV.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtra(
            "pictures and cameras need OpenCV", why=str(error), hint="pip install 'dsops[camera]'"
        ) from error


def from_wav(data: bytes) -> Array:
    """Return the samples of a sound from -1 to 1: [n] of one channel, [n, channels] of several.

    Raises:
        InvalidInput: It is no PCM .wav file of 8, 16, 24 or 32 bits.
    """
    try:
        with wave.open(io.BytesIO(data)) as sound:
            width, channels = sound.getsampwidth(), sound.getnchannels()
            raw = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError, ValueError, OverflowError) as error:
        raise InvalidInput("it is not a .wav file of PCM samples", why=str(error)) from error
    if width not in (*_WAV_TYPES, 3) or not channels:
        raise InvalidInput(f"samples of {8 * width} bits are not known")
    whole = len(raw) - len(raw) % (width * channels)
    values = _sound(raw[:whole], width)
    return values if channels == 1 else values.reshape(-1, channels)


def _sound(raw: bytes, width: int) -> Array:
    if width == 3:  # the upper three bytes of four
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return (padded.view("<i4").ravel() / 2.0**31).astype(np.float32)
    values = np.frombuffer(raw, _WAV_TYPES[width])
    centre = 128.0 if width == 1 else 0.0
    return ((values - centre) / 2.0 ** (8 * width - 1)).astype(np.float32)


def from_raw(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return raw values, least significant byte first, as [n, *shape].

    Raises:
        InvalidInput: They are not a whole number of such shapes.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    if not data or len(data) % size:
        text = "x".join(map(str, shape)) or "one value"
        raise InvalidInput(f"{len(data)} bytes are not a number of {dtype} frames of {text}", why=f"each has {size}")
    return np.frombuffer(data, kind).reshape(-1, *shape)


def from_json(data: bytes) -> Array:
    """Return the array of numbers that a JSON text is, or has as its member ``data``.

    Raises:
        InvalidInput: It is none.
    """
    try:
        value = strictjson.loads(data)
    except strictjson.JsonRefused as error:
        raise InvalidInput("it is not JSON", why=str(error)[:200]) from error
    if isinstance(value, Mapping):
        value = value.get("data")
    if not isinstance(value, list | int | float) or isinstance(value, bool):
        raise InvalidInput("it is not an array of numbers")
    try:
        found = np.array(value)
    except ValueError as error:
        raise InvalidInput("its rows have different lengths") from error
    return _numbers(found)


def _numbers(values: Array) -> Array:
    if values.dtype.kind not in "biuf":
        raise InvalidInput(f"it does not hold numbers but {values.dtype}"[:200])
    if not values.size or values.size > MAX_VALUES:
        raise InvalidInput(f"it has {values.size} values; from 1 to {MAX_VALUES} are taken")
    return values


READERS: Mapping[str, Callable[[bytes], Array]] = {
    ".npy": from_npy,
    ".npz": from_npz,
    ".wav": from_wav,
    ".json": from_json,
    **dict.fromkeys(PICTURES, from_picture),
}
"""By the ending of a file's name; ``.raw`` is not among them, for it needs a type and a shape."""
