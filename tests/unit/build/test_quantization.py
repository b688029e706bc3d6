import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, recipe, recipe_manager
from ai_edge_quantizer.utils import qsv_utils
from tflite_graphs import dense

from dsops.errors import InvalidInput, InvalidModel
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel, dequantize, quantize_frame
from dsops_controller.build.progress import silent
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.build.quantization.ranges import measure_ranges
from dsops_controller.build.quiet import quiet
from dsops_controller.demo.digits import Images, Splits

NARROW = [mode for mode in QuantMode if mode != QuantMode.FLOAT32]
LARGEST_SHARE = {
    QuantMode.FLOAT16: 0.56,
    QuantMode.INT8: 0.40,
    QuantMode.INT16X8: 0.42,
    QuantMode.DYNAMIC8: 0.40,
    QuantMode.DYNAMIC4: 0.27,
    QuantMode.WEIGHT8: 0.42,
    QuantMode.WEIGHT4: 0.28,
}
"""Size of the demonstration's network over its size in float, at most; a file has some fixed kilobytes."""
LARGEST_DIFFERENCE = {
    QuantMode.FLOAT16: 0.01,
    QuantMode.INT8: 0.2,
    QuantMode.INT16X8: 0.1,
    QuantMode.DYNAMIC8: 0.1,
    QuantMode.DYNAMIC4: 0.7,
    QuantMode.WEIGHT8: 0.1,
    QuantMode.WEIGHT4: 0.7,
}
"""Difference of any probability on any frame, at most."""
BY_FOURS = (QuantMode.DYNAMIC4, QuantMode.WEIGHT4)
"""Weights of four bits move some answer by about a quarter of its range, from where on a note says so; how far exactly
depends on the processor that the float model was trained on."""


def frames(x: Images) -> DataSet:
    return DataSet({"image": x})


@pytest.mark.parametrize("mode", NARROW)
def test_each_mode_shrinks_the_model_and_keeps_its_answers(float_model: bytes, digits: Splits, mode: QuantMode) -> None:
    result = quantize(float_model, mode, frames(digits.calibration.x[:60]))
    shown = {"image": digits.reference.x[:200]}
    before, after = (next(iter(LitertModel(data).run(shown).values())) for data in (float_model, result.data))
    assert len(result.data) < LARGEST_SHARE[mode] * len(float_model)
    assert np.abs(before - after).max() < LARGEST_DIFFERENCE[mode]
    assert (before.argmax(1) == after.argmax(1)).mean() >= 0.97
    if mode not in BY_FOURS:
        assert not result.notes


@pytest.mark.parametrize("mode", [mode for mode in NARROW if not mode.is_static])
def test_modes_with_float_activations_need_no_calibration(float_model: bytes, digits: Splits, mode: QuantMode) -> None:
    with_data = quantize(float_model, mode, frames(digits.calibration.x[:5]))
    assert quantize(float_model, mode).data == with_data.data


def test_float32_is_the_model_itself(float_model: bytes) -> None:
    assert quantize(float_model, QuantMode.FLOAT32).data == float_model


def test_names_order_and_shapes_of_inputs_and_outputs_stay(float_model: bytes, digits: Splits) -> None:
    before = LitertModel(float_model)
    after = LitertModel(quantize(float_model, QuantMode.INT8, frames(digits.calibration.x[:20])).data)
    for plain, narrow in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
        assert (plain.name, plain.shape, plain.datatype) == (narrow.name, narrow.shape, "FP32")
        assert (narrow.datatype, narrow.scale > 0) == ("INT8", True)


def test_int16x8_takes_and_gives_int16(float_model: bytes, digits: Splits) -> None:
    model = LitertModel(quantize(float_model, QuantMode.INT16X8, frames(digits.calibration.x[:20])).data)
    assert [(spec.datatype, spec.zero_point) for spec in (*model.inputs, *model.outputs)] == [("INT16", 0)] * 2


def test_ranges_are_the_exact_ones_of_every_tensor(float_model: bytes, digits: Splits) -> None:
    x = digits.calibration.x[:12]
    found = measure_ranges(float_model, frames(x), silent)
    with quiet():
        plain = Interpreter(model_content=float_model, experimental_preserve_all_tensors=True)
        plain.allocate_tensors()
    values: dict[str, list[Images]] = {name: [] for name in found}
    for frame in x:
        plain.set_tensor(plain.get_input_details()[0]["index"], frame[None])
        plain.invoke()
        for entry in plain.get_tensor_details():
            if entry["name"] in values:
                values[entry["name"]].append(plain.get_tensor(entry["index"]).copy())
    assert len(found) > 5
    for name, seen in values.items():
        assert (found[name]["min"].min(), found[name]["max"].max()) == (np.min(seen), np.max(seen))


@pytest.mark.parametrize(("update", "equal"), [(qsv_utils.min_max_update, True), (None, False)])
def test_ranges_equal_the_quantizers_own_but_for_its_moving_average(
    float_model: bytes, digits: Splits, update: object, equal: bool
) -> None:
    x = digits.calibration.x[:12]
    found = measure_ranges(float_model, frames(x), silent)
    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(recipe.static_wi8_ai8())
    with quiet():
        tool = calibrator.Calibrator(float_model, num_threads=1, **({"qsv_update_func": update} if update else {}))
        tool.calibrate({"serving_default": [{"image": frame[None]} for frame in x]}, recipes)
    own = tool.get_model_qsvs()
    assert set(own) <= set(found)
    assert equal == all(
        own[name][end].shape == found[name][end].shape and (own[name][end] == found[name][end]).all()
        for name in own
        for end in ("min", "max")
    )


