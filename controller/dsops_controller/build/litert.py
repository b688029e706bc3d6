"""Runs a TFLite model on this machine, as a device would, to evaluate it."""

import statistics
import time
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from dsops.errors import InvalidModel
from dsops.manifest import Dtype, TensorSpec
from dsops_controller.build.arrays import Floats, check_frames
from dsops_controller.build.quiet import quiet

WARM_UP = 20
REPEATS = 200
Stored = NDArray[np.generic]
"""A tensor's values as it stores them: float32, int8, uint8 or int16."""

_DATATYPES: dict[np.dtype[np.generic], Dtype] = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.int8): "INT8",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int16): "INT16",
}
_LIMITS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767)}


class LitertModel:
    """One model with one input of batch 1 and one output, in an interpreter of its own, on one thread.

    Args:
        data: The TFLite file.
        reference_kernels: Use the plain kernels, whose int8 results are the same on every processor.

    Raises:
        InvalidModel: LiteRT refuses the file, or its inputs and outputs are not as above.
    """

    def __init__(self, data: bytes, *, reference_kernels: bool = False) -> None:
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if reference_kernels else OpResolverType.AUTO
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=data, num_threads=1, experimental_op_resolver_type=resolver
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InvalidModel("LiteRT cannot load the model", why=str(error).split("\n", 1)[0]) from error
        self._input = _only(self._interpreter.get_input_details(), "inputs")
        self._output = _only(self._interpreter.get_output_details(), "outputs")
        self.input = _spec(self._input)
        self.output = _spec(self._output)
        if self.input.shape[:1] != (1,):
            raise InvalidModel(f"the model's input has shape {list(self.input.shape)}", why="a batch of 1 is needed")

    def run(self, x: Floats) -> Floats:
        """Return the real-valued outputs float32 [N, ...] of frames float32 [N, ...].

        Raises:
            InvalidInput: The frames are not what the model takes.
            InvalidModel: The model cannot be run.
        """
        check_frames(x, "the data", self.input.shape[1:])
        return np.concatenate([self._run_one(frame) for frame in x])

    def median_latency_us(self, x: Floats, repeats: int = REPEATS) -> float:
        """Return the median time of one inference in microseconds, setting input and reading output included."""
        check_frames(x, "the data", self.input.shape[1:])
        stored = [self._store(frame) for frame in x[:repeats]]
        taken = [self._timed_us(stored[number % len(stored)]) for number in range(WARM_UP + repeats)]
        return statistics.median(taken[WARM_UP:])

    def _run_one(self, frame: Floats) -> Floats:
        try:
            return dequantize(self._invoke(self._store(frame)), self.output)
        except (ValueError, RuntimeError) as error:
            raise InvalidModel("LiteRT cannot run the model", why=str(error).split("\n", 1)[0]) from error

    def _timed_us(self, stored: Stored) -> float:
        start = time.perf_counter_ns()
        self._invoke(stored)
        return (time.perf_counter_ns() - start) / 1e3

    def _invoke(self, stored: Stored) -> Stored:
        self._interpreter.set_tensor(self._input["index"], stored)
        self._interpreter.invoke()
        result: Stored = self._interpreter.get_tensor(self._output["index"])
        return result

    def _store(self, frame: Floats) -> Stored:
        return quantize_frame(frame[None], self.input)


def quantize_frame(x: Floats, spec: TensorSpec) -> Stored:
    """Return real values as a tensor stores them; what lies outside its range is clipped, not wrapped around."""
    if spec.datatype == "FP32":
        return x.astype(np.float32)
    dtype = next(dtype for dtype, name in _DATATYPES.items() if name == spec.datatype)
    low, high = _LIMITS[spec.datatype]
    stored: Stored = np.clip(np.rint(x / np.float32(spec.scale)) + spec.zero_point, low, high).astype(dtype)
    return stored


def dequantize(stored: Stored, spec: TensorSpec) -> Floats:
    """Return a tensor's real values."""
    if spec.datatype == "FP32":
        return np.asarray(stored, np.float32)
    return np.asarray((stored.astype(np.float32) - spec.zero_point) * np.float32(spec.scale), np.float32)


def _only(details: list[dict[str, Any]], what: str) -> dict[str, Any]:
    if len(details) != 1:
        raise InvalidModel(f"the model has {len(details)} {what}", why="one is supported")
    return details[0]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    datatype = _DATATYPES.get(np.dtype(detail["dtype"]))
    if datatype is None:
        raise InvalidModel(f"tensor {detail['name']!r} is {np.dtype(detail['dtype'])}")
    scale, zero_point = detail["quantization"]
    if datatype != "FP32" and not scale > 0.0:
        raise InvalidModel(f"tensor {detail['name']!r} is {datatype} without a scale")
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(
        name=detail["name"], datatype=datatype, shape=shape, scale=float(scale), zero_point=int(zero_point)
    )


def require_labels(model: LitertModel, labels_count: int) -> None:
    """Check that a model scores each label once.

    Raises:
        InvalidModel: Its output does not match its labels.
    """
    if model.output.shape != (1, labels_count):
        raise InvalidModel(
            "a model whose output does not match its labels",
            why=f"the output has shape {list(model.output.shape)}, and there are {labels_count} labels",
            hint="give one label for each score, in the order of the scores",
        )
