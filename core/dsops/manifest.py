"""The manifest: what a bundle says of itself. Strict, frozen, canonical; the bundle's digest covers its bytes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import MalformedBundle

MAX_MANIFEST_BYTES = 1 << 20
MAX_BLOBS = 256

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BlobName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Dtype = Literal["FP32", "FP16", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL"]


class Frozen(BaseModel):
    """Base of values on a wire or on disk: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Blob(Frozen):
    """One part of a bundle: its name, length and digest."""

    name: BlobName
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class TensorSpec(Frozen):
    """One input or output of the payload, batch axis included. ``datatype`` is an Open Inference Protocol name.

    ``scale`` and ``zero_point`` are the affine quantization of the stored tensor: real = scale * (stored - zero_point).
    """

    name: str = Field(max_length=256)
    datatype: Dtype
    shape: tuple[int, ...]
    scale: float = 0.0
    zero_point: int = 0


class Preprocessing(Frozen):
    """How a raw frame becomes the payload's real-valued input: ``real = raw * scale + offset``, in this layout."""

    layout: Literal["NHWC", "NF"] = "NHWC"
    scale: float = 1.0
    offset: float = 0.0


class Compatibility(Frozen):
    """What a device must offer. Empty ``hardware`` admits every class."""

    hardware: tuple[str, ...] = ()
    min_litert: str = ""


class Limits(Frozen):
    """What a device refuses to exceed when it proves the bundle; 0 sets no limit."""

    max_latency_ms: float = Field(default=0.0, ge=0)


class Lineage(Frozen):
    """Where the bundle comes from: digests of the source model and of each data set, and free facts."""

    source_sha256: Sha256 | None = None
    datasets: dict[str, str] = {}
    facts: dict[str, str] = {}


class Manifest(Frozen):
    """What a bundle holds and needs.

    ``payload``, ``profile`` and ``golden`` name blobs. ``metrics`` holds figures of the build, such as
    ``float_accuracy`` and ``int8_accuracy``, as fractions.
    """

    format: Literal[1] = 1
    model: Name
    release: int = Field(ge=1, lt=2**31)
    variant: str = Field(default="int8", pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    description: str = Field(default="", max_length=4000)
    labels: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing = Preprocessing()
    compatibility: Compatibility = Compatibility()
    limits: Limits = Limits()
    lineage: Lineage = Lineage()
    metrics: dict[str, float] = {}
    payload: BlobName = "model.tflite"
    profile: BlobName = "profile.json"
    golden: BlobName = "golden.bin"
    blobs: tuple[Blob, ...] = Field(max_length=MAX_BLOBS)

    @model_validator(mode="after")
    def _names_resolve(self) -> "Manifest":
        names = [blob.name for blob in self.blobs]
        if len(set(names)) != len(names):
            raise ValueError("two blobs share a name")
        missing = {self.payload, self.profile, self.golden} - set(names)
        if missing:
            raise ValueError(f"blob {min(missing)} is named but absent")
        if self.labels and self.outputs and self.outputs[0].shape[-1:] != (len(self.labels),):
            raise ValueError(f"{len(self.labels)} labels for an output of shape {list(self.outputs[0].shape)}")
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
        return strictjson.dumps(self.model_dump(mode="json"))

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


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation in one line: where, and what."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
