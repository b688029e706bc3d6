"""Each trap of the quantizer: that it is there, and that it is caught."""

from collections.abc import Callable

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer
from tflite_graphs import (
    Operator,
    attention,
    changed,
    chosen_with_constant,
    convolution,
    dense,
    drawn,
    embedding,
    lookup,
    matmul,
    padded_pool,
    recurrent,
    single,
    stacked_with_constant,
    two_by_two,
    with_constant,
    with_first_state,
)

from dsops.errors import AccuracyGateFailed, InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.tflite_writer import Table, TfliteWriter
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.progress import silent
from dsops_controller.build.quantization.checks import compare_answers
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quantization.modes import tool_recipe
from dsops_controller.build.quantization.quantize import OperatorRule, Quantized, QuantMode, quantize
from dsops_controller.build.quantization.ranges import measure_ranges
from dsops_controller.build.quantization.rewrite_buffers import inline_buffers
from dsops_controller.build.quantization.rewrite_constants import rewrite_constants
from dsops_controller.build.quantization.rewrite_folding import fold_constants
from dsops_controller.build.quantization.rewrite_matmul import rewrite_matmuls
from dsops_controller.build.quantization.rewrite_names import rewrite_names
from dsops_controller.build.quiet import quiet

STATIC = [QuantMode.INT8, QuantMode.INT16X8]
OTHERS = [mode for mode in QuantMode if not mode.is_static and mode != QuantMode.FLOAT32]
LOWEST = float(np.finfo(np.float32).min)


def unguarded(model: bytes, mode: QuantMode, data: DataSet) -> bytes:
    """Return what the quantizer makes of a model when nothing is checked or rewritten."""
    with quiet():
        tool = quantizer.Quantizer(model, tool_recipe(Graph(model), mode, {}))
        ranges = measure_ranges(model, data, silent) if mode.is_static else None
        return bytes(tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False).quantized_model)


def worst(before: bytes, after: bytes, data: DataSet) -> float:
    """Return the largest difference of any output, relative to the output's largest value."""
    plain, narrow = LitertModel(before).run(data.inputs), LitertModel(after).run(data.inputs)
    return max(float(np.abs(plain[name] - narrow[name]).max() / np.abs(plain[name]).max()) for name in plain)


def kinds(model: bytes) -> list[str]:
    return [operator.name for operator in Graph(model).operators]


def test_the_quantizer_breaks_a_matmul_with_constant_weights_silently() -> None:
    data = DataSet({"x": drawn(50, 6, seed=5)})
    assert worst(matmul(), unguarded(matmul(), QuantMode.INT8, data), data) > 0.3


@pytest.mark.parametrize("mode", [mode for mode in QuantMode if mode != QuantMode.FLOAT32])
def test_a_matmul_with_constant_weights_is_written_as_fully_connected(mode: QuantMode) -> None:
    data = DataSet({"x": drawn(50, 6, seed=5)})
    result = quantize(matmul(), mode, data).data
    assert "FULLY_CONNECTED" in kinds(result)
    assert worst(matmul(), result, data) < (0.2 if mode.endswith("4") else 0.02)


@pytest.mark.parametrize(
    ("rows", "weights", "transposed"),
    [((1, 6), (4, 6), True), ((1, 5, 6), (6, 4), False), ((1, 5, 6), (1, 6, 4), False), ((1, 2, 5, 6), (4, 6), True)],
)
def test_a_rewritten_matmul_computes_the_same(
    rows: tuple[int, ...], weights: tuple[int, ...], transposed: bool
) -> None:
    model = matmul(rows, weights, transposed=transposed)
    data = DataSet({"x": drawn(5, *rows[1:], seed=3)})
    rewritten = rewrite_matmuls(model)
    assert kinds(rewritten) == ["FULLY_CONNECTED", "ADD"]
    assert LitertModel(rewritten).outputs == LitertModel(model).outputs
    assert worst(model, rewritten, data) < 1e-6
    assert worst(model, quantize(model, QuantMode.INT8, data).data, data) < 0.02


def test_weights_that_two_matmuls_share_are_kept_for_both() -> None:
    model = changed(matmul((1, 6), (6, 6)), second_product)
    data = DataSet({"x": drawn(5, 6, seed=3)})
    assert kinds(rewrite_matmuls(model)) == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert worst(model, rewrite_matmuls(model), data) < 1e-6


