"""The recipe of a bundle: ``bundle.toml``, which names a source model, its variants, and the data for each step.

    [model]          name, source (.onnx, .tflite or a reference into a registry), task, labels, description, license,
                     card, signature, kpis
    [data]           calibration, evaluation, profile, golden, training
    [variant.NAME]   quantize or payload, rules, hardware, budgets, gate; a table for each variant
    [evaluate]       metrics, threads, parity_frames         (optional, as everything below)
    [gate]           what a variant must keep
    [golden]         count, tolerance
    [preprocessing]  how a raw frame becomes the input, or a table for each input
    [postprocessing] activation, error, threshold
    [budgets]        max_latency_ms, max_memory_bytes, max_disk_bytes
    [files]          payloads that are not models
    [lineage]        commit, parameters, datasets, facts

Every path is relative to the recipe's folder and names something inside it; links there are followed. Data files are
described in :mod:`dsops_controller.build.data`. The whole reference is docs/recipe.md.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from dsops.errors import InvalidConfig
from dsops.manifest import (
    MAX_DELEGATES,
    MAX_HARDWARE,
    BlobName,
    Budgets,
    Color,
    DelegateName,
    Frozen,
    Hardware,
    Lineage,
    MinLitert,
    Name,
    Postprocessing,
    Preprocessing,
    Task,
    Variant,
    first_problem,
)
from dsops_controller.build.evaluation.gate import Gate
from dsops_controller.build.golden import COUNT
from dsops_controller.build.quantization.quantize import OperatorRule, QuantMode
from dsops_controller.build.record import RESERVED_FILES, RESERVED_VARIANTS

FILE_NAME = "bundle.toml"
MIN_LABELS = 2
MAX_RECIPE_BYTES = 1 << 20


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the recipe's folder")
    return name


FileName = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_inside)]
Tolerance = Annotated[float, Field(gt=0)]


class ModelSection(Frozen):
    """The source model and what it is."""

    name: Name
    source: FileName
    task: Task = Task.CLASSIFICATION
    labels: tuple[str, ...] | FileName = ()
    description: str = Field(default="", max_length=4000)
    license: str = Field(default="", max_length=256)
    card: FileName | None = None
    signature: FileName | None = None
    signature_key: FileName | None = None
    kpis: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _signature_is_whole(self) -> "ModelSection":
        if (self.signature is None) != (self.signature_key is None):
            raise ValueError("signature and signature_key belong together")
        return self


class DataSection(Frozen):
    """A data file for each purpose; profile and golden inputs are taken from the evaluation data by default."""

    calibration: FileName | None = None
    evaluation: FileName
    profile: FileName | None = None
    golden: FileName | None = None
    training: FileName | None = None
    form: Literal["", "real", "raw"] = ""

    def files(self) -> dict[str, str]:
        """Return the file of each purpose."""
        profile, golden = self.profile or self.evaluation, self.golden or self.evaluation
        named = {"evaluation": self.evaluation, "profile": profile, "golden": golden}
        optional = {"calibration": self.calibration, "training": self.training}
        return named | {purpose: name for purpose, name in optional.items() if name is not None}


class RuleSection(Frozen):
    """An exception: how operators with this name, in scopes that match the pattern, are quantized instead."""

    pattern: str = ""
    operator: str = ""
    mode: QuantMode

    def rule(self) -> OperatorRule:
        """Return it in the quantizer's form."""
        return OperatorRule(self.pattern, self.operator, self.mode)


class VariantSection(Frozen):
    """One build of the model for a class of hardware; ``quantize`` makes its payload, or ``payload`` is a file."""

    quantize: QuantMode | None = None
    rules: tuple[RuleSection, ...] = ()
    payload: FileName | None = None
    custom_operators: tuple[str, ...] = ()
    measured_as: Variant | None = None
    hardware: tuple[Hardware, ...] = Field(default=(), max_length=MAX_HARDWARE)
    min_litert: MinLitert = ""
    delegates: tuple[DelegateName, ...] = Field(default=(), max_length=MAX_DELEGATES)
    budgets: dict[str, float] = Field(default_factory=dict)
    gate: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_origin(self) -> "VariantSection":
        if self.payload is not None and (self.quantize is not None or self.rules):
            raise ValueError("a variant has a payload, or is quantized, not both")
        if self.payload is None and (self.custom_operators or self.measured_as):
            raise ValueError("custom_operators and measured_as belong to a variant with a payload of its own")
        if self.custom_operators and not self.measured_as:
            raise ValueError("custom operators do not run here: name the variant in measured_as whose figures to take")
        return self


