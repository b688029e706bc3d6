"""Takes a TFLite model apart into models of one operator each, so that each can be timed by itself.

LiteRT's interpreter offers no profile to Python. One operator by itself runs the same kernel on the same shapes and
weights, but with its inputs in the cache as its own run left them, and without being fused with its neighbours: the
times say which operators dominate, and do not add up to the model's latency.
"""

import copy
from collections.abc import Iterator

from ai_edge_litert import schema_py_generated as schema

from dsops_controller.build.conversion.tflite_writer import DAMAGE, Table, pack
from dsops_controller.build.quantization.rewrite_buffers import inline_buffers


def single_operators(model: bytes) -> Iterator[bytes | None]:
    """Yield a model for each operator of the first graph, in order; None for one that cannot stand by itself."""
    table = schema.ModelT.InitFromPackedBuf(inline_buffers(model), 0)
    for operator in table.subgraphs[0].operators or ():
        try:
            yield _alone(table, operator)
        except DAMAGE:
            yield None


def _alone(model: Table, operator: Table) -> bytes | None:
    tensors = model.subgraphs[0].tensors
    used = sorted({int(index) for index in (*operator.inputs, *operator.outputs) if index >= 0})
    places = {index: place for place, index in enumerate(used)}
    if not len(operator.outputs):
        return None
    graph = schema.SubGraphT()
    entry = copy.copy(operator)
    entry.opcodeIndex = 0
    entry.inputs = [places.get(int(index), -1) for index in operator.inputs]
    entry.outputs = [places[int(index)] for index in operator.outputs]
    entry.intermediates = None
    buffers = [schema.BufferT()]
    graph.tensors = [_kept(tensors[index], model.buffers, buffers) for index in used]
    graph.operators, graph.outputs = [entry], entry.outputs
    graph.inputs = [
        place
        for place in dict.fromkeys(entry.inputs)
        if place >= 0 and graph.tensors[place].buffer == 0 and not graph.tensors[place].isVariable
    ]
    return pack(_model_of(model, operator, graph, buffers))


def _kept(tensor: Table, buffers: list[Table], kept: list[Table]) -> Table:
    """Return a tensor whose constant, if it has one, is moved into the buffers that are kept."""
    entry = copy.copy(tensor)
    data = buffers[tensor.buffer].data
    entry.buffer = 0
    if data is not None and len(data):
        entry.buffer = len(kept)
        kept.append(copy.copy(buffers[tensor.buffer]))
    return entry


def _model_of(model: Table, operator: Table, graph: Table, buffers: list[Table]) -> Table:
    single = schema.ModelT()
    single.version, single.subgraphs, single.buffers = model.version, [graph], buffers
    single.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    return single
