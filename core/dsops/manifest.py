"""The manifest: what a bundle says of itself. Strict, frozen, canonical; the bundle's digest covers its bytes."""

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import MalformedBundle

FORMATS = (1, 2)
FORMAT_SEALED = 2
MAX_MANIFEST_BYTES = 1 << 20
MAX_BLOBS = 256
MAX_TENSORS = 64
MAX_RANK = 8
MAX_FACTS = 256
MAX_COUNT = 2**53
"""Whole numbers beyond this are not the same to every reader of JSON (RFC 8259 section 6)."""
MAX_METRICS = 1024
MAX_KPIS = 64
MAX_HARDWARE = 64
MAX_OPERATORS = 256
MAX_DELEGATES = 16
MAX_TOP = 100
"""Labels that programs may be told of a frame."""
IMAGE_LAYOUTS: dict[str, tuple[int, int, int]] = {"NHWC": (1, 2, 3), "NCHW": (2, 3, 1)}
"""Where a layout has height, width and channels."""
CHANNELS = {"GRAY": 1, "RGB": 3, "BGR": 3}
MIN_RECORD_BYTES, MAX_RECORD_BYTES = 1 << 12, 1 << 24
TAG_BYTES = 16
"""What encryption adds to each record (AES-GCM)."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BlobName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Variant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
Hardware = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
MinLitert = Annotated[str, Field(pattern=r"^([0-9]{1,4}(\.[0-9]{1,4}){0,2})?$")]
OperatorName = Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9_]{0,63}|custom:[ -~]{1,80})/[1-9][0-9]{0,2}$")]
DelegateName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
Key = Annotated[str, Field(min_length=1, max_length=256)]
Facts = dict[Key, Annotated[str, Field(max_length=4000)]]
Color = Literal["", "GRAY", "RGB", "BGR"]
Dtype = Literal["FP32", "FP16", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL"]


class Frozen(BaseModel):
    """Base of values on a wire or on disk: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Blob(Frozen):
    """One part of a bundle: its name, length and digest."""

    name: BlobName
    size_bytes: int = Field(ge=0, le=MAX_COUNT)
    sha256: Sha256


class TensorSpec(Frozen):
    """One input or output of the payload, batch axis included. ``datatype`` is an Open Inference Protocol name.

    ``scale`` and ``zero_point`` are the affine quantization of the stored tensor: real = scale * (stored - zero_point).
    """

    name: str = Field(min_length=1, max_length=256)
    datatype: Dtype
    shape: tuple[Annotated[int, Field(ge=1, lt=2**31)], ...] = Field(min_length=1, max_length=MAX_RANK)
    scale: float = 0.0
    zero_point: int = Field(default=0, ge=-(2**31), lt=2**31)


class Task(StrEnum):
    """What the first output means; it decides what is measured, watched and answered."""

    CLASSIFICATION = "classification"
    """A score for each label, or one score of the second of two labels."""
    REGRESSION = "regression"
    """One or more quantities."""
    RECONSTRUCTION = "reconstruction"
    """The first input again; how far it is off is the anomaly score."""
    OTHER = "other"
    """Anything else: boxes, masks, embeddings. The program that asks knows."""


class Preprocessing(Frozen):
    """How a raw frame becomes the real values of one input: ``real = raw * scale + offset``.

    Where ``raw`` says what a raw frame is made of, the device makes the input of it (:mod:`dsops.preprocess`), and the
    build did so with the same code. Without it the device takes real values only, and the rest is for the programs that
    ask it.

    Attributes:
        input: Its name.
        layout: The order of the input's axes. A raw frame always has its channels last.
        color: What the input's channels are.
        resize: How a raw frame of another size is fitted: all of it, its middle, or all of it with a border.
        scale: One number, or one a channel.
        offset: Likewise.
        raw: Type of the values of a raw frame.
        raw_color: What a raw frame's channels are; empty: those of the input.
        interpolation: How pixels between pixels are found when a frame is resized.
        fill: Raw value of the border of ``letterbox``.
    """

    input: str = Field(max_length=256)
    layout: Literal["NHWC", "NCHW", "NTF", "NF", "other"] = "other"
    color: Color = ""
    resize: Literal["", "stretch", "crop", "letterbox"] = ""
    scale: tuple[float, ...] = Field(default=(1.0,), min_length=1, max_length=1024)
    offset: tuple[float, ...] = Field(default=(0.0,), min_length=1, max_length=1024)
    raw: Literal["", "UINT8", "INT8", "INT16", "INT32", "FP32"] = ""
    raw_color: Color = ""
    interpolation: Literal["", "nearest", "bilinear", "area"] = ""
    fill: float = 0.0

    @model_validator(mode="after")
    def _can_be_done(self) -> "Preprocessing":
        if not self.raw and (self.raw_color or self.interpolation or self.fill):
            raise ValueError(
                "raw_color, interpolation and fill are for raw frames, and raw does not say what these are"
            )
        if self.raw and bool(self.resize) != bool(self.interpolation):
            raise ValueError("resize and interpolation belong together")
        if self.fill and self.resize != "letterbox":
            raise ValueError("fill is for the border of letterbox")
        if self.raw_color and not self.color:
            raise ValueError("raw_color says nothing without color")
        if self.raw and (self.resize or self.color) and self.layout not in IMAGE_LAYOUTS:
            raise ValueError(f"color and resize are for images, not for layout {self.layout}")
        return self

    @property
    def channel_axis(self) -> int:
        """Which axis of the input its channels are on."""
        return 1 if self.layout == "NCHW" else -1


