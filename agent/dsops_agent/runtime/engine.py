"""A model as it is served: the loaded payload of one bundle, its manifest, and one request at a time."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.bundle import Bundle
from dsops.errors import DigestMismatch, IncompatibleBundle, InvalidInput, InvalidModel
from dsops.golden import GoldenSet
from dsops.manifest import Manifest, TensorSpec
from dsops.profile import Profile
from dsops_agent.runtime.litert import Array, LoadedModel, TensorDetails, dequantize, quantize

MAX_FRAMES = 4096
"""Frames of one request; more would keep other callers waiting."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
}
"""Open Inference Protocol names of the types that a payload's tensors may have."""


@dataclass(frozen=True)
class Answer:
    """What a model says to ``n`` frames.

    Attributes:
        scores: Real-valued output, float32 [n, C].
        labels: Index of the largest score of each frame, int [n].
        latency_us: Time in the interpreter, a value a frame.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.intp]
    latency_us: tuple[float, ...]

    @cached_property
    def confidences(self) -> list[float]:
        """The largest score of each frame."""
        return [float(score) for score in self.scores.max(axis=1).tolist()]


@dataclass(frozen=True)
class ServedModel:
    """One bundle, ready to answer. Safe to call from several threads; they take turns.

    Attributes:
        digest: SHA-256 of the bundle file.
    """

    manifest: Manifest
    digest: str
    profile: Profile
    golden: GoldenSet
    loaded: LoadedModel
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.model

    @property
    def release(self) -> int:
        """Release of the bundle."""
        return self.manifest.release

    @property
    def input_spec(self) -> TensorSpec:
        """The payload's input as the manifest tells it."""
        return self.manifest.inputs[0]

    def infer(self, frames: Array) -> Answer:
        """Answer frames.

        Args:
            frames: [n, ...], real values as float32, or stored values in the payload's own type.

        Raises:
            InvalidInput: The shape or type is not the payload's, there are too many frames, or a value is not finite.
            InvalidModel: The interpreter fails.
        """
        self._check(frames)
        latency_us = []
        rows = []
        stored = quantize(frames, self.loaded.inputs[0])  # at once: one by one takes longer than the model
        with self.lock:
            for number in range(len(frames)):
                start = time.perf_counter_ns()
                rows.append(self.loaded.run_stored([stored[number : number + 1]])[0])
                latency_us.append((time.perf_counter_ns() - start) / 1000)
        scores = dequantize(np.concatenate(rows).reshape(len(frames), -1), self.loaded.outputs[0])
        return Answer(scores, scores.argmax(axis=1), tuple(latency_us))

    def real_frames(self, frames: Array) -> NDArray[np.float32]:
        """Return frames as real values, whatever form the caller sent them in."""
        if frames.dtype == np.float32:
            return frames
        return dequantize(frames, self.loaded.inputs[0])

    def label_of(self, index: int) -> str:
        """Return a label's name, or its index as text when the bundle names none."""
        return self.manifest.labels[index] if self.manifest.labels else str(index)

    def warm_up(self) -> None:
        """Run a frame of zeros, so that the first caller does not pay for what is made on first use.

        Raises:
            InvalidModel: The interpreter fails.
        """
        spec = self.input_spec
        self.infer(np.zeros((1, *spec.shape[1:]), self.loaded.inputs[0].dtype))

    def _check(self, frames: Array) -> None:
        spec = self.input_spec
        if frames.shape[1:] != spec.shape[1:] or not 1 <= len(frames) <= MAX_FRAMES:
            wanted = ["n", *spec.shape[1:]]
            raise InvalidInput(
                f"input {spec.name!r} of model {self.name} has shape [{', '.join(map(str, wanted))}]",
                why=f"got {list(frames.shape)}; n is 1 to {MAX_FRAMES}",
            )
        if frames.dtype not in (np.float32, self.loaded.inputs[0].dtype):
            raise InvalidInput(
                f"input {spec.name!r} of model {self.name} is FP32 or {spec.datatype}", why=f"got {frames.dtype}"
            )
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            raise InvalidInput(f"input {spec.name!r} holds a value that is not finite", why="NaN or infinity")


def load_bundle(bundle: Bundle, digest: str, threads: int) -> ServedModel:
    """Load an opened bundle, every blob checked.

    Args:
        bundle: The bundle.
        digest: SHA-256 of its file, checked by the caller.
        threads: Threads of the interpreter.

    Raises:
        DigestMismatch: A blob is damaged.
        MalformedBundle: Profile or golden inputs are not readable.
        InvalidModel: The runtime refuses the payload, or it is not what the manifest tells.
        IncompatibleBundle: The payload has more than one input.
        RuntimeMissing: There is no TFLite runtime.
    """
    bundle.verify()
    manifest = bundle.manifest
    profile = Profile.decode(bundle.read(manifest.profile))
    golden = GoldenSet.decode(bundle.read(manifest.golden))
    loaded = LoadedModel(bundle.read(manifest.payload), threads)
    if len(manifest.inputs) != 1 or not manifest.outputs:
        raise IncompatibleBundle(
            f"bundle {manifest.model} {manifest.release} has {len(manifest.inputs)} inputs and "
            f"{len(manifest.outputs)} outputs",
            why="the runtime serves models with one input and at least one output",
        )
    _check_tensors("input", manifest.inputs, loaded.inputs)
    _check_tensors("output", manifest.outputs, loaded.outputs)
    return ServedModel(manifest, digest, profile, golden, loaded)


def check_digest(found: str, expected: str, name: str) -> None:
    """Compare a bundle file's digest with the one that was asked for.

    Raises:
        DigestMismatch: They differ.
    """
    if found != expected:
        raise DigestMismatch(f"bundle {name} is not the one that was asked for", why=f"{found} instead of {expected}")


def _check_tensors(what: str, specs: tuple[TensorSpec, ...], tensors: tuple[TensorDetails, ...]) -> None:
    if len(specs) != len(tensors):
        raise InvalidModel(f"the payload has {len(tensors)} {what}s", why=f"the manifest tells {len(specs)}")
    for spec, tensor in zip(specs, tensors, strict=True):
        told = (1, *spec.shape[1:]), DTYPES[spec.datatype]
        if told != (tensor.shape, tensor.dtype):
            raise InvalidModel(
                f"the payload's {what} {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}",
                why=f"the manifest tells {told[1]} {list(told[0])}",
            )