def second_product(table: Table) -> None:
    """Let the ADD of a matmul model be a second product with the same weights."""
    first, second = table.subgraphs[0].operators
    second.opcodeIndex, second.inputs = first.opcodeIndex, [first.outputs[0], first.inputs[1]]
    second.builtinOptions, second.builtinOptionsType = first.builtinOptions, first.builtinOptionsType


def test_a_matmul_with_several_constant_matrices_gets_one_scale_for_all() -> None:
    model = matmul((1, 3, 5, 6), (3, 6, 4))
    data = DataSet({"x": drawn(20, 3, 5, 6, seed=5)})
    assert rewrite_matmuls(model) == model
    assert worst(model, unguarded(model, QuantMode.INT8, data), data) > 0.3
    assert worst(model, quantize(model, QuantMode.INT8, data).data, data) < 0.02


@pytest.mark.parametrize("value", [-5.0, LOWEST, -np.inf])
def test_the_quantizer_cannot_take_a_padding_value_with_an_axis(value: float) -> None:
    data = DataSet({"x": drawn(10, 6, 6, 2)})
    with pytest.raises(ValueError, match="Ranks of scales"):
        unguarded(padded_pool(value, axes=1), QuantMode.INT8, data)


def test_the_lowest_float_as_a_padding_value_makes_everything_zero_silently() -> None:
    data = DataSet({"x": drawn(10, 6, 6, 2)})
    model = padded_pool(LOWEST, axes=0)
    assert not LitertModel(unguarded(model, QuantMode.INT8, data)).run(data.inputs)["y"].any()


@pytest.mark.parametrize("mode", STATIC)
@pytest.mark.parametrize("value", [-5.0, LOWEST, -np.inf])
@pytest.mark.parametrize("axes", [0, 1])
def test_padding_with_any_value_is_quantized(mode: QuantMode, value: float, axes: int) -> None:
    data = DataSet({"x": drawn(10, 6, 6, 2)})
    model = padded_pool(value, axes=axes)
    assert worst(model, rewrite_constants(model), data) == 0.0
    assert worst(model, quantize(model, mode, data).data, data) < 0.02


@pytest.mark.parametrize(
    ("model", "mode"),
    [(single(Operator.ABS, schema.AbsOptionsT()), mode) for mode in (*STATIC, *OTHERS)]
    + [(model, mode) for model in (two_by_two(), recurrent()) for mode in OTHERS]
    + [(recurrent(), mode) for mode in STATIC],
)
def test_a_model_of_which_nothing_can_be_quantized_is_refused(model: bytes, mode: QuantMode) -> None:
    data = {spec.name: drawn(5, *spec.shape[1:], seed=at) for at, spec in enumerate(LitertModel(model).inputs)}
    with pytest.raises(InvalidModel, match=rf"quantization to {mode} changed nothing: .*\(1\)"):
        quantize(model, mode, DataSet(data))


def test_an_old_file_comes_back_unchanged_from_the_quantizer_and_is_refused() -> None:
    old = changed(dense(7, 5), only_deprecated_codes)
    data = DataSet({"x": drawn(10, 7)})
    assert not any(tensor.scaled for tensor in Graph(unguarded(old, QuantMode.DYNAMIC8, data)).tensors)
    with pytest.raises(InvalidModel, match="changed nothing"):
        quantize(old, QuantMode.DYNAMIC8, data)


def only_deprecated_codes(table: Table) -> None:
    for code in table.operatorCodes:
        code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0


def test_an_lstm_is_computed_in_float_and_this_is_said() -> None:
    data = DataSet({"x": drawn(20, 5, 4)})
    model = recurrent(head=True)
    for mode in STATIC:
        result = quantize(model, mode, data)
        assert result.notes == ("1 of 4 operators are computed in float: UNIDIRECTIONAL_SEQUENCE_LSTM (1)",)
        assert worst(model, result.data, data) < 0.02
    for mode in OTHERS:
        result = quantize(model, mode, data)
        assert [note.split(":")[1] for note in result.notes] == [" UNIDIRECTIONAL_SEQUENCE_LSTM (1)"]
        assert worst(model, result.data, data) < (0.2 if mode.endswith("4") else 0.02)


@pytest.mark.parametrize("mode", [*STATIC, *OTHERS])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (dense(7, 5), (7,)),
        (dense(65, 33), (65,)),
        (convolution(3, 5), (8, 8, 3)),
        (convolution(13, 15), (8, 8, 13)),
        (convolution(13, 13, depthwise=True), (8, 8, 13)),
    ],
    ids=["dense 7x5", "dense 65x33", "convolution 3x5", "convolution 13x15", "depthwise 13"],
)
def test_odd_numbers_of_channels_and_weights(model: bytes, shape: tuple[int, ...], mode: QuantMode) -> None:
    data = DataSet({"x": drawn(10, *shape, seed=7)})
    result = quantize(model, mode, data)
    assert worst(model, result.data, data) < (0.2 if mode.endswith("4") else 0.02)
    assert not result.notes


