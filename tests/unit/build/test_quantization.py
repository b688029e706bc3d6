import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import AccuracyGateFailed, InvalidInput, InvalidModel
from dsops_controller.build.litert import LitertModel, dequantize, quantize_frame
from dsops_controller.build.quantize import QuantMode, quantize
from dsops_controller.build.quiet import quiet
from dsops_controller.build.tflite_writer import TfliteWriter
from dsops_controller.demo.digits import Splits


@pytest.mark.parametrize("mode", list(QuantMode))
def test_each_mode_shrinks_the_model_and_keeps_its_answers(float_model: bytes, digits: Splits, mode: QuantMode) -> None:
    quantized = quantize(float_model, digits.calibration.x[:60], mode)
    frames = digits.reference.x[:200]
    before, after = LitertModel(float_model).run(frames), LitertModel(quantized).run(frames)
    assert len(quantized) < len(float_model) / 2
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.97


def test_int8_takes_and_gives_int8(int8_model: bytes) -> None:
    model = LitertModel(int8_model)
    assert (model.input.datatype, model.output.datatype) == ("INT8", "INT8")
    assert (model.input.shape, model.output.shape) == ((1, 8, 8, 1), (1, 10))


def test_calibration_does_not_depend_on_the_order_of_frames(float_model: bytes, digits: Splits) -> None:
    frames = digits.calibration.x[:30]
    assert quantize(float_model, frames) == quantize(float_model, frames[::-1].copy())


def test_one_bright_frame_among_many_sets_the_range(float_model: bytes, digits: Splits) -> None:
    frames = digits.calibration.x[:30].copy()
    frames[3] *= 2.0
    spec = LitertModel(quantize(float_model, frames)).input
    assert spec.scale * (127 - spec.zero_point) == pytest.approx(frames.max(), rel=0.01)


def test_calibration_with_nan_names_the_frame(float_model: bytes, digits: Splits) -> None:
    frames = digits.calibration.x[:10].copy()
    frames[7, 2, 2, 0] = np.nan
    with pytest.raises(InvalidInput, match=r"calibration data holds NaN.*first is frame 7"):
        quantize(float_model, frames)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((5, 9, 8, 1), np.float32), r"calibration data has frames of shape \[9, 8, 1\]"),
        (np.zeros((5, 8, 8, 1), np.float64), "calibration data is float64"),
        (np.zeros((0, 8, 8, 1), np.float32), "calibration data has shape"),
    ],
)
def test_calibration_of_the_wrong_form_is_refused(float_model: bytes, frames: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        quantize(float_model, frames)


def test_a_quantized_model_is_not_quantized_again(int8_model: bytes, digits: Splits) -> None:
    with pytest.raises(InvalidModel, match="already"):
        quantize(int8_model, digits.calibration.x[:5])


def batch_mat_mul_model() -> bytes:
    """Return a float model whose weights stand in a BATCH_MATMUL, which quantization breaks without an error."""
    rng = np.random.default_rng(0)
    writer = TfliteWriter("test")
    x, product, y = writer.tensor("x", [1, 6]), writer.tensor("product", [1, 4]), writer.tensor("y", [1, 4])
    weights = writer.constant("w", rng.standard_normal((6, 4)).astype(np.float32))
    bias = writer.constant("b", rng.standard_normal(4).astype(np.float32))
    writer.operator(schema.BuiltinOperator.BATCH_MATMUL, [x, weights], [product], schema.BatchMatMulOptionsT())
    writer.operator(schema.BuiltinOperator.ADD, [product, bias], [y], schema.AddOptionsT())
    return writer.finish({"x": x}, {"y": y})


def test_a_graph_that_quantization_breaks_silently_is_refused() -> None:
    frames = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
    with pytest.raises(AccuracyGateFailed, match="same scores whatever"):
        quantize(batch_mat_mul_model(), frames)


def test_frames_that_are_all_equal_do_not_accuse_the_graph(float_model: bytes, digits: Splits) -> None:
    assert quantize(float_model, np.repeat(digits.test.x[:1], 4, axis=0))


def test_a_model_without_weights_is_said_to_be_unchanged() -> None:
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 6]), writer.tensor("y", [1, 6])
    writer.operator(schema.BuiltinOperator.ABS, [x], [y], schema.AbsOptionsT())
    frames = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    with pytest.raises(InvalidModel, match="changed nothing"):
        quantize(writer.finish({"x": x}, {"y": y}), frames, QuantMode.WEIGHT8)


def test_nothing_is_left_behind_and_nothing_is_printed(
    float_model: bytes,
    digits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    quantize(float_model, digits.calibration.x[:5])
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_quiet_gives_the_descriptors_back(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_values_outside_the_range_are_clipped_not_wrapped(int8_model: bytes) -> None:
    spec = LitertModel(int8_model).input
    stored = quantize_frame(np.array([-5.0, 0.0, 1.0, 5.0], np.float32), spec)
    assert stored.dtype == np.int8
    np.testing.assert_allclose(dequantize(stored, spec), [0.0, 0.0, 1.0, 1.0], atol=spec.scale)


@pytest.mark.parametrize("data", [b"", b"TFL3", bytes(100), b"\x20\x00\x00\x00TFL3" + bytes(40)])
def test_bytes_that_litert_refuses_are_an_invalid_model(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        LitertModel(data)
