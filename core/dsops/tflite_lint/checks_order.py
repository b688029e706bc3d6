"""Rules for a graph: who writes a tensor, and that it is written before it is read."""

from collections.abc import Iterable

from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.model import Model, Operator, SubGraph
from dsops.tflite_lint.schema import DType

LEFT_OUT = -1
"""Index that stands for an optional input which is left out."""


def check_order(model: Model) -> None:
    """Check that each graph can run from its first operator to its last.

    Raises:
        InvalidModel: A tensor does not exist, is read before it is written, is written twice, or is a constant and
            written.
    """
    if not model.subgraphs:
        raise unsound("the file", "it has no subgraph")
    for graph in model.subgraphs:
        _check_graph(graph)


def _check_graph(graph: SubGraph) -> None:
    _check_indices(graph.inputs, graph, graph.where, "input")
    _check_indices(graph.outputs, graph, graph.where, "output")
    if not graph.outputs and graph.index == 0:
        raise unsound(graph.where, "it has no output")
    constants = {tensor.index for tensor in graph.tensors if tensor.is_constant}
    variables = {tensor.index for tensor in graph.tensors if tensor.is_variable}
    if len(set(graph.inputs)) != len(graph.inputs) or not constants.isdisjoint(graph.inputs):
        raise unsound(graph.where, "an input is named twice, or is a constant")
    if any(not graph.tensors[index].elements for index in graph.inputs):
        raise unsound(graph.where, "an input has no elements")
    written = constants | variables | set(graph.inputs)
    ready = written | {tensor.index for tensor in graph.tensors if not tensor.elements}
    for operator in graph.operators:
        _check_reads(operator, graph, ready)
        _check_writes(operator, graph, written)
        written.update(operator.outputs)
        ready.update(operator.outputs)
    for place, index in enumerate(graph.outputs):
        if index not in ready:
            raise unsound(graph.where, f"output {place}, tensor {index}, is never written")


def _check_reads(operator: Operator, graph: SubGraph, ready: set[int]) -> None:
    where = operator.where
    _check_indices((i for i in operator.inputs if i != LEFT_OUT), graph, where, "input")
    _check_indices(operator.intermediates, graph, where, "intermediate")
    if operator.mutated not in {0, len(operator.inputs)}:
        raise unsound(
            where, f"it says of {operator.mutated} of its {len(operator.inputs)} inputs whether it changes them"
        )
    for place, index in enumerate(operator.inputs):
        if index != LEFT_OUT and index not in ready:
            raise unsound(where, f"input {place}, tensor {index}, is read before anything writes it")


def _check_writes(operator: Operator, graph: SubGraph, written: set[int]) -> None:
    where = operator.where
    _check_indices(operator.outputs, graph, where, "output")
    for place, index in enumerate(operator.outputs):
        if index in written and graph.tensors[index].dtype is not DType.RESOURCE:
            raise unsound(where, f"output {place}, tensor {index}, is a constant, an input, or was written before")
    if len(set(operator.outputs)) != len(operator.outputs):
        raise unsound(where, "it writes a tensor twice")


def _check_indices(indices: Iterable[int], graph: SubGraph, where: str, what: str) -> None:
    count = len(graph.tensors)
    for place, index in enumerate(indices):
        if not 0 <= index < count:
            raise unsound(where, f"{what} {place} names tensor {index} of {count}")