def test_four_bits_halve_the_weights_of_eight() -> None:
    model = dense(256, 256)
    sizes = {mode: len(quantize(model, mode).data) for mode in OTHERS}
    weights = 256 * 256
    assert sizes[QuantMode.WEIGHT8] - sizes[QuantMode.WEIGHT4] == pytest.approx(weights / 2, rel=0.01)
    assert sizes[QuantMode.DYNAMIC8] - sizes[QuantMode.DYNAMIC4] == pytest.approx(weights / 2, rel=0.01)
    assert len(model) - sizes[QuantMode.FLOAT16] == pytest.approx(weights * 2, rel=0.01)


def test_an_operator_without_a_kernel_for_four_bits_gets_eight() -> None:
    result = quantize(convolution(16, 16, depthwise=True), QuantMode.WEIGHT4)
    types = {tensor.type for tensor in Graph(result.data).tensors if tensor.constant and len(tensor.shape) == 4}
    assert types == {schema.TensorType.INT8}


def test_a_softmax_over_many_flat_classes_is_noted() -> None:
    data = DataSet({"x": drawn(20, 9, scale=0.1)})
    notes = quantize(dense(9, 1000, softmax=True), QuantMode.INT8, data).notes
    assert len(notes) == 2
    assert "% of its range" in notes[0]
    assert "output 'y': on 16 frames the best score is" in notes[1]
    assert "rule for SOFTMAX" in notes[1]
    assert not quantize(dense(9, 1000, softmax=True), QuantMode.INT16X8, data).notes
    assert not quantize(dense(9, 4, softmax=True), QuantMode.INT8, data).notes


def test_a_softmax_so_flat_that_all_scores_round_to_zero_is_refused() -> None:
    with pytest.raises(AccuracyGateFailed, match=r"'y' of the quantized model is all zero: .* a step is") as caught:
        quantize(dense(9, 1000, softmax=True, scale=0.05), QuantMode.INT8, DataSet({"x": drawn(20, 9, scale=0.1)}))
    assert "SOFTMAX" in caught.value.hint


def test_a_result_that_is_the_same_whatever_it_is_shown_is_refused() -> None:
    data = DataSet({"x": drawn(10, 7)})
    good = LitertModel(dense(7, 5))
    broken = changed(dense(7, 5), without_weights)
    with pytest.raises(AccuracyGateFailed, match="'y' of the quantized model is the same whatever it is shown"):
        compare_answers(good, LitertModel(broken), Graph(broken), data)


def without_weights(table: Table) -> None:
    weights = table.subgraphs[0].tensors[2]
    table.buffers[weights.buffer].data = np.zeros(weights.shape[0] * weights.shape[1] * 4, np.uint8)


def test_a_result_with_nan_is_refused() -> None:
    data = DataSet({"x": drawn(10, 7)})
    broken = changed(dense(7, 5), with_nan)
    with pytest.raises(AccuracyGateFailed, match="'y' of the quantized model holds NaN"):
        compare_answers(LitertModel(dense(7, 5)), LitertModel(broken), Graph(broken), data)


def with_nan(table: Table) -> None:
    bias = table.subgraphs[0].tensors[3]
    table.buffers[bias.buffer].data = np.frombuffer(np.full(5, np.nan, np.float32).tobytes(), np.uint8)


def test_a_float_model_that_gives_nan_is_refused_with_the_frame() -> None:
    with pytest.raises(InvalidModel, match=r"NaN in tensor 'sums' in frame 0"):
        quantize(changed(dense(7, 5), with_nan), QuantMode.INT8, DataSet({"x": drawn(10, 7)}))


@pytest.mark.parametrize("rename", [lambda name: "same", lambda name: None])
def test_tensors_of_one_name_or_none_are_told_apart(rename: Callable[[bytes], str | None]) -> None:
    model = changed(dense(7, 5), lambda table: renamed(table, rename))
    data = DataSet({"x": drawn(10, 7)})
    with pytest.raises((ValueError, AttributeError)):
        unguarded(model, QuantMode.INT8, data)
    result = quantize(model, QuantMode.INT8, data).data
    assert [spec.name for spec in (*LitertModel(result).inputs, *LitertModel(result).outputs)] == ["x", "y"]
    assert worst(model, result, data) < 0.02
    assert rewrite_names(dense(7, 5)) == dense(7, 5)


