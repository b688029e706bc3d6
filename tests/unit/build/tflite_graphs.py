"""Small TFLite graphs that the tests of the build side write by hand."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops_controller.build.conversion.tflite_writer import Table, TfliteWriter, pack

Operator = schema.BuiltinOperator
Floats = NDArray[np.float32]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Floats:
    """Return normally distributed values."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def dense(width: int, height: int, *, softmax: bool = False, scale: float = 0.3) -> bytes:
    """Return a fully connected layer from ``x`` [1, width] to ``y`` [1, height]."""
    writer = TfliteWriter("test")
    x, sums = writer.tensor("x", [1, width]), writer.tensor("sums", [1, height])
    weights = writer.constant("w", drawn(height, width, scale=scale))
    bias = writer.constant("b", drawn(height, seed=1, scale=scale))
    writer.operator(Operator.FULLY_CONNECTED, [x, weights, bias], [sums], schema.FullyConnectedOptionsT())
    if not softmax:
        return writer.finish({"x": x}, {"y": sums})
    scores, options = writer.tensor("scores", [1, height]), schema.SoftmaxOptionsT()
    options.beta = 1.0
    writer.operator(Operator.SOFTMAX, [sums], [scores], options)
    return writer.finish({"x": x}, {"y": scores})


def convolution(channels_in: int, channels_out: int, *, depthwise: bool = False) -> bytes:
    """Return a 3 by 3 convolution over ``x`` [1, 8, 8, channels_in]; a depthwise one keeps the channels."""
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 8, 8, channels_in]), writer.tensor("y", [1, 8, 8, channels_out])
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    shape = (1, 3, 3, channels_in) if depthwise else (channels_out, 3, 3, channels_in)
    if depthwise:
        options.depthMultiplier = 1
    weights = writer.constant("w", drawn(*shape, scale=0.3))
    bias = writer.constant("b", drawn(channels_out, seed=1))
    code = Operator.DEPTHWISE_CONV_2D if depthwise else Operator.CONV_2D
    writer.operator(code, [x, weights, bias], [y], options)
    return writer.finish({"x": x}, {"y": y})


def matmul(rows: tuple[int, ...] = (1, 6), weights: tuple[int, ...] = (6, 4), *, transposed: bool = False) -> bytes:
    """Return a product of ``x`` with constant weights in a BATCH_MATMUL, and an ADD, as other converters write it."""
    writer = TfliteWriter("test")
    options = schema.BatchMatMulOptionsT()
    options.adjY = transposed
    values = drawn(*weights)
    result = np.matmul(np.zeros(rows, np.float32), values.swapaxes(-1, -2) if transposed else values).shape
    x, product, y = writer.tensor("x", rows), writer.tensor("product", result), writer.tensor("y", result)
    bias = writer.constant("b", drawn(result[-1], seed=1))
    writer.operator(Operator.BATCH_MATMUL, [x, writer.constant("w", values)], [product], options)
    writer.operator(Operator.ADD, [product, bias], [y], schema.AddOptionsT())
    return writer.finish({"x": x}, {"y": y})


def padded_pool(value: float, *, axes: int) -> bytes:
    """Return a maximum over 2 by 2 of ``x`` [1, 6, 6, 2] padded with a value, a constant of so many axes."""
    writer = TfliteWriter("test")
    x, padded = writer.tensor("x", [1, 6, 6, 2]), writer.tensor("padded", [1, 8, 8, 2])
    y = writer.tensor("y", [1, 4, 4, 2])
    pads = writer.constant("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    filling = writer.constant("filling", np.full((1,) * axes, value, np.float32))
    writer.operator(Operator.PADV2, [x, pads, filling], [padded], schema.PadV2OptionsT())
    options = schema.Pool2DOptionsT()
    options.filterHeight = options.filterWidth = options.strideH = options.strideW = 2
    options.padding = schema.Padding.VALID
    writer.operator(Operator.MAX_POOL_2D, [padded], [y], options)
    return writer.finish({"x": x}, {"y": y})


def single(code: int, options: Table = None) -> bytes:
    """Return one operator over ``x`` [1, 6]."""
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 6]), writer.tensor("y", [1, 6])
    writer.operator(code, [x], [y], options)
    return writer.finish({"x": x}, {"y": y})


