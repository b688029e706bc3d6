"""A model as it is served: the loaded payload of one bundle, its manifest, and what answers requests.

Every frame is answered by itself: what a model with a state (variable tensors, as an LSTM may have) keeps from one
frame to the next is forgotten before each.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from dsops import sealing
from dsops.bundle import Bundle
from dsops.decision import Decision, decide
from dsops.described import Described
from dsops.errors import DelegateMissing, DigestMismatch, InvalidInput, InvalidModel
from dsops.forms import Form, accepted_forms, form_of
from dsops.golden import GoldenSet
from dsops.manifest import Manifest, Preprocessing, Task, TensorSpec
from dsops.needs import CUSTOM
from dsops.operators import operators_of
from dsops.preprocess import prepare
from dsops.profile import Profile, check_profile
from dsops.tflite_lint import LintLimits, lint
from dsops_agent.runtime.answer import Answer, Output, outputs_of
from dsops_agent.runtime.batches import BATCH_FRAMES, Batches, State
from dsops_agent.runtime.delegate import Absent, Delegate
from dsops_agent.runtime.flight import Made, Marks, Unmarked
from dsops_agent.runtime.instances import Held, Instance, Instances, Turn
from dsops_agent.runtime.interpreter import Interpreter
from dsops_agent.runtime.litert import Array, LoadedModel, TensorDetails, dequantize, quantize, real_values
from dsops_agent.runtime.memory import forbid_dumps
from dsops_agent.runtime.pace import Pace
from dsops_agent.runtime.sent import Sent, SentInputs, Words

_NAMED = 5
"""Of a long list so many are named in a message."""
MAX_FRAMES = 4096
"""Frames of one request; more would take much memory."""
MAX_ANSWER_BYTES = 32 << 20
DEVICE_LIMITS = LintLimits(
    file_bytes=1 << 29, tensor_elements=1 << 26, activation_elements=1 << 27, work=1 << 20, trailing_bytes=1 << 20
)
"""What a payload may ask of a device without a delegate, which alone brings custom operators: none.

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
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class InputForm:
    """What a request may give for one input.

    Attributes:
        name: Its name.
        shape: The shape of one frame of the model's own input.
        datatypes: Open Inference Protocol types of that shape: that of real values first, then the tensor's own.
        dtypes: The same as NumPy types.
        spec: The input as the manifest tells it.
        described: Every form in which it may be given, and how a raw frame becomes the input.
    """

    name: str
    shape: tuple[int, ...]
    datatypes: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]
    spec: TensorSpec
    described: Described

    @classmethod
    def of(cls, spec: TensorSpec, section: Preprocessing | None) -> "InputForm":
        """Return the form of an input as the manifest tells it."""
        accepted = accepted_forms(spec, section)
        datatypes = tuple(one.datatype for one in accepted if one.form is not Form.RAW)
        dtypes = tuple(DTYPES[name] for name in datatypes)
        return cls(spec.name, spec.shape[1:], datatypes, dtypes, spec, Described(spec.name, accepted, section))

    def form_of(self, datatype: str, shape: Sequence[int], said: str = "") -> Form:
        """Return what frames of a type and shape are; see :func:`dsops.forms.form_of`.

        Args:
            datatype: Their Open Inference Protocol type.
            shape: Their shape, the axis of frames included.
            said: The request's parameter ``form``.

        Raises:
            InvalidInput: They are not what the model takes, or more than one form fits.
        """
        return form_of(self.name, self.described.accepted, datatype, tuple(shape)[1:], said)

    def prepared(self, sent: Sent) -> Array:
        """Return frames as :meth:`ServedModel.infer` takes them: real values of raw ones, others as they are."""
        section = self.described.section
        return prepare(section, self.spec, sent.values) if section and sent.form is Form.RAW else sent.values

    def __str__(self) -> str:
        """Return the shape with its batch axis."""
        return f"[{', '.join(['n', *map(str, self.shape)])}]"


