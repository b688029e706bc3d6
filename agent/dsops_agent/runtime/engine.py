"""A model as it is served: the loaded payload of one bundle, its manifest, and one request at a time.

Every frame is answered by itself: what a model with a state (variable tensors, as an LSTM may have) keeps from one
frame to the next is forgotten before each.
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dsops.bundle import Bundle
from dsops.decision import Decision, decide
from dsops.errors import DigestMismatch, InvalidInput, InvalidModel
from dsops.golden import GoldenSet
from dsops.manifest import Manifest, Task, TensorSpec
from dsops.profile import Profile, check_profile
from dsops.sealing import ContentKey, read_blob
from dsops.tflite_lint import LintLimits, lint
from dsops_agent.runtime.answer import Answer, Output, outputs_of
from dsops_agent.runtime.flight import Marks, Unmarked
from dsops_agent.runtime.litert import Array, LoadedModel, TensorDetails, dequantize, quantize
from dsops_agent.runtime.memory import forbid_dumps

MAX_FRAMES = 4096
"""Frames of one request; more would keep other callers waiting."""
MAX_ANSWER_BYTES = 32 << 20
DEVICE_LIMITS = LintLimits(
    file_bytes=1 << 29, tensor_elements=1 << 26, activation_elements=1 << 27, work=1 << 20, trailing_bytes=1 << 20
)
"""What a payload may ask of a device. Custom operators need a delegate, which the runtime does not load: none.

