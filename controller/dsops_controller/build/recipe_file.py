"""The recipe of a bundle: ``bundle.toml``, which names a source model, its labels and the data for each step.

    [model]         name, source (.onnx or .tflite), labels (a list, or a text file with one a line), description
    [quantize]      mode (int8, int16x8, dynamic8, weight8), calibration
    [evaluate]      data, max_accuracy_drop, min_agreement
    [profile]       data
    [golden]        data, count, score_tolerance
    [preprocessing] scale, offset                        (optional)
    [compatibility] hardware, min_litert                 (optional)
    [limits]        max_latency_ms                       (optional)
    [lineage]       datasets, facts                      (optional)

Every path is relative to the recipe's folder. Data files are described in :mod:`dsops_controller.build.arrays`.
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from dsops.errors import InvalidConfig
from dsops.manifest import Compatibility, Frozen, Limits, Name, Preprocessing
from dsops_controller.build.evaluate import MAX_ACCURACY_DROP, MIN_AGREEMENT
from dsops_controller.build.golden import COUNT, SCORE_TOLERANCE
from dsops_controller.build.quantize import QuantMode

FILE_NAME = "bundle.toml"
MIN_LABELS = 2

Share = Annotated[float, Field(ge=0, le=1)]
FileName = Annotated[str, Field(min_length=1)]


class ModelSection(Frozen):
    """The source model and what its scores mean, in their order."""

    name: Name
    source: FileName
    labels: tuple[str, ...] | FileName
    description: str = Field(default="", max_length=4000)


class QuantizeSection(Frozen):
    """How the model is quantized, and on which typical frames its ranges are measured."""

    mode: QuantMode = QuantMode.INT8
    calibration: FileName


class EvaluateSection(Frozen):
    """Labelled frames for the comparison with the float model, and how much worse the result may be."""

    data: FileName
    max_accuracy_drop: Share = MAX_ACCURACY_DROP
    min_agreement: Share = MIN_AGREEMENT


class ProfileSection(Frozen):
    """Held-out frames as the devices will see them."""

    data: FileName


class GoldenSection(Frozen):
    """Labelled, held-out frames to choose golden inputs from."""

    data: FileName
    count: int = Field(default=COUNT, ge=1, le=1024)
    score_tolerance: Share = SCORE_TOLERANCE


class LineageSection(Frozen):
    """What the source model was trained on (names and digests), and free facts."""

    datasets: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)


class Recipe(Frozen):
    """A whole recipe."""

    model: ModelSection
    quantize: QuantizeSection
    evaluate: EvaluateSection
    profile: ProfileSection
    golden: GoldenSection
    preprocessing: Preprocessing = Preprocessing()
    compatibility: Compatibility = Compatibility()
    limits: Limits = Limits()
    lineage: LineageSection = LineageSection()


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a folder.

    Raises:
        InvalidConfig: There is none, it is not TOML, or a key is unknown, missing or wrong; the text names both.
    """
    path = folder / FILE_NAME
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidConfig(
            f"cannot read {path}", why=str(error.strerror), hint=f"give a folder that holds {FILE_NAME}"
        ) from error
    except ValidationError as error:
        raise InvalidConfig(_first_wrong_key(error, path), why=str(error.errors()[0]["msg"])) from error
    except ValueError as error:  # what the TOML parser and the UTF-8 decoder raise
        raise InvalidConfig(f"{path} is not TOML", why=str(error)) from error


def read_labels(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Return the labels that a recipe lists or names the file of.

    Raises:
        InvalidConfig: The file cannot be read, there are fewer than two labels, or one is empty or there twice.
    """
    given = recipe.model.labels
    labels = _label_lines(folder / given) if isinstance(given, str) else given
    where = f"model.labels in {folder / FILE_NAME}"
    if len(labels) < MIN_LABELS:
        raise InvalidConfig(f"{where} has {len(labels)} labels", why=f"{MIN_LABELS} or more are needed")
    repeated = sorted(label for label in set(labels) if not label or labels.count(label) > 1)
    if repeated:
        raise InvalidConfig(f"{where} holds {repeated[0]!r}", why="a label is empty or is there twice")
    return labels


def _label_lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read the labels in {path}", why=str(error)) from error


def _first_wrong_key(error: ValidationError, path: Path) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    kinds = {"extra_forbidden": "unknown key", "missing": "missing key"}
    return f"{kinds.get(problem['type'], 'wrong value of')} {key} in {path}"