@dataclass(frozen=True)
class ServedModel:
    """One bundle, ready to answer. Safe to call from several threads; they take turns at its instances.

    Attributes:
        digest: SHA-256 of the bundle file.
        golden: Returns its golden inputs, checked.
        loaded: The interpreter of the first instance.
        payload_bytes: Size of what it was loaded from.
        max_answer_bytes: Values that one request may be answered with.
        marks: Returns who is told what an instance runs.
        most_instances: How many there may be.
    """

    manifest: Manifest
    digest: str
    profile: Profile
    golden: Callable[[], GoldenSet]
    loaded: Interpreter
    payload_bytes: int = 0
    max_answer_bytes: int = MAX_ANSWER_BYTES
    marks: Callable[[], Marks] = Unmarked
    most_instances: int = 1

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
    def usual(self) -> tuple[Output, ...]:
        """Those that an answer has when a request names none."""
        return tuple(output for output in self.offered.values() if output.by_default)

    @cached_property
    def forms(self) -> dict[str, InputForm]:
        """What a request must give, by name, in the model's order."""
        sections = {section.input: section for section in self.manifest.preprocessing}
        return {spec.name: InputForm.of(spec, sections.get(spec.name)) for spec in self.manifest.inputs}

    @cached_property
    def max_frames(self) -> int:
        """How many frames one request may have; the answer must have room too."""
        frame_bytes = sum(4 * math.prod(tensor.shape) for tensor in self.loaded.outputs)
        return max(min(MAX_FRAMES, self.max_answer_bytes // frame_bytes), 1)

    @cached_property
    def instances(self) -> Instances:
        """What runs it; more than one only where the processor does: a delegate serves one, or is shared by all."""
        most = 1 if self.loaded.runtime.delegate else self.most_instances
        return Instances(Instance(self.loaded, self.marks()), most)

    @cached_property
    def batches(self) -> Batches:
        """Runs of several frames at once."""
        return Batches(self.loaded)

    @cached_property
    def pace(self) -> Pace:
        """How long frames take."""
        return Pace()

    @cached_property
    def plans(self) -> Words[bytes, Any]:
        """What a transport found out about requests whose inputs are in shared memory."""
        return Words()

    @cached_property
    def outlines(self) -> Words[int, Any]:
        """What a transport's answers say beside their values, by how many frames they are of."""
        return Words()

    def prepared(self, sent: SentInputs) -> dict[str, Array]:
        """Return what was sent as :meth:`infer` takes it."""
        return {name: self.forms[name].prepared(one) for name, one in sent.items()}

    def infer(self, inputs: Mapping[str, Array], *, alone: bool = False, turn: Turn | None = None) -> Answer:
        """Answer frames.

        Args:
            inputs: Every input by name, each [n, ...]: real values as float32, or stored values in the tensor's own
                type; integers without a scale only have the latter.
            alone: Run every frame by itself, so that its time is that of a single one.
            turn: The caller's turns. Without it an instance is waited for, and held to the end.

        Raises:
            InvalidInput: A name, shape or type is not the payload's, the inputs have different numbers of frames or
                too many, or a value is not finite.
            InvalidModel: The interpreter fails.
            DsopsError: What ``turn`` raises.
        """
        given = self._checked(inputs)
        stored = list(map(quantize, given, self.loaded.inputs))
        turn = turn or Held(self.instances)
        answered, latency_us = self._run(stored, turn, alone=alone)
        if len(latency_us) >= BATCH_FRAMES and not alone and self.batches.state is State.UNTRIED:
            self.batches.try_on(stored, answered, latency_us, partial(_run_in, turn))
        self.pace.took(latency_us)
        outputs = list(map(dequantize, answered, self.loaded.outputs))  # at once: one by one takes longer
        return Answer(tuple(outputs), self.decide(given[0], outputs), tuple(latency_us))

    def _run(self, stored: Sequence[Array], turn: Turn, *, alone: bool) -> tuple[list[Array], list[float]]:
        """Return every output [n, ...], and each frame's time; a frame of a batch took its share of it."""
        count = len(stored[0])
        parts: list[list[Array]] = []
        latency_us: list[float] = []
        while True:
            with turn as instance:
                if alone or count < BATCH_FRAMES:
                    self._run_share(instance, None, stored, parts, latency_us, turn.share_ns)
                else:
                    with self.batches.lent(instance.marks) as batched:
                        self._run_share(instance, batched, stored, parts, latency_us, turn.share_ns)
            if len(latency_us) == count:
                break
            turn.give_way()
        if len(parts) == 1:
            return parts[0], latency_us
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)], latency_us

    def _run_share(
        self,
        instance: Instance,
        batched: Interpreter | None,
        stored: Sequence[Array],
        parts: list[list[Array]],
        latency_us: list[float],
        most_ns: float,
    ) -> None:
        """Run the next frames, to the last or until they took ``most_ns``, and append what came of them."""
        count, left_ns = len(stored[0]), most_ns
        while (start := len(latency_us)) < count and left_ns > 0:
            size, runs = 1, instance.interpreter
            if batched is not None and count - start >= BATCH_FRAMES:
                size, runs = BATCH_FRAMES, batched
            given = [frames[start : start + size] for frames in stored]
            began_ns = time.perf_counter_ns()
            parts.append(instance.marks.run(partial(runs.run_stored, given)))
            took_ns = time.perf_counter_ns() - began_ns
            latency_us += [took_ns / 1000 / size] * size
            left_ns -= took_ns

    def decide(self, first_input: Array, outputs: Sequence[Array]) -> Decision:
        """Return what outputs mean; ``first_input`` is in whatever form a caller sent it."""
        task = self.manifest.task
        needed = (self.real_frames(0, first_input),) if task is Task.RECONSTRUCTION else ()
        return decide(task, self.manifest.postprocessing, needed, outputs)

    def real_frames(self, position: int, frames: Array) -> Array:
        """Return one input's frames as real values, whatever form the caller sent them in."""
        return real_values(frames, self.loaded.inputs[position])

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


