import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from dsops.errors import GoldenMismatch, InvalidInput, MalformedBundle
from dsops.golden import MAGIC, GoldenSet, TensorBytes
from dsops_controller.build.arrays import Labelled
from dsops_controller.build.convert import convert_onnx
from dsops_controller.build.golden import array_of, check_golden, choose_golden
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantize import quantize
from dsops_controller.demo.digits import LABELS, Splits, splits
from dsops_controller.demo.train import to_onnx, train


@pytest.fixture(scope="module")
def data(digits: Splits) -> Labelled:
    return Labelled(digits.reference.x, digits.reference.y)


@pytest.fixture(scope="module")
def golden(int8_model: bytes, data: Labelled) -> GoldenSet:
    return choose_golden(int8_model, data, LABELS)


def test_half_are_the_closest_calls_and_all_are_labelled_rightly(
    golden: GoldenSet, int8_model: bytes, data: Labelled
) -> None:
    scores = LitertModel(int8_model).run(data.x)
    ordered = np.sort(scores, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    plain = LitertModel(int8_model, reference_kernels=True).run(data.x)
    agreed = np.abs(scores - plain).max(axis=1) <= golden.score_tolerance / 2
    fit = (scores.argmax(1) == data.y) & (margin > 2 * golden.score_tolerance) & agreed
    expected = array_of(golden.scores)
    chosen = np.sort(expected, axis=1)
    np.testing.assert_array_equal(chosen[:16, -1] - chosen[:16, -2], np.sort(margin[fit])[:16])
    assert golden.labels == tuple(LABELS[k] for k in expected.argmax(1))
    assert len({frame.tobytes() for frame in array_of(golden.inputs)}) == 32


def test_every_kind_of_kernel_meets_its_own_golden_set(golden: GoldenSet, int8_model: bytes) -> None:
    plain = LitertModel(int8_model, reference_kernels=True).run(array_of(golden.inputs))
    assert np.abs(plain - array_of(golden.scores)).max() <= golden.score_tolerance / 2


def test_the_same_data_gives_the_same_blob(golden: GoldenSet, int8_model: bytes, data: Labelled) -> None:
    assert choose_golden(int8_model, data, LABELS).encode() == golden.encode()


def test_a_blob_is_read_as_it_was_written(golden: GoldenSet) -> None:
    assert GoldenSet.decode(golden.encode()) == golden


def test_the_model_answers_its_own_golden_inputs(golden: GoldenSet, int8_model: bytes) -> None:
    check_golden(int8_model, golden, LABELS)


def test_another_models_answers_are_refused(golden: GoldenSet) -> None:
    other = splits(1)
    model = quantize(convert_onnx(to_onnx(train(other.train, 1, epochs=2))), other.calibration.x[:30])
    with pytest.raises(GoldenMismatch, match="golden input"):
        check_golden(model, golden, LABELS)


@pytest.mark.parametrize(
    "labels", [LABELS[1:] + LABELS[:1], (*LABELS[:-1], "nine"), LABELS[:9]], ids=["rotated", "renamed", "fewer"]
)
def test_labels_in_another_order_are_refused(golden: GoldenSet, int8_model: bytes, labels: tuple[str, ...]) -> None:
    with pytest.raises(GoldenMismatch):
        check_golden(int8_model, golden, labels)


def test_shifted_preprocessing_is_noticed(golden: GoldenSet, int8_model: bytes) -> None:
    for fault in (lambda x: 1 - x, lambda x: x[:, :, ::-1], lambda x: x * 0.5, lambda x: np.roll(x, 1, axis=1)):
        wrong = np.ascontiguousarray(fault(array_of(golden.inputs)), np.float32)
        changed = replace(golden, inputs=TensorBytes("float32", wrong.shape, wrong.tobytes()))
        with pytest.raises(GoldenMismatch):
            check_golden(int8_model, changed, LABELS)


def test_too_few_right_frames_are_refused(int8_model: bytes, data: Labelled) -> None:
    with pytest.raises(InvalidInput, match=r"frames of the golden data can be golden inputs, and 32 are needed"):
        choose_golden(int8_model, Labelled(data.x[:40], (data.y[:40] + 1) % 10), LABELS)


def test_a_blob_cut_or_extended_at_any_place_is_refused(golden: GoldenSet) -> None:
    blob = golden.encode()
    for length in (*range(0, 400, 7), len(blob) - 1):
        with pytest.raises(MalformedBundle):
            GoldenSet.decode(blob[:length])
    with pytest.raises(MalformedBundle, match="their header says"):
        GoldenSet.decode(blob + b"\0")


def header(**changed: object) -> bytes:
    """Return the text of a right header, changed."""
    tensor = {"dtype": "float32", "shape": [1, 1]}
    right = {"format": 1, "labels": ["a"], "score_tolerance": 0.05, "inputs": tensor, "scores": tensor}
    return json.dumps(right | changed).encode()


def blob_of(text: bytes) -> bytes:
    return struct.pack("<8sI", MAGIC, len(text)) + text + bytes(8)


def test_the_header_of_these_tests_is_right() -> None:
    assert GoldenSet.decode(blob_of(header())).labels == ("a",)


WRONG_HEADERS = {
    "another kind of value": b"[]",
    "not json": b"{",
    "another format": header(format=2),
    "unknown key": header(colour="red"),
    "pickled objects": header(inputs={"dtype": "object", "shape": [1, 1]}),
    "rows that do not match": header(inputs={"dtype": "float32", "shape": [2, 1]}),
    "negative size": header(inputs={"dtype": "float32", "shape": [1, -1]}),
    "huge size": header(inputs={"dtype": "float32", "shape": [1, 1 << 40]}),
    "no tolerance": header(score_tolerance=float("nan")),
}


@pytest.mark.parametrize("text", WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
def test_a_wrong_header_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedBundle):
        GoldenSet.decode(blob_of(text))


def test_parts_that_do_not_belong_together_are_not_written(golden: GoldenSet) -> None:
    with pytest.raises(InvalidInput):
        replace(golden, labels=golden.labels[:-1]).encode()
    with pytest.raises(InvalidInput):
        replace(golden, scores=TensorBytes("float32", golden.scores.shape, b"")).encode()