class Postprocessing(Frozen):
    """How real outputs become an answer; see :mod:`dsops.decision`.

    Attributes:
        activation: What makes probabilities of a classifier's scores; ``none`` when the network ends with it.
        error: How the distance of a reconstruction from its input is measured.
        threshold: From which score on a frame is of the second of two labels, or an anomaly. Without one a classifier
            takes the largest score, and a reconstruction is not judged.
        top_k: How many of the best labels of a frame, with their scores, programs may ask for; 0 offers none.
    """

    activation: Literal["none", "softmax", "sigmoid"] = "none"
    error: Literal["mean_squared", "mean_absolute"] = "mean_squared"
    threshold: float | None = None
    top_k: int = Field(default=0, ge=0, le=MAX_TOP)


class Compatibility(Frozen):
    """What a device must offer.

    Attributes:
        hardware: Classes of hardware; none admits every class.
        min_litert: Oldest LiteRT; empty admits every runtime.
        operators: The payload's operators with their versions, sorted, as ``CONV_2D/3`` or ``custom:name/1``. None when
            the bundle does not say.
        delegates: Accelerators that the payload cannot run without, sorted.
    """

    hardware: tuple[Hardware, ...] = Field(default=(), max_length=MAX_HARDWARE)
    min_litert: MinLitert = ""
    operators: tuple[OperatorName, ...] = Field(default=(), max_length=MAX_OPERATORS)
    delegates: tuple[DelegateName, ...] = Field(default=(), max_length=MAX_DELEGATES)

    @model_validator(mode="after")
    def _in_order(self) -> "Compatibility":
        for names in (self.operators, self.delegates):
            if list(names) != sorted(set(names)):
                raise ValueError("operators and delegates are sorted, and none is there twice")
        return self


class Budgets(Frozen):
    """What the bundle may use on a device; 0 sets no limit.

    Attributes:
        max_latency_ms: Median time of one frame in the interpreter.
        max_memory_bytes: Peak resident memory of the process in which the bundle is proved.
        max_disk_bytes: Length of the bundle's file.
    """

    max_latency_ms: float = Field(default=0.0, ge=0)
    max_memory_bytes: int = Field(default=0, ge=0, le=MAX_COUNT)
    max_disk_bytes: int = Field(default=0, ge=0, le=MAX_COUNT)


class Lineage(Frozen):
    """Where the bundle comes from.

    Attributes:
        source_sha256: Digest of the source model's file.
        datasets: Digest of each data set, by what it was used for (``training``, ``calibration``, ...).
        commit: Version of the training code.
        parameters: Training parameters.
        facts: Anything else that is worth keeping.
    """

    source_sha256: Sha256 | None = None
    datasets: Facts = Field(default={}, max_length=MAX_FACTS)
    commit: str = Field(default="", max_length=256)
    parameters: Facts = Field(default={}, max_length=MAX_FACTS)
    facts: Facts = Field(default={}, max_length=MAX_FACTS)


class Attachment(Frozen):
    """A blob that programs on the device read; it is installed and removed with its model, never apart from it."""

    blob: BlobName
    kind: Literal["config", "calibration", "labels", "document"]


class Documents(Frozen):
    """Blobs for people and auditors; a device does not need them."""

    model_card: BlobName | None = None
    sbom: BlobName | None = None
    provenance: BlobName | None = None
    signature: BlobName | None = None

    def names(self) -> tuple[str, ...]:
        """Return the blobs that are named."""
        every = (self.model_card, self.sbom, self.provenance, self.signature)
        return tuple(name for name in every if name is not None)