def test_calibration_does_not_depend_on_the_order_of_frames(float_model: bytes, digits: Splits) -> None:
    x = digits.calibration.x[:30]
    one, other = (quantize(float_model, QuantMode.INT8, frames(some)) for some in (x, x[::-1].copy()))
    assert one.data == other.data


def test_one_bright_frame_among_many_sets_the_range(float_model: bytes, digits: Splits) -> None:
    x = digits.calibration.x[:30].copy()
    x[3] *= 2.0
    spec = LitertModel(quantize(float_model, QuantMode.INT8, frames(x)).data).inputs[0]
    assert spec.scale * (127 - spec.zero_point) == pytest.approx(x.max(), rel=0.01)


def test_calibration_with_nan_names_the_frame(float_model: bytes, digits: Splits) -> None:
    x = digits.calibration.x[:10].copy()
    x[7, 2, 2, 0] = np.nan
    with pytest.raises(InvalidInput, match=r"'image' of the calibration data holds NaN.*first is in frame 7"):
        quantize(float_model, QuantMode.INT8, frames(x))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((5, 9, 8, 1), np.float32), r"'image' of the calibration data has frames of shape \[9, 8, 1\]"),
        (np.zeros((5, 8, 8, 1), np.float64), "'image' of the calibration data is float64"),
        (np.zeros((0, 8, 8, 1), np.float32), "'image' of the calibration data has shape"),
        (np.full((5, 8, 8, 1), 0.5, np.float32), "calibration data of input 'image' is 0.5 everywhere"),
    ],
)
def test_calibration_of_the_wrong_form_is_refused(float_model: bytes, x: Images, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        quantize(float_model, QuantMode.INT8, frames(x))


def test_integers_need_calibration_data(float_model: bytes) -> None:
    with pytest.raises(InvalidInput, match="int8 needs calibration data"):
        quantize(float_model, QuantMode.INT8)


def test_calibration_for_another_input_is_refused(float_model: bytes, digits: Splits) -> None:
    with pytest.raises(InvalidInput, match="no array 'image'"):
        quantize(float_model, QuantMode.INT8, DataSet({"picture": digits.calibration.x[:5]}))


@pytest.mark.parametrize("mode", NARROW)
def test_a_quantized_model_is_not_quantized_again(int8_model: bytes, digits: Splits, mode: QuantMode) -> None:
    with pytest.raises(InvalidModel, match="quantized already"):
        quantize(int8_model, mode, frames(digits.calibration.x[:5]))


def test_a_model_with_float16_weights_is_not_quantized_again(float_model: bytes, digits: Splits) -> None:
    halved = quantize(float_model, QuantMode.FLOAT16).data
    with pytest.raises(InvalidModel, match="weights as float16"):
        quantize(halved, QuantMode.INT8, frames(digits.calibration.x[:5]))


def test_frames_that_are_all_equal_do_not_accuse_the_graph(float_model: bytes, digits: Splits) -> None:
    assert quantize(float_model, QuantMode.INT8, frames(np.repeat(digits.test.x[:1], 4, axis=0))).data


def test_weights_are_inside_the_flatbuffer_whatever_its_size(digits: Splits) -> None:
    """The quantizer itself puts the weights of a file of 256 KiB or more behind it."""
    data = quantize(dense(8, 40000), QuantMode.INT8, DataSet({"x": digits.calibration.x[:4, 0, :, 0]})).data
    assert len(data) > 256 * 1024
    root = schema.Model.GetRootAs(data, 0)
    assert {root.Buffers(index).Offset() for index in range(root.BuffersLength())} == {0}
    assert len(schema.ModelT.InitFromPackedBuf(data, 0).buffers) == root.BuffersLength()


def test_progress_counts_the_calibration_frames(float_model: bytes, digits: Splits) -> None:
    told: list[tuple[str, int | None]] = []

    class Told:
        def step(self, name: str, total: int | None = None) -> None:
            told.append((name, total))

        def advance(self, units: int = 1) -> None:
            told.append(("advance", units))

    quantize(float_model, QuantMode.INT8, frames(digits.calibration.x[:3]), progress=Told())
    assert told == [("calibrate", 3), *[("advance", 1)] * 3, ("quantize", None)]


def test_nothing_is_left_behind_and_nothing_is_printed(
    float_model: bytes,
    digits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    quantize(float_model, QuantMode.INT8, frames(digits.calibration.x[:5]))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_quiet_gives_the_descriptors_back(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"hidden")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_values_outside_the_range_are_clipped_not_wrapped(int8_model: bytes) -> None:
    spec = LitertModel(int8_model).inputs[0]
    stored = quantize_frame(np.array([-5.0, 0.0, 1.0, 5.0], np.float32), spec)
    assert stored.dtype == np.int8
    np.testing.assert_allclose(dequantize(stored, spec), [0.0, 0.0, 1.0, 1.0], atol=spec.scale)


@pytest.mark.parametrize("data", [b"", b"TFL3", bytes(100), b"\x20\x00\x00\x00TFL3" + bytes(40)])
def test_bytes_that_litert_refuses_are_an_invalid_model(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        LitertModel(data)
