"""Builds a model from its recipe: every variant of it, compared with the float model; then writes the folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dsops.bundle import describe_blobs, file_digest
from dsops.errors import AccuracyGateFailed, InvalidConfig, InvalidInput
from dsops.manifest import Compatibility, Lineage, Preprocessing, TensorSpec, check_preprocessing, first_problem
from dsops_controller.build import record
from dsops_controller.build.build_folder import check_replaceable, failed_folder, remove_folder, write_folder
from dsops_controller.build.evaluation.answers import Question
from dsops_controller.build.evaluation.evaluate import Evaluator
from dsops_controller.build.evaluation.measure_model import Measuring
from dsops_controller.build.evaluation.metric_file import load_metric
from dsops_controller.build.evaluation.parity import measure_parity
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.progress import Progress, silent
from dsops_controller.build.recipe_file import FILE_NAME, InputSection, Recipe, read_labels, read_recipe
from dsops_controller.build.record import BuildRecord, VariantRecord
from dsops_controller.build.reports.page import render_page
from dsops_controller.build.reports.report import Report, encode_report
from dsops_controller.build.runs import Runs
from dsops_controller.build.source import Shared, Source, dataset_digests, read_datasets, read_shared, read_source
from dsops_controller.build.variants import Finished, Workplace, finish_variants, make_variants

TOOLS = ("dsops", "ai-edge-quantizer", "ai-edge-litert", "onnx", "numpy")
"""Programs whose version may change what is built."""
OnReport = Callable[[Report], None]
_LAYOUTS: dict[int, Any] = {4: "NHWC", 3: "NTF", 2: "NF"}


def _ignore(report: Report) -> None:
    """Do nothing with a report."""


@dataclass(frozen=True)
class BuildResult:
    """What was built and where: the folder, its record and the comparison with the float model."""

    folder: Path
    record: BuildRecord
    report: Report


def build_model(
    recipe: Path, out_dir: Path, progress: Progress = silent, only: Sequence[str] = (), on_report: OnReport = _ignore
) -> BuildResult:
    """Build the model of a recipe's folder. Equal inputs give equal files, but for what reports say of this machine.

    Args:
        recipe: Folder that holds ``bundle.toml``, or that file; nothing there is changed.
        out_dir: Folder to write. An earlier build in it is replaced when the new one is complete. When a variant is
            worse than its gate allows, the reports go to the folder beside it whose name ends in ``.failed``.
        progress: Told of each step.
        only: Variants to build; all when it is empty.
        on_report: Given the comparison as soon as it is made, before the gate judges it.

    Raises:
        InvalidConfig: The recipe is wrong.
        InvalidInput: A data file is wrong.
        InvalidModel: The source is not a model, or does not match its labels.
        UnsupportedModel: The source cannot be converted or quantized.
        AccuracyGateFailed: A variant is worse than its gate allows.
        Conflict: ``out_dir`` holds something that is not a build.
    """
    folder = recipe.parent if recipe.is_file() and recipe.name == FILE_NAME else recipe
    plan = read_recipe(folder)
    names = _chosen(plan, only)
    meaning = Meaning(plan.model.task, plan.postprocessing, read_labels(plan, folder))
    check_replaceable(out_dir, folder)
    check_replaceable(failed_folder(out_dir), folder)
    progress.step("read")
    shared, digests = read_shared(plan, folder), dataset_digests(plan, folder)
    progress.step("convert")
    source = read_source(plan, folder)
    lineage = plan.lineage.lineage(source.sha256, digests, source.facts)
    place = _prepare(plan, folder, source, meaning, progress)
    made = make_variants(place, names)
    report = Report(
        model=plan.model.name,
        description=plan.model.description,
        task=plan.model.task,
        source=source.name,
        lineage=lineage,
        parity=place.parity,
        variants=tuple(one.report for one in made.values()),
    )
    on_report(report)
    _require_passed(report, out_dir)
    finished = finish_variants(place, made)
    progress.step("write")
    entry = _record(place, source, shared, lineage, finished)
    _write(out_dir, entry, report, source, shared, finished)
    return BuildResult(out_dir, entry, report)


def _chosen(plan: Recipe, only: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in only if name not in plan.variant]
    if unknown:
        raise InvalidInput(f"the recipe has no variant {unknown[0]!r}", why=f"it has {', '.join(plan.variant)}")
    names = tuple(name for name in plan.variant if not only or name in only)
    for name in names:
        stand_in = plan.variant[name].measured_as
        if stand_in is not None and stand_in not in names:
            raise InvalidInput(f"variant {name} is measured as {stand_in}", hint=f"build {stand_in} with it")
    return names


def _prepare(plan: Recipe, folder: Path, source: Source, meaning: Meaning, progress: Progress) -> Workplace:
    runs = Runs(source.float_model)
    model = runs.model
    meaning = replace(meaning, sections=_preprocessing(plan, folder, model.inputs))
    meaning.check(model)
    data = read_datasets(plan, folder, model.inputs, meaning.sections)
    evaluation = data["evaluation"]
    metrics = tuple(load_metric(spec, folder) for spec in plan.evaluate.metrics)
    question = Question(meaning.task, meaning.rule, meaning.labels, metrics)
    measuring = Measuring(plan.evaluate.threads) if plan.evaluate.measure else None
    evaluator = Evaluator(runs, evaluation, question, measuring)
    parity = None
    if source.onnx is not None:
        progress.step("parity")
        parity = measure_parity(source.onnx, source.float_model, evaluation, plan.evaluate.parity_frames)
    return Workplace(plan, folder, runs, meaning, data, evaluator, parity, progress)


def _require_passed(report: Report, out_dir: Path) -> None:
    """Refuse a build with a variant that failed its gate, and leave the reports that show why."""
    place = failed_folder(out_dir)
    if report.passed:
        remove_folder(place)
        return
    write_folder(place, _report_files(report))
    failed = [
        f"{variant.name}: {verdict.text}"
        for variant in report.variants
        for verdict in variant.verdicts
        if not verdict.passed
    ]
    raise AccuracyGateFailed(
        f"{report.model} does not pass its gate", why="; ".join(failed), report=str(place / record.REPORT_PAGE)
    )


def _record(
    place: Workplace, source: Source, shared: Shared, lineage: Lineage, finished: Mapping[str, Finished]
) -> BuildRecord:
    plan = place.recipe
    if source.signer:
        lineage = lineage.model_copy(update={"facts": {**lineage.facts, "model_signed_by": source.signer}})
    return BuildRecord(
        model=plan.model.name,
        description=plan.model.description,
        license=plan.model.license,
        task=plan.model.task,
        labels=place.meaning.labels,
        preprocessing=place.meaning.sections,
        postprocessing=plan.postprocessing,
        lineage=lineage,
        kpis=plan.model.kpis,
        recipe_sha256=file_digest(place.folder / FILE_NAME)[0],
        tools={tool: metadata.version(tool) for tool in TOOLS},
        attachments=shared.attachments,
        model_card=shared.model_card,
        signature=shared.signature,
        shared=describe_blobs(shared.files),
        variants=tuple(_variant_record(place, name, one) for name, one in finished.items()),
    )


def _variant_record(place: Workplace, name: str, finished: Finished) -> VariantRecord:
    section = place.recipe.variant[name]
    runner = finished.made.measured.model
    return VariantRecord(
        variant=name,
        mode=finished.made.mode,
        inputs=runner.inputs,
        outputs=runner.outputs,
        compatibility=Compatibility(
            hardware=section.hardware, min_litert=section.min_litert, delegates=tuple(sorted(set(section.delegates)))
        ),
        budgets=place.recipe.budgets_of(name),
        metrics=finished.made.report.evaluation.summary(),
        custom_operators=finished.made.custom_operators,
        measured_as=section.measured_as,
        files=describe_blobs(_variant_files(finished)),
    )


def _variant_files(finished: Finished) -> dict[str, bytes]:
    return {
        record.PAYLOAD: finished.made.payload,
        record.PROFILE: finished.profile.encode(),
        record.GOLDEN: finished.golden.encode(),
    }


def _write(
    out_dir: Path,
    entry: BuildRecord,
    report: Report,
    source: Source,
    shared: Shared,
    finished: Mapping[str, Finished],
) -> None:
    files = {record.FILE_NAME: entry.encode(), record.FLOAT_MODEL: source.float_model, **_report_files(report)}
    files |= {f"{record.SHARED}/{name}": data for name, data in shared.files.items()}
    for variant, one in finished.items():
        files |= {f"{variant}/{name}": data for name, data in _variant_files(one).items()}
    write_folder(out_dir, files)


def _report_files(report: Report) -> dict[str, bytes]:
    return {record.REPORT: encode_report(report), record.REPORT_PAGE: render_page(report)}


def _check_preprocessing(plan: Recipe, inputs: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in inputs]
    given = plan.preprocessing
    if isinstance(given, dict) and set(given) - set(names):
        unknown = min(set(given) - set(names))
        raise InvalidConfig(
            f"preprocessing names the input {unknown!r}", why=f"the model's inputs are {', '.join(names)}"
        )
    if isinstance(given, InputSection) and len(names) > 1 and given != InputSection():
        raise InvalidConfig(
            "preprocessing does not say of which input it is",
            why=f"the model's inputs are {', '.join(names)}",
            hint=f'write a table for each, such as [preprocessing."{names[0]}"]',
        )
    for spec in inputs:
        section = given.get(spec.name) if isinstance(given, dict) else given
        if section is not None:
            _check_channels(spec.name, section, spec)


def _check_channels(name: str, section: InputSection, spec: TensorSpec) -> None:
    for key, values in (("scale", section.scale), ("offset", section.offset)):
        if section.layout != "NCHW" and isinstance(values, tuple) and len(values) not in (1, spec.shape[-1]):
            raise InvalidConfig(
                f"preprocessing.{key} has {len(values)} numbers",
                why=f"one is needed, or one for each of the {spec.shape[-1]} values of the last axis of {name!r}",
            )


def _preprocessing(plan: Recipe, folder: Path, inputs: Sequence[TensorSpec]) -> tuple[Preprocessing, ...]:
    _check_preprocessing(plan, inputs)
    given = plan.preprocessing
    sections = given if isinstance(given, dict) else {spec.name: given for spec in inputs}
    try:
        return tuple(_checked(sections[spec.name], spec) for spec in inputs if spec.name in sections)
    except ValidationError as error:
        raise InvalidConfig(
            f"preprocessing in {folder / FILE_NAME} cannot be done", why=first_problem(error)
        ) from error
    except ValueError as error:
        raise InvalidConfig(f"preprocessing in {folder / FILE_NAME} does not fit", why=str(error)) from error


def _checked(section: InputSection, spec: TensorSpec) -> Preprocessing:
    made = section.of(spec.name, _LAYOUTS.get(len(spec.shape), "other"))
    check_preprocessing(made, spec)
    return made