class EvaluateSection(Frozen):
    """What is measured besides the task's own metrics; latency and memory only where ``measure`` is true."""

    metrics: tuple[str, ...] = ()
    measure: bool = True
    threads: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1,), min_length=1, max_length=8)
    parity_frames: int = Field(default=32, ge=1, le=100_000)


class GoldenSection(Frozen):
    """How many golden inputs, and how far an answer may be off; by default that is measured."""

    count: int = Field(default=COUNT, ge=1, le=1024)
    tolerance: Tolerance | dict[str, Tolerance] | None = None


class InputSection(Frozen):
    """How a raw frame becomes one input; see :class:`dsops.manifest.Preprocessing`."""

    color: Color = ""
    resize: Literal["", "stretch", "crop", "letterbox"] = ""
    scale: tuple[float, ...] | float = 1.0
    offset: tuple[float, ...] | float = 0.0
    layout: Literal["", "NHWC", "NCHW"] = ""
    raw: Literal["", "UINT8", "INT8", "INT16", "INT32", "FP32"] = ""
    raw_color: Color = ""
    interpolation: Literal["", "nearest", "bilinear", "area"] = ""
    fill: float = 0.0

    def of(self, name: str, layout: Literal["NHWC", "NTF", "NF", "other"]) -> Preprocessing:
        """Return it for an input of that name; ``layout`` is what its shape suggests.

        Raises:
            ValidationError: It contradicts itself.
        """
        return Preprocessing(
            input=name,
            layout=self.layout or layout,
            color=self.color,
            resize=self.resize,
            scale=_tuple(self.scale),
            offset=_tuple(self.offset),
            raw=self.raw,
            raw_color=self.raw_color,
            interpolation=self.interpolation or ("bilinear" if self.raw and self.resize else ""),
            fill=self.fill,
        )


class FileSection(Frozen):
    """A payload that is not a model."""

    kind: Literal["config", "calibration", "labels", "document"]
    source: FileName


class LineageSection(Frozen):
    """What the source model was trained on (names and digests), with what, and free facts."""

    commit: str = Field(default="", max_length=256)
    parameters: dict[str, str] = Field(default_factory=dict)
    datasets: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)

    def lineage(self, source_sha256: str, digests: Mapping[str, str], facts: Mapping[str, str]) -> Lineage:
        """Return it with what was read: the source's digest, that of each data file, and what a registry says."""
        read = {"datasets": self.datasets | dict(digests), "facts": self.facts | dict(facts)}
        return Lineage(source_sha256=source_sha256, **self.model_dump() | read)


