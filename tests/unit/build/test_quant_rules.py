"""Exceptions for single operators."""

import signal

import numpy as np
import pytest
from tflite_graphs import Operator, dense, drawn, matmul, recurrent, with_first_state

from dsops.errors import InvalidInput, UnsupportedModel
from dsops_controller.build.conversion.tflite_writer import TfliteWriter
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.checks import float_operators
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quantization.modes import resolve_rules
from dsops_controller.build.quantization.quantize import OperatorRule, QuantMode, quantize
from dsops_controller.demo.digits import Splits

DATA = DataSet({"x": drawn(20, 9)})
CLASSIFIER = dense(9, 4, softmax=True)


def kinds(model: bytes) -> list[str]:
    return [operator.name for operator in Graph(model).operators]


def floats(model: bytes) -> list[str]:
    return [operator.name for operator in float_operators(Graph(model), QuantMode.INT8)]


def test_one_kind_of_operator_stays_float() -> None:
    result = quantize(CLASSIFIER, QuantMode.INT8, DATA, [OperatorRule("", "SOFTMAX")])
    assert floats(result.data) == ["SOFTMAX"]
    assert [spec.datatype for spec in LitertModel(result.data).outputs] == ["INT8"]
    assert result.notes == ("1 of 4 operators are computed in float: SOFTMAX (1)",)


def test_a_layer_is_chosen_by_the_name_of_the_tensor_that_it_writes() -> None:
    result = quantize(CLASSIFIER, QuantMode.INT8, DATA, [OperatorRule("^sums$")])
    assert floats(result.data) == ["FULLY_CONNECTED"]


def test_one_operator_gets_16_bits_among_8(float_model: bytes, digits: Splits) -> None:
    rule = OperatorRule("", "FULLY_CONNECTED", QuantMode.INT16X8)
    data = DataSet({"image": digits.calibration.x[:40]})
    mixed = quantize(float_model, QuantMode.INT8, data, [rule]).data
    assert "QUANTIZE" in kinds(mixed)
    shown = {"image": digits.reference.x[:100]}
    name = LitertModel(float_model).outputs[0].name
    before, after = LitertModel(float_model).run(shown)[name], LitertModel(mixed).run(shown)[name]
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.97


def test_a_later_rule_counts_more() -> None:
    rules = [OperatorRule(""), OperatorRule("", "FULLY_CONNECTED", QuantMode.INT8)]
    assert floats(quantize(CLASSIFIER, QuantMode.INT8, DATA, rules).data) == ["SOFTMAX"]


def test_single_layers_of_a_float_model_are_quantized() -> None:
    rule = OperatorRule("sums", mode=QuantMode.WEIGHT8)
    result = quantize(dense(65, 33, softmax=True), QuantMode.FLOAT32, None, [rule])
    assert kinds(result.data) == ["DEQUANTIZE", "FULLY_CONNECTED", "SOFTMAX"]
    assert len(result.data) < len(dense(65, 33, softmax=True)) / 2


def test_a_rule_with_integers_needs_calibration_whatever_the_mode() -> None:
    rule = OperatorRule("", "FULLY_CONNECTED", QuantMode.INT8)
    with pytest.raises(InvalidInput, match="int8 needs calibration data"):
        quantize(CLASSIFIER, QuantMode.DYNAMIC8, None, [rule])
    result = quantize(CLASSIFIER, QuantMode.DYNAMIC8, DATA, [rule]).data
    assert kinds(result) == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE", "SOFTMAX"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            OperatorRule("nothing here"),
            "the rule for 'nothing here' matches no operator .*: its operators are FULLY_CON",
        ),
        (OperatorRule("", "CONV_2D"), "the rule for '', operator CONV_2D matches no operator"),
        (OperatorRule("scores", "FULLY_CONNECTED"), "matches no operator"),
        (OperatorRule("", "SOFTMACS"), "'SOFTMACS' in a quantization rule is not a TFLite operator: .* SOFTMAX"),
        (OperatorRule("("), "the pattern of the rule for '[(]' is wrong: missing"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: OperatorRule, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        quantize(CLASSIFIER, QuantMode.INT8, DATA, [rule])


def test_a_rule_that_the_quantizer_cannot_follow_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="SOFTMAX 'scores' cannot be quantized to weight8"):
        quantize(CLASSIFIER, QuantMode.INT8, DATA, [OperatorRule("", "SOFTMAX", QuantMode.WEIGHT8)])
    data = DataSet({"x": drawn(20, 5, 4)})
    rule = OperatorRule("steps", "", QuantMode.INT8)
    with pytest.raises(UnsupportedModel, match="UNIDIRECTIONAL_SEQUENCE_LSTM 'steps' cannot be quantized to int8"):
        quantize(recurrent(head=True), QuantMode.INT8, data, [rule])


def test_a_rule_that_leaves_an_operator_float_which_is_so_anyway_is_no_error() -> None:
    data = DataSet({"x": drawn(20, 5, 4)})
    with_rule = quantize(recurrent(head=True), QuantMode.INT8, data, [OperatorRule("steps")])
    assert with_rule == quantize(recurrent(head=True), QuantMode.INT8, data)
    assert np.isfinite(LitertModel(with_rule.data).run(data.inputs)["y"]).all()


def test_rules_speak_of_the_operators_of_the_given_model() -> None:
    """A BATCH_MATMUL is quantized as FULLY_CONNECTED; who looked at the file does not know that."""
    data = DataSet({"x": drawn(20, 6)})
    result = quantize(matmul(), QuantMode.INT8, data, [OperatorRule("", "BATCH_MATMUL")]).data
    assert floats(result) == ["FULLY_CONNECTED"]
    with pytest.raises(InvalidInput, match=r"its operators are ADD \(1\), BATCH_MATMUL \(1\)"):
        quantize(matmul(), QuantMode.INT8, data, [OperatorRule("", "FULLY_CONNECTED")])
    folded = quantize(with_first_state(), QuantMode.INT8, data, [OperatorRule("^state$")])
    assert not floats(folded.data)


def test_a_pattern_that_takes_years_is_named() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 4]), writer.tensor("a" * 200, [1, 4])
    writer.operator(Operator.TANH, [x], [y])
    graph = Graph(writer.finish({"x": x}, {"y": y}))
    with pytest.raises(InvalidInput, match=r"rule for '\(a\+\)\+\$x' takes too long: its search took over 0.05 s"):
        resolve_rules(graph, [OperatorRule("(a+)+$x")], search_s=0.05)
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    with pytest.raises(InvalidInput, match="has 257 characters; 256 are allowed"):
        resolve_rules(graph, [OperatorRule("a" * 257)])
