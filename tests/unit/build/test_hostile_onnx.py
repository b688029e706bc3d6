"""Hostile ONNX files: each is refused with an error that names the culprit, in bounded time and memory."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_families import FAMILIES, Net

from dsops.errors import DsopsError, InvalidModel, UnsupportedModel
from dsops_controller.build.conversion import limits as onnx_limits
from dsops_controller.build.conversion.converters import DirectConverter
from dsops_controller.build.conversion.limits import MAX_FIELDS, MAX_NODES

Change = Callable[[onnx.ModelProto], None]
EXTREMES = (0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, -(2**63))


def convert(proto: onnx.ModelProto) -> bytes:
    return DirectConverter().convert(proto.SerializeToString()).data


def plain() -> onnx.ModelProto:
    """Return a model in which hostile ones are made: Gemm, Relu, Gemm."""
    net = Net()
    x = net.node("Relu", net.dense(net.input("x", [1, 6]), 6, 5))
    return net.model(y=net.dense(x, 5, 4))


def weights(proto: onnx.ModelProto) -> onnx.TensorProto:
    return proto.graph.initializer[0]


def chain_of(nodes: int) -> onnx.ModelProto:
    names = ["x", *(f"t{number}" for number in range(nodes - 1)), "y"]
    graph = helper.make_graph(
        [helper.make_node("Relu", [names[k]], [names[k + 1]]) for k in range(nodes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def nested(levels: int) -> onnx.ModelProto:
    """Return a model whose If holds a graph with an If, and so on."""
    proto = plain()
    graph = proto.graph
    for _ in range(levels):
        node = graph.node.add(op_type="If", input=["x"], output=["z"])
        attribute = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
        graph = attribute.g
    return proto


def set_external(proto: onnx.ModelProto) -> None:
    onnx.external_data_helper.set_external_data(weights(proto), location="../../etc/passwd")
    weights(proto).ClearField("raw_data")


def make_cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]


def hold_nan(proto: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(weights(proto)).copy()
    values[1, 2] = np.nan
    weights(proto).raw_data = values.tobytes()


def add_function(proto: onnx.ModelProto) -> None:
    proto.functions.add(name="Own", domain="own")


def set_dims(*dims: int) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        weights(proto).dims[:] = dims

    return change


def use_text(proto: onnx.ModelProto) -> None:
    weights(proto).CopyFrom(helper.make_tensor(weights(proto).name, TensorProto.STRING, [2], [b"a", b"b"]))


def free_sizes(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**60


UNSOUND: dict[str, tuple[Change, str]] = {
    "weights outside": (set_external, "'k0' in another file"),
    "cycle": (make_cycle, "computed nowhere before it"),
    "output named twice": (lambda m: m.graph.output.append(m.graph.output[0]), "named twice"),
    "no output": (lambda m: m.graph.ClearField("output"), "none or named twice"),
    "output computed nowhere": (lambda m: setattr(m.graph.output[0], "name", "z"), "'z' is computed nowhere"),
    "tensor computed twice": (lambda m: m.graph.node.append(m.graph.node[0]), "is there twice"),
    "input missing": (lambda m: m.graph.ClearField("input"), "'x' is computed nowhere"),
    "weights missing": (lambda m: m.graph.ClearField("initializer"), "'k0' is computed nowhere"),
    "NaN": (hold_nan, "'k0' holds NaN"),
    "data contradicts shape": (set_dims(5, 7), "'k0' contradicts its shape"),
    "negative size": (set_dims(-5, -6), "'k0' has shape"),
    "sizes that overflow": (set_dims(2**33, 2**33), "'k0' has shape"),
    "nine axes": (set_dims(*[1] * 9), "'k0' has shape"),
    "unknown attribute": (lambda m: m.graph.node[1].attribute.add(name="own", type=2), "attribute 'own'"),
    "attribute of another kind": (lambda m: setattr(m.graph.node[0].attribute[0], "type", 1), "of another kind"),
    "too few inputs": (lambda m: m.graph.node[1].ClearField("input"), "it has 0 inputs"),
    "too many outputs": (lambda m: m.graph.node[1].output.append("more"), "it has 2 outputs"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_model_is_refused_with_what_is_wrong(name: str) -> None:
    change, said = UNSOUND[name]
    proto = plain()
    change(proto)
    with pytest.raises(InvalidModel, match=said):
        convert(proto)


UNSUPPORTED: dict[str, tuple[Change, str]] = {
    "functions": (add_function, "'Own'"),
    "sparse weights": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "text": (use_text, "STRING"),
    "giant input": (free_sizes, "'x' has shape"),
    "old operators": (lambda m: setattr(m.opset_import[0], "version", 3), "operator set 3"),
    "operators of the future": (lambda m: setattr(m.opset_import[0], "version", 10**6), "operator set 1000000"),
    "no operator set": (lambda m: m.ClearField("opset_import"), "operator set none"),
    "foreign operator": (lambda m: setattr(m.graph.node[1], "domain", "com.example"), "com.example::Relu"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_form_that_is_not_converted_is_named(name: str) -> None:
    change, said = UNSUPPORTED[name]
    proto = plain()
    change(proto)
    with pytest.raises(UnsupportedModel, match=said):
        convert(proto)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_control_flow_is_refused_by_its_operator(operator: str) -> None:
    body = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}[operator]
    graph, inputs = plain().graph, 3 if operator == "Loop" else 1
    attributes: dict[str, object] = dict.fromkeys(body, graph)
    if operator == "Scan":
        attributes["num_scan_inputs"] = 1
    proto = plain()
    proto.graph.node.append(helper.make_node(operator, ["x"] * inputs, ["z"], name="flow", **attributes))
    proto.graph.output[0].name = "z"
    with pytest.raises(UnsupportedModel, match=rf"{operator} \(node 'flow'\)"):
        convert(proto)


def test_too_many_nodes_are_counted_before_anything_is_built() -> None:
    with pytest.raises(InvalidModel, match=f"more than {MAX_NODES} nodes"):
        convert(chain_of(MAX_NODES + 1))


def test_a_million_empty_nodes_are_counted_before_anything_is_built() -> None:
    node = b"\x0a\x00"
    graph = node * 1_000_000
    size = len(graph)
    data = b"\x3a" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + graph
    assert len(onnx.load_model_from_string(b"\x3a\x04" + node * 2).graph.node) == 2  # so would a million be read
    with pytest.raises(InvalidModel, match="nodes"):
        DirectConverter().convert(data)


def test_too_many_fields_are_counted_before_anything_is_built() -> None:
    with pytest.raises(InvalidModel, match=f"more than {MAX_FIELDS} fields"):
        DirectConverter().convert(b"\x08\x09" * (MAX_FIELDS + 1))


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return onnx_limits.MAX_MODEL_BYTES + 1

    with pytest.raises(InvalidModel, match="1024 MiB"):
        DirectConverter().convert(Large())


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidModel, match="nested too deeply"):
        convert(nested(20))


BOMBS: dict[str, Callable[[Net], str]] = {
    "ConstantOfShape": lambda net: net.node("ConstantOfShape", net.integers(2**20, 2**20)),
    "Range": lambda net: net.node("Range", *(net.constant(np.array(value, np.int64)) for value in (0, 2**40, 1))),
    "Expand": lambda net: net.node("Expand", net.weights(1), net.integers(2**20, 2**20)),
    "Tile": lambda net: net.node("Tile", net.weights(8, 8), net.integers(2**20, 2**20)),
    "Add": lambda net: net.node("Add", net.weights(2**16, 1), net.weights(1, 2**16)),
    "Gather": lambda net: net.node("Gather", net.weights(1, 2**16), net.constant(np.zeros(2**16, np.int64))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_constant_that_would_explode_is_refused(name: str) -> None:
    net = Net()
    net.node("Relu", net.input("x", [1, 6]))
    last = BOMBS[name](net)
    net._nodes.append(helper.make_node("Identity", [last], ["y"]))
    proto = helper.make_model(
        helper.make_graph(net._nodes, "g", net._inputs, [helper.make_tensor_value_info("y", 1, None)], net._weights),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    with pytest.raises(UnsupportedModel, match=rf"{name} \(node"):
        convert(proto)


def test_many_large_constants_are_refused_together() -> None:
    net = Net()
    x = net.input("x", [1, 1])
    for _ in range(40):
        x = net.node("Mul", x, net.node("ReduceProd", net.node("ConstantOfShape", net.integers(2**22)), axes=[0]))
    proto = net.model(y=x)
    with pytest.raises(UnsupportedModel, match="more than"):
        convert(proto)


@pytest.mark.parametrize("operator", ["Expand", "Tile"])
def test_a_computed_tensor_that_would_explode_is_refused(operator: str) -> None:
    net = Net()
    sizes = net.integers(2**25, 6 if operator == "Expand" else 1)
    proto = net.model(y=net.node(operator, net.input("x", [1, 6]), sizes))
    with pytest.raises(UnsupportedModel, match="computes a tensor of shape"):
        convert(proto)


def test_steps_of_a_recurrent_layer_are_bounded() -> None:
    net = Net()
    x = net.node("Transpose", net.input("x", [1, 1000, 2]), perm=[1, 0, 2])
    with pytest.raises(UnsupportedModel, match="1000 steps"):
        convert(net.model(y=net.node("GRU", x, net.weights(1, 6, 2), net.weights(1, 6, 2), hidden_size=2)))


def test_reading_leaves_folder_and_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(plain().SerializeToString())
    path.chmod(0o400)
    convert(onnx.load(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a file that is cut off, or with a few other bytes."""
    damaged = bytearray(data)
    if rng.random() < 0.3:
        return bytes(damaged[: rng.randrange(len(damaged))])
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return bytes(damaged)