def with_constant(code: int, values: object, options: Table = None) -> bytes:
    """Return one operator over ``x`` [1, 6] and a constant."""
    writer = TfliteWriter("test")
    x, y = writer.tensor("x", [1, 6]), writer.tensor("y", [1, 6])
    writer.operator(code, [x, writer.constant("c", np.asarray(values, np.float32))], [y], options)
    return writer.finish({"x": x}, {"y": y})


def chosen_with_constant(values: object) -> bytes:
    """Return where ``x`` [1, 6] is above zero ``x``, and a constant elsewhere."""
    writer = TfliteWriter("test")
    x, positive, y = writer.tensor("x", [1, 6]), writer.tensor("positive", [1, 6]), writer.tensor("y", [1, 6])
    zero = writer.constant("zero", np.zeros(1, np.float32))
    other = writer.constant("other", np.asarray(values, np.float32))
    writer.operator(Operator.GREATER, [x, zero], [positive], schema.GreaterOptionsT())
    writer.operator(Operator.SELECT_V2, [positive, x, other], [y], schema.SelectV2OptionsT())
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"x": x}, {"y": y}), 0)
    model.subgraphs[0].tensors[positive].type = schema.TensorType.BOOL
    return pack(model)


def stacked_with_constant() -> bytes:
    """Return ``x`` [1, 6] and a constant beside each other on a new axis."""
    writer = TfliteWriter("test")
    x, y, options = writer.tensor("x", [1, 6]), writer.tensor("y", [1, 2, 6]), schema.PackOptionsT()
    options.axis, options.valuesCount = 1, 2
    writer.operator(Operator.PACK, [x, writer.constant("c", drawn(1, 6))], [y], options)
    return writer.finish({"x": x}, {"y": y})


def embedding() -> bytes:
    """Return rows of a table of 100 by 64 at three int32 indices."""
    writer = TfliteWriter("test")
    x, flat = writer.tensor("x", [1, 3]), writer.tensor("flat", [3])
    rows, y = writer.tensor("rows", [3, 64]), writer.tensor("y", [1, 192])
    shapes = [writer.constant(f"shape{at}", np.array(shape, np.int32)) for at, shape in enumerate([[3], [1, 192]])]
    writer.operator(Operator.RESHAPE, [x, shapes[0]], [flat], schema.ReshapeOptionsT())
    writer.operator(Operator.EMBEDDING_LOOKUP, [flat, writer.constant("table", drawn(100, 64))], [rows])
    writer.operator(Operator.RESHAPE, [rows, shapes[1]], [y], schema.ReshapeOptionsT())
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"x": x}, {"y": y}), 0)
    for index in (x, flat):
        model.subgraphs[0].tensors[index].type = schema.TensorType.INT32
    return pack(model)


def with_first_state(width: int = 6) -> bytes:
    """Return ``x`` W + c V, as the first step of an unrolled recurrent network: c is a constant, and so is c V."""
    writer = TfliteWriter("test")
    x, mine, state, y = (writer.tensor(name, [1, width]) for name in ("x", "mine", "state", "y"))
    for operand, weights, result in (
        (x, drawn(width, width), mine),
        (writer.constant("c", drawn(1, width, seed=3)), drawn(width, width, seed=1), state),
    ):
        inputs = [operand, writer.constant(f"w{result}", weights), -1]
        writer.operator(Operator.FULLY_CONNECTED, inputs, [result], schema.FullyConnectedOptionsT())
    writer.operator(Operator.ADD, [mine, state], [y], schema.AddOptionsT())
    return writer.finish({"x": x}, {"y": y})