A MobileNetV2 takes 1 % of the work, an unrolled GRU 4 %; all of it takes about half a second.
"""

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
class InputForm:
    """What a request may give for one input.

    Attributes:
        name: Its name.
        shape: The shape of one frame.
        datatypes: Open Inference Protocol types: that of real values first, then the tensor's own.
        dtypes: The same as NumPy types.
    """

    name: str
    shape: tuple[int, ...]
    datatypes: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]

    @classmethod
    def of(cls, spec: TensorSpec) -> "InputForm":
        """Return the form of an input as the manifest tells it."""
        is_real = spec.scale or spec.datatype in ("FP32", "FP16")
        datatypes = tuple(dict.fromkeys(("FP32", spec.datatype) if is_real else (spec.datatype,)))
        return cls(spec.name, spec.shape[1:], datatypes, tuple(DTYPES[name] for name in datatypes))

    def __str__(self) -> str:
        """Return the shape with its batch axis."""
        return f"[{', '.join(['n', *map(str, self.shape)])}]"


@dataclass(frozen=True)
class ServedModel:
    """One bundle, ready to answer. Safe to call from several threads; they take turns.

    Attributes:
        digest: SHA-256 of the bundle file.
        max_answer_bytes: Values that one request may be answered with.
        marks: Is told what the interpreter runs.
    """

    manifest: Manifest
    digest: str
    profile: Profile
    golden: GoldenSet
    loaded: LoadedModel
    lock: threading.Lock = field(default_factory=threading.Lock)
    max_answer_bytes: int = MAX_ANSWER_BYTES
    marks: Marks = field(default_factory=Unmarked)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.manifest.model

    @property
    def release(self) -> int:
        """Release of the bundle."""
        return self.manifest.release

    @cached_property
    def offered(self) -> dict[str, Output]:
        """The outputs that programs may ask for, by name."""
        return outputs_of(self.manifest)

    @cached_property
    def forms(self) -> dict[str, InputForm]:
        """What a request must give, by name, in the model's order."""
        return {spec.name: InputForm.of(spec) for spec in self.manifest.inputs}

    @cached_property
    def max_frames(self) -> int:
        """How many frames one request may have; the answer must have room too."""
        frame_bytes = sum(4 * math.prod(tensor.shape) for tensor in self.loaded.outputs)
        return max(min(MAX_FRAMES, self.max_answer_bytes // frame_bytes), 1)

    def infer(self, inputs: Mapping[str, Array]) -> Answer:
        """Answer frames.

        Args:
            inputs: Every input by name, each [n, ...]: real values as float32, or stored values in the tensor's own
                type; integers without a scale only have the latter.

        Raises:
            InvalidInput: A name, shape or type is not the payload's, the inputs have different numbers of frames or
                too many, or a value is not finite.
            InvalidModel: The interpreter fails.
        """
        given = self._checked(inputs)
        stored = list(map(quantize, given, self.loaded.inputs))
        latency_us = []
        rows = []
        with self.lock:
            for number in range(len(given[0])):
                self.marks.begin()
                try:
                    start = time.perf_counter_ns()
                    rows.append(self.loaded.run_stored([frames[number : number + 1] for frames in stored]))
                    latency_us.append((time.perf_counter_ns() - start) / 1000)
                finally:
                    self.marks.end()
        outputs = [
            dequantize(np.concatenate([row[at] for row in rows]), tensor)  # at once: one by one takes longer
            for at, tensor in enumerate(self.loaded.outputs)
        ]
        return Answer(tuple(outputs), self.decide(given[0], outputs), tuple(latency_us))

    def decide(self, first_input: Array, outputs: Sequence[Array]) -> Decision:
        """Return what outputs mean; ``first_input`` is in whatever form a caller sent it."""
        task = self.manifest.task
        needed = (self.real_frames(0, first_input),) if task is Task.RECONSTRUCTION else ()
        return decide(task, self.manifest.postprocessing, needed, outputs)

    def real_frames(self, position: int, frames: Array) -> Array:
        """Return one input's frames as real values, whatever form the caller sent them in."""
        if frames.dtype == np.float32:
            return frames
        return dequantize(frames, self.loaded.inputs[position])

    def warm_up(self) -> None:
        """Run a frame of zeros, so that the first caller does not pay for what is made on first use.

        Raises:
            InvalidModel: The interpreter fails.
        """
        pairs = zip(self.manifest.inputs, self.loaded.inputs, strict=True)
        self.infer({spec.name: np.zeros(tensor.shape, tensor.dtype) for spec, tensor in pairs})

    def _checked(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Return the inputs in the model's order."""
        if inputs.keys() != self.forms.keys():
            raise wrong_names(self.manifest, list(inputs))
        given: list[Array] = []
        for name, form in self.forms.items():
            frames = inputs[name]
            self._check(frames, form)
            if given and len(frames) != len(given[0]):
                raise InvalidInput(
                    f"the inputs of model {self.name} have different numbers of frames",
                    why=f"{len(given[0])} of {next(iter(self.forms))!r}, {len(frames)} of {name!r}",
                )
            given.append(frames)
        return given

    def _check(self, frames: Array, form: InputForm) -> None:
        if frames.shape[1:] != form.shape or not 1 <= len(frames) <= self.max_frames:
            raise InvalidInput(
                f"input {form.name!r} of model {self.name} has shape {form}",
                why=f"got {list(frames.shape)}; n is 1 to {self.max_frames}",
            )
        if frames.dtype not in form.dtypes:
            wanted = " or ".join(form.datatypes)
            raise InvalidInput(f"input {form.name!r} of model {self.name} is {wanted}", why=f"got {frames.dtype}")
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            raise InvalidInput(f"input {form.name!r} holds a value that is not finite", why="NaN or infinity")


def wrong_names(manifest: Manifest, got: list[str]) -> InvalidInput:
    """Return the error for inputs that are not those of the model."""
    names = [repr(spec.name) for spec in manifest.inputs]
    inputs = "one input" if len(names) == 1 else f"{len(names)} inputs"
    given = ", ".join(repr(name[:64]) for name in got[:8]) or "none"
    return InvalidInput(f"model {manifest.model} has {inputs}, {', '.join(names)}", why=f"got {given}")


def load_bundle(
    bundle: Bundle, digest: str, threads: int, key: ContentKey | None = None, *, is_proved: bool = False
) -> ServedModel:
    """Load an opened bundle, every blob checked, and its payload looked through before the runtime parses it.

    Args:
        bundle: The bundle.
        digest: SHA-256 of its file, checked by the caller.
        threads: Threads of the interpreter.
        key: The content key of a sealed bundle, whose blobs are decrypted into this process's memory and nowhere else.
        is_proved: Whether a bundle of this digest was proved on this device. Its payload is then not looked through
            again: the result would be the same, and in the data process it would take time from callers. A bundle is
            activated only after its proof; when the device starts again the journal vouches for the digest.

    Raises:
        DigestMismatch: A blob is damaged.
        ContentSealed: The bundle is sealed, and its key is missing or wrong.
        MalformedBundle: What is sealed does not fit its key; profile or golden inputs are not readable, or the profile
            is not of this model.
        InvalidModel: The payload is not sound, the runtime refuses it, or it is not what the manifest tells.
        RuntimeMissing: There is no TFLite runtime.
    """
    bundle.verify()
    manifest = bundle.manifest
    if manifest.sealed is not None:
        forbid_dumps()
    profile = Profile.decode(bundle.read(manifest.profile))
    golden = GoldenSet.decode(read_blob(bundle, manifest.golden, key))
    check_profile(profile, manifest.task, manifest.labels, manifest.inputs, manifest.outputs)
    payload = read_blob(bundle, manifest.payload, key)
    if not is_proved:
        lint(payload, DEVICE_LIMITS)
    loaded = LoadedModel(payload, threads)
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
        told = spec.name, (1, *spec.shape[1:]), DTYPES[spec.datatype]
        if told != (tensor.name, tensor.shape, tensor.dtype):
            raise InvalidModel(
                f"the payload's {what} {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}",
                why=f"the manifest tells {told[0]!r}, {told[2]} {list(told[1])}",
            )
        if (spec.scale, spec.zero_point) != (tensor.scale, tensor.zero_point):
            raise InvalidModel(
                f"the payload's {what} {tensor.name!r} has scale {tensor.scale:g}, zero point {tensor.zero_point}",
                why=f"the manifest tells {spec.scale:g} and {spec.zero_point}",
            )
