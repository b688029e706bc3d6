"""Runs a TFLite model on this machine, as a device would, to evaluate it.

Tensors are known by the names that the model's signature gives them, and where it has none, by their own.
"""

import time
from collections.abc import Mapping
from typing import Any, overload

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from pydantic import ValidationError

from dsops.errors import InvalidModel
from dsops.manifest import Dtype, TensorSpec, first_problem
from dsops_controller.build.data import Array, Floats, check_inputs
from dsops_controller.build.quiet import quiet

WARM_UP = 20
REPEATS = 200
Stored = NDArray[np.generic]
"""A tensor's values as it stores them: float32, int8, uint8, int16, or a plain integer."""

_DATATYPES: dict[np.dtype[np.generic], Dtype] = {
    np.dtype(np.float32): "FP32",
    np.dtype(np.float16): "FP16",
    np.dtype(np.int8): "INT8",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int16): "INT16",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.bool_): "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}
_REFUSALS = (ValueError, RuntimeError, TypeError, LookupError, MemoryError, OverflowError)
"""What LiteRT raises for a model that it cannot load or run."""


class LitertModel:
    """One model in an interpreter of its own. Every input and output has a batch axis of 1.

    Args:
        data: The TFLite file.
        threads: Number of threads of one inference.
        reference_kernels: Use the plain kernels, whose int8 results are the same on every processor.

    Raises:
        InvalidModel: LiteRT refuses the file, or its inputs and outputs are not as above.
    """

    def __init__(self, data: bytes, *, threads: int = 1, reference_kernels: bool = False) -> None:
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if reference_kernels else OpResolverType.AUTO
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=data, num_threads=threads, experimental_op_resolver_type=resolver
                )
                self._interpreter.allocate_tensors()
                input_names, output_names = signature_names(self._interpreter)
                inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except _REFUSALS as error:
            raise InvalidModel("LiteRT cannot load the model", why=str(error).split("\n", 1)[0]) from error
        self._inputs, self._outputs = ([int(detail["index"]) for detail in details] for details in (inputs, outputs))
        self.inputs = _specs(inputs, input_names, "input")
        self.outputs = _specs(outputs, output_names, "output")

    @overload
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    @overload
    def run(self, inputs: Floats) -> Floats: ...
    def run(self, inputs: Mapping[str, Array] | Floats) -> dict[str, Array] | Floats:
        """Return every output [N, ...] of frames [N, ...], both by name.

        Real values are float32, those of integers without a scale keep their dtype. A model with a state begins each
        frame anew.

        Raises:
            InvalidInput: The frames are not what the model takes.
            InvalidModel: The model cannot be run.
        """
        if not isinstance(inputs, Mapping):
            return self.run({self.input.name: inputs})[self.output.name]
        check_inputs(inputs, self.inputs, "the data")
        count = len(inputs[self.inputs[0].name])
        try:
            rows = [self._run_one({name: values[row] for name, values in inputs.items()}) for row in range(count)]
            found = {
                spec.name: np.concatenate([row[position] for row in rows]) for position, spec in enumerate(self.outputs)
            }
        except _REFUSALS as error:
            raise InvalidModel("LiteRT cannot run the model", why=str(error).split("\n", 1)[0]) from error
        for spec in self.outputs:
            if found[spec.name].shape[1:] != spec.shape[1:]:
                raise InvalidModel(
                    f"output {spec.name!r} has shape {list(spec.shape)} in the file, and another when the model runs",
                    why=f"it gave {[1, *found[spec.name].shape[1:]]}; a device must know the shape beforehand",
                    hint="export the model with fixed shapes",
                )
        return found

    def latencies_us(self, inputs: Mapping[str, Array], repeats: int = REPEATS) -> list[float]:
        """Return the time of each of ``repeats`` inferences in microseconds, after a warm-up.

        One inference sets the inputs, runs, and reads the outputs, of one frame; the frames take turns.

        Raises:
            InvalidInput: The frames are not what the model takes.
            InvalidModel: The model cannot be run.
        """
        check_inputs(inputs, self.inputs, "the data")
        count = min(repeats, len(inputs[self.inputs[0].name]))
        stored = [self._store({name: values[row] for name, values in inputs.items()}) for row in range(count)]
        try:
            taken = [self._timed_us(stored[number % count]) for number in range(WARM_UP + repeats)]
        except _REFUSALS as error:
            raise InvalidModel("LiteRT cannot run the model", why=str(error).split("\n", 1)[0]) from error
        return taken[WARM_UP:]

    @property
    def input(self) -> TensorSpec:
        """The only input."""
        return _only(self.inputs, "inputs")

    @property
    def output(self) -> TensorSpec:
        """The only output."""
        return _only(self.outputs, "outputs")

    def _run_one(self, frame: Mapping[str, Array]) -> list[Array]:
        self._interpreter.reset_all_variables()
        found = self._invoke(self._store(frame))
        return [dequantize(stored, spec) for stored, spec in zip(found, self.outputs, strict=True)]

    def _store(self, frame: Mapping[str, Array]) -> list[Stored]:
        return [quantize_frame(frame[spec.name][None], spec) for spec in self.inputs]

    def _timed_us(self, stored: list[Stored]) -> float:
        start = time.perf_counter_ns()
        self._invoke(stored)
        return (time.perf_counter_ns() - start) / 1e3

    def _invoke(self, stored: list[Stored]) -> list[Stored]:
        for index, values in zip(self._inputs, stored, strict=True):
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def quantize_frame(x: Array, spec: TensorSpec) -> Stored:
    """Return values as a tensor stores them; what lies outside its range is clipped, not wrapped around."""
    dtype = _DTYPES[spec.datatype]
    if not spec.scale:
        return x.astype(dtype)
    limits = np.iinfo(dtype.name)
    stored: Stored = np.clip(np.rint(x / np.float32(spec.scale)) + spec.zero_point, limits.min, limits.max)
    return stored.astype(dtype)


