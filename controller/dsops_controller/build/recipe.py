"""Builds a model from its recipe: convert, quantize, evaluate, gate, profile, golden inputs; then writes the folder."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsops import strictjson
from dsops.bundle import describe_blobs, file_digest
from dsops.errors import Conflict, InvalidInput
from dsops.files import fsync_folder, write_atomically
from dsops.golden import GoldenSet
from dsops.manifest import Lineage, TensorSpec
from dsops.profile import Profile
from dsops_controller.build import record
from dsops_controller.build.arrays import Floats, Labelled, read_frames, read_labelled
from dsops_controller.build.convert import read_model
from dsops_controller.build.evaluate import Evaluation, check_gate, evaluate
from dsops_controller.build.golden import choose_golden
from dsops_controller.build.litert import LitertModel, require_labels
from dsops_controller.build.profile import build_profile
from dsops_controller.build.quantize import quantize
from dsops_controller.build.recipe_file import FILE_NAME, Recipe, read_labels, read_recipe
from dsops_controller.build.record import BuildRecord

STEPS = ("read", "convert", "quantize", "evaluate", "profile", "golden", "write")
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class BuildResult:
    """What was built and where: the folder, its record and the comparison with the float model."""

    folder: Path
    record: BuildRecord
    evaluation: Evaluation

    def as_dict(self) -> dict[str, str | float]:
        """Return model, variant and every figure of the evaluation."""
        return {"model": self.record.model, "variant": self.record.variant, **self.evaluation.as_dict()}


@dataclass(frozen=True)
class _Data:
    """The recipe's data, read."""

    calibration: Floats
    evaluation: Labelled
    profile: Floats
    golden: Labelled


@dataclass(frozen=True)
class _Parts:
    """Everything that was computed, before it is written."""

    float_model: bytes
    payload: bytes
    evaluation: Evaluation
    profile: Profile
    golden: GoldenSet


def build_model(recipe: Path, out_dir: Path, on_step: OnStep = lambda step: None) -> BuildResult:
    """Build the model of a recipe's folder. Equal inputs give equal files, but for the latencies in ``report.json``.

    Args:
        recipe: Folder that holds ``bundle.toml``, or that file; nothing there is changed.
        out_dir: Folder to write. An earlier build in it is replaced when the new one is complete.
        on_step: Called with a name of ``STEPS`` as each begins.

    Raises:
        InvalidConfig: The recipe is wrong.
        InvalidInput: A data file is wrong.
        InvalidModel: The source is not a model, or does not match its labels.
        UnsupportedModel: The source cannot be converted or quantized.
        AccuracyGateFailed: The quantized model is worse than its gate allows.
        Conflict: ``out_dir`` holds something that is not a build.
    """
    folder = recipe.parent if recipe.name == FILE_NAME else recipe
    steps = read_recipe(folder)
    labels = read_labels(steps, folder)
    _check_replaceable(out_dir)
    parts = _compute(steps, folder, labels, on_step)
    on_step("write")
    packed = {
        record.PAYLOAD: parts.payload,
        record.PROFILE: parts.profile.encode(),
        record.GOLDEN: parts.golden.encode(),
    }
    entry = _record(steps, folder, labels, parts, packed)
    files = packed | {
        record.FLOAT_MODEL: parts.float_model,
        record.REPORT: strictjson.dumps({"mode": steps.quantize.mode, **parts.evaluation.as_dict()}),
        record.FILE_NAME: entry.encode(),
    }
    _write_folder(out_dir, files)
    return BuildResult(out_dir, entry, parts.evaluation)


def _read_data(recipe: Recipe, folder: Path) -> _Data:
    """Read every data file before the long steps, so that a wrong one is said at once."""
    return _Data(
        calibration=read_frames(folder / recipe.quantize.calibration),
        evaluation=read_labelled(folder / recipe.evaluate.data),
        profile=read_frames(folder / recipe.profile.data),
        golden=read_labelled(folder / recipe.golden.data),
    )


def _compute(recipe: Recipe, folder: Path, labels: tuple[str, ...], on_step: OnStep) -> _Parts:
    on_step("read")
    data = _read_data(recipe, folder)
    on_step("convert")
    float_model = read_model(folder / recipe.model.source)
    require_labels(LitertModel(float_model), len(labels))
    on_step("quantize")
    payload = quantize(float_model, data.calibration, recipe.quantize.mode)
    on_step("evaluate")
    evaluation = evaluate(float_model, payload, data.evaluation, len(labels))
    check_gate(evaluation, recipe.evaluate.max_accuracy_drop, recipe.evaluate.min_agreement)
    on_step("profile")
    profile = build_profile(payload, data.profile, len(labels))
    on_step("golden")
    golden = choose_golden(payload, data.golden, labels, recipe.golden.count, recipe.golden.score_tolerance)
    return _Parts(float_model, payload, evaluation, profile, golden)


def _record(
    recipe: Recipe, folder: Path, labels: tuple[str, ...], parts: _Parts, packed: Mapping[str, bytes]
) -> BuildRecord:
    runner = LitertModel(parts.payload)
    return BuildRecord(
        model=recipe.model.name,
        variant=recipe.quantize.mode,
        description=recipe.model.description,
        labels=labels,
        inputs=(runner.input,),
        outputs=(runner.output,),
        preprocessing=recipe.preprocessing.model_copy(update={"layout": _layout(runner.input)}),
        compatibility=recipe.compatibility,
        limits=recipe.limits,
        lineage=_lineage(recipe, folder),
        metrics=_metrics(recipe, parts.evaluation),
        files=describe_blobs(packed),
    )


def _layout(tensor: TensorSpec) -> str:
    return "NHWC" if len(tensor.shape) == 4 else "NF"


def _lineage(recipe: Recipe, folder: Path) -> Lineage:
    used = {
        "calibration": recipe.quantize.calibration,
        "evaluation": recipe.evaluate.data,
        "profile": recipe.profile.data,
        "golden": recipe.golden.data,
    }
    digests = {purpose: file_digest(folder / name)[0] for purpose, name in used.items()}
    return Lineage(
        source_sha256=file_digest(folder / recipe.model.source)[0],
        datasets=dict(recipe.lineage.datasets) | digests,
        facts=recipe.lineage.facts,
    )


def _metrics(recipe: Recipe, evaluation: Evaluation) -> dict[str, float]:
    """Return the figures that are the same on every machine; latencies stay in the report."""
    return {
        "float_accuracy": evaluation.float_accuracy,
        f"{recipe.quantize.mode}_accuracy": evaluation.quantized_accuracy,
        "agreement": evaluation.agreement,
        "evaluation_frames": float(evaluation.frames),
        "float_bytes": float(evaluation.float_bytes),
        f"{recipe.quantize.mode}_bytes": float(evaluation.quantized_bytes),
    }


def _check_replaceable(out_dir: Path) -> None:
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InvalidInput(f"{out_dir} is not a folder")
    if any(out_dir.iterdir()) and not (out_dir / record.FILE_NAME).is_file():
        raise Conflict(
            f"{out_dir} holds something that is not a build", why="it would be replaced", hint="name another folder"
        )


def _write_folder(out_dir: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder beside its place and move it there whole; an earlier build is moved away just before."""
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    except OSError as error:
        raise InvalidInput(f"cannot write {out_dir}", why=str(error.strerror)) from error
    try:
        new, old = work / "new", work / "old"
        new.mkdir()
        for name, data in files.items():
            write_atomically(new / name, data)
        if out_dir.exists():
            out_dir.rename(old)
        new.rename(out_dir)
        fsync_folder(out_dir.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