def _run_in(turn: Turn, task: Callable[[], Made]) -> Made:
    """Hold an instance, for one run of a trial."""
    turn.give_way()
    with turn as instance:
        return instance.marks.run(task)


def wrong_names(manifest: Manifest, got: list[str]) -> InvalidInput:
    """Return the error for inputs that are not those of the model."""
    names = [repr(spec.name) for spec in manifest.inputs]
    inputs = "one input" if len(names) == 1 else f"{len(names)} inputs"
    given = ", ".join(repr(name[:64]) for name in got[:8]) or "none"
    return InvalidInput(f"model {manifest.model} has {inputs}, {', '.join(names)}", why=f"got {given}")


def load_bundle(
    bundle: Bundle,
    digest: str,
    threads: int,
    key: "sealing.ContentKey | None" = None,
    *,
    is_proved: bool = False,
    delegate: Delegate | Absent | None = None,
) -> ServedModel:
    """Load an opened bundle, every blob checked, and its payload looked through before the runtime parses it.

    What is loaded is what was hashed: the digest is that of a file with the manifest that is used, each blob is in this
    process's memory when it is compared with that manifest, and the runtime is given that memory, not a mapped file
    that somebody may cut short under it.

    Args:
        bundle: The bundle.
        digest: SHA-256 that its file must have.
        threads: Threads of the interpreter.
        key: The content key of a sealed bundle, whose blobs are decrypted into this process's memory and nowhere else.
        is_proved: Whether a bundle of this digest was proved on this device. Its payload is then not looked through
            again, nor each blob compared that is not used: the result would be the same, and in the data process it
            would take time from callers. A bundle is
            activated only after its proof; when the device starts again the journal vouches for the digest. Neither
            are its golden inputs kept in memory, which may be larger than the payload: they are read when they are
            asked for, except those of a sealed bundle, whose key is not kept.
        delegate: An accelerator whose custom operators are admitted; it is used, unless it is absent.

    Raises:
        DigestMismatch: The file is another one, or a blob is damaged.
        ContentSealed: The bundle is sealed, and its key is missing or wrong.
        MalformedBundle: What is sealed does not fit its key; profile or golden inputs are not readable, or the profile
            is not of this model.
        InvalidModel: The payload is not sound, the runtime refuses it, or it is not what the manifest tells.
        DelegateMissing: It is sound, and does not run without a delegate that is not there, or refuses.
        RuntimeMissing: There is no TFLite runtime.
    """
    check_digest(bundle.digest() if is_proved else bundle.verify(), digest, bundle.path.name)
    manifest = bundle.manifest
    if manifest.sealed is not None:
        forbid_dumps()
    profile = Profile.decode(bundle.read(manifest.profile))
    golden = partial(_read_golden, bundle, None)
    if not is_proved or manifest.sealed is not None:
        golden = partial(_same, _read_golden(bundle, key))
    check_profile(profile, manifest.task, manifest.labels, manifest.inputs, manifest.outputs)
    payload = _read(bundle, manifest.payload, key)
    if not is_proved:
        lint(payload, limits_with(delegate.wanted if isinstance(delegate, Absent) else delegate))
    loaded = _loaded(payload, threads, None if isinstance(delegate, Absent) else delegate)
    _check_tensors("input", manifest.inputs, loaded.inputs)
    _check_tensors("output", manifest.outputs, loaded.outputs)
    return ServedModel(manifest, digest, profile, golden, loaded, len(payload))


def _loaded(payload: bytes, threads: int, delegate: Delegate | None) -> LoadedModel:
    """Load a payload; that it does not run without a delegate which is not there is no fault of its own."""
    try:
        return LoadedModel(payload, threads, delegate=(delegate.library, delegate.options) if delegate else None)
    except InvalidModel as error:
        brought = [name for name in operators_of(payload) if name.startswith(CUSTOM)]
        if not brought:
            raise
        what = f"the processor does not run {', '.join(brought[:_NAMED])}"
        raise DelegateMissing("the model does not run without its delegate", why=f"{what}: {error.why}") from error


def _read(bundle: Bundle, name: str, key: "sealing.ContentKey | None") -> bytes:
    """Return a blob; only one of a sealed bundle loads what decrypts it, which weighs more than many a model."""
    return bundle.read(name) if bundle.manifest.sealed is None else sealing.read_blob(bundle, name, key)


def _read_golden(bundle: Bundle, key: "sealing.ContentKey | None") -> GoldenSet:
    return GoldenSet.decode(_read(bundle, bundle.manifest.golden, key))


def _same(golden: GoldenSet) -> GoldenSet:
    return golden


def limits_with(delegate: Delegate | None) -> LintLimits:
    """Return what a payload may ask of this device; custom operators are those that its delegate brings."""
    return replace(DEVICE_LIMITS, custom_operators=frozenset(delegate.operators)) if delegate else DEVICE_LIMITS


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
