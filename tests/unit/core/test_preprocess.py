"""What is made of raw frames, against OpenCV and against small frames that were worked out by hand."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from dsops.errors import InvalidInput
from dsops.forms import MAX_SIDE, Form, accepted_forms, form_of
from dsops.manifest import Preprocessing, TensorSpec, check_preprocessing
from dsops.preprocess import prepare

IMAGE = TensorSpec(name="image", datatype="FP32", shape=(1, 4, 6, 3))


def section(**told: object) -> Preprocessing:
    return Preprocessing.model_validate({"input": "image", "layout": "NHWC", "color": "RGB", "raw": "UINT8"} | told)


def pictures(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


LARGER, SMALLER = [(4, 6), (5, 9), (97, 31), (480, 640)], [(2, 3), (1, 1)]


@pytest.mark.parametrize(
    ("size", "kind", "code"),
    [
        *((size, "bilinear", cv2.INTER_LINEAR) for size in LARGER + SMALLER),
        *((size, "area", cv2.INTER_AREA) for size in LARGER),  # to enlarge by area OpenCV interpolates
    ],
)
def test_resizing_is_that_of_opencv(size: tuple[int, int], kind: str, code: int) -> None:
    frames = pictures(2, *size, 3)
    got = prepare(section(resize="stretch", interpolation=kind), IMAGE, frames)
    for frame, made in zip(frames, got, strict=True):
        assert made == pytest.approx(cv2.resize(frame.astype(np.float32), (6, 4), interpolation=code), abs=1e-3)


def test_the_nearest_pixel_is_the_one_under_the_centre() -> None:
    frames = np.arange(9, dtype=np.uint8).reshape(1, 1, 9, 1).repeat(3, 3)
    spec = IMAGE.model_copy(update={"shape": (1, 1, 3, 3)})
    made = prepare(section(resize="stretch", interpolation="nearest"), spec, frames)
    assert made[0, 0, :, 0].tolist() == [1, 4, 7]


def test_crop_takes_the_middle_and_letterbox_all_with_a_border() -> None:
    spec = IMAGE.model_copy(update={"shape": (1, 2, 2, 3)})
    frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 6, 1).repeat(3, 3)
    cropped = prepare(section(resize="crop", interpolation="bilinear"), spec, frames)
    assert cropped[0, :, :, 0].tolist() == [[2, 3], [8, 9]]
    boxed = prepare(section(resize="letterbox", interpolation="area", fill=114), spec, frames)
    assert boxed[0, 1, :, 0].tolist() == [114, 114]
    assert boxed[0, 0, :, 0].tolist() == [4, 7]


def test_colours_become_those_of_the_input() -> None:
    frames = np.array([[[[10, 20, 30]]]], np.uint8)
    spec = IMAGE.model_copy(update={"shape": (1, 1, 1, 3)})
    assert prepare(section(raw_color="BGR"), spec, frames).tolist() == [[[[30, 20, 10]]]]
    assert prepare(section(raw_color="GRAY"), spec, frames[..., :1]).tolist() == [[[[10, 10, 10]]]]
    grey = spec.model_copy(update={"shape": (1, 1, 1, 1)})
    for raw_color, wanted in (("RGB", 18.15), ("BGR", 21.85)):
        told = section(color="GRAY", raw_color=raw_color)
        assert prepare(told, grey, frames).tolist() == [[[[pytest.approx(wanted, abs=1e-4)]]]]


def test_values_are_scaled_by_channel_and_laid_out_as_the_input_is() -> None:
    told = section(layout="NCHW", scale=(0.5, 1.0, 2.0), offset=(1.0, 0.0, -1.0))
    spec = IMAGE.model_copy(update={"shape": (1, 3, 4, 6)})
    frames = pictures(2, 4, 6, 3)
    made = prepare(told, spec, frames)
    assert made.shape == (2, 3, 4, 6)
    assert made.flags.c_contiguous
    assert made[:, 2].tolist() == (frames[..., 2].astype(np.float32) * 2 - 1).tolist()


def test_a_series_is_scaled() -> None:
    told = Preprocessing(input="sound", layout="NTF", raw="INT16", scale=(2.0**-15,))
    spec = TensorSpec(name="sound", datatype="INT8", shape=(1, 5, 1), scale=0.1)
    made = prepare(told, spec, np.full((3, 5, 1), -(2**15), np.int16))
    assert made.dtype == np.float32
    assert made.tolist() == np.full((3, 5, 1), -1.0).tolist()


def test_given_frames_are_not_changed() -> None:
    frames = np.ones((1, 4, 6, 3), np.float32)
    prepare(section(raw="FP32", scale=(5.0,)), IMAGE, frames)
    assert frames.max() == 1.0


def test_type_and_shape_tell_the_form() -> None:
    spec = TensorSpec(name="image", datatype="UINT8", shape=(1, 4, 6, 3), scale=0.1)
    accepted = accepted_forms(spec, section(resize="crop", interpolation="area"))
    assert form_of("image", accepted, "FP32", (4, 6, 3)) is Form.REAL
    assert form_of("image", accepted, "UINT8", (40, 60, 3)) is Form.RAW
    with pytest.raises(InvalidInput, match="stored or raw") as raised:
        form_of("image", accepted, "UINT8", (4, 6, 3))
    assert "parameter form" in raised.value.hint
    assert form_of("image", accepted, "UINT8", (4, 6, 3), "raw") is Form.RAW
    assert form_of("image", accepted, "UINT8", (4, 6, 3), "stored") is Form.STORED


def test_what_looks_real_is_real_unless_it_is_said_to_be_raw() -> None:
    accepted = accepted_forms(IMAGE, section(raw="FP32"))
    assert form_of("image", accepted, "FP32", (4, 6, 3)) is Form.REAL
    assert form_of("image", accepted, "FP32", (4, 6, 3), "raw") is Form.RAW


@pytest.mark.parametrize(
    ("datatype", "shape", "said", "text"),
    [
        ("INT8", (4, 6, 3), "", "datatype FP32 or UINT8"),
        ("UINT8", (4, 6, 1), "", r"\[n, height, width, 3\]"),
        ("UINT8", (0, 6, 3), "", "shape"),
        ("UINT8", (MAX_SIDE + 1, 6, 3), "", "too large"),
        ("UINT8", (4, 6, 3), "real", "datatype FP32"),
        ("UINT8", (4, 6, 3), "cooked", "real or raw"),
    ],
)
def test_what_fits_no_form_is_refused(datatype: str, shape: tuple[int, ...], said: str, text: str) -> None:
    accepted = accepted_forms(IMAGE, section(resize="stretch", interpolation="area"))
    with pytest.raises(InvalidInput, match=text):
        form_of("image", accepted, datatype, shape, said)


@pytest.mark.parametrize(
    "told",
    [
        {"raw": "", "interpolation": "area"},
        {"resize": "crop"},
        {"interpolation": "area"},
        {"fill": 3},
        {"color": "", "raw_color": "RGB"},
        {"layout": "NTF"},
    ],
)
def test_sections_that_contradict_themselves_are_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(**told)


def test_a_section_fits_its_input() -> None:
    check_preprocessing(section(), IMAGE)
    for told, shape in (({}, (1, 4, 6, 1)), ({}, (1, 4, 6)), ({"layout": "NCHW"}, (1, 4, 6, 3))):
        with pytest.raises(ValueError, match=r"image|channels|axes"):
            check_preprocessing(section(**told), IMAGE.model_copy(update={"shape": shape}))
    whole = IMAGE.model_copy(update={"datatype": "INT32"})
    with pytest.raises(ValueError, match="whole numbers"):
        check_preprocessing(section(), whole)
