import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from dsops.errors import GoldenMismatch, InvalidInput, MalformedBundle
from dsops.golden import MAGIC, GoldenSet
from dsops.manifest import Postprocessing, Task
from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.data import DataSet
from dsops_controller.build.golden import array_of, check_golden, choose_golden
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.demo.digits import LABELS, Splits, splits
from dsops_controller.demo.train import to_onnx, train

DIGITS = Meaning(labels=LABELS)


@pytest.fixture(scope="module")
def data(digits: Splits) -> DataSet:
    return DataSet({"image": digits.reference.x}, digits.reference.y)


@pytest.fixture(scope="module")
def golden(int8_model: bytes, data: DataSet) -> GoldenSet:
    return choose_golden(int8_model, data, DIGITS)


def scores_of(model: bytes, x: np.ndarray, *, reference_kernels: bool = False) -> np.ndarray:
    return LitertModel(model, reference_kernels=reference_kernels).run({"image": x})["scores"]


def test_the_closest_calls_are_there_and_all_are_labelled_rightly(
    golden: GoldenSet, int8_model: bytes, data: DataSet
) -> None:
    (tolerance,) = golden.tolerances
    scores = scores_of(int8_model, data.inputs["image"])
    margin = np.diff(np.sort(scores, axis=1)[:, -2:]).ravel()
    plain = scores_of(int8_model, data.inputs["image"], reference_kernels=True)
    agreed = np.abs(scores - plain).max(axis=1) <= tolerance / 2
    right = (scores.argmax(1) == data.y) & (plain.argmax(1) == data.y)
    expected = array_of(golden.outputs[0])
    chosen = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel()
    fit = right & (margin > 2 * tolerance) & agreed
    np.testing.assert_array_equal(chosen[:8], np.sort(margin[fit])[:8])
    assert golden.labels == tuple(LABELS[k] for k in expected.argmax(1))
    assert len({frame.tobytes() for frame in array_of(golden.inputs[0])}) == len(golden) == 32


def test_every_class_is_covered(golden: GoldenSet) -> None:
    assert set(golden.labels) == set(LABELS)


def test_every_kind_of_kernel_meets_its_own_golden_set(golden: GoldenSet, int8_model: bytes) -> None:
    plain = scores_of(int8_model, array_of(golden.inputs[0]), reference_kernels=True)
    assert np.abs(plain - array_of(golden.outputs[0])).max() <= golden.tolerances[0] / 2


def test_a_measured_tolerance_is_a_few_steps_of_the_output(golden: GoldenSet) -> None:
    assert 0.015 <= golden.tolerances[0] <= 0.1  # 4 steps of 1/256 at least


def test_a_given_tolerance_is_taken(int8_model: bytes, data: DataSet) -> None:
    assert choose_golden(int8_model, data, DIGITS, 8, 0.25).tolerances == (0.25,)
    assert choose_golden(int8_model, data, DIGITS, 8, {"scores": 0.125}).tolerances == (0.125,)
    with pytest.raises(InvalidInput, match="names the output 'boxes'"):
        choose_golden(int8_model, data, DIGITS, 8, {"boxes": 0.1})


def test_the_same_data_gives_the_same_blob(golden: GoldenSet, int8_model: bytes, data: DataSet) -> None:
    assert choose_golden(int8_model, data, DIGITS).encode() == golden.encode()


def test_a_blob_is_read_as_it_was_written(golden: GoldenSet) -> None:
    assert GoldenSet.decode(golden.encode()) == golden


def test_the_model_answers_its_own_golden_inputs(golden: GoldenSet, int8_model: bytes) -> None:
    check_golden(int8_model, golden, DIGITS)


def test_another_models_answers_are_refused(golden: GoldenSet) -> None:
    other = splits(1)
    network = convert_onnx(to_onnx(train(other.train, 1, epochs=2)))
    model = quantize(network, QuantMode.INT8, DataSet({"image": other.calibration.x[:30]})).data
    with pytest.raises(GoldenMismatch, match="golden inputs are not answered as expected"):
        check_golden(model, golden, DIGITS)


@pytest.mark.parametrize(
    "labels", [LABELS[1:] + LABELS[:1], (*LABELS[:-1], "nine"), LABELS[:9]], ids=["rotated", "renamed", "fewer"]
)
def test_labels_in_another_order_are_refused(golden: GoldenSet, int8_model: bytes, labels: tuple[str, ...]) -> None:
    with pytest.raises(GoldenMismatch):
        check_golden(int8_model, golden, Meaning(labels=labels))


def test_shifted_preprocessing_is_noticed(golden: GoldenSet, int8_model: bytes) -> None:
    (image,) = golden.inputs
    for fault in (lambda x: 1 - x, lambda x: x[:, :, ::-1], lambda x: x * 0.5, lambda x: np.roll(x, 1, axis=1)):
        wrong = np.ascontiguousarray(fault(array_of(image)), np.float32)
        changed = replace(golden, inputs=(replace(image, data=wrong.tobytes()),))
        with pytest.raises(GoldenMismatch):
            check_golden(int8_model, changed, DIGITS)


