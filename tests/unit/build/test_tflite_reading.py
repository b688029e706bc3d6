from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel
from dsops_controller.build.conversion.convert import normalize_tflite, read_model
from dsops_controller.build.conversion.tflite_writer import pack
from dsops_controller.build.data import DataSet
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.demo.digits import Splits


def old_style(model: bytes) -> bytes:
    """Return a model as old converters wrote it: codes in the first field only, no signature."""
    table = schema.ModelT.InitFromPackedBuf(model, 0)
    table.signatureDefs = []
    for code in table.operatorCodes:
        code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0
    return pack(table)


@pytest.mark.parametrize("mode", [QuantMode.INT8, QuantMode.DYNAMIC8])
def test_an_old_file_can_be_quantized_like_a_new_one(
    float_model: bytes, digits: Splits, tmp_path: Path, mode: QuantMode
) -> None:
    path = tmp_path / "old.tflite"
    path.write_bytes(old_style(float_model))
    few = DataSet({"image": digits.calibration.x[:10]})
    old, new = (quantize(model, mode, few).data for model in (read_model(path), float_model))
    assert len(old) == pytest.approx(len(new), rel=0.05)


def test_a_new_file_keeps_its_meaning(float_model: bytes) -> None:
    table = schema.ModelT.InitFromPackedBuf(normalize_tflite(float_model), 0)
    assert [entry.signatureKey for entry in table.signatureDefs] == [b"serving_default"]
    assert [entry.name for entry in table.signatureDefs[0].inputs] == [b"image"]


def test_what_is_not_tflite_is_refused() -> None:
    with pytest.raises(InvalidModel, match="TFL3"):
        normalize_tflite(b"PK\x03\x04 and so on")


def test_a_damaged_file_never_gives_a_traceback(float_model: bytes) -> None:
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(60):
        damaged = bytearray(float_model[: rng.integers(9, len(float_model))])
        damaged[rng.integers(8, len(damaged))] ^= 0xFF
        try:
            normalize_tflite(bytes(damaged))
        except InvalidModel:
            refused += 1
    assert refused > 30


def test_weights_behind_the_tables_are_taken_into_them(float_model: bytes) -> None:
    table = schema.ModelT.InitFromPackedBuf(float_model, 0)
    wanted = [buffer.data for buffer in table.buffers]
    biggest = max(range(len(wanted)), key=lambda place: 0 if wanted[place] is None else wanted[place].size)
    room = len(float_model)  # the tables alone are smaller, so this lies behind them
    table.buffers[biggest].data = None
    table.buffers[biggest].offset, table.buffers[biggest].size = room, wanted[biggest].size
    data = pack(table).ljust(room, b"\0") + wanted[biggest].tobytes()
    found = schema.ModelT.InitFromPackedBuf(normalize_tflite(data), 0).buffers[biggest]
    np.testing.assert_array_equal(found.data, wanted[biggest])
    assert found.offset == 0


def test_tables_that_name_each_other_over_and_over_are_refused() -> None:
    """A vector can name one table a hundred thousand times, and that table's vector another; none is a long file."""
    operator = schema.OperatorT()
    operator.inputs = list(range(2000))
    graph = schema.SubGraphT()
    graph.operators = [operator]
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes, model.buffers, model.signatureDefs = [], [], []
    data = bytearray(pack(model))
    reader = schema.Model.GetRootAs(data, 0)._tab
    start = reader.Vector(reader.Offset(8))
    target = reader.Indirect(start)
    copies = 60_000
    place = len(data)
    data += copies.to_bytes(4, "little")
    for number in range(copies):
        here = place + 4 + 4 * number
        data += ((target - here) % (1 << 32)).to_bytes(4, "little")
    field = reader.Pos + reader.Offset(8)
    data[field : field + 4] = (place - field).to_bytes(4, "little")
    with pytest.raises(InvalidModel):
        normalize_tflite(bytes(data))
