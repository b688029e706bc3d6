"""Loads a TFLite model: ai-edge-litert by default, tflite-runtime 2.14 where the former has no wheel.

Quantization follows the TFLite 8-bit specification, section "Specification summary":
``real = scale * (stored - zero_point)``.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput, InvalidModel, RuntimeMissing
from dsops.needs import LITERT
from dsops_agent.installed import version_of

Array = NDArray[Any]
Foreign: TypeAlias = Any
"""An interpreter or delegate of the runtime, which has no types."""

_CHOICES = (("ai_edge_litert.interpreter", LITERT), ("tflite_runtime.interpreter", "tflite-runtime"))


@dataclass(frozen=True)
class Runtime:
    """A TFLite runtime that can be imported, and by which delegate a model runs on it.

    Attributes:
        module: What is imported.
        name: Its distribution.
        version: That one's version.
        delegate: Library of the delegate; empty when the processor does everything.
        fallback: Why a delegate that was wanted is not used; empty when there is no such.
    """

    module: ModuleType
    name: str
    version: str
    delegate: str = ""
    fallback: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}{f' with {self.delegate}' if self.delegate else ''}"


@dataclass(frozen=True)
class TensorDetails:
    """One input or output as the interpreter sees it; ``scale`` 0 means that it is not quantized.

    ``low`` and ``high`` are the smallest and the largest value that an integer ``dtype`` holds. The name is that of the
    model's signature; a model without one has only the tensor's own.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_real(self) -> bool:
        """Whether it stands for real values, which callers may give as float32."""
        return bool(self.scale) or self.dtype.kind == "f"

    @cached_property
    def affine(self) -> tuple[np.float32, np.float32]:
        """Scale and zero point as they are calculated with; making them for each request costs time."""
        return np.float32(self.scale), np.float32(self.zero_point)


@cache
def find_runtime() -> Runtime:
    """Import the first runtime that works here; where both do, that is LiteRT.

    Looked for once: who is installed stands in a long list of files, half of the time of an activation.

    Raises:
        RuntimeMissing: None works; it says why for each.
    """
    reasons = []
    for module_name, name in _CHOICES:
        version = version_of(name)
        if not version:
            reasons.append(f"{name} is not installed")
            continue
        try:
            check_numpy(name, np.__version__)
            return Runtime(importlib.import_module(module_name), name, version)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
    raise RuntimeMissing("no TFLite runtime can be loaded", why="; ".join(reasons))


def check_numpy(name: str, numpy_version: str) -> None:
    """Check that a runtime can work with this NumPy.

    tflite-runtime 2.14 imports beside NumPy 2 and fails only when an interpreter is made, hence the early look.

    Raises:
        ImportError: It cannot.
    """
    if name == "tflite-runtime" and int(numpy_version.split(".", maxsplit=1)[0]) >= 2:
        raise ImportError(f"it needs numpy<2, found {numpy_version}", name=name)


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
    scale, zero_point = tensor.affine
    stored = real / scale
    np.rint(stored, out=stored)
    stored += zero_point
    np.maximum(stored, tensor.low, out=stored)  # limited before the cast, which would wrap around
    np.minimum(stored, tensor.high, out=stored)
    return stored.astype(tensor.dtype)


def dequantize(stored: Array, tensor: TensorDetails) -> Array:
    """Return the real values of a tensor, float32; integers without a scale and truth values as they are."""
    if not tensor.scale:
        return stored.astype(np.float32, copy=False) if stored.dtype.kind == "f" else stored
    scale, zero_point = tensor.affine
    real = stored.astype(np.float32)
    real -= zero_point
    real *= scale
    return real


def real_values(frames: Array, tensor: TensorDetails) -> Array:
    """Return frames of an input as real values, whatever form a caller sent them in."""
    return frames if frames.dtype == np.float32 else dequantize(frames, tensor)


def load_delegate(runtime: Runtime, library: str, options: Mapping[str, str]) -> Foreign:
    """Return a delegate, for an interpreter to be made with.

    Raises:
        RuntimeMissing: The library is not there, is no delegate, or refuses.
    """
    try:
        return runtime.module.load_delegate(library, dict(options))
    except (ValueError, RuntimeError, TypeError, AttributeError, OSError) as error:
        raise RuntimeMissing(f"the delegate {library} cannot be used", why=_one_line(error)) from error