def renamed(table: Table, rename: Callable[[bytes], str | bytes | None]) -> None:
    for tensor in table.subgraphs[0].tensors:
        tensor.name = rename(tensor.name)


def test_inputs_and_outputs_keep_scales_of_their_own() -> None:
    data = DataSet({"left": drawn(30, 4), "right": drawn(30, 4, seed=1, scale=50.0)})
    result = quantize(two_by_two(), QuantMode.INT8, data)
    left, right = LitertModel(result.data).inputs
    assert right.scale > 10 * left.scale
    assert [spec.name for spec in LitertModel(result.data).outputs] == ["sum", "difference"]
    assert worst(two_by_two(), result.data, data) < 0.02


@pytest.mark.parametrize("mode", STATIC)
def test_integer_inputs_and_outputs_stay_integers(mode: QuantMode) -> None:
    data = DataSet({"indices": np.random.default_rng(0).integers(0, 10, (20, 3)).astype(np.int32)})
    result = quantize(lookup(), mode, data).data
    specs = (*LitertModel(result).inputs, *LitertModel(result).outputs)
    assert [spec.datatype for spec in specs] == ["INT32", "INT8" if mode == QuantMode.INT8 else "INT16", "INT32"]
    found = LitertModel(result).run(data.inputs)
    np.testing.assert_array_equal(found["same"], data.inputs["indices"])
    assert worst(lookup(), result, data) < 0.01


def test_a_graph_that_the_quantizer_refuses_names_the_operator() -> None:
    data = DataSet({"x": drawn(10, 6)})
    with pytest.raises(UnsupportedModel, match=r"to int8 because of its operator PACK: ValueError: Ranks") as caught:
        quantize(stacked_with_constant(), QuantMode.INT8, data)
    assert "keep PACK float by a rule" in caught.value.hint
    model = stacked_with_constant()
    with pytest.raises(InvalidModel, match="changed nothing"):  # a rule leaves nothing of this model to quantize
        quantize(model, QuantMode.INT8, data, [OperatorRule("", "PACK")])


@pytest.mark.parametrize(
    "model",
    [
        *[with_constant(Operator.MAXIMUM, values, schema.MaximumMinimumOptionsT()) for values in ([0.5], [0.1] * 6)],
        *[chosen_with_constant(values) for values in ([0.5], [0.1] * 6)],
    ],
    ids=["MAXIMUM of one", "MAXIMUM of six", "SELECT_V2 of one", "SELECT_V2 of six"],
)
def test_constant_operands_get_the_axes_that_the_quantizer_needs(model: bytes) -> None:
    data = DataSet({"x": drawn(20, 6)})
    with pytest.raises(ValueError, match="Ranks of scales"):
        unguarded(model, QuantMode.INT8, data)
    assert worst(model, rewrite_constants(model), data) == 0.0
    assert worst(model, quantize(model, QuantMode.INT8, data).data, data) < 0.02


def test_the_kernel_of_a_quotient_by_small_divisors_is_wrong_silently_and_avoided() -> None:
    data = DataSet({"x": drawn(30, 6)})
    model = with_constant(Operator.DIV, np.linspace(0.1, 0.9, 6), schema.DivOptionsT())
    assert worst(model, unguarded(model, QuantMode.INT8, data), data) > 0.5
    assert worst(model, rewrite_constants(model), data) < 1e-6
    result = quantize(model, QuantMode.INT8, data)
    assert kinds(result.data) == ["MUL"]
    assert worst(model, result.data, data) < 0.02
    by_zero = with_constant(Operator.DIV, [0.0] * 6, schema.DivOptionsT())
    assert kinds(rewrite_constants(by_zero)) == ["DIV"]


def test_an_operator_over_constants_becomes_their_result() -> None:
    data = DataSet({"x": drawn(20, 6)})
    model = with_first_state()
    broken = unguarded(model, QuantMode.DYNAMIC8, data)
    with pytest.raises(InvalidModel, match=r"FULLY_CONNECTED.* failed to prepare"):
        LitertModel(broken)
    assert kinds(fold_constants(model)) == ["FULLY_CONNECTED", "ADD"]
    assert worst(model, fold_constants(model), data) == 0.0
    assert fold_constants(dense(7, 5)) == dense(7, 5)


