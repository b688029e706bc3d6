"""Tensors as pictures, checked by another program that reads PNG."""

import struct

import cv2
import numpy as np
import pytest

from dsops.errors import InvalidInput
from dsops_controller.dataops.samples.images import png, size_of
from dsops_controller.dataops.samples.sample_reading import SampleTensor


def tensor(values: "np.ndarray", datatype: str) -> SampleTensor:
    return SampleTensor(datatype, values.shape, values.tobytes())


def opened(data: bytes) -> "np.ndarray":
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (5, 7, 3), (1, 3, 5, 7), (5, 7), (1, 5, 7), (1, 5, 7, 1), (5, 7, 4)])
def test_bytes_are_the_pixels_whatever_the_layout(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    expected = values.reshape([axis for axis in shape if axis > 1])
    if shape == (1, 3, 5, 7):
        expected = expected.transpose(1, 2, 0)
    found = opened(png(tensor(values, "UINT8")))
    if expected.ndim == 3:
        found = found[..., [2, 1, 0, 3][: expected.shape[2]]]  # OpenCV has blue first
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ([0.0, 10.0, 200.0, 5.0], [0, 10, 200, 5]),
        ([-1, 0, 1, -1], [0, 128, 255, 0]),
    ],
)
def test_other_numbers_are_stretched_to_what_they_span(values: list[float], expected: list[int]) -> None:
    found = opened(png(tensor(np.array(values, np.float32).reshape(1, 2, 2, 1), "FP32")))
    assert found.ravel().tolist() == expected


def test_half_precision_and_values_that_are_no_numbers_do_no_harm() -> None:
    values = np.array([[np.nan, 1.0], [np.inf, 0.0]], np.float16)
    assert opened(png(tensor(values, "FP16"))).ravel().tolist() == [0, 255, 0, 0]
    same = np.zeros((4, 4), np.int8)
    assert opened(png(tensor(same, "INT8"))).max() == 0


@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 3, 4, 5), (1, 1, 1, 3), (0, 4), (9000, 4)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    assert size_of(shape) is None
    with pytest.raises(InvalidInput, match="no picture"):
        png(SampleTensor("UINT8", shape, bytes(16)))


def test_text_is_no_picture() -> None:
    with pytest.raises(InvalidInput, match="no numbers"):
        png(SampleTensor("BYTES", (4, 4), struct.pack("<I", 4) + b"text"))
