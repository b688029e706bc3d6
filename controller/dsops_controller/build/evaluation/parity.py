"""Compares the float TFLite model with the ONNX model that it was converted from, run by onnxruntime."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from dsops.errors import InvalidModel
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.evaluation.metrics import Difference, DifferenceSums
from dsops_controller.build.litert import LitertModel

MAX_PARITY = 1e-5
"""Relative difference that rounding explains; see :class:`Parity`."""
FRAMES = 32
_TO_FIRST = (0, 3, 1, 2)
"""Order of the axes that makes [N, C, H, W] of [N, H, W, C]."""
_AS_IS = ()
_MAX_LAYOUTS = 4
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_VERSION_FIELD = b"\x08"
"""Tag of ``ModelProto.ir_version`` (field 1, a varint), with which every writer begins."""
_KNOWN_VERSION = 10
_LAST_SHORT = 127
"""The largest varint of one byte."""
_REFUSALS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NotImplemented,
    state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What onnxruntime raises for a model that it cannot load or run."""

SMALLEST_PEAK = 0.01
"""Differences of an output that is smaller than this everywhere are set in relation to this: what is left of a
probability of 1e-5 is the last bit of the sums before it, in which onnxruntime differs from itself."""

Axes = tuple[int, ...]
Shape = Sequence[int | str | None]


@dataclass(frozen=True)
class Parity:
    """How far the float TFLite model is from its ONNX source.

    Attributes:
        frames: Number of frames that were compared.
        outputs: Figures of each output; ``relative`` is the largest difference of any value, over the largest absolute
            value that onnxruntime gives for this output.
    """

    frames: int
    outputs: tuple[Difference, ...]

    @property
    def worst(self) -> Difference:
        """The output with the largest relative difference."""
        return max(self.outputs, key=lambda one: one.relative)

    @property
    def largest_relative(self) -> float:
        """The largest relative difference of any output."""
        return self.worst.relative

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "frames": self.frames,
            "largest_relative": self.largest_relative,
            "outputs": [asdict(one) for one in self.outputs],
        }


def measure_parity(onnx: bytes, float_model: bytes, data: DataSet, frames: int = FRAMES) -> Parity:
    """Run both models on the first frames. Names are those of the ONNX model; images may have their channels last.

    Where a shape does not tell whether its channels are last, such as [1, 8, 8, 8], the order that fits better counts.

    Raises:
        InvalidModel: onnxruntime refuses the ONNX model, or its inputs and outputs are not those of the other.
    """
    few = data.rows(slice(0, frames))
    model = LitertModel(float_model)
    got = model.run(few.inputs)
    source = _Source(onnx)
    inputs = {spec.name: source.layouts(spec.name, spec.shape, "input") for spec in model.inputs}
    choices = itertools.islice(itertools.product(*inputs.values()), _MAX_LAYOUTS)
    found = (_compare(source, few, got, dict(zip(inputs, choice, strict=True))) for choice in choices)
    return min((Parity(len(few), outputs) for outputs in found), key=lambda one: one.largest_relative)


def _compare(
    source: "_Source", data: DataSet, got: Mapping[str, Array], layouts: Mapping[str, Axes]
) -> tuple[Difference, ...]:
    candidates = {name: source.layouts(name, values.shape, "output") for name, values in got.items()}
    sums = {(name, axes): DifferenceSums(name, SMALLEST_PEAK) for name, orders in candidates.items() for axes in orders}
    for row, expected in enumerate(source.run(data, layouts, tuple(got))):
        for (name, axes), one in sums.items():
            one.add(expected[name], _moved(got[name][row : row + 1], axes))
    results = {key: one.result() for key, one in sums.items()}
    return tuple(
        min((results[name, axes] for axes in orders), key=lambda one: one.relative)
        for name, orders in candidates.items()
    )


class _Source:
    """The ONNX model in onnxruntime, one thread."""

    def __init__(self, data: bytes) -> None:
        self._session = _session(data)
        ends = (("input", self._session.get_inputs()), ("output", self._session.get_outputs()))
        self._shapes = {(kind, one.name): one.shape for kind, entries in ends for one in entries}
        self._dtypes = {one.name: _DTYPES.get(one.type, np.float32) for one in self._session.get_inputs()}

    def layouts(self, name: str, shape: Sequence[int], kind: str) -> tuple[Axes, ...]:
        """Return the orders in which TFLite's axes of an input or output may stand for ONNX's.

        Raises:
            InvalidModel: There are none, or no such input or output.
        """
        if (kind, name) not in self._shapes:
            raise InvalidModel(f"the ONNX model has no {kind} {name!r}", why="the float model has one")
        wanted = self._shapes[kind, name]
        orders = [_TO_FIRST, _AS_IS] if len(shape) == 4 else [_AS_IS]
        found = tuple(axes for axes in orders if _fits([shape[axis] for axis in axes] or shape, wanted))
        if not found:
            raise InvalidModel(
                f"{kind} {name!r} has other shapes in the ONNX model and in the float model",
                why=f"{list(wanted)} and {list(shape)}",
            )
        return found

    def run(self, data: DataSet, layouts: Mapping[str, Axes], outputs: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Yield the outputs of one frame after another.

        Raises:
            InvalidModel: onnxruntime cannot run the model.
        """
        for row in range(len(data)):
            feed: dict[str, Array] = {
                name: np.ascontiguousarray(_moved(values[row : row + 1], layouts[name]), self._dtypes[name])
                for name, values in data.inputs.items()
            }
            try:
                values = self._session.run(list(outputs), feed)
            except _REFUSALS as error:
                raise _refused(error) from error
            yield dict(zip(outputs, values, strict=True))


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(_of_known_version(data), options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        raise _refused(error) from error


def _of_known_version(data: bytes) -> bytes:
    """Return a model in a version of the file format that onnxruntime reads.

    Exporters write the newest version that they know, long before onnxruntime knows it; what operators mean is said by
    the operator sets, not by this number.
    """
    if len(data) < 2 or data[:1] != _VERSION_FIELD or data[1] <= _KNOWN_VERSION or data[1] > _LAST_SHORT:
        return data
    return _VERSION_FIELD + bytes([_KNOWN_VERSION]) + data[2:]


def _refused(error: Exception) -> InvalidModel:
    why = str(error).split("\n", 1)[0]
    return InvalidModel(
        "onnxruntime cannot run the source model", why=why, hint="export it again, or update onnxruntime"
    )


def _fits(shape: Sequence[int], wanted: Shape) -> bool:
    """Say whether a shape, but for its first axis, is what ONNX declares; an axis without a number takes any size."""
    if wanted is None or len(wanted) == 0:
        return True
    if len(shape) != len(wanted):
        return False
    return all(not isinstance(b, int) or a == b for a, b in zip(shape[1:], wanted[1:], strict=True))


def _moved(values: Array, axes: Axes) -> Array:
    return values.transpose(axes) if axes else values
