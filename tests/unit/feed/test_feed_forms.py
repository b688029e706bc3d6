"""What a source sends to a model of which the manifest says how raw frames become its input."""

import cv2
import numpy as np
import pytest

from dsops.described import Described
from dsops.errors import InvalidInput
from dsops.forms import accepted_forms
from dsops.manifest import Preprocessing, TensorSpec
from dsops.preprocess import prepare
from dsops_agent.feed.fit import Form
from dsops_agent.feed.frames import frame_of_picture, frames_of, new_windows, sample_shape, sound_as_raw
from dsops_agent.feed.settings import Directory, Source
from dsops_agent.runtime.litert import Array

SPEC = TensorSpec(name="x", datatype="INT8", shape=(1, 4, 4, 3), scale=0.01)
FITTED = Preprocessing(
    input="x", layout="NHWC", color="RGB", resize="letterbox", interpolation="area", raw="UINT8", scale=(1 / 127,)
)
SOUND = TensorSpec(name="x", datatype="FP32", shape=(1, 4))
PICTURE = np.random.default_rng(3).integers(0, 255, (6, 12, 3), np.uint8)
"""Blue first, as OpenCV has it."""


def form_of(section: Preprocessing | None, spec: TensorSpec = SPEC) -> Form:
    return Form.of(Described.read("x", Described("x", accepted_forms(spec, section), section).properties()))


def source(**settings: object) -> Source:
    return Source.model_validate({"name": "s", "model": "m", "directory": Directory(path="/x"), **settings})


def prepared(section: Preprocessing, **change: object) -> list[object]:
    """What the device makes of the picture."""
    found: list[object] = prepare(section.model_copy(update=change), SPEC, PICTURE[None]).tolist()
    return found


def test_pictures_go_as_they_are_in_the_colours_that_the_manifest_says() -> None:
    found = frame_of_picture(PICTURE, form_of(FITTED), source(colour="bgr"))
    assert (found.form.said, found.values.dtype) == ("raw", np.uint8)
    assert found.values.tolist() == [PICTURE[..., ::-1].tolist()]
    blue_first = FITTED.model_copy(update={"raw_color": "BGR"})
    assert frame_of_picture(PICTURE, form_of(blue_first), source()).values.tolist() == [PICTURE.tolist()]
    grey = frame_of_picture(PICTURE, form_of(FITTED.model_copy(update={"raw_color": "GRAY"})), source())
    assert grey.values[0, ..., 0].tolist() == cv2.cvtColor(PICTURE, cv2.COLOR_BGR2GRAY).tolist()


def test_a_manifest_that_does_not_resize_takes_pictures_of_its_size_only() -> None:
    form = form_of(FITTED.model_copy(update={"resize": "", "interpolation": ""}))
    with pytest.raises(InvalidInput, match="pictures of 4x4, and this is of 6x12"):
        frame_of_picture(PICTURE, form, source())
    assert frame_of_picture(PICTURE[:4, :4], form, source()).values.shape == (1, 4, 4, 3)


def test_without_raw_frames_the_source_does_what_the_manifest_says() -> None:
    told = Preprocessing(input="x", layout="NHWC", color="RGB", resize="letterbox", scale=(1 / 127,), offset=(-1.0,))
    full = told.model_copy(update={"raw": "UINT8", "raw_color": "BGR", "interpolation": "area"})
    found = frame_of_picture(PICTURE, form_of(told), source())
    assert (found.form.said, found.values.tolist()) == ("real", prepared(full))
    assert (found.values[0, 0] == -1.0).all(), "a letterbox has a border"
    own = frame_of_picture(PICTURE, form_of(told), source(scale=2.0))
    assert own.values.tolist() == prepared(full, scale=(2.0,), offset=(0.0,))
    unsaid = told.model_copy(update={"scale": (1.0,), "offset": (0.0,)})
    assert frame_of_picture(PICTURE, form_of(unsaid), source()).values.max() <= 1.0


def test_a_scale_of_the_sources_own_makes_real_values_with_the_manifests_resize() -> None:
    found = frame_of_picture(PICTURE, form_of(FITTED), source(scale=1 / 127))
    assert (found.form.said, found.values.tolist()) == ("real", prepared(FITTED, raw_color="BGR"))


