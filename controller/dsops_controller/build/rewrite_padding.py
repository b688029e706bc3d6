"""Brings PADV2 into the form that the quantizer can take.

Its padding value must have no axes, or the quantizer fails ("Ranks of scales"); and when it is the lowest float, as
converters write it before a maximum, it must be minus infinity, or it becomes a part of the range and every value
rounds to zero, without an error.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.quant_graph import Graph
from dsops_controller.build.tflite_writer import Table, pack

_LOWEST = -3e38
"""A value below this stands for minus infinity."""


def rewrite_paddings(data: bytes) -> bytes:
    """Return the model with the constant float value of each PADV2 written in that form.

    The model's weights are inside its FlatBuffer.
    """
    if not any(operator.name == "PADV2" for operator in Graph(data).operators):
        return data
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    for operator, entry in zip(Graph(data).operators, graph.operators, strict=True):
        if operator.name == "PADV2":
            _rewrite(model, graph, entry)
    return pack(model)


def _rewrite(model: Table, graph: Table, entry: Table) -> None:
    source = graph.tensors[entry.inputs[2]]
    values = model.buffers[source.buffer].data
    if values is None or source.type != schema.TensorType.FLOAT32:
        return
    value = np.frombuffer(np.asarray(values, np.uint8).tobytes(), np.float32)[:1]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.where(value < _LOWEST, -np.inf, value).astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.hasRank = f"padding_value_{len(graph.tensors)}", [], True
    tensor.type, tensor.buffer = schema.TensorType.FLOAT32, len(model.buffers) - 1
    graph.tensors.append(tensor)
    entry.inputs = [*entry.inputs[:2], len(graph.tensors) - 1]
