from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsops.errors import InvalidModel
from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.data import DataSet
from dsops_controller.build.evaluation.parity import MAX_PARITY, measure_parity
from dsops_controller.demo.digits import Splits


@pytest.fixture(scope="module")
def source(recipe_folder: Path) -> bytes:
    return (recipe_folder / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def data(digits: Splits) -> DataSet:
    return DataSet({"image": digits.reference.x})


def test_the_converted_network_is_its_source_but_for_rounding(source: bytes, float_model: bytes, data: DataSet) -> None:
    found = measure_parity(source, float_model, data, 20)
    assert found.frames == 20
    assert [one.output for one in found.outputs] == ["scores"]
    assert 0 < found.largest_relative < MAX_PARITY
    assert found.as_dict()["largest_relative"] == found.largest_relative


def test_a_changed_weight_shows(source: bytes, float_model: bytes, data: DataSet) -> None:
    model = onnx.load_from_string(source)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    assert measure_parity(model.SerializeToString(), float_model, data, 8).largest_relative > 10 * MAX_PARITY


def convolution(shape: tuple[int, int, int]) -> bytes:
    """Return a convolution over [1, *shape] that keeps the shape."""
    channels = shape[0]
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(size=(channels, channels, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 6, 6)])
def test_the_order_of_an_image_s_axes_is_found(shape: tuple[int, int, int]) -> None:
    model = convolution(shape)
    frames = np.random.default_rng(1).normal(size=(4, *shape[1:], shape[0])).astype(np.float32)
    found = measure_parity(model, convert_onnx(model), DataSet({"x": frames}))
    assert found.frames == 4
    assert found.largest_relative < MAX_PARITY


def test_another_model_is_refused(source: bytes, data: DataSet) -> None:
    model = convolution((1, 8, 8))
    with pytest.raises(InvalidModel, match="the ONNX model has no input 'x'"):
        measure_parity(source, convert_onnx(model), DataSet({"x": data.inputs["image"]}))
    other = convolution((2, 8, 8))
    with pytest.raises(InvalidModel, match="input 'x' has other shapes"):
        measure_parity(other, convert_onnx(model), DataSet({"x": data.inputs["image"]}))


def test_what_onnxruntime_refuses_is_said(float_model: bytes, data: DataSet) -> None:
    with pytest.raises(InvalidModel, match="onnxruntime cannot run the source model"):
        measure_parity(b"not a model", float_model, data)
