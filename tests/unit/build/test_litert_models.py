import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidInput, InvalidModel
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.tflite_writer import TfliteWriter, pack

ROWS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def two_by_two() -> bytes:
    """Return a model with two inputs and two outputs: their sum and their difference."""
    writer = TfliteWriter("test")
    a, b = writer.tensor("tensor_a", [1, 4]), writer.tensor("tensor_b", [1, 4])
    total, difference = writer.tensor("t", [1, 4]), writer.tensor("d", [1, 4])
    writer.operator(schema.BuiltinOperator.ADD, [a, b], [total], schema.AddOptionsT())
    writer.operator(schema.BuiltinOperator.SUB, [a, b], [difference], schema.SubOptionsT())
    return writer.finish({"left": a, "right": b}, {"sum": total, "difference": difference})


def lookup() -> bytes:
    """Return a model that takes int32 indices and gives rows of a table, and the indices again."""
    writer = TfliteWriter("test")
    indices = writer.tensor("indices", [1, 3])
    table = writer.constant("table", np.arange(20, dtype=np.float32).reshape(10, 2))
    rows, same = writer.tensor("rows", [1, 3, 2]), writer.tensor("same", [1, 3])
    writer.operator(schema.BuiltinOperator.GATHER, [table, indices], [rows], schema.GatherOptionsT())
    writer.operator(
        schema.BuiltinOperator.RESHAPE,
        [indices, writer.constant("shape", np.array([1, 3], np.int32))],
        [same],
        schema.ReshapeOptionsT(),
    )
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"indices": indices}, {"rows": rows, "same": same}), 0)
    for index in (indices, same):
        model.subgraphs[0].tensors[index].type = schema.TensorType.INT32
    return pack(model)


def recurrent(units: int = 3) -> bytes:
    """Return an LSTM over five steps of four features whose state is kept in the interpreter."""
    rng = np.random.default_rng(1)
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 5, 4]), writer.tensor("y", [1, 5, units])
    kernels = [writer.constant(f"w{n}", rng.standard_normal((units, 4)).astype(np.float32)) for n in range(4)]
    recurrences = [writer.constant(f"r{n}", rng.standard_normal((units, units)).astype(np.float32)) for n in range(4)]
    biases = [writer.constant(f"b{n}", np.ones(units, np.float32)) for n in range(4)]
    state, cell = writer.tensor("state", [1, units]), writer.tensor("cell", [1, units])
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    inputs = [x, *kernels, *recurrences, -1, -1, -1, *biases, -1, -1, state, cell, -1, -1, -1, -1]
    writer.operator(schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM, inputs, [y], options)
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"x": x}, {"y": y}), 0)
    for index in (state, cell):
        model.subgraphs[0].tensors[index].isVariable = True
    return pack(model)


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