def attention() -> bytes:
    """Return the products of each two of four rows of ``x`` [1, 4, 6], both operands computed."""
    writer = TfliteWriter("test")
    x, y, options = writer.tensor("x", [1, 4, 6]), writer.tensor("y", [1, 4, 4]), schema.BatchMatMulOptionsT()
    options.adjY = True
    writer.operator(Operator.BATCH_MATMUL, [x, x], [y], options)
    return writer.finish({"x": x}, {"y": y})


def two_by_two() -> bytes:
    """Return a model with two inputs and two outputs: their sum and their difference."""
    writer = TfliteWriter("test")
    a, b = writer.tensor("tensor_a", [1, 4]), writer.tensor("tensor_b", [1, 4])
    total, difference = writer.tensor("t", [1, 4]), writer.tensor("d", [1, 4])
    writer.operator(Operator.ADD, [a, b], [total], schema.AddOptionsT())
    writer.operator(Operator.SUB, [a, b], [difference], schema.SubOptionsT())
    return writer.finish({"left": a, "right": b}, {"sum": total, "difference": difference})


def lookup() -> bytes:
    """Return a model that takes int32 indices and gives rows of a table, and the indices again."""
    writer = TfliteWriter("test")
    indices = writer.tensor("indices", [1, 3])
    table = writer.constant("table", np.arange(20, dtype=np.float32).reshape(10, 2))
    rows, same = writer.tensor("rows", [1, 3, 2]), writer.tensor("same", [1, 3])
    writer.operator(Operator.GATHER, [table, indices], [rows], schema.GatherOptionsT())
    shape = writer.constant("shape", np.array([1, 3], np.int32))
    writer.operator(Operator.RESHAPE, [indices, shape], [same], schema.ReshapeOptionsT())
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"indices": indices}, {"rows": rows, "same": same}), 0)
    for index in (indices, same):
        model.subgraphs[0].tensors[index].type = schema.TensorType.INT32
    return pack(model)


def recurrent(units: int = 3, *, head: bool = False) -> bytes:
    """Return an LSTM over five steps of four features whose state is kept in the interpreter; a dense head if asked."""
    writer = TfliteWriter("test")
    x, steps = writer.tensor("x", [1, 5, 4]), writer.tensor("steps", [1, 5, units])
    kernels = [writer.constant(f"w{gate}", drawn(units, 4, seed=gate)) for gate in range(4)]
    recurrences = [writer.constant(f"r{gate}", drawn(units, units, seed=4 + gate)) for gate in range(4)]
    biases = [writer.constant(f"b{gate}", np.ones(units, np.float32)) for gate in range(4)]
    state, cell = writer.tensor("state", [1, units]), writer.tensor("cell", [1, units])
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    inputs = [x, *kernels, *recurrences, -1, -1, -1, *biases, -1, -1, state, cell, -1, -1, -1, -1]
    writer.operator(Operator.UNIDIRECTIONAL_SEQUENCE_LSTM, inputs, [steps], options)
    y = _dense_head(writer, steps, units) if head else steps
    model = schema.ModelT.InitFromPackedBuf(writer.finish({"x": x}, {"y": y}), 0)
    for index in (state, cell):
        model.subgraphs[0].tensors[index].isVariable = True
    return pack(model)


def _dense_head(writer: TfliteWriter, steps: int, units: int) -> int:
    y, options = writer.tensor("y", [1, 5, 2]), schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    weights = writer.constant("head", drawn(2, units, seed=9))
    writer.operator(Operator.FULLY_CONNECTED, [steps, weights, -1], [y], options)
    return y


def changed(data: bytes, change: object) -> bytes:
    """Return a model after ``change(table)`` worked on its decoded form."""
    table = schema.ModelT.InitFromPackedBuf(data, 0)
    assert callable(change)
    change(table)
    return pack(table)
