"""What a build leaves for packaging: ``build.json``, beside the files that it describes.

OUT/build.json              the record
OUT/float.tflite            the float model, with which every variant was compared
OUT/report.json, .html      the comparison
OUT/shared/<blob>           files that go into the bundle of every variant
OUT/<variant>/<blob>        files of one variant: payload, profile, golden inputs

Nothing in it is a time, a path or a latency, so equal recipes give equal records.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import InvalidInput
from dsops.manifest import (
    Attachment,
    Blob,
    BlobName,
    Budgets,
    Compatibility,
    Frozen,
    Lineage,
    Name,
    Postprocessing,
    Preprocessing,
    Sha256,
    Task,
    TensorSpec,
    Variant,
    first_problem,
)

FILE_NAME = "build.json"
PAYLOAD = "model.tflite"
FLOAT_MODEL = "float.tflite"
PROFILE = "profile.json"
GOLDEN = "golden.bin"
MODEL_CARD = "modelcard.md"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.dsse.json"
SIGNATURE = "model.sigstore.json"
REPORT = "report.json"
REPORT_PAGE = "report.html"
SHARED = "shared"
PACKED = (PAYLOAD, PROFILE, GOLDEN)
"""The files of a variant that become blobs of its bundle."""

RESERVED_VARIANTS = frozenset({SHARED, FILE_NAME, FLOAT_MODEL, REPORT, REPORT_PAGE})
"""Names of a build's own files, which no variant's folder can have."""
RESERVED_FILES = frozenset({PAYLOAD, PROFILE, GOLDEN, MODEL_CARD, SIGNATURE, SBOM, PROVENANCE})
"""Names of blobs that every bundle may have, which no file of a recipe can have."""


class VariantRecord(Frozen):
    """What one variant's manifest needs besides what all of them share.

    Attributes:
        mode: How its payload was quantized.
        custom_operators: Operators of its payload that are not of TFLite, such as ``edgetpu-custom-op``.
        measured_as: The variant whose payload was run in this one's stead, because the build host cannot run it.
        files: Files in the variant's own folder.
    """

    variant: Variant
    mode: str = Field(min_length=1, max_length=64)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    compatibility: Compatibility = Compatibility()
    budgets: Budgets = Budgets()
    metrics: dict[str, float] = Field(default_factory=dict)
    custom_operators: tuple[str, ...] = ()
    measured_as: Variant | None = None
    files: tuple[Blob, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> "VariantRecord":
        if self.variant in RESERVED_VARIANTS:
            raise ValueError(f"a variant cannot be named {self.variant!r}")
        if sorted(blob.name for blob in self.files) != sorted(PACKED):
            raise ValueError(f"variant {self.variant} has other files than {', '.join(PACKED)}")
        return self


class BuildRecord(Frozen):
    """Everything that the manifests of a build's bundles need besides the release.

    Attributes:
        recipe_sha256: Digest of the recipe's file.
        tools: Version of each program that took part, by its name.
        attachments: Files for programs on the device; they are among the shared ones.
        model_card: A shared file for people, if the recipe gave one.
        signature: A shared file with the source model's signature, if it came with one.
        shared: Files that go into the bundle of every variant.
    """

    format: Literal[1] = 1
    model: Name
    description: str = ""
    license: str = ""
    task: Task
    labels: tuple[str, ...] = ()
    preprocessing: tuple[Preprocessing, ...] = ()
    postprocessing: Postprocessing = Postprocessing()
    lineage: Lineage = Lineage()
    kpis: tuple[Name, ...] = ()
    recipe_sha256: Sha256
    tools: dict[str, str] = Field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    model_card: BlobName | None = None
    signature: BlobName | None = None
    shared: tuple[Blob, ...] = ()
    variants: tuple[VariantRecord, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> "BuildRecord":
        names = [entry.variant for entry in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("two variants have one name")
        stand_ins = {entry.measured_as for entry in self.variants if entry.measured_as is not None}
        if not stand_ins <= {entry.variant for entry in self.variants if entry.measured_as is None}:
            raise ValueError("a variant is measured as one that there is not, or that was not measured itself")
        documents = [name for name in (self.model_card, self.signature) if name is not None]
        named = sorted([*documents, *(entry.blob for entry in self.attachments)])
        if named != sorted(blob.name for blob in self.shared):
            raise ValueError("the shared files are not the attachments, model card and signature")
        return self

    def variant(self, name: str) -> VariantRecord:
        """Return one variant.

        Raises:
            InvalidInput: There is none of that name.
        """
        for entry in self.variants:
            if entry.variant == name:
                return entry
        there = ", ".join(entry.variant for entry in self.variants)
        raise InvalidInput(f"this build has no variant {name!r}", why=f"it has {there}", hint="name one of them")

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> "BuildRecord":
        """Read the record of a build folder.

        Raises:
            InvalidInput: The folder does not hold a build.
        """
        path = folder / FILE_NAME
        try:
            return cls.model_validate(strictjson.loads(path.read_bytes()))
        except OSError as error:
            raise InvalidInput(
                f"{folder} does not hold a build", why=f"{path.name}: {error.strerror}", hint="dsops model build RECIPE"
            ) from error
        except strictjson.JsonRefused as error:
            raise InvalidInput(f"{path} is not strict JSON", why=str(error)) from error
        except ValidationError as error:
            raise InvalidInput(f"{path} is not a build record", why=first_problem(error)) from error
