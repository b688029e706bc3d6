"""A small file whose operators and graphs share long vectors is refused before it has cost much."""

from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel
from dsops.tflite_lint import lint
from dsops_agent.runtime.engine import DEVICE_LIMITS


def offsets(builder: Any, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def indices(builder: Any, values: list[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def sums(graphs: int, operators: int, inputs: int) -> bytes:
    """Return graphs, all the same, of ADD_N operators that name the first tensor so many times, by one vector."""
    builder = flatbuffers.Builder(1 << 16)
    shape, first = indices(builder, [1, 4]), indices(builder, [0])
    shared, last = indices(builder, [0] * inputs), indices(builder, [operators])
    schema.BufferStart(builder)
    buffers = offsets(builder, [schema.BufferEnd(builder)])
    schema.OperatorCodeStart(builder)
    schema.OperatorCodeAddDeprecatedBuiltinCode(builder, schema.BuiltinOperator.ADD_N)
    schema.OperatorCodeAddBuiltinCode(builder, schema.BuiltinOperator.ADD_N)
    codes = offsets(builder, [schema.OperatorCodeEnd(builder)])
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    tensors = offsets(builder, [schema.TensorEnd(builder)] * (operators + 1))
    made = []
    for number in range(operators):
        written = indices(builder, [number + 1])
        schema.OperatorStart(builder)
        schema.OperatorAddInputs(builder, shared)
        schema.OperatorAddOutputs(builder, written)
        made.append(schema.OperatorEnd(builder))
    listed = offsets(builder, made)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    schema.SubGraphAddInputs(builder, first)
    schema.SubGraphAddOutputs(builder, last)
    schema.SubGraphAddOperators(builder, listed)
    every = offsets(builder, [schema.SubGraphEnd(builder)] * graphs)
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddOperatorCodes(builder, codes)
    schema.ModelAddSubgraphs(builder, every)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_graphs_themselves_are_sound() -> None:
    assert lint(sums(2, 3, 4), DEVICE_LIMITS).operators[0].count == 6


@pytest.mark.parametrize(
    ("graphs", "operators", "inputs"), [(64, 250, 200), (64, 30, 250), (1, 500, 900), (1, 60, 8000)]
)
def test_vectors_that_are_named_over_and_over_are_paid_for_each_time(graphs: int, operators: int, inputs: int) -> None:
    data = sums(graphs, operators, inputs)
    assert len(data) < 50_000
    with pytest.raises(InvalidModel) as caught:
        lint(data, DEVICE_LIMITS)
    assert "the file asks for too much work" in caught.value.why
