"""The lint accepts models as they are made, and names what is wrong with others."""

from __future__ import annotations

import random
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite_graphs
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx_families import FAMILIES
from sound_models import float_model, quantized_model
from tflite_mutations import pack

from dsops.errors import InvalidModel
from dsops.tflite_lint import LintLimits, OperatorUse, TensorFacts, lint
from dsops_controller.build.conversion.tflite_writer import TfliteWriter
from dsops_controller.build.quantization.quantize import QuantMode

Operator = schema.BuiltinOperator


def refusal(data: bytes, limits: LintLimits | None = None) -> str:
    with pytest.raises(InvalidModel) as caught:
        lint(data, limits or LintLimits())
    assert caught.value.what == "the TFLite file is not sound"
    assert caught.value.why.startswith(str(caught.value.details["place"]))
    return caught.value.why


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    return pack(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_accepted(family: str) -> None:
    assert lint(float_model(family)).operators


@pytest.mark.parametrize("mode", [mode for mode in QuantMode if mode is not QuantMode.FLOAT32])
def test_every_quantization_is_accepted(mode: QuantMode) -> None:
    assert lint(quantized_model("lenet", mode)).parameter_bytes < lint(float_model("lenet")).parameter_bytes


def test_facts() -> None:
    facts = lint(tflite_graphs.dense(6, 4, softmax=True))
    assert facts.operators == (OperatorUse("FULLY_CONNECTED", 1, 1), OperatorUse("SOFTMAX", 1, 1))
    assert facts.inputs == (TensorFacts("x", "FLOAT32", (1, 6)),)
    assert facts.outputs == (TensorFacts("y", "FLOAT32", (1, 4)),)
    assert (facts.subgraphs, facts.tensors, facts.parameter_bytes) == (1, 5, (6 * 4 + 4) * 4)
    assert (facts.activation_elements, facts.trailing_bytes) == (6 + 4 + 4, 0)
    assert (facts.custom_operators, facts.min_runtime, facts.description) == ((), "", "test")


def test_metadata_names_the_oldest_runtime_and_may_follow_as_an_archive() -> None:
    def add(model: Any) -> None:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(b"1.14.0".ljust(16, b"\0"), np.uint8)
        entry.name, entry.buffer = "min_runtime_version", len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [entry]

    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("labels.txt", "left\nright\n")
    data = changed(tflite_graphs.dense(6, 4), add)
    facts = lint(data + archive.getvalue())
    assert facts.min_runtime == "1.14.0"
    assert facts.trailing_bytes == len(archive.getvalue())
    assert "follow the model" in refusal(data + archive.getvalue(), LintLimits(trailing_bytes=10))


def test_sizes_that_are_chosen_later_are_minus_one() -> None:
    def free(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.buffer == 0:
                tensor.shapeSignature = [-1, *tensor.shape[1:]]

    assert lint(changed(tflite_graphs.dense(6, 4), free)).inputs[0].shape == (-1, 6)


@pytest.mark.parametrize("data", [b"", b"TFL3", bytes(64), b"\x1c\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + bytes(64)])
def test_what_is_no_model(data: bytes) -> None:
    assert refusal(data)


def test_every_truncation_is_refused() -> None:
    data = quantized_model("lenet", QuantMode.INT8)
    for length in random.Random(0).sample(range(len(data) - 32), 300):
        refusal(data[:length])


def first_operator(model: Any) -> Any:
    return model.subgraphs[0].operators[0]


def tensor(model: Any, index: int) -> Any:
    return model.subgraphs[0].tensors[index]


def options(model: Any) -> Any:
    return first_operator(model).builtinOptions


def assign(target: Callable[[Any], Any], name: str, value: object) -> Callable[[Any], object]:
    return lambda model: setattr(target(model), name, value)


def quantization(model: Any, index: int) -> Any:
    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = np.array([0.5], np.float32), np.array([0], np.int64)
    tensor(model, index).quantization = found
    return found


DENSE = tflite_graphs.dense(6, 4)  # tensors: 0 x, 1 sums, 2 weights, 3 bias, in the writer's order
CONVOLUTION = tflite_graphs.convolution(2, 4)
DEPTHWISE = tflite_graphs.convolution(2, 2, depthwise=True)


WRONG: dict[str, tuple[bytes, Callable[[Any], object], str]] = {
    "version": (DENSE, lambda m: setattr(m, "version", 4), "it has version 4 of the schema"),
    "no subgraph": (DENSE, lambda m: setattr(m, "subgraphs", []), "it has no subgraph"),
    "operator code": (DENSE, assign(first_operator, "opcodeIndex", 7), "it names operator code 7 of 1"),
    "two codes": (DENSE, assign(lambda m: m.operatorCodes[0], "deprecatedBuiltinCode", 3), "contradict each other"),
    "unknown code": (
        DENSE,
        lambda m: [
            setattr(m.operatorCodes[0], "builtinCode", 5000),
            setattr(m.operatorCodes[0], "deprecatedBuiltinCode", 127),
        ],
        "operator 0 (builtin 5000): no rule says what is right",
    ),
    "input": (
        DENSE,
        assign(first_operator, "inputs", [0, 2, 99]),
        "operator 0 (FULLY_CONNECTED): input 2 names tensor 99",
    ),
    "missing weights": (DENSE, assign(first_operator, "inputs", [0]), "it has 1 inputs"),
    "weights left out": (DENSE, assign(first_operator, "inputs", [0, -1, 3]), "input 1 is left out"),
    "reads itself": (DENSE, assign(first_operator, "inputs", [1, 2, 3]), "is read before anything writes it"),
    "writes a constant": (DENSE, assign(first_operator, "outputs", [3]), "output 0, tensor 3, is a constant"),
    "graph output": (DENSE, lambda m: setattr(m.subgraphs[0], "outputs", [-1]), "output 0 names tensor -1"),
    "constant input": (DENSE, lambda m: setattr(m.subgraphs[0], "inputs", [2]), "is a constant"),
    "buffer": (DENSE, lambda m: setattr(tensor(m, 2), "buffer", 77), "it names buffer 77"),
    "bytes": (DENSE, lambda m: setattr(tensor(m, 2), "shape", [4, 7]), "96 bytes for shape [4, 7] of FLOAT32"),
    "type": (DENSE, lambda m: setattr(tensor(m, 0), "type", 99), "element type 99 is not known"),
    "strings": (DENSE, lambda m: setattr(tensor(m, 0), "type", schema.TensorType.STRING), "STRING are not admitted"),
    "negative": (DENSE, lambda m: setattr(tensor(m, 0), "shape", [1, -6]), "its shape is [1, -6]"),
    "giant": (DENSE, lambda m: setattr(tensor(m, 0), "shape", [2**30, 6]), "has more than the"),
    "empty": (DENSE, lambda m: setattr(tensor(m, 0), "shape", [0, 6]), "an input has no elements"),
    "rank": (DENSE, lambda m: setattr(tensor(m, 0), "shape", [1] * 9), "9 dimensions, at most 8"),
    "depth": (DENSE, lambda m: setattr(tensor(m, 0), "shape", [1, 5]), "rows of 6 do not fit the input [1, 5]"),
    "output shape": (DENSE, lambda m: setattr(tensor(m, 1), "shape", [1, 5]), "has shape [1, 5], but it gives [1, 4]"),
    "options": (CONVOLUTION, assign(first_operator, "builtinOptions", None), "do not go together"),
    "no options": (
        CONVOLUTION,
        lambda m: [
            setattr(first_operator(m), "builtinOptionsType", 0),
            setattr(first_operator(m), "builtinOptions", None),
        ],
        "it has no options",
    ),
    "stride": (CONVOLUTION, assign(options, "strideW", 0), "outside 1 to"),
    "dilation": (CONVOLUTION, assign(options, "dilationHFactor", -3), "option 5 is -3, outside 1 to"),
    "padding": (CONVOLUTION, assign(options, "padding", 9), "which means nothing"),
    "channels": (CONVOLUTION, lambda m: setattr(tensor(m, 0), "shape", [1, 8, 8, 3]), "does not fit the input"),
    "multiplier": (DEPTHWISE, assign(options, "depthMultiplier", 3), "with a multiplier of 3 do not make 2"),
    "scale": (
        DENSE,
        lambda m: setattr(quantization(m, 0), "scale", np.array([np.nan], np.float32)),
        "a scale is not finite",
    ),
    "scales": (
        DENSE,
        lambda m: setattr(quantization(m, 0), "zeroPoint", np.array([0, 0])),
        "1 scales and 2 zero points",
    ),
    "quantized dimension": (
        DENSE,
        lambda m: setattr(quantization(m, 0), "quantizedDimension", 2),
        "it is quantized along dimension 2 of 2",
    ),
    "variable": (DENSE, lambda m: setattr(tensor(m, 2), "isVariable", True), "it is a variable, and has constant"),
    "signature": (
        DENSE,
        lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 3),
        "signature 0, input 0: tensor 3 is no input of its subgraph",
    ),
    "signature's graph": (
        DENSE,
        lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 4),
        "signature 0: it names subgraph 4 of 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_error_names_what_is_wrong(name: str) -> None:
    data, change, expected = WRONG[name]
    assert lint(data)
    assert expected in refusal(changed(data, change))


def with_integers(code: int, table: Any, shape: list[int], output: list[int], *constants: list[int]) -> bytes:
    """Return an operator that takes ``x`` and constants of int32."""
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", shape), writer.tensor("y", output)
    values = [writer.constant(f"c{i}", np.array(numbers, np.int32)) for i, numbers in enumerate(constants)]
    inputs = [*values, x] if code == Operator.SPLIT else [x, *values]
    writer.operator(code, inputs, [y], table)
    return writer.finish({"x": x}, {"y": y})


def packed(kind: str, **fields: int) -> Any:
    table = getattr(schema, f"{kind}OptionsT")()
    for name, value in fields.items():
        setattr(table, name, value)
    return table


GATHER = packed("Gather", axis=1)
CONSTANTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    "gather": (
        (Operator.GATHER, GATHER, [1, 4], [1, 2], [3, 0]),
        (Operator.GATHER, GATHER, [1, 4], [1, 2], [4, 0]),
        "input 1 names rows 0 to 4 of 4",
    ),
    "reshape": (
        (Operator.RESHAPE, None, [1, 6], [2, 3], [2, -1]),
        (Operator.RESHAPE, None, [1, 6], [2, 3], [4, -1]),
        "6 elements cannot have shape [4, -1]",
    ),
    "transpose": (
        (Operator.TRANSPOSE, None, [1, 6], [6, 1], [1, 0]),
        (Operator.TRANSPOSE, None, [1, 6], [6, 1], [1, 1]),
        "[1, 1] is no order of 2 axes",
    ),
    "mean": (
        (Operator.MEAN, packed("Reducer"), [1, 6], [1], [1]),
        (Operator.MEAN, packed("Reducer"), [1, 6], [1], [2]),
        "there is no axis 2 in 2 dimensions",
    ),
    "split": (
        (Operator.SPLIT, packed("Split", numSplits=1), [1, 6], [1, 6], [1]),
        (Operator.SPLIT, packed("Split", numSplits=2), [1, 6], [1, 6], [1]),
        "it says that it has 2 outputs, and has 1",
    ),
    "slice": (
        (Operator.SLICE, None, [1, 6], [1, 2], [0, 4], [1, -1]),
        (Operator.SLICE, None, [1, 6], [1, 2], [0, 7], [1, -1]),
        "it takes -1 from 7 of 6",
    ),
    "strided slice": (
        (Operator.STRIDED_SLICE, packed("StridedSlice"), [1, 6], [1, 3], [0, 0], [1, 6], [1, 2]),
        (Operator.STRIDED_SLICE, packed("StridedSlice"), [1, 6], [1, 3], [0, 0], [1, 6], [1, 0]),
        "a step is 0",
    ),
    "pad": (
        (Operator.PAD, None, [1, 6], [1, 9], [[0, 0], [1, 2]]),
        (Operator.PAD, None, [1, 6], [1, 9], [[0, 0], [-1, 2]]),
        "its padding is negative or too large",
    ),
    "tile": (
        (Operator.TILE, None, [1, 6], [1, 12], [1, 2]),
        (Operator.TILE, None, [1, 6], [1, 12], [1, 2**30]),
        "but it gives [1, 6442450944]",
    ),
    "resize": (
        (Operator.RESIZE_BILINEAR, packed("ResizeBilinear"), [1, 4, 4, 1], [1, 8, 8, 1], [8, 8]),
        (Operator.RESIZE_BILINEAR, packed("ResizeBilinear"), [1, 4, 4, 1], [1, 8, 8, 1], [0, 8]),
        "it is asked for size [0, 8]",
    ),
    "depth to space": (
        (Operator.DEPTH_TO_SPACE, packed("DepthToSpace", blockSize=2), [1, 2, 2, 4], [1, 4, 4, 1]),
        (Operator.DEPTH_TO_SPACE, packed("DepthToSpace", blockSize=3), [1, 2, 2, 4], [1, 4, 4, 1]),
        "4 channels make no blocks of 3",
    ),
    "expand": (
        (Operator.EXPAND_DIMS, None, [1, 6], [1, 1, 6], [1]),
        (Operator.EXPAND_DIMS, None, [1, 6], [1, 1, 6], [3]),
        "there is no axis 3 in 3 dimensions",
    ),
    "pool": (
        (
            Operator.MAX_POOL_2D,
            packed("Pool2D", padding=1, strideW=2, strideH=2, filterWidth=2, filterHeight=2),
            [1, 4, 4, 1],
            [1, 2, 2, 1],
        ),
        (
            Operator.MAX_POOL_2D,
            packed("Pool2D", padding=1, strideW=2, strideH=2, filterWidth=9, filterHeight=2),
            [1, 4, 4, 1],
            [1, 2, 2, 1],
        ),
        "a window of 9 does not fit into 4",
    ),
}


CONSTANTS |= {
    "gather nd": (
        (Operator.GATHER_ND, None, [2, 3], [2, 3], [[1], [0]]),
        (Operator.GATHER_ND, None, [2, 3], [2, 3], [[1], [2]]),
        "input 1 names places 1 to 2 of 2",
    ),
    "cumulative sum": (
        (Operator.CUMSUM, packed("Cumsum"), [1, 6], [1, 6], [1]),
        (Operator.CUMSUM, packed("Cumsum"), [1, 6], [1, 6], [-3]),
        "there is no axis -3 in 2 dimensions",
    ),
    "space to batch": (
        (Operator.SPACE_TO_BATCH_ND, None, [1, 4, 4, 1], [4, 2, 2, 1], [2, 2], [[0, 0], [0, 0]]),
        (Operator.SPACE_TO_BATCH_ND, None, [1, 4, 4, 1], [4, 2, 2, 1], [3, 2], [[0, 0], [0, 0]]),
        "4 has no whole blocks of 3",
    ),
    "batch to space": (
        (Operator.BATCH_TO_SPACE_ND, None, [4, 2, 2, 1], [1, 4, 3, 1], [2, 2], [[0, 0], [0, 1]]),
        (Operator.BATCH_TO_SPACE_ND, None, [4, 2, 2, 1], [1, 4, 3, 1], [2, 2], [[0, 0], [0, 9]]),
        "9 cannot be cropped from 4",
    ),
    "mirror pad": (
        (Operator.MIRROR_PAD, packed("MirrorPad"), [1, 6], [1, 9], [[0, 0], [1, 2]]),
        (Operator.MIRROR_PAD, packed("MirrorPad"), [1, 6], [1, 12], [[0, 0], [6, 0]]),
        "6 elements cannot be mirrored from 6",
    ),
    "split v": (
        (Operator.SPLIT_V, packed("SplitV", numSplits=1), [1, 6], [1, 6], [6], [1]),
        (Operator.SPLIT_V, packed("SplitV", numSplits=1), [1, 6], [1, 6], [7], [1]),
        "parts of sizes [7] do not make 6",
    ),
    "broadcast to": (
        (Operator.BROADCAST_TO, None, [1, 6], [3, 6], [3, 6]),
        (Operator.BROADCAST_TO, None, [1, 6], [3, 5], [3, 5]),
        "cannot be repeated to [3, 5]",
    ),
    "reverse": (
        (Operator.REVERSE_V2, None, [2, 3], [2, 3], [1]),
        (Operator.REVERSE_V2, None, [2, 3], [2, 3], [2]),
        "there is no axis 2 in 2 dimensions",
    ),
    "space to depth": (
        (Operator.SPACE_TO_DEPTH, packed("SpaceToDepth", blockSize=2), [1, 4, 4, 1], [1, 2, 2, 4]),
        (Operator.SPACE_TO_DEPTH, packed("SpaceToDepth", blockSize=0), [1, 4, 4, 1], [1, 2, 2, 4]),
        "option 0 is 0, outside 1 to",
    ),
    "segments": (
        (Operator.SEGMENT_SUM, None, [3, 2], [2, 2], [0, 0, 1]),
        (Operator.SEGMENT_SUM, None, [3, 2], [2, 2], [0, 0, 2**30]),
        "but it gives [1073741825, 2]",
    ),
    "softmax": (
        (Operator.SOFTMAX, packed("Softmax", beta=1.0), [1, 6], [1, 6]),
        (Operator.SOFTMAX, packed("Softmax", beta=float("nan")), [1, 6], [1, 6]),
        "option 0 is not a finite number",
    ),
    "unpack": (
        (Operator.UNPACK, packed("Unpack", num=1, axis=0), [1, 6], [6]),
        (Operator.UNPACK, packed("Unpack", num=1, axis=1), [1, 6], [6]),
        "axis 1 of [1, 6] does not have 1 parts",
    ),
    "squeeze": (
        (Operator.SQUEEZE, None, [1, 6], [6]),
        (Operator.SQUEEZE, None, [1, 6], [3]),
        "has shape [3], but it gives [6]",
    ),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_an_operator_trusts(name: str) -> None:
    right, wrong, expected = CONSTANTS[name]
    assert lint(with_integers(*right))
    Interpreter(model_content=with_integers(*right)).allocate_tensors()  # the runtime agrees that it is right
    assert expected in refusal(with_integers(*wrong))


def test_axes_may_be_an_empty_constant() -> None:
    """A constant without elements has no bytes; nobody writes it, and it can be read."""
    assert lint(with_integers(Operator.MEAN, packed("Reducer"), [1, 6], [1, 6], []))


def custom(model: Any) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = Operator.CUSTOM
    code.customCode = "edgetpu-custom-op"
    first_operator(model).builtinOptionsType, first_operator(model).builtinOptions = 0, None


def test_custom_operators_are_admitted_by_name() -> None:
    data = changed(DENSE, custom)
    assert "operator 0 (edgetpu-custom-op): custom operators are not admitted" in refusal(data)
    allowed = LintLimits(custom_operators=frozenset({"edgetpu-custom-op"}))
    assert lint(data, allowed).custom_operators == ("edgetpu-custom-op",)


def test_operators_without_a_rule_are_admitted_by_name() -> None:
    def other(model: Any) -> None:
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = Operator.SKIP_GRAM
        first_operator(model).builtinOptionsType, first_operator(model).builtinOptions = 0, None

    data = changed(DENSE, other)
    assert "no rule says what is right" in refusal(data)
    assert lint(data, LintLimits(unchecked_operators=frozenset({"SKIP_GRAM"})))


def loop(target: int) -> Callable[[Any], None]:
    """Make the model's operator run subgraph ``target`` of two, the second of which runs the first in the same way."""

    def change(model: Any) -> None:
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = Operator.WHILE
        graph = model.subgraphs[0]
        operator, table = graph.operators[0], schema.WhileOptionsT()
        table.condSubgraphIndex = table.bodySubgraphIndex = target
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.WhileOptions, table
        operator.inputs, operator.outputs = [0], [1]
        model.subgraphs = [graph, graph]

    return change


def test_graphs_that_run_themselves_are_refused() -> None:
    allowed = LintLimits(control_flow=True)
    assert "that run other subgraphs are not admitted" in refusal(changed(DENSE, loop(1)))
    assert "a subgraph runs itself" in refusal(changed(DENSE, loop(1)), allowed)
    assert "it runs subgraph 9 of 2" in refusal(changed(DENSE, loop(9)), allowed)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (LintLimits(file_bytes=100), "100 are allowed"),
        (LintLimits(tensors=3), "4 tensors, at most 3"),
        (LintLimits(operators=0), "operators, at most 0"),
        (LintLimits(buffers=1), "at most 1 can be right"),
        (LintLimits(tensor_elements=5), "has more than the 5 elements allowed"),
        (LintLimits(activation_elements=5), "its activations have 10 elements"),
        (LintLimits(work=30), "the file asks for too much work"),
        (LintLimits(name_bytes=0), "at most 0"),
    ],
)
def test_limits(limits: LintLimits, expected: str) -> None:
    assert expected in refusal(DENSE, limits)


def aliased(tensors: int, scales: int) -> bytes:
    """Return a file whose tensors all name one long vector of scales."""
    builder = flatbuffers.Builder(1 << 20)
    ones = builder.CreateNumpyVector(np.ones(scales, np.float32))
    zeros = builder.CreateNumpyVector(np.zeros(scales, np.int64))
    shape = builder.CreateNumpyVector(np.array([scales], np.int32))
    schema.QuantizationParametersStart(builder)
    schema.QuantizationParametersAddScale(builder, ones)
    schema.QuantizationParametersAddZeroPoint(builder, zeros)
    found = schema.QuantizationParametersEnd(builder)
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    schema.TensorAddQuantization(builder, found)
    table = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, tensors)
    for _ in range(tensors):
        builder.PrependUOffsetTRelative(table)
    listed = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, listed)
    graphs = vector(builder, schema.SubGraphEnd(builder))
    schema.BufferStart(builder)
    buffers = vector(builder, schema.BufferEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def vector(builder: Any, table: int) -> int:
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def test_a_small_file_cannot_ask_for_much_work() -> None:
    data = aliased(16_000, 100_000)
    assert len(data) < 2 << 20
    tracemalloc.start()
    assert "the file asks for too much work" in refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 << 20