class Recipe(Frozen):
    """A whole recipe."""

    model: ModelSection
    data: DataSection
    variant: dict[Variant, VariantSection] = Field(min_length=1, max_length=32)
    evaluate: EvaluateSection = EvaluateSection()
    gate: Gate = Gate()
    golden: GoldenSection = GoldenSection()
    preprocessing: InputSection | dict[str, InputSection] = InputSection()
    postprocessing: Postprocessing = Postprocessing()
    budgets: Budgets = Budgets()
    files: dict[BlobName, FileSection] = Field(default_factory=dict, max_length=200)
    lineage: LineageSection = LineageSection()

    @model_validator(mode="after")
    def _variants_fit(self) -> "Recipe":
        for name, variant in self.variant.items():
            self._check_variant(name, variant)
        taken = sorted(RESERVED_FILES & set(self.files))
        if taken:
            raise ValueError(f"a file cannot be named {taken[0]!r}, as a part of every bundle is")
        return self

    def _check_variant(self, name: str, variant: VariantSection) -> None:
        if name in RESERVED_VARIANTS:
            raise ValueError(f"a variant cannot be named {name!r}")
        if variant.payload is None:
            mode = self.mode_of(name)
            if mode.is_static and self.data.calibration is None:
                raise ValueError(f"variant {name} needs data.calibration")
        if variant.measured_as is not None:
            other = self.variant.get(variant.measured_as)
            if other is None or other.measured_as is not None or variant.measured_as == name:
                raise ValueError(f"variant {name} cannot be measured as {variant.measured_as}")
        try:
            self.gate_of(name)
            self.budgets_of(name)
        except ValidationError as error:
            raise ValueError(f"variant {name}: {first_problem(error)}") from error

    def mode_of(self, name: str) -> QuantMode:
        """Return how a variant is quantized: what it says, or what its name says.

        Raises:
            ValueError: Neither says it.
        """
        given = self.variant[name].quantize
        if given is None and name not in {mode.value for mode in QuantMode}:
            raise ValueError(f"variant {name} needs quantize, one of {', '.join(QuantMode)}")
        return given or QuantMode(name)

    def gate_of(self, name: str) -> Gate:
        """Return a variant's gate: the recipe's, with the variant's own limits over it."""
        return Gate.model_validate(self.gate.model_dump(exclude_unset=True) | self.variant[name].gate)

    def budgets_of(self, name: str) -> Budgets:
        """Return a variant's budgets: the recipe's, with the variant's own over them."""
        return Budgets.model_validate(self.budgets.model_dump() | self.variant[name].budgets)


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a folder.

    Raises:
        InvalidConfig: There is none, it is not TOML, or a key is unknown, missing or wrong; the text names both.
    """
    path = folder / FILE_NAME
    try:
        return Recipe.model_validate(tomllib.loads(_read_text(path)))
    except OSError as error:
        raise InvalidConfig(
            f"cannot read {path}", why=str(error.strerror), hint=f"give a folder that holds {FILE_NAME}"
        ) from error
    except ValidationError as error:
        raise InvalidConfig(_first_wrong_key(error, path), why=_why(error)) from error
    except (ValueError, RecursionError) as error:  # what the TOML parser and the UTF-8 decoder raise
        raise InvalidConfig(f"{path} is not TOML", why=str(error)) from error


def read_labels(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Return the labels that a recipe lists or names the file of; none when it gives none.

    Raises:
        InvalidConfig: The file cannot be read, there is one label only, or one is empty or there twice.
    """
    given = recipe.model.labels
    labels = _label_lines(folder / given) if isinstance(given, str) else given
    where = f"model.labels in {folder / FILE_NAME}"
    if given and len(labels) < MIN_LABELS:
        raise InvalidConfig(f"{where} has {len(labels)} labels", why=f"{MIN_LABELS} or more are needed")
    repeated = sorted(label for label in set(labels) if not label or labels.count(label) > 1)
    if repeated:
        raise InvalidConfig(f"{where} holds {repeated[0]!r}", why="a label is empty or is there twice")
    return labels


def _label_lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in _read_text(path).splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read the labels in {path}", why=str(error)) from error


def _read_text(path: Path) -> str:
    """Read a small text; a byte order mark is passed over.

    Raises:
        InvalidConfig: It is too long, or not a regular file.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise InvalidConfig(f"cannot read {path}", why="it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_RECIPE_BYTES + 1)
    if len(data) > MAX_RECIPE_BYTES:
        raise InvalidConfig(f"{path} is too long", why=f"{MAX_RECIPE_BYTES} bytes are allowed")
    return data.decode("utf-8-sig")


def _tuple(value: tuple[float, ...] | float) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _first_wrong_key(error: ValidationError, path: Path) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"] if part not in _BRANCHES)
    kinds = {"extra_forbidden": "unknown key", "missing": "missing key"}
    kind = kinds.get(problem["type"], "wrong value of" if key else "")
    return f"{kind} {key} in {path}" if key else f"{path} contradicts itself"


_BRANCHES = ("InputSection", "dict[str,InputSection]", "[key]")
"""What a validation error names besides the keys that people wrote."""


def _why(error: ValidationError) -> str:
    return first_problem(error).split(": ", 1)[-1].removeprefix("Value error, ")