def dequantize(stored: Array, spec: TensorSpec) -> Array:
    """Return a tensor's real values, float32; plain integers and truth values as they are."""
    if spec.scale:
        return np.asarray((stored.astype(np.float32) - spec.zero_point) * np.float32(spec.scale), np.float32)
    return np.asarray(stored, np.float32) if spec.datatype in ("FP32", "FP16") else stored


def signature_names(interpreter: Interpreter) -> tuple[dict[int, str], dict[int, str]]:
    """Return the names that a model's first signature gives to inputs and to outputs, by the tensor's index."""
    keys = list(interpreter.get_signature_list())
    if not keys:
        return {}, {}
    runner = interpreter.get_signature_runner(keys[0])
    return _by_index(runner.get_input_details()), _by_index(runner.get_output_details())


def _by_index(details: Mapping[str, dict[str, Any]]) -> dict[int, str]:
    return {int(detail["index"]): name for name, detail in details.items()}


def _specs(details: list[dict[str, Any]], names: Mapping[int, str], kind: str) -> tuple[TensorSpec, ...]:
    specs = tuple(_spec(detail, names.get(int(detail["index"]), detail["name"]), kind) for detail in details)
    if not specs:
        raise InvalidModel(f"the model has no {kind}")
    seen = [spec.name for spec in specs]
    repeated = sorted(name for name in set(seen) if seen.count(name) > 1)
    if repeated:
        raise InvalidModel(f"two {kind}s of the model are named {repeated[0]!r}")
    return specs


def _spec(detail: dict[str, Any], name: str, kind: str) -> TensorSpec:
    datatype = _DATATYPES.get(np.dtype(detail["dtype"]))
    if datatype is None:
        raise InvalidModel(f"{kind} {name!r} is {np.dtype(detail['dtype'])}", why="numbers are supported")
    shape = tuple(int(size) for size in detail["shape"])
    if shape[:1] != (1,):
        raise InvalidModel(f"{kind} {name!r} has shape {list(shape)}", why="a batch of 1 is needed")
    scale, zero_point = detail["quantization"]
    try:
        return TensorSpec(name=name, datatype=datatype, shape=shape, scale=float(scale), zero_point=int(zero_point))
    except ValidationError as error:
        raise InvalidModel(f"{kind} {name!r} of the model is not usable", why=first_problem(error)) from error


def _only(specs: tuple[TensorSpec, ...], what: str) -> TensorSpec:
    if len(specs) != 1:
        raise InvalidModel(f"the model has {len(specs)} {what}", why="one is supported")
    return specs[0]
