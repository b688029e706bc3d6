"""Recognizes operators that exporters wrote out in parts."""

import math
from collections.abc import Iterable, Mapping

from dsops_controller.build.conversion.graph import Array, Node, OnnxGraph

_TOLERANCE = 1e-4


def recognize(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with each 0.5 x (1 + erf(x / sqrt(2))) as one Gelu; TFLite has that, and no Erf."""
    replaced: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        found = _gelu(graph, node) if node.operator == "Erf" else None
        if found is not None:
            last, parts = found
            replaced[last.output] = last
            gone |= parts
    if not replaced:
        return graph
    nodes = [replaced.get(node.output, node) for node in graph.nodes if node.output not in gone]
    return OnnxGraph(nodes, graph.constants, graph.inputs, graph.outputs)


def _gelu(graph: OnnxGraph, erf: Node) -> tuple[Node, set[str]] | None:
    """Return the Gelu that takes the place of the last node, and the outputs of the nodes before it."""
    source = _scaled_source(graph, erf)
    one = _next(graph, erf, "Add")
    if source is None or one is None or not _has(graph.constants, one, 1.0):
        return None
    factors = [part for part in (_next(graph, one, "Mul"),) if part]
    half_source = _halves(graph, source)
    if factors and set(factors[0].inputs) & half_source:
        last = factors[0]
    elif factors and source in factors[0].inputs:
        following = _next(graph, factors[0], "Mul")
        if following is None or not _has(graph.constants, following, 0.5):
            return None
        last = following
    elif factors and _has(graph.constants, factors[0], 0.5):
        following = _next(graph, factors[0], "Mul")
        if following is None or source not in following.inputs:
            return None
        factors.append(following)
        last = following
    else:
        return None
    gone = {erf.output, one.output, factors[0].output} - {last.output}
    return Node(last.name, "Gelu", (source,), (last.output,), {"approximate": b"none"}, last.opset), gone


def _scaled_source(graph: OnnxGraph, erf: Node) -> str | None:
    """Return x when a node computes erf(x / sqrt(2))."""
    node = graph.producer(erf.input(0))
    factor = {"Div": math.sqrt(2.0), "Mul": math.sqrt(0.5)}.get(node.operator) if node else None
    if node is None or factor is None or len(node.inputs) != 2 or not _has(graph.constants, node, factor):
        return None
    return next((name for name in node.inputs if name not in graph.constants), None)


def _halves(graph: OnnxGraph, source: str) -> set[str]:
    """Return the tensors that are half of another."""
    return {
        node.output
        for node in graph.consumers(source)
        if (node.operator == "Mul" and _has(graph.constants, node, 0.5))
        or (node.operator == "Div" and _has(graph.constants, node, 2.0))
    }


def _next(graph: OnnxGraph, node: Node, operator: str) -> Node | None:
    reader = graph.only_consumer(node.output)
    return reader if reader is not None and reader.operator == operator else None


def _has(constants: Mapping[str, Array], node: Node, number: float) -> bool:
    """Say whether one operand of a node is a number."""
    given: Iterable[Array] = (constants[name] for name in node.inputs if name in constants)
    return any(
        values.size == 1 and math.isclose(float(values.reshape(())), number, rel_tol=_TOLERANCE) for values in given
    )
