"""Makes the variants of a model: each is quantized, checked, compared with the float model, profiled and proved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsops import tflite_lint
from dsops.errors import InvalidModel
from dsops.golden import GoldenSet
from dsops.manifest import TensorSpec
from dsops.profile import Profile
from dsops_controller.build.conversion.convert import normalize_tflite
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.data import DataSet
from dsops_controller.build.evaluation.evaluate import Evaluator
from dsops_controller.build.evaluation.gate import check
from dsops_controller.build.evaluation.parity import Parity
from dsops_controller.build.golden import choose_golden
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.profile import build_profile
from dsops_controller.build.progress import Progress
from dsops_controller.build.quantization.isolated import quantize_isolated
from dsops_controller.build.quantization.quantize import Quantized
from dsops_controller.build.recipe_file import Recipe
from dsops_controller.build.reports.report import VariantReport
from dsops_controller.build.runs import Runs
from dsops_controller.build.source import read_bytes

READY_MADE = "ready-made"
"""Mode of a variant whose payload another tool made."""


@dataclass(frozen=True)
class Workplace:
    """What making any variant needs.

    Attributes:
        folder: The recipe's.
        data: Data by purpose.
        evaluator: Compares variants with the float model.
        parity: How near the float model is to the ONNX model that it was converted from.
    """

    recipe: Recipe
    folder: Path
    float_runs: Runs
    meaning: Meaning
    data: Mapping[str, DataSet]
    evaluator: Evaluator
    parity: Parity | None
    progress: Progress


@dataclass(frozen=True)
class Made:
    """A variant's payload and what is known of it; ``measured`` is the model whose figures these are."""

    payload: bytes
    measured: Runs
    mode: str
    report: VariantReport
    custom_operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A variant that passed its gate, with everything that its bundle needs."""

    made: Made
    profile: Profile
    golden: GoldenSet


def make_variants(place: Workplace, names: tuple[str, ...]) -> dict[str, Made]:
    """Make variants, those that are measured as another one last.

    Raises:
        InvalidModel: A payload is not a sound model, or its tensors are not the float model's.
        UnsupportedModel: The model cannot be quantized in this way.
        AccuracyGateFailed: The result answers the same to everything.
    """
    made: dict[str, Made] = {}
    for name in sorted(names, key=lambda one: place.recipe.variant[one].measured_as is not None):
        stand_in = place.recipe.variant[name].measured_as
        made[name] = _take_over(place, name, made[stand_in]) if stand_in else _make(place, name)
    return {name: made[name] for name in names}


def finish_variants(place: Workplace, made: Mapping[str, Made]) -> dict[str, Finished]:
    """Profile variants and choose their golden inputs.

    Raises:
        InvalidInput: The data for it is too little, or does not fit.
    """
    finished: dict[Runs, Finished] = {}
    for name, one in made.items():
        if one.measured not in finished:
            place.progress.step(f"profile {name}")
            profile = build_profile(one.measured, place.data["profile"], place.meaning)
            place.progress.step(f"golden inputs {name}")
            section = place.recipe.golden
            golden = choose_golden(one.measured, place.data["golden"], place.meaning, section.count, section.tolerance)
            finished[one.measured] = Finished(one, profile, golden)
    return {
        name: Finished(one, finished[one.measured].profile, finished[one.measured].golden) for name, one in made.items()
    }


def _make(place: Workplace, name: str) -> Made:
    quantized, mode = _payload(place, name)
    tflite_lint.lint(quantized.data)
    place.progress.step(f"evaluate {name}", len(place.data["evaluation"]))
    runs = place.float_runs if quantized.data == place.float_runs.payload else Runs(quantized.data)
    evaluation = place.evaluator.evaluate(runs, place.progress)
    verdicts = check(place.recipe.gate_of(name), evaluation, place.parity)
    return Made(quantized.data, runs, mode, VariantReport(name, mode, quantized.notes, evaluation, verdicts))


def _payload(place: Workplace, name: str) -> tuple[Quantized, str]:
    section = place.recipe.variant[name]
    if section.payload is None:
        mode = place.recipe.mode_of(name)
        rules = tuple(rule.rule() for rule in section.rules)
        calibration = place.data.get("calibration")
        return quantize_isolated(place.float_runs.payload, mode, calibration, rules, place.progress), mode.value
    given = read_bytes(place.folder / section.payload, MAX_MODEL_BYTES)
    tflite_lint.lint(given)
    data = _as_given(given)
    _require_same_tensors(place, name, data)
    return Quantized(data), READY_MADE


def _as_given(data: bytes) -> bytes:
    """Return a payload byte for byte, so that its digest stays what its maker knows; an old file in today's form."""
    current = normalize_tflite(data)
    before, after = LitertModel(data), LitertModel(current)
    return data if (before.inputs, before.outputs) == (after.inputs, after.outputs) else current


def _take_over(place: Workplace, name: str, other: Made) -> Made:
    """Make a variant that this machine cannot run; another one's figures stand for it."""
    section = place.recipe.variant[name]
    assert section.payload is not None
    data = read_bytes(place.folder / section.payload, MAX_MODEL_BYTES)
    facts = tflite_lint.lint(data, tflite_lint.LintLimits(custom_operators=frozenset(section.custom_operators)))
    stand_in = other.measured.model
    _require_shapes(name, "inputs", [one.shape for one in facts.inputs], stand_in.inputs)
    _require_shapes(name, "outputs", [one.shape for one in facts.outputs], stand_in.outputs)
    note = f"not run here; figures, profile and golden inputs are those of variant {other.report.name}"
    verdicts = check(place.recipe.gate_of(name), other.report.evaluation, place.parity)
    report = VariantReport(name, READY_MADE, (note,), other.report.evaluation, verdicts)
    return Made(data, other.measured, READY_MADE, report, section.custom_operators)


def _require_same_tensors(place: Workplace, name: str, payload: bytes) -> None:
    given, wanted = LitertModel(payload), place.float_runs.model
    _require_shapes(name, "inputs", [spec.shape for spec in given.inputs], wanted.inputs)
    _require_shapes(name, "outputs", [spec.shape for spec in given.outputs], wanted.outputs)


def _require_shapes(name: str, what: str, have: Sequence[tuple[int, ...]], wanted: Sequence[TensorSpec]) -> None:
    need = [spec.shape for spec in wanted]
    if [tuple(shape) for shape in have] != need:
        raise InvalidModel(
            f"the payload of variant {name} has other {what} than the source model",
            why=f"{[list(shape) for shape in have]} instead of {[list(shape) for shape in need]}",
            hint="give a payload that was made of this model",
        )
