"""Conversion operator by operator, against what onnxruntime gives."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper
from onnx_cases import CASES, IMAGE, ROW, UP, both, case, chain, const, ints, model, recurrent, simple, with_constants
from onnx_parity import parity, run_tflite

from dsops.errors import InvalidInput, UnsupportedModel
from dsops_controller.build.conversion.convert import convert_onnx, read_model
from dsops_controller.build.conversion.operators.table import HANDLERS


@pytest.mark.parametrize("name", CASES)
def test_gives_what_onnxruntime_gives(name: str) -> None:
    assert parity(case(name)) < 1e-5


def test_every_operator_is_compared() -> None:
    compared = {op for nodes, *_ in CASES.values() for op, *_ in nodes}
    assert set(HANDLERS) - compared == {"Swish"}  # newer than what onnxruntime runs; see below


REFUSED = {
    "unknown": (*simple("Hardmax", ROW), "Hardmax"),
    "erf outside of a gelu": (*simple("Erf", ROW), "Erf"),
    "after a known one": (*chain(("Relu", {}), ("Tan", {}), shape=ROW), "Tan"),
    "softmax of text": (*simple("Cast", ROW, 20, to=TensorProto.STRING), "Cast"),
    "three axes": (*with_constants("Conv", [1, 1, 4, 4, 4], const(2, 1, 2, 2, 2)), "Conv"),
    "grouped transposed": (*with_constants("ConvTranspose", [1, 4, 3, 3], const(4, 1, 2, 2), group=4), "ConvTranspose"),
    "computed convolution": (*both("Conv", [1, 1, 8, 8], [1, 1, 3, 3]), "Conv"),
    "batches of constant matrices": (*with_constants("MatMul", [1, 3, 4, 5], const(3, 5, 2)), "MatMul"),
    "dilated pool": (*simple("MaxPool", IMAGE, 20, kernel_shape=[2, 2], dilations=[2, 2]), "MaxPool"),
    "cubic": (*with_constants("Resize", IMAGE, None, UP, mode="cubic"), "Resize"),
    "linear without a whole size": (
        *with_constants("Resize", IMAGE, None, np.array([1, 1, 1.3, 1.3], np.float32), mode="linear"),
        "Resize",
    ),
    "antialiased": (*with_constants("Resize", IMAGE, None, UP, mode="linear", antialias=1), "Resize"),
    "edge by two": (*with_constants("Pad", IMAGE, ints(0, 0, 2, 2, 0, 0, 2, 2), mode="edge"), "Pad"),
    "wrapped": (*with_constants("Pad", IMAGE, ints(0, 0, 2, 2, 0, 0, 2, 2), mode="wrap"), "Pad"),
    "slice of nothing": (*with_constants("Slice", IMAGE, ints(5), ints(5), ints(2)), "Slice"),
    "gather out of range": (*with_constants("Gather", IMAGE, ints(9), axis=1), "Gather"),
    "reshape that does not fill": (*with_constants("Reshape", IMAGE, ints(1, 10)), "Reshape"),
    "peepholes": (
        *recurrent("LSTM", const(1, 8, 3), const(1, 8, 2), None, None, None, None, const(1, 6), hidden_size=2),
        "LSTM",
    ),
    "activations of its own": (
        *recurrent("RNN", const(1, 2, 3), const(1, 2, 2), hidden_size=2, activations=["Relu"]),
        "RNN",
    ),
    "computed shape": ([("Reshape", ["x", "ids"], ["y"], {})], {}, {"x": ROW, "ids": [1]}, 17, "Reshape"),
    "range to the input": ([("Range", ["x", "x", "x"], ["y"], {})], {}, [1], 17, "Range"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_named_with_its_node(name: str) -> None:
    nodes, constants, shapes, opset, operator = REFUSED[name]
    with pytest.raises(UnsupportedModel) as caught:
        convert_onnx(model(nodes, shapes, constants, opset))
    assert caught.value.details["operator"] == operator
    assert str(caught.value.details["node"]).startswith("n")
    assert operator in caught.value.what


def test_an_operator_of_another_domain_is_refused() -> None:
    proto = onnx.load_from_string(model([("Relu", ["x"], ["y"], {})], ROW))
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedModel, match=r"com\.example"):
        convert_onnx(proto.SerializeToString())


def test_every_unknown_operator_is_listed() -> None:
    strange = ["Hardmax", "Tan", "Det", "Hardmax", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh"]
    nodes, _, _, _ = chain(*((operator, {}) for operator in strange), shape=ROW)
    with pytest.raises(UnsupportedModel, match=r"10 of 10 nodes: Hardmax, Tan, Det, .* and 1 more") as caught:
        convert_onnx(model(nodes, ROW))
    assert caught.value.details["operators"] == "Hardmax, Tan, Det, Asin, Acos, Atan, Sinh, Cosh, Asinh"


def test_what_no_output_depends_on_is_left_out() -> None:
    nodes = [("Hardmax", ["x"], ["unused"], {}), ("MatMul", ["x", "w"], ["m"], {}), ("Relu", ["x"], ["y"], {})]
    small = convert_onnx(model([nodes[2]], ROW, {}))
    assert abs(len(convert_onnx(model(nodes, ROW, {"w": const(6, 500)}))) - len(small)) < 16


@pytest.mark.parametrize("shape", [[8, 6], [1, "width"], [6]])
def test_only_a_batch_of_one_and_fixed_axes_are_taken(shape: list[object]) -> None:
    with pytest.raises(UnsupportedModel, match="has shape"):
        convert_onnx(model([("Relu", ["x"], ["y"], {})], shape))


def test_a_model_that_computes_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="computes nothing"):
        convert_onnx(model([("Identity", ["x"], ["y"], {})], ROW))


def test_reading_leaves_the_source_as_it_is(tmp_path: Path) -> None:
    data = model([("Gemm", ["x", "w"], ["y"], {})], ROW, {"w": const(6, 5)})
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert read_model(path) == convert_onnx(data)
    assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        read_model(tmp_path / "m.pt")
    with pytest.raises(InvalidInput, match="cannot read"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
def test_a_pipe_in_place_of_a_model_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidInput, match="it is not a regular file"):
        read_model(tmp_path / name)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swish(alpha: float) -> None:
    nodes, constants, shape, _ = simple("Swish", ROW, 24, alpha=alpha)
    x = np.linspace(-4, 4, 6, dtype=np.float32)[None]
    (y,) = run_tflite(convert_onnx(model(nodes, shape, constants, 24)), {"x": x}).values()
    np.testing.assert_allclose(y, x / (1 + np.exp(-alpha * x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["max-pool-padded-negative", "max-pool-padded-after-relu", "max-pool-row"])
def test_a_padded_maximum_is_written_without_padv2(name: str) -> None:
    """The quantizer cannot follow PADV2."""
    file = schema.ModelT.InitFromPackedBuf(convert_onnx(case(name)))
    assert schema.BuiltinOperator.PADV2 not in {code.builtinCode for code in file.operatorCodes}