WHOLE = np.arange(16).reshape(4, 4, 1)
GREY = FITTED.model_copy(update={"color": "GRAY"})
GREY_SPEC = TensorSpec(name="x", datatype="INT8", shape=(1, 4, 4, 1), scale=0.01)


@pytest.mark.parametrize(
    ("values", "settings", "is_typed", "said"),
    [
        (WHOLE.astype(np.uint8), {}, True, "raw"),
        (WHOLE.astype(np.int64), {}, True, "raw"),
        (WHOLE.astype(np.int64), {}, False, "raw"),
        (WHOLE.astype(np.float64), {}, False, "raw"),
        (WHOLE / 127, {}, True, "real"),
        (WHOLE.astype(np.uint8), {"form": "real"}, True, "real"),
        (WHOLE.astype(np.uint8), {"scale": 0.1}, True, "real"),
        (WHOLE.astype(np.uint8), {"offset": 0.1}, True, "real"),
        (WHOLE * 16.0, {"scale": 1 / 16, "form": "raw"}, True, "raw"),
    ],
)
def test_what_values_are(values: Array, settings: dict[str, object], is_typed: bool, said: str) -> None:
    found = frames_of(values, form_of(GREY, GREY_SPEC), source(**settings), None, is_typed=is_typed)
    assert (found.form.said, found.values.dtype) == (said, np.uint8 if said == "raw" else np.float32)
    if said == "raw":
        assert found.values[0].tolist() == WHOLE.tolist()


def test_raw_frames_may_lack_the_axis_of_one_channel_whatever_their_size() -> None:
    form = form_of(GREY, GREY_SPEC)
    assert frames_of(np.zeros((9, 7), np.uint8), form, source(), None).values.shape == (1, 9, 7, 1)
    assert frames_of(np.zeros((3, 9, 7), np.uint8), form, source(), None).values.shape == (3, 9, 7, 1)


def test_numbers_that_no_sensor_gives_are_refused_and_not_rounded() -> None:
    with pytest.raises(InvalidInput, match="no whole number"):
        frames_of(WHOLE / 127, form_of(GREY, GREY_SPEC), source(), None, is_typed=False)
    with pytest.raises(InvalidInput, match="takes no raw frames"):
        frames_of(WHOLE, form_of(None, GREY_SPEC), source(form="raw"), None)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("INT16", [-32768, 0, 16384, 32767]), ("UINT8", [0, 128, 192, 255]), ("FP32", [-1.0, 0.0, 0.5, 1.0])],
)
def test_a_sound_becomes_the_numbers_of_the_microphone(raw: str, expected: list[float]) -> None:
    form = form_of(Preprocessing.model_validate({"input": "x", "raw": raw}), SOUND)
    samples = np.array([-1.0, 0.0, 0.5, 1.0], np.float32)
    found = frames_of(sound_as_raw(samples, form, source()), form, source(), None)
    assert (found.form.said, found.values.tolist()) == ("raw", [expected])


def test_a_stream_of_raw_samples_in_windows() -> None:
    form = form_of(Preprocessing(input="x", raw="INT16", scale=(1 / 32768,)), SOUND)
    stream = source(window=4, dtype="int16")
    assert sample_shape(stream, form) == ()
    found = frames_of(np.arange(8, dtype=np.int16), form, stream, new_windows(stream))
    assert (found.form.said, found.values.tolist()) == ("raw", [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_a_key_may_name_the_device_and_the_source() -> None:
    assert source(key="{device}/{source}/{x}").key_on("cam-1") == "cam-1/s/{x}"
    assert source().key_on("cam-1") == ""


def test_bytes_of_raw_pictures_need_a_shape() -> None:
    with pytest.raises(InvalidInput, match="no fixed shape"):
        sample_shape(source(dtype="uint8"), form_of(FITTED))
    assert sample_shape(source(dtype="float32"), form_of(FITTED)) == (4, 4, 3)
    assert sample_shape(source(dtype="uint8", shape=(6, 12, 3)), form_of(FITTED)) == (6, 12, 3)
