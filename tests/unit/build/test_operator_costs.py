import math

import numpy as np
import pytest
from tflite_graphs import convolution, dense, matmul

from dsops.errors import InvalidModel
from dsops_controller.build.evaluation.evaluation import by_kind
from dsops_controller.build.evaluation.measure_operators import single_operators
from dsops_controller.build.evaluation.operators import cost_of
from dsops_controller.build.litert import LitertModel


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (dense(6, 4), 6 * 4),
        (convolution(3, 5), 8 * 8 * 5 * 3 * 3 * 3),
        (convolution(3, 3, depthwise=True), 8 * 8 * 3 * 3 * 3),
        (matmul((1, 6), (6, 4)), 6 * 4),
    ],
)
def test_multiplications_are_counted(model: bytes, macs: int) -> None:
    cost = cost_of(model)
    assert cost.macs == macs
    assert cost.size_bytes == len(model)


def test_bytes_of_weights_and_of_what_is_moved(int8_model: bytes, float_model: bytes) -> None:
    before, after = cost_of(float_model), cost_of(int8_model)
    assert before.macs == after.macs
    dense_before = next(one for one in before.operators if one.kind == "FULLY_CONNECTED")
    dense_after = next(one for one in after.operators if one.kind == "FULLY_CONNECTED")
    biases = 4 * math.prod(dense_before.shape)
    assert dense_before.weight_bytes - biases == 4 * (dense_after.weight_bytes - biases)
    assert dense_before.moved_bytes > dense_before.weight_bytes


def test_kinds_are_ordered_by_what_they_cost(float_model: bytes) -> None:
    cost = cost_of(float_model)
    kinds = by_kind(cost, None)
    assert sum(kind.number for kind in kinds) == len(cost.operators)
    assert sum(kind.macs for kind in kinds) == cost.macs
    assert [kind.macs for kind in kinds] == sorted((kind.macs for kind in kinds), reverse=True)
    assert kinds[0].alone_us is None


def test_each_operator_by_itself_computes_what_it_does_in_the_model() -> None:
    model = dense(6, 4, softmax=True)
    first, second = single_operators(model)
    assert first is not None
    assert second is not None
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    head, tail = LitertModel(first), LitertModel(second)
    between = head.run({head.inputs[0].name: x})[head.outputs[0].name]
    scores = tail.run({tail.inputs[0].name: between})[tail.outputs[0].name]
    assert (scores == LitertModel(model).run({"x": x})["y"]).all()


def test_a_damaged_model_is_refused(float_model: bytes) -> None:
    with pytest.raises(InvalidModel, match="damaged"):
        cost_of(float_model[:2000])
