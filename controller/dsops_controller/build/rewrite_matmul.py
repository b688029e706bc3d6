"""Turns BATCH_MATMUL with constant weights into FULLY_CONNECTED, for which static quantization is right.

The quantizer gives the weights of a BATCH_MATMUL a scale for each channel, and the kernel reads the first one only: the
result is zeros, without an error.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops_controller.build.tflite_writer import Table, pack

_MATMUL = schema.BuiltinOperator.BATCH_MATMUL
_FULLY_CONNECTED = schema.BuiltinOperator.FULLY_CONNECTED


def rewrite_matmuls(data: bytes) -> bytes:
    """Return the model with each BATCH_MATMUL replaced whose second operand is one constant float matrix.

    Those with two computed operands, with several constant matrices, or with a transposed first operand stay.
    The model's weights are inside its FlatBuffer.
    """
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    found = [entry for entry in graph.operators if codes[entry.opcodeIndex] == _MATMUL]
    rewritten = [entry for entry in found if _rewrite(model, graph, entry)]
    return pack(model) if rewritten else data


def _rewrite(model: Table, graph: Table, entry: Table) -> bool:
    weights = graph.tensors[entry.inputs[1]]
    values = model.buffers[weights.buffer].data
    options = entry.builtinOptions
    if values is None or weights.type != schema.TensorType.FLOAT32 or (options is not None and options.adjX):
        return False
    *outer, rows, columns = (int(size) for size in weights.shape)
    if any(size != 1 for size in outer) or len(graph.tensors[entry.inputs[0]].shape) < 2:
        return False
    matrix = np.frombuffer(np.asarray(values, np.uint8).tobytes(), np.float32).reshape(rows, columns)
    transposed = matrix if options is not None and options.adjY else matrix.T
    replacement = _add_constant(model, graph, weights, transposed)
    _drop_if_unused(model, graph, entry)
    entry.inputs = [entry.inputs[0], replacement, -1]
    entry.opcodeIndex = _operator_code(model)
    entry.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    entry.builtinOptions = schema.FullyConnectedOptionsT()
    entry.builtinOptions.keepNumDims = True
    return True


def _add_constant(model: Table, graph: Table, source: Table, matrix: NDArray[np.float32]) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(matrix).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = _text(source.name) + f"_rows{len(graph.tensors)}"
    tensor.shape, tensor.hasRank = [int(size) for size in matrix.shape], True
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _drop_if_unused(model: Table, graph: Table, entry: Table) -> None:
    """Empty the buffer of an operator's weights when nothing else reads it."""
    index = entry.inputs[1]
    buffer = graph.tensors[index].buffer
    sharing = {
        number for part in model.subgraphs for number, tensor in enumerate(part.tensors) if tensor.buffer == buffer
    }
    readers = sum(index in other.inputs for other in graph.operators)
    if readers == 1 and sharing == {index} and index not in graph.outputs:
        model.buffers[buffer].data = None


def _operator_code(model: Table) -> int:
    """Return the index of FULLY_CONNECTED among the model's operator codes; it is added when it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == _FULLY_CONNECTED and not code.customCode:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _FULLY_CONNECTED
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