def contradictory(data: bytes, rng: random.Random) -> bytes:
    """Return a sound file with one or two facts in it that do not fit."""
    proto = onnx.load_model_from_string(data)
    graph = proto.graph
    for _ in range(rng.randint(1, 2)):
        node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
        kind = rng.randrange(5)
        if kind == 0 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREMES)
        elif kind == 1 and node.attribute:
            entry = rng.choice(node.attribute)
            entry.i = rng.choice(EXTREMES)
            entry.ints[:] = [rng.choice(EXTREMES) for _ in entry.ints]
        elif kind == 2 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(rng.choice(graph.node).output)
        elif kind == 3:
            node.op_type = rng.choice(graph.node).op_type
        else:
            axes = rng.choice(graph.input).type.tensor_type.shape.dim
            axes[rng.randrange(len(axes))].dim_value = rng.choice(EXTREMES)
    return proto.SerializeToString()


@pytest.mark.parametrize("change", [mutated, contradictory])
@pytest.mark.parametrize("name", ["mlp", "mobilenet_v3", "unet", "yolo_head", "gru", "transformer"])
def test_damage_never_ends_in_anything_but_an_error_of_ours(
    name: str, change: Callable[[bytes, random.Random], bytes]
) -> None:
    data, rng = FAMILIES[name]().SerializeToString(), random.Random(4)
    ends = [ends_in(change(data, rng)) for _ in range(40)]
    assert set(ends) <= {None, InvalidModel, UnsupportedModel}
    assert sum(end is not None for end in ends) > 8


