"""Models of every family that is usual on the edge, against onnxruntime; and what inputs and outputs become."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx_families import FAMILIES, Net
from onnx_parity import parity, run_tflite

from dsops_controller.build.conversion.converters import DirectConverter


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_its_answers(name: str) -> None:
    assert parity(FAMILIES[name]().SerializeToString()) < 1e-5


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("unet", {"image"}, {"mask"}),
        ("yolo_head", {"image"}, {"far"}),
        ("two_inputs", {"image"}, set()),
        ("lstm", set(), set()),
        ("transformer", set(), set()),
    ],
)
def test_images_are_said_to_be_transposed_and_nothing_else(name: str, inputs: set[str], outputs: set[str]) -> None:
    model = DirectConverter().convert(FAMILIES[name]().SerializeToString())
    assert (model.transposed_inputs, model.transposed_outputs) == (inputs, outputs)


def test_names_and_order_of_inputs_and_outputs_are_those_of_the_source() -> None:
    model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(FAMILIES["yolo_head"]().SerializeToString()).data)
    graph = model.subgraphs[0]
    assert [graph.tensors[index].name for index in graph.outputs] == [b"boxes", b"scores", b"far"]
    assert [entry.name for entry in model.signatureDefs[0].outputs] == [b"boxes", b"scores", b"far"]


def test_tensors_have_names_of_their_own() -> None:
    for make in FAMILIES.values():
        model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(make().SerializeToString()).data)
        names = [tensor.name for tensor in model.subgraphs[0].tensors]
        assert len(set(names)) == len(names)


def test_data_of_every_buffer_lies_where_the_schema_wants_it() -> None:
    data = DirectConverter().convert(FAMILIES["resnet8"]().SerializeToString()).data
    stored = [buffer.data for buffer in schema.ModelT.InitFromPackedBuf(data).buffers if buffer.data is not None]
    whole = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    assert len(stored) > 10
    assert all((array.__array_interface__["data"][0] - whole) % 16 == 0 for array in stored)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3", "resnet8", "ds_cnn", "unet", "autoencoder"])
def test_a_network_of_images_needs_no_transpose(name: str) -> None:
    model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(FAMILIES[name]().SerializeToString()).data)
    codes = {code.builtinCode for code in model.operatorCodes}
    assert not codes & {schema.BuiltinOperator.TRANSPOSE, schema.BuiltinOperator.PADV2}


def test_an_unfolded_image_goes_into_a_layer_without_a_transpose() -> None:
    data = FAMILIES["lenet"]().SerializeToString()
    model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(data).data)
    assert schema.BuiltinOperator.TRANSPOSE not in {code.builtinCode for code in model.operatorCodes}


def test_constant_weights_never_become_a_product_of_matrices() -> None:
    """BATCH_MATMUL with a constant quantizes to zeros, silently."""
    for make in FAMILIES.values():
        model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(make().SerializeToString()).data)
        graph = model.subgraphs[0]
        for operator in graph.operators:
            if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.BATCH_MATMUL:
                assert all(graph.tensors[index].buffer == 0 for index in operator.inputs)


def test_two_names_for_one_output_are_two_outputs() -> None:
    net = Net()
    x = net.node("Relu", net.input("x", [1, 4]))
    got = run_tflite(
        DirectConverter().convert(net.model(a=x, b=x).SerializeToString()).data, {"x": np.full((1, 4), -1, np.float32)}
    )
    assert {name: values.tolist() for name, values in got.items()} == {"a": [[0.0] * 4], "b": [[0.0] * 4]}


def test_a_recurrent_layer_starts_anew_with_every_run() -> None:
    data = DirectConverter().convert(FAMILIES["lstm"]().SerializeToString()).data
    assert not any(tensor.isVariable for tensor in schema.ModelT.InitFromPackedBuf(data).subgraphs[0].tensors)


def test_an_input_of_whole_numbers_keeps_its_type() -> None:
    model = schema.ModelT.InitFromPackedBuf(DirectConverter().convert(FAMILIES["text"]().SerializeToString()).data)
    graph = model.subgraphs[0]
    assert graph.tensors[graph.inputs[0]].type == schema.TensorType.INT64