class Sealed(Frozen):
    """Which blobs are encrypted, and how; see :mod:`dsops.sealing`.

    Attributes:
        scheme: How.
        record_bytes: Length of a record before it is encrypted; the last one may be shorter.
        key_id: Names the content key, and says nothing of it.
        blobs: What the encrypted blobs were before. Under the same names the manifest's own list has the ciphertexts.
    """

    scheme: Literal["aes-256-gcm-records"] = "aes-256-gcm-records"
    record_bytes: int = Field(default=1 << 20, ge=MIN_RECORD_BYTES, le=MAX_RECORD_BYTES)
    key_id: Sha256
    blobs: tuple[Blob, ...] = Field(min_length=1, max_length=MAX_BLOBS)

    def stored_bytes(self, blob: Blob) -> int:
        """Return the length of a blob's ciphertext."""
        return blob.size_bytes + TAG_BYTES * -(-blob.size_bytes // self.record_bytes)


class Manifest(Frozen):
    """What a bundle holds and needs.

    ``payload``, ``profile`` and ``golden`` name blobs. ``metrics`` holds figures of the build that are the same on
    every machine, such as ``float_accuracy`` and ``accuracy``, as fractions. Format 2 is that of bundles with encrypted
    blobs; everything else is written as format 1, which has no key ``sealed``. Keys that the first bundles do not know
    are not written when they are empty: ``operators`` and ``delegates`` of ``compatibility``; ``raw``, ``raw_color``,
    ``interpolation`` and ``fill`` of ``preprocessing``; ``top_k`` of ``postprocessing``.
    """

    format: Literal[1, 2] = 1
    model: Name
    release: int = Field(ge=1, lt=2**31)
    variant: Variant = "int8"
    description: str = Field(default="", max_length=4000)
    license: str = Field(default="", max_length=256)
    task: Task = Task.CLASSIFICATION
    labels: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=65536)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    preprocessing: tuple[Preprocessing, ...] = Field(default=(), max_length=MAX_TENSORS)
    postprocessing: Postprocessing = Postprocessing()
    compatibility: Compatibility = Compatibility()
    budgets: Budgets = Budgets()
    lineage: Lineage = Lineage()
    metrics: dict[Key, float] = Field(default={}, max_length=MAX_METRICS)
    kpis: tuple[Name, ...] = Field(default=(), max_length=MAX_KPIS)
    payload: BlobName = "model.tflite"
    profile: BlobName = "profile.json"
    golden: BlobName = "golden.bin"
    files: tuple[Attachment, ...] = Field(default=(), max_length=MAX_BLOBS)
    documents: Documents = Documents()
    sealed: Sealed | None = None
    blobs: tuple[Blob, ...] = Field(max_length=MAX_BLOBS)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Manifest":
        _check_unique([blob.name for blob in self.blobs], "blobs")
        _check_unique([spec.name for spec in self.inputs], "inputs")
        _check_unique([spec.name for spec in self.outputs], "outputs")
        _check_unique(list(self.labels), "labels")
        _check_unique(list(self.kpis), "KPIs")
        _check_unique([one.input for one in self.preprocessing], "inputs to preprocess")
        named = [self.payload, self.profile, self.golden, *self.documents.names(), *(f.blob for f in self.files)]
        _check_unique(named, "parts")
        held = {blob.name for blob in self.blobs}
        if set(named) != held:
            name = min(set(named) ^ held)
            raise ValueError(f"blob {name} is {'there but not named' if name in held else 'named but absent'}")
        unknown = {one.input for one in self.preprocessing} - {spec.name for spec in self.inputs}
        if unknown:
            raise ValueError(f"preprocessing names the input {min(unknown)!r}, which there is not")
        for spec in (*self.inputs, *self.outputs):
            if spec.shape[0] != 1:
                raise ValueError(f"tensor {spec.name!r} has a batch of {spec.shape[0]}, not 1")
        for section in self.preprocessing:
            check_preprocessing(section, next(spec for spec in self.inputs if spec.name == section.input))
        if self.postprocessing.top_k:
            check_top(self.postprocessing.top_k, self.task, self.labels)
        check_task(self.task, self.labels, self.inputs, self.outputs)
        if (self.format == FORMAT_SEALED) != (self.sealed is not None):
            raise ValueError(f"format {FORMAT_SEALED} is that of bundles with encrypted blobs, and of no others")
        if self.sealed is not None:
            _check_sealed(self.sealed, self)
        return self

    def blob(self, name: str) -> Blob:
        """Return the entry of one blob.

        Raises:
            MalformedBundle: There is none of that name.
        """
        for entry in self.blobs:
            if entry.name == name:
                return entry
        raise MalformedBundle(f"bundle {self.model} {self.release} has no blob {name!r}")

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        left_out: dict[str, Any] = {} if self.sealed else {"sealed": True}
        left_out["compatibility"] = _empty(self.compatibility, _LATER[Compatibility])
        left_out["postprocessing"] = _empty(self.postprocessing, _LATER[Postprocessing])
        left_out["preprocessing"] = {
            number: _empty(section, _LATER[Preprocessing]) for number, section in enumerate(self.preprocessing)
        }
        return strictjson.dumps(self.model_dump(mode="json", exclude=left_out))

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Parse canonical bytes.

        Raises:
            MalformedBundle: They are too long, not strict JSON, not a manifest, or not in canonical form.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise MalformedBundle("the manifest is too long", why=f"{len(data)} bytes, {MAX_MANIFEST_BYTES} allowed")
        try:
            manifest = cls.model_validate(strictjson.loads(data))
        except strictjson.JsonRefused as error:
            raise MalformedBundle("the manifest is not strict JSON", why=str(error)) from error
        except ValidationError as error:
            raise MalformedBundle("the manifest is not valid", why=first_problem(error)) from error
        if manifest.encode() != data:
            raise MalformedBundle("the manifest is not in canonical form")
        return manifest


