"""Every family of networks in every mode: what quantization makes of it runs, and stays near the float model."""

import numpy as np
import onnx_families
import pytest

from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.data import DataSet, input_dtype
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode, quantize

FAMILIES = {
    family.__name__: family
    for family in (
        onnx_families.mlp,
        onnx_families.lenet,
        onnx_families.mobilenet_v1,
        onnx_families.mobilenet_v2,
        onnx_families.mobilenet_v3,
        onnx_families.resnet,
        onnx_families.ds_cnn,
        onnx_families.autoencoder,
        onnx_families.conv_1d,
        onnx_families.lstm,
        onnx_families.gru,
        onnx_families.unet,
        onnx_families.yolo_head,
        onnx_families.two_inputs,
        onnx_families.text,
        onnx_families.transformer,
        onnx_families.super_resolution,
    )
}
LARGEST_DIFFERENCE = {
    QuantMode.FLOAT16: 0.002,
    QuantMode.INT8: 0.06,
    QuantMode.INT16X8: 0.03,
    QuantMode.DYNAMIC8: 0.04,
    QuantMode.WEIGHT8: 0.03,
    QuantMode.DYNAMIC4: 0.3,
    QuantMode.WEIGHT4: 0.3,
}
"""Largest difference of any value of an output over the output's range, at most; the weights are random."""


@pytest.mark.parametrize("name", FAMILIES)
def test_int8_and_dynamic_integers(name: str) -> None:
    check(name, [QuantMode.INT8, QuantMode.DYNAMIC8])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_modes(name: str) -> None:
    check(name, [mode for mode in LARGEST_DIFFERENCE if mode not in (QuantMode.INT8, QuantMode.DYNAMIC8)])


def check(name: str, modes: list[QuantMode]) -> None:
    model = convert_onnx(FAMILIES[name]().SerializeToString())
    runner = LitertModel(model)
    rng = np.random.default_rng(0)
    data = DataSet(
        {
            spec.name: rng.standard_normal((8, *spec.shape[1:])).astype(np.float32)
            if input_dtype(spec) == np.float32
            else rng.integers(0, 8, (8, *spec.shape[1:])).astype(input_dtype(spec))
            for spec in runner.inputs
        }
    )
    before = runner.run(data.inputs)
    for mode in modes:
        narrow = LitertModel(quantize(model, mode, data).data)
        assert [spec.name for spec in narrow.outputs] == [spec.name for spec in runner.outputs]
        after = narrow.run(data.inputs)
        for output, values in before.items():
            difference = np.abs(values - after[output]).max() / np.ptp(values)
            assert difference < LARGEST_DIFFERENCE[mode], (mode, output)
