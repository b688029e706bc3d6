from dataclasses import replace

import numpy as np
import pytest

from dsops.errors import AccuracyGateFailed, InvalidInput, InvalidModel
from dsops_controller.build.arrays import Labelled
from dsops_controller.build.evaluate import Evaluation, check_gate, evaluate
from dsops_controller.build.litert import LitertModel
from dsops_controller.demo.digits import Splits

GOOD = Evaluation(
    frames=500,
    float_accuracy=0.98,
    quantized_accuracy=0.975,
    agreement=0.99,
    max_score_difference=0.1,
    mean_score_difference=0.01,
    float_bytes=28304,
    quantized_bytes=10320,
    float_latency_us=8.0,
    quantized_latency_us=6.0,
)


def test_figures_are_those_of_the_models(float_model: bytes, int8_model: bytes, digits: Splits) -> None:
    data = Labelled(digits.reference.x, digits.reference.y)
    found = evaluate(float_model, int8_model, data, 10)
    before, after = LitertModel(float_model).run(data.x), LitertModel(int8_model).run(data.x)
    assert found.frames == 500
    assert found.float_accuracy == (before.argmax(1) == data.y).mean()
    assert found.quantized_accuracy == (after.argmax(1) == data.y).mean()
    assert found.max_score_difference == np.abs(before - after).max()
    assert (found.float_bytes, found.quantized_bytes) == (len(float_model), len(int8_model))
    assert found.float_latency_us > 0
    assert found.quantized_latency_us > 0
    assert found.as_dict()["agreement"] == found.agreement
    check_gate(found)


@pytest.mark.parametrize("accuracy", [0.98, 0.97, 0.99])
def test_a_drop_within_the_gate_passes(accuracy: float) -> None:
    check_gate(replace(GOOD, quantized_accuracy=accuracy))


def test_a_larger_drop_fails_with_both_figures() -> None:
    with pytest.raises(AccuracyGateFailed, match=r"98.00% to 96.80%.*1.00% on 500 frames"):
        check_gate(replace(GOOD, quantized_accuracy=0.968))


def test_disagreement_fails_even_when_accuracy_is_the_same() -> None:
    with pytest.raises(AccuracyGateFailed, match=r"agrees.*96.00% of frames.*97.00%"):
        check_gate(replace(GOOD, agreement=0.96))


def test_a_label_that_does_not_exist_is_named(float_model: bytes, int8_model: bytes, digits: Splits) -> None:
    y = digits.reference.y.copy()
    y[4] = 10
    with pytest.raises(InvalidInput, match="evaluation data has label 10 in row 4"):
        evaluate(float_model, int8_model, Labelled(digits.reference.x, y), 10)


def test_labels_of_another_length_are_refused(float_model: bytes, int8_model: bytes, digits: Splits) -> None:
    with pytest.raises(InvalidInput, match="labels of the evaluation data"):
        evaluate(float_model, int8_model, Labelled(digits.reference.x, digits.reference.y[:-1]), 10)


def test_a_model_whose_output_does_not_match_its_labels_is_refused(
    float_model: bytes, int8_model: bytes, digits: Splits
) -> None:
    with pytest.raises(InvalidModel, match="does not match its labels"):
        evaluate(float_model, int8_model, Labelled(digits.reference.x, digits.reference.y), 11)
