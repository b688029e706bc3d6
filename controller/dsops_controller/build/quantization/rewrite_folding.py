"""Replaces operators that compute the same whatever the input is by their results.

An unrolled recurrent network begins with such ones: its first state is a constant. The quantizer takes a constant
operand for weights, stores it as int8, and the runtime refuses the file.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from dsops.errors import InvalidModel
from dsops_controller.build.data import Array
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quantization.rewrite_model import Rewriting
from dsops_controller.build.quiet import quiet

_FOLDED_TYPES = (schema.TensorType.FLOAT32, schema.TensorType.INT32)
_MAX_VALUES = 1 << 20
"""A larger result is computed when the model runs, rather than stored in the file."""


def fold_constants(data: bytes) -> bytes:
    """Return the model without the operators all of whose operands are constants; as it is when there are none.

    The values are those that LiteRT computes. The model's weights are inside its FlatBuffer.

    Raises:
        InvalidModel: The model cannot be run.
    """
    graph = Graph(data)
    places, tensors = _foldable(graph)
    if not places:
        return data
    rewriting = Rewriting(data)
    for index, values in _computed(data, tensors).items():
        rewriting.make_constant(index, values)
    kept = [entry for place, entry in enumerate(rewriting.graph.operators) if place not in places]
    rewriting.graph.operators = kept
    return rewriting.finish()


def _foldable(graph: Graph) -> tuple[set[int], list[int]]:
    """Return the places of the operators and the tensors that they write."""
    constant = {index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    places, tensors = set[int](), list[int]()
    for place, operator in enumerate(graph.operators):
        operands = [index for index in operator.inputs if index >= 0]
        if not operands or not constant.issuperset(operands) or not _is_plain(graph, operator.outputs):
            continue
        places.add(place)
        tensors += operator.outputs
        constant.update(operator.outputs)
    return places, tensors


def _is_plain(graph: Graph, written: tuple[int, ...]) -> bool:
    """Say whether results can be stored: of a known type, not too large, and no outputs of the model."""
    found = [graph.tensors[index] for index in written]
    return not set(written) & set(graph.outputs) and all(
        tensor.type in _FOLDED_TYPES and 0 < tensor.size <= _MAX_VALUES for tensor in found
    )


def _computed(data: bytes, tensors: list[int]) -> dict[int, Array]:
    try:
        with quiet():  # it warns that keeping every tensor takes memory
            interpreter = Interpreter(model_content=data, num_threads=1, experimental_preserve_all_tensors=True)
            interpreter.allocate_tensors()
            for entry in interpreter.get_input_details():
                interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
            interpreter.invoke()
        return {index: interpreter.get_tensor(index).copy() for index in tensors}
    except (ValueError, RuntimeError) as error:
        raise InvalidModel("LiteRT cannot run the model", why=str(error).split("\n", 1)[0]) from error