def ends_in(data: bytes) -> type[DsopsError] | None:
    """Return the kind of error with which a conversion ends, or nothing."""
    try:
        DirectConverter().convert(data)
    except DsopsError as error:
        return type(error)
    return None


def test_a_kernel_with_wide_gaps_is_refused() -> None:
    net = Net()
    x = net.node("ConvTranspose", net.input("x", [1, 4, 4, 4]), net.weights(4, 4, 3, 3), dilations=[1000, 1000])
    proto = net.model(y=x)
    with pytest.raises(UnsupportedModel, match="dilated to 2001 x 2001"):
        convert(proto)


def test_padding_that_would_explode_is_refused() -> None:
    net = Net()
    sides = [65535] * 4
    x = net.node("AveragePool", net.input("x", [1, 4, 4, 4]), kernel_shape=[65536, 65536], pads=sides)
    proto = net.model(y=x)
    with pytest.raises(UnsupportedModel, match="computes a tensor of shape"):
        convert(proto)


def test_many_forms_of_one_node_are_converted_in_linear_time() -> None:
    """Each Erf is looked at for being a part of a Gelu; nothing searches the whole graph for it."""
    net = Net()
    x = net.input("x", [1, 2])
    for _ in range(1500):
        x = net.node("Erf", x)
    proto = net.model(y=x)
    with pytest.raises(UnsupportedModel, match="1500 of 1501 nodes: Erf"):
        convert(proto)
