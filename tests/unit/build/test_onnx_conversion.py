"""Conversion against the operators' specification: the ONNX project's own reference evaluator gives what is right."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsops.errors import InvalidInput, InvalidModel, UnsupportedModel
from dsops_controller.build.convert import convert_onnx, read_model
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.onnx_ops import HANDLERS

Nodes = list[tuple[str, list[str], list[str], dict[str, object]]]
Constants = dict[str, np.ndarray]
RNG = np.random.default_rng(1)


def const(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes: Nodes, shape: Sequence[object], constants: Constants | None = None) -> bytes:
    """Return the bytes of an ONNX model from ``x`` to ``y``; a node is (operator, inputs, outputs, attributes)."""
    made = [helper.make_node(op, i, o, name=f"n{k}", **a) for k, (op, i, o, a) in enumerate(nodes)]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def conv(weights: np.ndarray, bias: np.ndarray | None = None, **attributes: object) -> tuple[Nodes, Constants]:
    names = ["x", "w"] if bias is None else ["x", "w", "b"]
    constants = {"w": weights} if bias is None else {"w": weights, "b": bias}
    return [("Conv", names, ["y"], attributes)], constants


IMAGE = [1, 3, 9, 7]
ROW = [1, 6]
CASES = {
    "conv-valid": (*conv(const(4, 3, 3, 3), const(4)), IMAGE),
    "conv-same": (*conv(const(4, 3, 3, 3), pads=[1, 1, 1, 1]), IMAGE),
    "conv-strided-explicit": (*conv(const(4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), [1, 3, 8, 8]),
    "conv-asymmetric": (*conv(const(4, 3, 3, 3), pads=[2, 0, 1, 1]), IMAGE),
    "conv-same-upper": (*conv(const(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]), IMAGE),
    "conv-dilated": (*conv(const(4, 3, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]), IMAGE),
    "conv-1x1-strided": (*conv(const(4, 3, 1, 1), strides=[2, 2]), IMAGE),
    "conv-depthwise": (*conv(const(3, 1, 3, 3), const(3), group=3, pads=[1] * 4), IMAGE),
    "conv-depthwise-multiplied": (*conv(const(6, 1, 3, 3), group=3, pads=[1] * 4), IMAGE),
    "conv-relu": (
        [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Relu", ["c"], ["y"], {})],
        {"w": const(4, 3, 3, 3)},
        IMAGE,
    ),
    "conv-clip6": (
        [("Conv", ["x", "w"], ["c"], {}), ("Clip", ["c", "lo", "hi"], ["y"], {})],
        {"w": const(4, 3, 3, 3), "lo": np.float32(0), "hi": np.float32(6)},
        IMAGE,
    ),
    "relu-read-twice-is-not-fused-away": (
        [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Relu", ["c"], ["r"], {}), ("Add", ["c", "r"], ["y"], {})],
        {"w": const(4, 3, 3, 3)},
        IMAGE,
    ),
    "gemm": ([("Gemm", ["x", "w", "b"], ["y"], {})], {"w": const(6, 5), "b": const(5)}, ROW),
    "gemm-transposed-scaled": (
        [("Gemm", ["x", "w", "b"], ["y"], {"transB": 1, "alpha": 0.5, "beta": 2.0})],
        {"w": const(5, 6), "b": const(1, 5)},
        ROW,
    ),
    "matmul": ([("MatMul", ["x", "w"], ["y"], {})], {"w": const(6, 5)}, ROW),
    "matmul-add-relu": (
        [("MatMul", ["x", "w"], ["m"], {}), ("Add", ["b", "m"], ["a"], {}), ("Relu", ["a"], ["y"], {})],
        {"w": const(6, 5), "b": const(5)},
        ROW,
    ),
    "add-channel-constant": ([("Add", ["x", "k"], ["y"], {})], {"k": const(3, 1, 1)}, IMAGE),
    "sub-constant-first": ([("Sub", ["k", "x"], ["y"], {})], {"k": const(1)}, IMAGE),
    "mul-image-by-its-mean": (
        [("GlobalAveragePool", ["x"], ["m"], {}), ("Sigmoid", ["m"], ["s"], {}), ("Mul", ["x", "s"], ["y"], {})],
        {},
        IMAGE,
    ),
    "tanh": ([("Tanh", ["x"], ["y"], {})], {}, ROW),
    "max-pool": ([("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]})], {}, [1, 3, 8, 8]),
    "max-pool-padded-negative": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4})],
        {},
        [1, 3, 8, 8],
    ),
    "max-pool-padded-after-relu": (
        [
            ("Relu", ["x"], ["r"], {}),
            ("MaxPool", ["r"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ],
        {},
        [1, 3, 8, 8],
    ),
    "average-pool": ([("AveragePool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2]})], {}, [1, 3, 8, 8]),
    "average-pool-padding-left-out": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4})],
        {},
        IMAGE,
    ),
    "average-pool-padding-counted": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 1})],
        {},
        IMAGE,
    ),
    "reduce-mean": ([("ReduceMean", ["x"], ["y"], {"axes": [2, 3], "keepdims": 0})], {}, IMAGE),
    "reduce-mean-negative-axes": ([("ReduceMean", ["x"], ["y"], {"axes": [-1, -2]})], {}, IMAGE),
    "flatten-gemm": (
        [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w"], ["y"], {})],
        {"w": const(3 * 9 * 7, 4)},
        IMAGE,
    ),
    "reshape": ([("Reshape", ["x", "s"], ["y"], {})], {"s": np.array([1, -1], np.int64)}, IMAGE),
    "reshape-into-image": (
        [("Reshape", ["x", "s"], ["r"], {}), ("Conv", ["r", "w"], ["y"], {})],
        {"s": np.array([1, 2, 4, 3], np.int64), "w": const(4, 2, 3, 3)},
        [1, 24],
    ),
    "softmax": ([("Softmax", ["x"], ["y"], {"axis": 1})], {}, ROW),
    "pass-through": (
        [
            ("Identity", ["x"], ["i"], {}),
            ("Dropout", ["i"], ["d"], {}),
            ("Cast", ["d"], ["c"], {"to": TensorProto.FLOAT}),
            ("Relu", ["c"], ["y"], {}),
        ],
        {},
        ROW,
    ),
    "constant-node": (
        [("Constant", [], ["k"], {"value_floats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}), ("Add", ["x", "k"], ["y"], {})],
        {},
        ROW,
    ),
    "free-batch": ([("Gemm", ["x", "w"], ["y"], {})], {"w": const(6, 5)}, ["batch", 6]),
}


def run_both(data: bytes, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.standard_normal([4, *shape[1:]]).astype(np.float32)
    expected = np.concatenate([ReferenceEvaluator(onnx.load_from_string(data)).run(None, {"x": v[None]})[0] for v in x])
    image = x.ndim == 4
    got = LitertModel(convert_onnx(data)).run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if image else x)
    return expected, got.transpose(0, 3, 1, 2) if got.ndim == 4 else got


@pytest.mark.parametrize("name", CASES)
def test_gives_what_the_reference_gives(name: str) -> None:
    nodes, constants, shape = CASES[name]
    expected, got = run_both(model(nodes, shape, constants), shape)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_every_operator_is_compared_with_the_reference() -> None:
    assert {op for nodes, _, _ in CASES.values() for op, *_ in nodes} - {"Constant"} == set(HANDLERS)


REFUSED = {
    "unknown operator": ([("Erf", ["x"], ["y"], {})], {}, ROW, "Erf"),
    "after a known one": ([("Relu", ["x"], ["r"], {}), ("Sin", ["r"], ["y"], {})], {}, ROW, "Sin"),
    "grouped": ([("Conv", ["x", "w"], ["y"], {"group": 2})], {"w": const(4, 2, 3, 3)}, [1, 4, 8, 8], "Conv"),
    "clip range": (
        [("Clip", ["x", "lo", "hi"], ["y"], {})],
        {"lo": np.float32(-1), "hi": np.float32(1)},
        ROW,
        "Clip",
    ),
    "same lower": (
        [("Conv", ["x", "w"], ["y"], {"auto_pad": "SAME_LOWER"})],
        {"w": const(4, 3, 3, 3)},
        IMAGE,
        "Conv",
    ),
    "softmax axis": ([("Softmax", ["x"], ["y"], {"axis": 1})], {}, IMAGE, "Softmax"),
    "mean axis": ([("ReduceMean", ["x"], ["y"], {"axes": [1]})], {}, IMAGE, "ReduceMean"),
    "computed weights": ([("MatMul", ["x", "x"], ["y"], {})], {}, [1, 1], "MatMul"),
    "integer cast": (
        [("Cast", ["x"], ["i"], {"to": TensorProto.INT32}), ("Cast", ["i"], ["y"], {"to": TensorProto.FLOAT})],
        {},
        ROW,
        "Cast",
    ),
    "uneven ceil": (
        [("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})],
        {},
        IMAGE,
        "MaxPool",
    ),
    "average counts its padding otherwise": (
        [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1})],
        {},
        IMAGE,
        "AveragePool",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_named_with_its_node(name: str) -> None:
    nodes, constants, shape, operator = REFUSED[name]
    with pytest.raises(UnsupportedModel) as caught:
        convert_onnx(model(nodes, shape, constants))
    assert caught.value.details["operator"] == operator
    assert str(caught.value.details["node"]).startswith("n")
    assert operator in caught.value.what


def test_an_operator_of_another_domain_is_refused() -> None:
    proto = onnx.load_from_string(model([("Relu", ["x"], ["y"], {})], ROW))
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedModel, match=r"com\.example"):
        convert_onnx(proto.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(200), b"\x08\x09", bytes(64)])
def test_what_is_not_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        convert_onnx(data)


def test_a_damaged_model_never_gives_a_traceback() -> None:
    nodes, constants, shape = CASES["conv-relu"]
    data = model(nodes, shape, constants)
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        damaged[rng.integers(len(damaged))] ^= 0x80
        try:
            convert_onnx(bytes(damaged))
        except (InvalidModel, UnsupportedModel):
            refused += 1
    assert refused > 50


def test_an_unsound_graph_is_refused() -> None:
    with pytest.raises(InvalidModel, match="not sound"):
        convert_onnx(model([("Relu", ["nowhere"], ["y"], {})], ROW))


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(const(6, 5).tobytes())
    proto = onnx.load_from_string(model([("Gemm", ["x", "w"], ["y"], {})], ROW, {"w": const(6, 5)}))
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location="w.bin")
    proto.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(InvalidModel, match=r"'w' in another file"):
        convert_onnx(proto.SerializeToString())


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
