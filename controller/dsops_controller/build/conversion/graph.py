"""An ONNX graph in a plain form: nodes with decoded attributes, constants, inputs, outputs, consumers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.errors import UnsupportedModel

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operation.

    ``inputs`` may hold empty names, as ONNX writes absent optional inputs. ``attributes`` holds the defaults of the
    operator's specification for what the file leaves out.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def output(self) -> str:
        """The first output's name."""
        return self.outputs[0]

    def input(self, position: int) -> str:
        """Return an input's name, empty when it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def text(self, attribute: str, default: str = "") -> str:
        """Return a text attribute."""
        value = self.attributes.get(attribute, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def refuse(self, why: str) -> UnsupportedModel:
        """Return the error that names this node and what cannot be converted about it."""
        return UnsupportedModel(
            f"cannot convert {self.operator} (node {self.name!r})", why=why, operator=self.operator, node=self.name
        )


@dataclass(frozen=True)
class GraphInput:
    """One input of the model. Its first axis is the batch, which is 1."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]


class OnnxGraph:
    """Nodes in the order in which they run, without those on which no output depends.

    Args:
        nodes: Every node in the order of the file, which is an order in which they can run.
        constants: Values that are known before the model runs, by name.
        inputs: The inputs.
        outputs: The names of the outputs.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        constants: Mapping[str, Array],
        inputs: Sequence[GraphInput],
        outputs: Sequence[str],
    ) -> None:
        self.constants = dict(constants)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._ends = frozenset(outputs)
        self.nodes = _needed(nodes, outputs)
        self._producers = {name: node for node in self.nodes for name in node.outputs}
        self._consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self._consumers.setdefault(name, []).append(node)

    def producer(self, name: str) -> Node | None:
        """Return the node that computes a tensor, or nothing for an input or a constant."""
        return self._producers.get(name)

    def consumers(self, name: str) -> tuple[Node, ...]:
        """Return the nodes that read a tensor, each once."""
        return tuple(self._consumers.get(name, ()))

    def only_consumer(self, name: str) -> Node | None:
        """Return the one node that reads a tensor, or nothing when several do or when it is an output of the model."""
        readers = self._consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._ends else None


def _needed(nodes: Iterable[Node], outputs: Iterable[str]) -> list[Node]:
    """Return the nodes on which an output depends."""
    wanted, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.outputs):
            wanted.update(name for name in node.inputs if name)
            kept.append(node)
    return kept[::-1]
