"""What metadata says of an input is read back as it was written."""

import pytest

from dsops.described import Described, makes_the_same
from dsops.errors import InvalidInput
from dsops.forms import ANY, Accepted, Form, accepted_forms
from dsops.manifest import Preprocessing, TensorSpec

PICTURE = TensorSpec(name="image", datatype="INT8", shape=(1, 96, 96, 3), scale=0.01)
SOUND = TensorSpec(name="sound", datatype="FP32", shape=(1, 16000))
FITTED = Preprocessing(
    input="image", layout="NHWC", color="RGB", resize="letterbox", interpolation="area", raw="UINT8", fill=114.0
)


@pytest.mark.parametrize(
    ("spec", "section"),
    [
        (PICTURE, FITTED),
        (PICTURE, FITTED.model_copy(update={"raw_color": "BGR", "scale": (0.1, 0.2, 0.3)})),
        (PICTURE, None),
        (SOUND, Preprocessing(input="sound", raw="INT16", scale=(1 / 32768,))),
        (TensorSpec(name="a.b", datatype="BOOL", shape=(1,)), Preprocessing(input="a.b")),
    ],
)
def test_properties_are_read_back(spec: TensorSpec, section: Preprocessing | None) -> None:
    told = Described(spec.name, accepted_forms(spec, section), section)
    assert Described.read(spec.name, told.properties()) == told


def test_raw_frames_of_any_size_are_read() -> None:
    assert Accepted.parse("raw UINT8 [n, height, width, 3]") == Accepted(Form.RAW, "UINT8", (ANY, ANY, 3))
    assert Accepted.parse("real FP32 [n]") == Accepted(Form.REAL, "FP32", ())


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"x.forms": "cooked FP32 [n]"},
        {"x.forms": "real FP32 [n, wide]"},
        {"x.forms": "real FP32 [n]", "x.preprocessing": "{}"},
        {"x.forms": "real FP32 [n]", "x.preprocessing": "no JSON"},
    ],
)
def test_what_is_not_understood_is_refused(properties: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="not understood"):
        Described.read("x", properties)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"raw": "", "interpolation": "", "fill": 0.0}, True),
        ({"scale": (1.0, 1.0, 1.0)}, True),
        ({"scale": (1.0, 1.0, 0.9)}, False),
        ({"offset": (-1.0,)}, False),
        ({"color": "BGR"}, False),
        ({"resize": "crop", "fill": 0.0}, False),
        ({"fill": 0.0}, False),
        ({"interpolation": "nearest"}, False),
        ({"layout": "NCHW"}, False),
    ],
)
def test_real_values_are_the_same_when_all_that_is_said_is(change: dict[str, object], same: bool) -> None:
    other = Preprocessing.model_validate(FITTED.model_dump() | change)
    assert makes_the_same(FITTED, other) is same
    assert makes_the_same(other, FITTED) is same
    assert makes_the_same(None, other)
