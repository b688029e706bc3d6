"""``dsops model``: from a trained network to quantized ones that are known to be right, and who may sign them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsops import tflite_lint
from dsops.errors import AccuracyGateFailed, InvalidInput
from dsops.ids import model_name
from dsops.manifest import Task
from dsops_controller.cli import model_report, output, progress, session
from dsops_controller.cli.trust_place import Keys, Place, Purpose, ServerFolder, begin, check_target, finish, tell

if TYPE_CHECKING:
    from dsops_controller.build.authoring.init import Initiated
    from dsops_controller.build.reports.report import Report

app = typer.Typer(help="Build quantized models; say who owns them.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help=".onnx or .tflite file, or models:/NAME@ALIAS of an MLflow registry")]
_LINT_LIMIT_BYTES = 1 << 30


@app.command()
def init(
    model: Model,
    to: Annotated[Path, typer.Option("--to", help="folder for the recipe; made if it is not there")],
    name: Annotated[str, typer.Option("--name", help="name of the model; else from the file")] = "",
    task: Annotated[Task | None, typer.Option("--task", help="what the first output means; else guessed")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="text file, a label a line")] = None,
    data: Annotated[Path | None, typer.Option("--data", help=".npz file to use for every purpose")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over an earlier recipe")] = False,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write a bundle.toml by looking at a model: complete, with what must still be given said in it.

    Example: dsops model init model.onnx --to digits --labels labels.txt

    The model, labels and data are copied into the folder. A model of a registry stays there: each build fetches it.
    """
    init_ = session.optional("dsops_controller.build.authoring.init", "build")
    done = init_.init_recipe(model, to, init_.Wishes(name, task, labels, data, force))
    facts = {"recipe": str(done.recipe), "model": done.draft.name, "task": str(done.draft.task)}
    facts |= {"activation": str(done.draft.rule.activation), "needed": list(done.needed), "savez": done.savez}
    output.facts(facts, form, hidden=("needed", "savez"))
    if form is output.Format.TABLE:
        _say_next(to, done)


@app.command()
def show(model: Model, form: output.Output = output.Format.TABLE) -> None:
    """Show a model file: inputs, outputs, operators, what it says of itself, and what stands in the way of a build.

    Example: dsops model show model.onnx
    """
    inspection = session.optional("dsops_controller.build.authoring.inspection", "build")
    registry = session.optional("dsops_controller.build.registry", "build")
    with registry.located(model, Path()) as found:
        output.facts({**inspection.inspect_model(found.path).as_dict(), **found.facts}, form)


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help=".tflite file")],
    custom: Annotated[
        list[str] | None, typer.Option("--custom-operator", help="custom operator that the runtime has; repeatable")
    ] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Check the structure of a .tflite file as devices do before they load it; exit code 7 when it is refused.

    Example: dsops model lint model.tflite
    """
    limits = tflite_lint.LintLimits(custom_operators=frozenset(custom or ()))
    facts = dataclasses.asdict(tflite_lint.lint(_read(model), limits))
    output.facts({"file": model.name, "lint": "sound", **facts}, form)


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="folder that holds bundle.toml, or the file itself")],
    to: Annotated[Path, typer.Option("--to", help="folder for the result; made anew")] = Path("build/model"),
    variant: Annotated[list[str] | None, typer.Option("--variant", help="only this variant; repeatable")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="append the figures here, in Markdown")] = None,
    full: Annotated[bool, typer.Option("--full", help="every gate key, class and slice")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="do not show the steps")] = False,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Convert, quantize, evaluate and prove every variant of a model as its bundle.toml says.

    Example: dsops model build firmware_bundles/digits --to built

    Ends with exit code 7 when a variant is worse than its gate allows; then only the reports are written, into a folder
    beside the result's whose name ends in .failed.
    """
    builder = session.optional("dsops_controller.build.recipe", "build")
    if summary is not None:
        output.check_place(summary)
    reports: list[Report] = []
    try:
        with progress.shown(wanted=form is output.Format.TABLE and not no_progress) as told:
            result = builder.build_model(recipe, to, told, tuple(variant or ()), reports.append)
    except AccuracyGateFailed as error:
        page = Path(str(error.details.get("report", "")))
        if page.name:
            _append(summary, _report(page.parent))
            _show(reports, page.parent, form, full=full)
            output.say(f"report: {page}")
        raise
    report = _report(result.folder)
    _append(summary, report)
    page = result.folder / model_report.PAGE
    _show(reports, result.folder, form, full=full)
    if form is output.Format.TABLE:
        output.say(f"report: {page}; next: dsops bundle build {to} --release 1 --to .")


@app.command()
def grant(
    name: Annotated[str, typer.Argument(help="model name")],
    event: Annotated[
        Path | None, typer.Argument(metavar="[EVENT]", help="folder to make for the signing event")
    ] = None,
    owner: Annotated[list[Path] | None, typer.Option("--owner", help="public key of an owner; repeatable")] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", min=1, max=9, help="how many owners must sign a bundle [2 if there are]"),
    ] = None,
    floor: Annotated[int, typer.Option("--floor", min=1, help="lowest release that devices accept")] = 1,
    keys: Keys = None,
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Let owners sign the bundles of a model.

    Example: dsops model grant digits 2026-11-27-digits --owner erin.pub --owner frank.pub --server state

    With --keys, for a trial, an owner's key model-NAME.pem is made there, and everything is signed and published.
    """
    check_target(event, keys)
    if (keys is None) == (not owner):
        raise InvalidInput("say who owns the model", hint="--owner PUBLIC-KEY, or for a trial --keys FOLDER")
    if keys is not None:
        ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
        if server is None:
            raise InvalidInput("say which server it is", hint="--server FOLDER")
        ceremony.grant(keys, server, model_name(name), floor=floor)
        key = keys / f"model-{name}.pem"
        output.done({"model": name, "key": str(key)}, f"bundles of {name} can now be signed with {key}", form)
        return
    drafts = session.optional("dsops_controller.trust.drafts", "controller")
    holders = session.optional("dsops_controller.trust.holders", "controller")
    place = Place(server, context)
    edit = begin(place)
    owners = [holders.read_public(file) for file in owner or ()]
    drafts.grant(edit, name, drafts.Group(owners, threshold or min(2, len(owners))), floor)
    tell(finish(edit, Purpose("grant", f"Owners of {name}"), event, None, place), event, form)


def _show(reports: "Sequence[Report]", folder: Path, form: output.Format, *, full: bool) -> None:
    """Print what the comparison found, whether the gate let it pass or not."""
    if form is output.Format.JSON:
        summary = model_report.summary(_report(folder))
        output.print_json({"folder": str(folder), "report": str(folder / model_report.PAGE), **summary})
        return
    tables = session.optional("dsops_controller.build.reports.table", "build")
    for report in reports:
        for part in tables.tables(report, full=full):
            output.out.print(part)


def _say_next(folder: Path, done: "Initiated") -> None:
    for line in done.needed:
        output.say(f"needed: {line}")
    if not done.draft.data:
        output.say(f"write data: {done.savez}")
    output.say(f"next: dsops model build {folder} --to built")


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / model_report.REPORT).read_bytes())
    return found


def _append(summary: Path | None, report: dict[str, Any]) -> None:
    """Add the figures to a file, which may hold those of other builds."""
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(model_report.as_markdown(report))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LINT_LIMIT_BYTES:
            raise InvalidInput(f"{path} is too large", why=f"{_LINT_LIMIT_BYTES} bytes are allowed")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror), hint="check the path") from error
