"""The loader, quantization, and what it refuses."""

import numpy as np
import pytest
from runtime_bundles import frames, tflite

from dsops.errors import InvalidInput, InvalidModel
from dsops_agent.runtime.litert import LoadedModel, TensorDetails, check_numpy, dequantize, find_runtime, quantize

INT8 = TensorDetails(0, "image", (1, 4), np.dtype(np.int8), 1 / 255, -128, -128, 127)


def test_the_default_runtime_is_found() -> None:
    runtime = find_runtime()
    assert runtime.name == "ai-edge-litert"
    assert str(runtime) == f"ai-edge-litert {runtime.version}"
    assert find_runtime() is runtime, "it is not looked for again with each interpreter"


def test_the_old_runtime_is_not_tried_with_a_numpy_it_breaks_on() -> None:
    with pytest.raises(ImportError, match="it needs numpy<2, found 2"):
        check_numpy("tflite-runtime", "2.4.6")
    check_numpy("tflite-runtime", "1.26.4")
    check_numpy("ai-edge-litert", "2.4.6")


def test_real_values_are_rounded_and_limited_before_the_cast() -> None:
    real = np.array([[0.0, 1.0, 7.0, -3.0, 0.499, 0.503]], np.float32)
    assert quantize(real, INT8).tolist() == [[-128, 127, 127, -128, -1, 0]]
    assert quantize(real, INT8).dtype == np.int8


def test_the_callers_array_is_left_alone() -> None:
    real = np.array([[0.25, 2.0]], np.float32)
    quantize(real, INT8)
    assert real.tolist() == [[0.25, 2.0]]


def test_stored_values_pass_as_they_are() -> None:
    stored = np.array([[1, 2]], np.int8)
    assert quantize(stored, INT8) is stored
    assert dequantize(np.array([-128, 127], np.int8), INT8).tolist() == pytest.approx([0.0, 1.0])


def test_integers_without_a_scale_take_no_real_values() -> None:
    plain = TensorDetails(0, "ids", (1, 2), np.dtype(np.int32), 0.0, 0)
    with pytest.raises(InvalidInput, match="int32 only"):
        quantize(np.zeros((1, 2), np.float32), plain)


@pytest.mark.parametrize("int8", [True, False])
def test_reference_kernels_agree_with_the_fast_ones(int8: bool) -> None:
    data = tflite(int8=int8)
    fast, plain = LoadedModel(data), LoadedModel(data, reference_kernels=True)
    for row in frames(20):
        assert fast.run([row[None]])[0] == pytest.approx(plain.run([row[None]])[0], abs=0.02)


def test_stored_and_real_input_give_the_same_scores() -> None:
    model = LoadedModel(tflite())
    row = frames(1)
    assert (model.run([row])[0] == model.run([quantize(row, model.inputs[0])])[0]).all()


@pytest.mark.parametrize("data", [b"", b"TFL3", tflite()[:200], bytes(4096)], ids=["empty", "magic", "cut", "zeros"])
def test_a_file_that_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidModel) as caught:
        LoadedModel(data)
    assert caught.value.why


def test_input_that_does_not_fit_is_refused() -> None:
    model = LoadedModel(tflite())
    with pytest.raises(InvalidInput, match=r"has shape \[1, 4, 4, 1\]"):
        model.run([frames(2)])
    with pytest.raises(InvalidInput, match="has 1 inputs"):
        model.run([frames(1), frames(1)])
