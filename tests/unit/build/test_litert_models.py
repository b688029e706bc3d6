import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_graphs import lookup, recurrent, two_by_two

from dsops.errors import InvalidInput, InvalidModel
from dsops_controller.build.conversion.tflite_writer import TfliteWriter, pack
from dsops_controller.build.litert import LitertModel

ROWS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def test_tensors_go_by_the_names_of_the_signature() -> None:
    model = LitertModel(two_by_two())
    assert [spec.name for spec in model.inputs] == ["left", "right"]
    assert [spec.name for spec in model.outputs] == ["sum", "difference"]
    found = model.run({"right": 2 * ROWS, "left": ROWS})
    np.testing.assert_allclose(found["sum"], 3 * ROWS, rtol=1e-6)
    np.testing.assert_allclose(found["difference"], -ROWS, rtol=1e-6)


def test_without_a_signature_they_go_by_their_own() -> None:
    table = schema.ModelT.InitFromPackedBuf(two_by_two(), 0)
    table.signatureDefs = []
    model = LitertModel(pack(table))
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["tensor_a", "tensor_b", "t", "d"]


def test_two_tensors_of_one_name_are_refused() -> None:
    table = schema.ModelT.InitFromPackedBuf(two_by_two(), 0)
    table.signatureDefs = []
    for tensor in table.subgraphs[0].tensors[:2]:
        tensor.name = "same"
    with pytest.raises(InvalidModel, match="two inputs of the model are named 'same'"):
        LitertModel(pack(table))


def test_plain_integers_go_in_and_come_out_as_they_are() -> None:
    model = LitertModel(lookup())
    indices = np.array([[1, 2, 3], [9, 0, 9]], np.int32)
    found = model.run({"indices": indices})
    assert model.inputs[0].datatype == "INT32"
    assert found["same"].dtype == np.int32
    np.testing.assert_array_equal(found["same"], indices)
    np.testing.assert_array_equal(found["rows"][1], [[18, 19], [0, 1], [18, 19]])


def test_an_index_outside_the_table_is_an_error_with_a_code() -> None:
    with pytest.raises(InvalidModel, match="cannot run"):
        LitertModel(lookup()).run({"indices": np.array([[1, 2, 77]], np.int32)})


def test_a_float_array_for_an_integer_input_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'indices' of the data is float32: int32 is needed"):
        LitertModel(lookup()).run({"indices": np.zeros((1, 3), np.float32)})


def test_each_frame_of_a_model_with_a_state_begins_anew() -> None:
    frames = np.random.default_rng(2).standard_normal((4, 5, 4)).astype(np.float32)
    data = recurrent()
    together = LitertModel(data).run({"x": frames})["y"]
    apart = np.concatenate([LitertModel(data).run({"x": frame[None]})["y"] for frame in frames])
    np.testing.assert_array_equal(together, apart)
    twice = LitertModel(data).run({"x": frames[[0, 0]]})["y"]
    np.testing.assert_array_equal(twice[0], twice[1])


def test_latencies_are_one_a_repeat() -> None:
    taken = LitertModel(two_by_two(), threads=2).latencies_us({"left": ROWS, "right": ROWS}, 11)
    assert len(taken) == 11
    assert min(taken) > 0


def test_a_batch_in_the_file_is_refused() -> None:
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [2, 4]), writer.tensor("y", [2, 4])
    writer.operator(schema.BuiltinOperator.ABS, [x], [y], schema.AbsOptionsT())
    with pytest.raises(InvalidModel, match=r"input 'x' has shape \[2, 4\]: a batch of 1"):
        LitertModel(writer.finish({"x": x}, {"y": y}))
