"""Loads a TFLite model: ai-edge-litert by default, tflite-runtime 2.14 where the former has no wheel.

Quantization follows the TFLite 8-bit specification, section "Specification summary":
``real = scale * (stored - zero_point)``.
"""

import importlib
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput, InvalidModel, RuntimeMissing

Array = NDArray[Any]

_CHOICES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))


@dataclass(frozen=True)
class Runtime:
    """A TFLite runtime that can be imported."""

    module: ModuleType
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class TensorDetails:
    """One input or output as the interpreter sees it; ``scale`` 0 means that it is not quantized.

    ``low`` and ``high`` are the smallest and the largest value that an integer ``dtype`` holds.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    low: float = -math.inf
    high: float = math.inf


def find_runtime(prefer: str = "") -> Runtime:
    """Import the first runtime that works here.

    Args:
        prefer: Distribution to try first, ``ai-edge-litert`` or ``tflite-runtime``.

    Raises:
        RuntimeMissing: None works; it says why for each.
    """
    reasons = []
    for module_name, name in sorted(_CHOICES, key=lambda choice: choice[1] != prefer) if prefer else _CHOICES:
        reason = unusable(name, np.__version__)
        if reason:
            reasons.append(reason)
            continue
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            continue
        return Runtime(module, name, importlib.metadata.version(name))
    raise RuntimeMissing("no TFLite runtime can be loaded", why="; ".join(reasons))


def unusable(name: str, numpy_version: str) -> str:
    """Return why a runtime cannot work with this NumPy, or nothing.

    tflite-runtime 2.14 imports beside NumPy 2 and fails only when an interpreter is made, hence the early look.
    """
    if name == "tflite-runtime" and int(numpy_version.split(".", maxsplit=1)[0]) >= 2:
        return f"{name} needs numpy<2, found {numpy_version}"
    return ""


def quantize(real: Array, tensor: TensorDetails) -> Array:
    """Return ``real`` in the tensor's own type. An array that has that type already is taken as stored values.

    Raises:
        InvalidInput: The tensor holds integers without a scale, so real values have no meaning for it.
    """
    if real.dtype == tensor.dtype:
        return real
    if tensor.dtype.kind == "f":
        return real.astype(tensor.dtype)
    if not tensor.scale:
        raise InvalidInput(f"input {tensor.name!r} takes {tensor.dtype} only", why="it has no scale to quantize with")
    stored = real / np.float32(tensor.scale)
    np.rint(stored, out=stored)
    stored += np.float32(tensor.zero_point)
    np.maximum(stored, tensor.low, out=stored)  # limited before the cast, which would wrap around
    np.minimum(stored, tensor.high, out=stored)
    return stored.astype(tensor.dtype)


def dequantize(stored: Array, tensor: TensorDetails) -> NDArray[np.float32]:
    """Return the real values of a tensor, float32."""
    if not tensor.scale:
        return stored.astype(np.float32, copy=False)
    real = stored.astype(np.float32)
    real -= np.float32(tensor.zero_point)
    real *= np.float32(tensor.scale)
    return real


class LoadedModel:
    """A model in an interpreter. Not thread-safe: callers take turns.

    Args:
        data: The file. These very bytes are run: what was hashed cannot change underneath.
        threads: Threads of the interpreter, at least 1.
        reference_kernels: Leave XNNPACK out. Slower; int8 results are then equal on both runtimes.

    Raises:
        RuntimeMissing: There is no TFLite runtime.
        InvalidModel: The runtime refuses the file.
    """

    def __init__(self, data: bytes, threads: int = 1, *, reference_kernels: bool = False) -> None:
        self.runtime = find_runtime()
        self._data = data  # the interpreter keeps a pointer to it, not a copy
        options: dict[str, Any] = {}
        if reference_kernels:
            options["experimental_op_resolver_type"] = (
                self.runtime.module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        try:
            self._interpreter = self.runtime.module.Interpreter(model_content=data, num_threads=threads, **options)
            self._interpreter.allocate_tensors()
            self.inputs = tuple(map(_details, self._interpreter.get_input_details()))
            self.outputs = tuple(map(_details, self._interpreter.get_output_details()))
        except (ValueError, RuntimeError, TypeError) as error:
            raise InvalidModel(f"{self.runtime} refuses the model", why=_one_line(error)) from error

    def run(self, inputs: Sequence[Array]) -> list[NDArray[np.float32]]:
        """Run once: one array an input, batch axis included, real or stored values; real outputs come back.

        Raises:
            InvalidInput: Their number, shape or type does not fit.
            InvalidModel: The interpreter fails.
        """
        stored = self.run_stored(inputs)
        return [dequantize(array, tensor) for array, tensor in zip(stored, self.outputs, strict=True)]

    def run_stored(self, inputs: Sequence[Array]) -> list[Array]:
        """Run as :meth:`run`; stored outputs come back, so that a caller with many frames dequantizes them at once."""
        if len(inputs) != len(self.inputs):
            raise InvalidInput(f"the model has {len(self.inputs)} inputs", why=f"{len(inputs)} were given")
        for array, tensor in zip(inputs, self.inputs, strict=True):
            self._set(array, tensor)
        try:
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(tensor.index) for tensor in self.outputs]
        except (ValueError, RuntimeError) as error:
            raise InvalidModel("the model failed while it ran", why=_one_line(error)) from error

    def _set(self, array: Array, tensor: TensorDetails) -> None:
        if array.shape != tensor.shape:
            raise InvalidInput(f"input {tensor.name!r} has shape {list(tensor.shape)}", why=f"got {list(array.shape)}")
        try:
            self._interpreter.set_tensor(tensor.index, quantize(array, tensor))
        except ValueError as error:
            raise InvalidInput(f"input {tensor.name!r} was refused", why=_one_line(error)) from error


def _details(raw: dict[str, Any]) -> TensorDetails:
    scale, zero_point = raw["quantization"]
    dtype = np.dtype(raw["dtype"])
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-math.inf, math.inf)
    return TensorDetails(
        index=int(raw["index"]),
        name=str(raw["name"]),
        shape=tuple(int(size) for size in raw["shape"]),
        dtype=dtype,
        scale=float(scale),
        zero_point=int(zero_point),
        low=low,
        high=high,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