@pytest.mark.parametrize("mode", [*STATIC, *OTHERS])
def test_a_model_with_a_constant_first_state_is_quantized(mode: QuantMode) -> None:
    data = DataSet({"x": drawn(20, 6)})
    result = quantize(with_first_state(), mode, data)
    assert worst(with_first_state(), result.data, data) < (0.2 if mode.endswith("4") else 0.02)
    assert not result.notes


def test_an_output_that_is_far_off_is_noted() -> None:
    data = DataSet({"x": drawn(10, 7)})
    other = changed(dense(7, 5), with_other_bias)
    notes = compare_answers(LitertModel(dense(7, 5)), LitertModel(other), Graph(other), data)
    assert len(notes) == 1
    assert notes[0].startswith("output 'y' is off by up to 9")
    assert not compare_answers(LitertModel(dense(7, 5)), LitertModel(dense(7, 5)), Graph(dense(7, 5)), data)


def with_other_bias(table: Table) -> None:
    bias = table.subgraphs[0].tensors[3]
    table.buffers[bias.buffer].data = np.frombuffer(np.full(5, 9.0, np.float32).tobytes(), np.uint8)


@pytest.mark.parametrize("mode", [*STATIC, *OTHERS])
def test_an_embedding_is_stored_in_few_bits_and_looked_up_by_integers(mode: QuantMode) -> None:
    data = DataSet({"x": np.random.default_rng(0).integers(0, 100, (20, 3)).astype(np.int32)})
    result = quantize(embedding(), mode, data).data
    assert LitertModel(result).inputs[0].datatype == "INT32"
    assert len(result) < (0.65 if mode == QuantMode.FLOAT16 else 0.55) * len(embedding())
    assert worst(embedding(), result, data) < (0.2 if mode.endswith("4") else 0.02)


@pytest.mark.parametrize("mode", STATIC)
def test_a_product_of_two_computed_operands_stays_and_is_right(mode: QuantMode) -> None:
    data = DataSet({"x": drawn(30, 4, 6)})
    result = quantize(attention(), mode, data).data
    assert kinds(result) == ["BATCH_MATMUL"]
    assert worst(attention(), result, data) < 0.02


@pytest.mark.parametrize("mode", [*STATIC, QuantMode.DYNAMIC8])
def test_an_input_that_is_an_output_too_keeps_both_names(mode: QuantMode) -> None:
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 6]), writer.tensor("y", [1, 6])
    weights = writer.constant("w", drawn(6, 6))
    writer.operator(Operator.FULLY_CONNECTED, [x, weights, -1], [y], schema.FullyConnectedOptionsT())
    model = writer.finish({"x": x}, {"y": y, "same": x})
    data = DataSet({"x": drawn(20, 6)})
    result = LitertModel(quantize(model, mode, data).data)
    assert [spec.name for spec in (*result.inputs, *result.outputs)] == ["x", "y", "same"]


def test_the_quantizer_puts_weights_behind_the_flatbuffer_where_a_second_decoding_loses_them() -> None:
    data = DataSet({"x": drawn(4, 8)})
    outside = unguarded(dense(8, 40000), QuantMode.INT8, data)
    offsets = {buffer.offset for buffer in schema.ModelT.InitFromPackedBuf(outside, 0).buffers}
    assert max(offsets) > 1
    inside = inline_buffers(outside)
    found = LitertModel(outside).run(data.inputs)["y"]
    np.testing.assert_array_equal(found, LitertModel(inside).run(data.inputs)["y"])
    with pytest.raises(InvalidModel):
        LitertModel(changed(outside, lambda table: None))
    again = changed(inside, lambda table: None)
    np.testing.assert_array_equal(found, LitertModel(again).run(data.inputs)["y"])
    assert inline_buffers(inside) == inside


def test_a_weight_outside_the_file_is_refused() -> None:
    def move(table: Table) -> None:
        table.buffers[1].data, table.buffers[1].offset, table.buffers[1].size = None, 1 << 30, 16

    with pytest.raises(InvalidModel, match="buffer 1 of the TFLite model lies outside the file"):
        inline_buffers(changed(dense(7, 5), move))


def test_a_name_that_is_no_text_is_a_damaged_model() -> None:
    model = changed(dense(7, 5), lambda table: renamed(table, lambda name: b"\xff" + name))
    with pytest.raises(InvalidModel):
        quantize(model, QuantMode.WEIGHT8)


def test_equal_arguments_give_equal_bytes() -> None:
    data = DataSet({"x": drawn(10, 65)})
    made: list[Quantized] = [quantize(dense(65, 33), QuantMode.INT8, data) for _ in range(2)]
    assert made[0] == made[1]