def network(weights: np.ndarray) -> bytes:
    """A model that multiplies its four values with a matrix."""
    constant = helper.make_tensor("w", 1, (4, 4), weights.ravel())
    tensors = [helper.make_tensor_value_info(name, 1, (1, 4)) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "m", tensors[:1], tensors[1:], [constant]
    )
    return convert_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def test_a_reconstruction_is_judged_as_expected_with_room_to_spare() -> None:
    x = np.random.default_rng(0).normal(0, 1, (400, 4)).astype(np.float32)
    meaning = Meaning(Task.RECONSTRUCTION, Postprocessing(threshold=0.5))
    model = network(np.full((4, 4), 0.25, np.float32))  # keeps the mean and forgets the rest
    golden = choose_golden(model, DataSet({"x": x}), meaning, 16, 0.01)
    given, rebuilt = array_of(golden.inputs[0]), array_of(golden.outputs[0])
    errors = ((given - rebuilt) ** 2).mean(axis=1)
    assert (np.abs(errors - 0.5) > 0.01).all()
    assert (errors > 0.5).any()
    assert (errors < 0.5).any()
    check_golden(model, golden, meaning)
    moved = replace(golden, outputs=(replace(golden.outputs[0], data=(rebuilt + 1).tobytes()),), tolerances=(2.0,))
    with pytest.raises(GoldenMismatch, match="not answered as expected"):
        check_golden(model, moved, meaning)


def test_logits_are_compared_on_their_own_scale() -> None:
    """A softmax over large logits leaves margins that are far smaller than what a tolerance of the logits is."""
    x = np.random.default_rng(0).normal(0, 30, (300, 4)).astype(np.float32)
    names = ("north", "east", "south", "west")
    meaning = Meaning(rule=Postprocessing(activation="softmax"), labels=names)
    golden = choose_golden(network(np.eye(4, dtype=np.float32)), DataSet({"x": x}, x.argmax(1)), meaning, 16, 2.0)
    ordered = np.sort(array_of(golden.outputs[0]), axis=1)
    assert (ordered[:, -1] - ordered[:, -2] > 4.0).all()
    assert set(golden.labels) == set(names)


def test_too_few_right_frames_are_refused(int8_model: bytes, data: DataSet) -> None:
    with pytest.raises(InvalidInput, match=r"frames of the golden data can be golden inputs, and 32 are needed"):
        choose_golden(int8_model, DataSet({"image": data.inputs["image"][:40]}, (data.y[:40] + 1) % 10), DIGITS)


def test_a_label_that_there_is_not_is_named(int8_model: bytes, data: DataSet) -> None:
    with pytest.raises(InvalidInput, match=r"label 10 in row 0"):
        choose_golden(int8_model, DataSet({"image": data.inputs["image"][:40]}, np.full(40, 10)), DIGITS)


def test_a_blob_cut_or_extended_at_any_place_is_refused(golden: GoldenSet) -> None:
    blob = golden.encode()
    for length in (*range(0, 400, 7), len(blob) - 1):
        with pytest.raises(MalformedBundle):
            GoldenSet.decode(blob[:length])
    with pytest.raises(MalformedBundle, match="their header says"):
        GoldenSet.decode(blob + b"\0")


def header(**changed: object) -> bytes:
    """Return the text of a right header, changed."""
    right = {"format": 1, "labels": ["a"], "tolerances": [0.05], "inputs": [tensor()], "outputs": [tensor()]}
    return json.dumps(right | changed).encode()


def tensor(dtype: str = "float32", shape: tuple[int, ...] = (1, 1)) -> dict[str, object]:
    return {"name": "x", "dtype": dtype, "shape": shape}


def blob_of(text: bytes) -> bytes:
    return struct.pack("<8sI", MAGIC, len(text)) + text + bytes(8)


def test_the_header_of_these_tests_is_right() -> None:
    assert GoldenSet.decode(blob_of(header())).labels == ("a",)


WRONG_HEADERS = {
    "another kind of value": b"[]",
    "not json": b"{",
    "another format": header(format=2),
    "unknown key": header(colour="red"),
    "pickled objects": header(inputs=[tensor("object")]),
    "rows that do not match": header(inputs=[tensor(shape=(2, 1))]),
    "negative size": header(inputs=[tensor(shape=(1, -1))]),
    "huge size": header(inputs=[tensor(shape=(1, 1 << 40))]),
    "huge in all": header(inputs=[tensor(shape=(1, 1 << 24, 1 << 24))]),
    "no tensor": header(inputs=[]),
    "a tolerance too few": header(tolerances=[]),
    "no tolerance": header(tolerances=[float("nan")]),
}


@pytest.mark.parametrize("text", WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
def test_a_wrong_header_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedBundle):
        GoldenSet.decode(blob_of(text))


def test_parts_that_do_not_belong_together_are_not_written(golden: GoldenSet) -> None:
    with pytest.raises(InvalidInput):
        replace(golden, labels=golden.labels[:-1]).encode()
    with pytest.raises(InvalidInput):
        replace(golden, outputs=(replace(golden.outputs[0], data=b""),)).encode()
    with pytest.raises(InvalidInput):
        replace(golden, tolerances=()).encode()