class LoadedModel:
    """A model in an interpreter, the adapter of :class:`dsops_agent.runtime.interpreter.Interpreter`.

    Not thread-safe: callers take turns. Tensors are copied in and out: views into the interpreter's memory save nothing
    on small ones (0.6 us of 1.1 us a run are the two copies), under 1 % on large ones, and forbid the next run while
    somebody holds one.

    Args:
        data: The file. These very bytes are run: what was hashed cannot change underneath.
        threads: Threads of the interpreter, at least 1.
        reference_kernels: Leave XNNPACK out. Slower; int8 results are then equal on both runtimes.
        delegate: Library of a delegate and its options. One that refuses is left out, and :attr:`runtime` tells why.
        frames: How many frames one run takes.

    Raises:
        RuntimeMissing: There is no TFLite runtime.
        InvalidModel: The runtime refuses the file, or so many frames of it.
    """

    def __init__(
        self,
        data: bytes,
        threads: int = 1,
        *,
        reference_kernels: bool = False,
        delegate: tuple[str, Mapping[str, str]] | None = None,
        frames: int = 1,
    ) -> None:
        self.runtime = find_runtime()
        self._data = data  # the interpreter keeps a pointer to it, not a copy
        self._options: dict[str, Any] = {"num_threads": threads}
        if reference_kernels:
            self._options["experimental_op_resolver_type"] = (
                self.runtime.module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        try:
            found = self._with_delegate(*delegate) if delegate else None
            self._interpreter = found or self._made(frames)
            names = self._signature_names()
            self.inputs = tuple(_details(raw, names) for raw in self._interpreter.get_input_details())
            self.outputs = tuple(_details(raw, names) for raw in self._interpreter.get_output_details())
        except (ValueError, RuntimeError, TypeError) as error:
            fallback = self.runtime.fallback
            refusals = filter(None, (_one_line(error), f"its delegate: {fallback}" if fallback else ""))
            raise InvalidModel(f"{self.runtime} refuses the model", why="; ".join(refusals)) from error

    def batched(self, frames: int) -> "LoadedModel":
        """Return the same model for so many frames a run; the weights are there once, what is made of them twice.

        Raises:
            InvalidModel: Its graph does not allow it.
        """
        threads: int = self._options["num_threads"]
        resized = LoadedModel(self._data, threads, frames=frames)
        if any(len(one.shape) == 0 or one.shape[0] != frames for one in (*resized.inputs, *resized.outputs)):
            raise InvalidModel("the model has a fixed number of frames", why="an input or output stays as it is")
        return resized

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once: one array an input, batch axis included, real or stored values; real outputs come back.

        What a model keeps from one run to the next (variable tensors) is forgotten first.

        Raises:
            InvalidInput: Their number, shape or type does not fit.
            InvalidModel: The interpreter fails.
        """
        if len(inputs) != len(self.inputs):
            raise InvalidInput(f"the model has {len(self.inputs)} inputs", why=f"{len(inputs)} were given")
        stored = self.run_stored(list(map(quantize, inputs, self.inputs)))
        return [dequantize(array, tensor) for array, tensor in zip(stored, self.outputs, strict=True)]

    def run_stored(self, inputs: Sequence[Array]) -> list[Array]:
        """Run as :meth:`run`, stored values in and out, so that a caller with many frames converts them at once."""
        for array, tensor in zip(inputs, self.inputs, strict=True):
            self._set(array, tensor)
        try:
            self._interpreter.reset_all_variables()  # takes 0.6 us where there are none
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(tensor.index) for tensor in self.outputs]
        except (ValueError, RuntimeError) as error:
            raise InvalidModel("the model failed while it ran", why=_one_line(error)) from error

    def _with_delegate(self, library: str, options: Mapping[str, str]) -> Foreign:
        """Return an interpreter with a delegate, or None when that refuses; either is noted in ``runtime``."""
        try:
            made = self._made(1, [load_delegate(self.runtime, library, options)])
        except (ValueError, RuntimeError, TypeError, RuntimeMissing) as error:
            self.runtime = replace(self.runtime, fallback=_one_line(error))
            return None
        self.runtime = replace(self.runtime, delegate=library)
        return made

    def _made(self, frames: int, delegates: list[Foreign] | None = None) -> Foreign:
        made = self.runtime.module.Interpreter(
            model_content=self._data, experimental_delegates=delegates, **self._options
        )
        if frames > 1:
            for detail in made.get_input_details():
                made.resize_tensor_input(detail["index"], [frames, *detail["shape"][1:]])
        made.allocate_tensors()
        return made

    def _signature_names(self) -> dict[int, str]:
        """Return the names that the model's first signature gives to its tensors, by the tensor's index."""
        keys = list(self._interpreter.get_signature_list())
        if not keys:
            return {}
        runner = self._interpreter.get_signature_runner(keys[0])
        details = [*runner.get_input_details().items(), *runner.get_output_details().items()]
        return {int(detail["index"]): str(name) for name, detail in details}

    def _set(self, array: Array, tensor: TensorDetails) -> None:
        if array.shape != tensor.shape:
            raise InvalidInput(f"input {tensor.name!r} has shape {list(tensor.shape)}", why=f"got {list(array.shape)}")
        try:
            self._interpreter.set_tensor(tensor.index, array)
        except ValueError as error:
            raise InvalidInput(f"input {tensor.name!r} was refused", why=_one_line(error)) from error


def _details(raw: dict[str, Any], names: Mapping[int, str]) -> TensorDetails:
    scale, zero_point = raw["quantization"]
    dtype = np.dtype(raw["dtype"])
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-math.inf, math.inf)
    return TensorDetails(
        index=int(raw["index"]),
        name=names.get(int(raw["index"]), str(raw["name"])),
        shape=tuple(int(size) for size in raw["shape"]),
        dtype=dtype,
        scale=float(scale),
        zero_point=int(zero_point),
        low=low,
        high=high,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
