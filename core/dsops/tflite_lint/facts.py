"""What a sound model is: the facts that a reader, a preflight or a report may want."""

from collections import Counter
from dataclasses import dataclass

from dsops.tflite_lint.checks_signatures import SignatureNames
from dsops.tflite_lint.model import Model, SubGraph, Tensor
from dsops.tflite_lint.schema import Op

_MIN_RUNTIME = "min_runtime_version"


@dataclass(frozen=True)
class OperatorUse:
    """A kind of operator, its version in the file, and how often the model uses it."""

    name: str
    version: int
    count: int


@dataclass(frozen=True)
class TensorFacts:
    """An input or output. ``shape`` has -1 where a size may be chosen when the model runs."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a model is.

    Attributes:
        operators: Kinds of operators by name, of all subgraphs.
        inputs: Of the first subgraph, in its order, with the first signature's names where there is one.
        outputs: Likewise.
        subgraphs: Number of subgraphs.
        tensors: Number of tensors of all subgraphs.
        parameter_bytes: Bytes of all constants.
        activation_elements: Elements of all tensors that are no constants; a runtime needs less, as it reuses memory.
        custom_operators: Names of the custom operators, sorted.
        min_runtime: The oldest runtime that the converter knows to run the model; empty when it does not say.
        description: The converter's words.
        trailing_bytes: Length of what follows the FlatBuffer.
    """

    operators: tuple[OperatorUse, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    subgraphs: int
    tensors: int
    parameter_bytes: int
    activation_elements: int
    custom_operators: tuple[str, ...]
    min_runtime: str
    description: str
    trailing_bytes: int


def gather_facts(
    model: Model, names: SignatureNames, metadata: dict[str, int], activation_elements: int, trailing_bytes: int
) -> Facts:
    """Return the facts of a model that was found sound. ``metadata`` maps names to buffers."""
    kinds = Counter(operator.kind for graph in model.subgraphs for operator in graph.operators)
    uses = [OperatorUse(kind.name, kind.version, count) for kind, count in kinds.items()]
    first = model.subgraphs[0]
    return Facts(
        operators=tuple(sorted(uses, key=lambda use: (use.name, use.version))),
        inputs=_tensor_facts(first, first.inputs, names.inputs),
        outputs=_tensor_facts(first, first.outputs, names.outputs),
        subgraphs=len(model.subgraphs),
        tensors=sum(len(graph.tensors) for graph in model.subgraphs),
        parameter_bytes=sum({buffer.start: buffer.length for buffer in model.buffers}.values()),
        activation_elements=activation_elements,
        custom_operators=tuple(sorted({kind.custom for kind in kinds if kind.op is Op.CUSTOM})),
        min_runtime=_min_runtime(model, metadata),
        description=model.description,
        trailing_bytes=trailing_bytes,
    )


def _tensor_facts(graph: SubGraph, indices: tuple[int, ...], names: dict[int, str]) -> tuple[TensorFacts, ...]:
    return tuple(_facts_of(graph.tensors[index], names.get(index, "")) for index in indices)


def _facts_of(tensor: Tensor, name: str) -> TensorFacts:
    shape = tensor.shape if tensor.dims is None else tuple(-1 if size is None else size for size in tensor.dims)
    return TensorFacts(name or tensor.name, tensor.dtype.name, shape)


def _min_runtime(model: Model, metadata: dict[str, int]) -> str:
    """Return the version that the converter left as metadata: text, padded with zero bytes."""
    if _MIN_RUNTIME not in metadata:
        return ""
    buffer = model.buffers[metadata[_MIN_RUNTIME]]
    text = model.root.data(buffer.start, min(buffer.length, 64))
    return text.split(b"\0", 1)[0].decode("ascii", "replace")
