"""Files and messages to frames of a model; what is hostile or does not fit is refused with a reason."""

import io
import wave
import zipfile

import cv2
import numpy as np
import pytest

from dsops.errors import InvalidInput
from dsops_agent.feed.decode import from_json, from_npy, from_npz, from_picture, from_raw, from_wav
from dsops_agent.feed.fit import Form, batch, picture, typed
from dsops_agent.feed.frames import frame_of_picture, frames_of, new_windows, sample_shape
from dsops_agent.feed.settings import Directory, Source
from dsops_agent.runtime.litert import Array

FORM = Form("x", "FP32", (4, 4, 1))


def npy(values: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def wav(samples: Array, width: int, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(8000)
        sound.writeframes(samples.tobytes())
    return file.getvalue()


def source(**settings: object) -> Source:
    return Source.model_validate({"name": "s", "model": "m", "directory": Directory(path="/x"), **settings})


def test_arrays_come_back_as_they_were_saved() -> None:
    values = np.arange(32, dtype=np.int16).reshape(2, 4, 4)
    assert np.array_equal(from_npy(npy(values)), values)
    file = io.BytesIO()
    np.savez_compressed(file, frames=values)
    assert np.array_equal(from_npz(file.getvalue()), values)


def test_hostile_arrays_are_refused() -> None:
    with pytest.raises(InvalidInput):
        from_npy(npy(np.array([{"a": 1}], dtype=object)))
    for data in (
        b"",
        b"\x93NUMPY",
        npy(np.zeros(9))[:-8],
        npy(np.zeros(9))[:40],
        npy(np.array(["text"])),
        npy(np.zeros(0)),
    ):
        with pytest.raises(InvalidInput):
            from_npy(data)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    bomb = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    with pytest.raises(InvalidInput, match="promises"):
        from_npy(bomb)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(200_000_000))
    with pytest.raises(InvalidInput, match="too large"):
        from_npz(file.getvalue())
    with pytest.raises(InvalidInput, match=r"not a \.npz"):
        from_npz(b"PK\x03\x04 no")


@pytest.mark.parametrize(("width", "dtype", "half"), [(1, "u1", 192), (2, "<i2", 1 << 14), (4, "<i4", 1 << 30)])
def test_sound_is_from_minus_one_to_one(width: int, dtype: str, half: int) -> None:
    silence = 128 if width == 1 else 0
    assert from_wav(wav(np.array([silence, half], dtype), width)).tolist() == [0.0, 0.5]


def test_sound_of_24_bits_and_of_two_channels() -> None:
    assert from_wav(wav(np.array([0, 0, 0x40, 0, 0, 0xC0], np.uint8), 3)).tolist() == [0.5, -0.5]
    assert from_wav(wav(np.array([0, 1 << 14, -(1 << 14), 0], "<i2"), 2, 2)).tolist() == [[0.0, 0.5], [-0.5, 0.0]]
    with pytest.raises(InvalidInput, match="PCM"):
        from_wav(b"RIFF....WAVE")


def test_raw_bytes_need_a_whole_number_of_frames() -> None:
    data = np.arange(6, dtype="<i2").tobytes()
    assert from_raw(data, "int16", (3,)).tolist() == [[0, 1, 2], [3, 4, 5]]
    for bad in (data[:-1], b""):
        with pytest.raises(InvalidInput, match="int16 frames of 3"):
            from_raw(bad, "int16", (3,))


def test_json_is_an_array_or_has_one() -> None:
    assert from_json(b"[[1, 2.5], [3, 4]]").tolist() == [[1, 2.5], [3, 4]]
    assert from_json(b'{"data": [1], "at": 3}').tolist() == [1]
    for bad in (b"[[1], [2, 3]]", b'["a"]', b"{}", b"true", b"[NaN]", b"[", b"[]", b"[[[" * 40, b"[null]", b"\xff"):
        with pytest.raises(InvalidInput):
            from_json(bad)


def test_pictures_are_fitted_to_the_model() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :, 2] = 255  # red, in OpenCV's order
    again = from_picture(cv2.imencode(".png", pixels)[1].tobytes())
    colour = Form("x", "FP32", (4, 4, 3))
    assert frame_of_picture(again, colour, source()).values[0, 0, 0].tolist() == [1, 0, 0]
    assert frame_of_picture(again, colour, source(colour="bgr")).values[0, 0, 0].tolist() == [0, 0, 1]
    assert picture(again, Form("x", "UINT8", (4, 4)), "rgb").shape == (1, 4, 4)
    assert picture(again, Form("x", "UINT8", (-1, -1, 3)), "rgb").shape == (1, 8, 16, 3)
    assert frame_of_picture(again, FORM, source(scale=1.0)).values.max() == 76  # the luma of red, ITU-R BT.601
    for bad in (b"", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        with pytest.raises(InvalidInput):
            from_picture(bad)
    with pytest.raises(InvalidInput, match="not a picture's"):
        picture(again, Form("x", "FP32", (10,)), "rgb")


def test_values_are_a_frame_or_several_but_for_axes_of_one() -> None:
    assert batch(np.zeros((4, 4, 1)), FORM).shape == (1, 4, 4, 1)
    assert batch(np.zeros((4, 4)), FORM).shape == (1, 4, 4, 1)
    assert batch(np.zeros((9, 4, 4)), FORM).shape == (9, 4, 4, 1)
    assert batch(np.zeros((9, 4, 4, 1)), FORM).shape == (9, 4, 4, 1)
    with pytest.raises(InvalidInput, match="shape 16 do not fit"):
        batch(np.zeros(16), FORM)


def test_values_become_the_type_that_the_model_takes() -> None:
    whole = Form("x", "UINT8", (2,))
    assert typed(np.array([[0.4, 254.6]]), whole, 1.0, 0.0).tolist() == [[0, 255]]
    assert typed(np.array([[1, 2]]), Form("x", "FP32", (2,)), 0.5, 1.0).tolist() == [[1.5, 2.0]]
    for bad in (np.array([[0, 256]]), np.array([[-1.0, 0]]), np.array([[np.nan, 0]])):
        with pytest.raises(InvalidInput):
            typed(bad, whole, 1.0, 0.0)


def test_a_stream_is_cut_into_frames_of_the_model() -> None:
    stream = source(window=4, stride=2)
    windows = new_windows(stream)
    form = Form("x", "FP32", (4, 1))
    assert frames_of(np.arange(3.0), form, stream, windows).values.shape[0] == 0
    assert frames_of(np.arange(3.0, 7.0), form, stream, windows).values[:, :, 0].tolist() == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
    ]
    assert sample_shape(stream, form) == (1,)
    with pytest.raises(InvalidInput, match="do not fit"):
        frames_of(np.arange(8.0), Form("x", "FP32", (5,)), stream, new_windows(stream))
    with pytest.raises(InvalidInput, match="no fixed shape"):
        sample_shape(source(), Form("x", "FP32", (-1, 3)))