_LATER: dict[type[BaseModel], tuple[str, ...]] = {
    Compatibility: ("operators", "delegates"),
    Preprocessing: ("raw", "raw_color", "interpolation", "fill"),
    Postprocessing: ("top_k",),
}
"""Keys that the first bundles do not know: they are not written when they are empty."""
_IMAGE_RANK = 4


def check_task(task: Task, labels: Sequence[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that a model's tensors are what its task needs; see :class:`Task`.

    Raises:
        ValueError: They are not; the text says which.
    """
    first = list(outputs[0].shape)
    if task is Task.CLASSIFICATION:
        scores = math.prod(first[1:])
        if len(first) < 2 or scores != first[-1]:
            raise ValueError(f"a classification has an output [1, classes], not {first}")
        if labels and scores != len(labels) and (scores, len(labels)) != (1, 2):
            raise ValueError(f"{len(labels)} labels for an output of shape {first}")
    elif labels and task is not Task.OTHER:
        raise ValueError(f"labels belong to a classification, not to a {task}")
    if task is Task.RECONSTRUCTION and inputs[0].shape != outputs[0].shape:
        raise ValueError(f"a reconstruction of {list(inputs[0].shape)} has shape {first}")


def _check_sealed(sealed: Sealed, manifest: Manifest) -> None:
    """Check that the payload is encrypted, that all that is encrypted can be opened on a device, and the lengths."""
    names = [blob.name for blob in sealed.blobs]
    if names != sorted({manifest.payload, *names}) or not {manifest.payload, manifest.golden}.issuperset(names):
        raise ValueError(
            "the payload is encrypted, the golden inputs may be, in order of their names, and nothing else"
        )
    for blob in sealed.blobs:
        stored = manifest.blob(blob.name).size_bytes
        if not blob.size_bytes or stored != sealed.stored_bytes(blob):
            raise ValueError(f"blob {blob.name} has {stored} bytes, not {sealed.stored_bytes(blob)}")


def check_preprocessing(section: Preprocessing, spec: TensorSpec) -> None:
    """Check that a section fits the input that it is of.

    Raises:
        ValueError: It does not; the text says why.
    """
    rank, image = len(spec.shape), section.layout in IMAGE_LAYOUTS
    if section.raw and image and rank != _IMAGE_RANK:
        raise ValueError(f"layout {section.layout} has {_IMAGE_RANK} axes, and {spec.name!r} has {rank}")
    channels = spec.shape[section.channel_axis if rank == _IMAGE_RANK else -1]
    for values in (section.scale, section.offset):
        if len(values) not in (1, channels):
            raise ValueError(f"{len(values)} numbers for the {channels} channels of {section.input!r}")
    if section.raw and section.color and channels != CHANNELS[section.color]:
        raise ValueError(f"{section.color} has {CHANNELS[section.color]} channels, and {spec.name!r} has {channels}")
    if section.raw and not (spec.scale or spec.datatype in ("FP32", "FP16")):
        raise ValueError(f"{spec.name!r} takes whole numbers without a scale: there are no raw frames for it")


def check_top(count: int, task: Task, labels: Sequence[str]) -> None:
    """Check that so many best labels can be told.

    Raises:
        ValueError: It is no classification with labels, or has fewer of them.
    """
    if task is not Task.CLASSIFICATION or not labels:
        raise ValueError("top_k is for a classification with labels")
    if count > len(labels):
        raise ValueError(f"top_k is {count}, and there are {len(labels)} labels")


def _empty(model: BaseModel, names: Sequence[str]) -> set[str]:
    """Return which of the keys are not set."""
    return {name for name in names if not getattr(model, name)}


def _check_unique(names: Sequence[str], what: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"two of the {what} are {min(repeated)!r}")


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation in one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
