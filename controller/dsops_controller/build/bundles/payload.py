"""What a payload's file holds: its operators, and where each weight is. Reads bytes, runs nothing."""

import math
from collections import Counter
from dataclasses import dataclass

from dsops.tflite_lint.flatbuffer import Reader
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import ModelReader, Tensor
from dsops.tflite_lint.schema import DType

_NOT_PARAMETERS = frozenset({DType.INT64, DType.STRING, DType.BOOL, DType.RESOURCE, DType.VARIANT})


@dataclass(frozen=True)
class Weight:
    """One constant tensor: ``start`` and ``length_bytes`` say where its values are in the file.

    ``scales`` and ``zero_points`` have one number, or one a slice along ``axis``, or none when the values are real.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length_bytes: int
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Payload:
    """A payload's structure.

    Attributes:
        operators: How often each operator is there, by its name, sorted.
        custom_operators: Those of them that are not of TFLite.
        tensors: Number of tensors.
        parameters: Number of values that were trained: weights and biases, no shapes or axes.
        weights: Every constant, in the file's order of tensors; two may share their bytes.
    """

    operators: dict[str, int]
    custom_operators: tuple[str, ...]
    tensors: int
    parameters: int
    weights: tuple[Weight, ...]

    @property
    def weight_bytes(self) -> int:
        """Length of all constants; bytes that several share count once."""
        return sum(length for _, length in {(weight.start, weight.length_bytes) for weight in self.weights})

    def as_dict(self) -> dict[str, object]:
        """Return the figures, without the single weights."""
        return {
            "operators": self.operators,
            "custom_operators": list(self.custom_operators),
            "tensors": self.tensors,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
        }


def read_payload(data: bytes) -> Payload:
    """Read a payload's structure. Whether it is sound is the lint's business.

    Raises:
        InvalidModel: It is not a TFLite file, or damaged.
    """
    limits = LintLimits()
    reader = Reader(data, limits.work)
    model = ModelReader(reader, limits).read(reader.root())
    operators = [operator.kind for graph in model.subgraphs for operator in graph.operators]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    constants = [tensor for tensor in tensors if tensor.buffer.length]
    trained = {tensor.buffer.start: tensor.elements for tensor in constants if _is_trained(tensor)}
    return Payload(
        operators=dict(sorted(Counter(kind.name for kind in operators).items())),
        custom_operators=tuple(sorted({kind.custom for kind in operators if kind.custom})),
        tensors=len(tensors),
        parameters=sum(trained.values()),
        weights=tuple(_weight(tensor) for tensor in constants),
    )


def _weight(tensor: Tensor) -> Weight:
    quantization = tensor.quantization
    return Weight(
        name=tensor.name,
        dtype=tensor.dtype.name,
        shape=tensor.shape,
        start=tensor.buffer.start,
        length_bytes=tensor.buffer.length,
        scales=tuple(float(scale) for scale in quantization.scales) if quantization else (),
        zero_points=tuple(int(zero) for zero in quantization.zero_points) if quantization else (),
        axis=quantization.axis if quantization else 0,
    )


def _is_trained(tensor: Tensor) -> bool:
    """Say whether a constant was trained: real or quantized values, and no integers that steer an operator."""
    if tensor.dtype is DType.INT32:
        return tensor.quantization is not None and len(tensor.quantization.scales) > 0
    return tensor.dtype not in _NOT_PARAMETERS
