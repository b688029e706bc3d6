"""Rules for operators that run other subgraphs, when they are admitted at all."""

from collections.abc import Sequence

from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.model import Model, Operator, SubGraph
from dsops.tflite_lint.schema import Op

_FIRST, _SECOND = 0, 1


def check_control(model: Model) -> None:
    """Check that the subgraphs which operators run exist, fit them, and never run themselves.

    Raises:
        InvalidModel: One does not.
    """
    calls = {graph.index: _calls_of(model, graph) for graph in model.subgraphs}
    settled: set[int] = set()
    while len(settled) < len(calls):
        ready = {index for index, called in calls.items() if index not in settled and called <= settled}
        if not ready:
            raise unsound("the file", "a subgraph runs itself, through others or at once")
        settled |= ready


def _calls_of(model: Model, graph: SubGraph) -> set[int]:
    return {called for operator in graph.operators for called in _called(model, graph, operator)}


def _called(model: Model, graph: SubGraph, operator: Operator) -> Sequence[int]:
    op, options = operator.kind.op, operator.options
    if op not in {Op.IF, Op.WHILE, Op.CALL_ONCE}:
        return ()
    if options is None:
        raise unsound(operator.where, "it has no options")
    called = [options.int32(field) for field in ((_FIRST,) if op is Op.CALL_ONCE else (_FIRST, _SECOND))]
    for index in called:
        if not 0 <= index < len(model.subgraphs):
            raise unsound(operator.where, f"it runs subgraph {index} of {len(model.subgraphs)}")
    graphs = [model.subgraphs[index] for index in called]
    if op is Op.IF:
        _check_if(operator, graph, graphs)
    elif op is Op.WHILE:
        _check_while(operator, graph, *graphs)
    elif graphs[0].inputs or graphs[0].outputs or operator.inputs or operator.outputs:
        raise unsound(operator.where, "what runs once has no inputs and no outputs")
    return called


def _check_if(operator: Operator, graph: SubGraph, branches: Sequence[SubGraph]) -> None:
    if not operator.inputs:
        raise unsound(operator.where, "it has no condition")
    for branch in branches:
        _check_types(operator, graph, operator.inputs[1:], branch, branch.inputs)
        _check_types(operator, graph, operator.outputs, branch, branch.outputs)


def _check_while(operator: Operator, graph: SubGraph, condition: SubGraph, body: SubGraph) -> None:
    _check_types(operator, graph, operator.inputs, condition, condition.inputs)
    _check_types(operator, graph, operator.inputs, body, body.inputs)
    _check_types(operator, graph, operator.outputs, body, body.outputs)
    if len(operator.inputs) != len(operator.outputs) or len(condition.outputs) != 1:
        raise unsound(operator.where, "its inputs and outputs differ, or its condition is not one value")


def _check_types(
    operator: Operator, graph: SubGraph, own: Sequence[int], other: SubGraph, theirs: Sequence[int]
) -> None:
    if len(own) != len(theirs) or any(
        index < 0 or graph.tensors[index].dtype is not other.tensors[far].dtype
        for index, far in zip(own, theirs, strict=True)
    ):
        raise unsound(operator.where, f"its tensors are not those of {other.where}")
