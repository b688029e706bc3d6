"""``dsops sample label``: take labels in, and say what they may be."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsops.errors import InvalidInput
from dsops_controller.cli import output, session

app = typer.Typer(help="Take labels in, look at them, and say what they may be.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="model")]


class Form(StrEnum):
    """What wrote a file of labels."""

    LABEL_STUDIO = "label-studio"
    CSV = "csv"


class Scale(StrEnum):
    """What the difference of two labels means."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"
    RATIO = "ratio"


class Kind(StrEnum):
    """What labellers are shown."""

    IMAGE = "image"
    TEXT = "text"


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Label Studio's export as JSON, or CSV: sample,label,labeller,time")],
    format_: Annotated[Form | None, typer.Option("--format", "-f", help="default: by the ending .json .csv")] = None,
    labeller: Annotated[str, typer.Option("--labeller", help="whose labels, where a CSV file does not say")] = "",
    model: Annotated[str | None, typer.Option("--model", help="admit samples of this model only")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Take in the labels of a file, all or none; labels that are there already are not taken twice.

    Example: dsops sample label import project-1.json

    Of Label Studio export JSON, which keeps who said what; JSON-MIN does not, and is refused. Samples that are not in
    the store and labels that are no class of the model are refused by line or task.
    """
    wanted = format_ or {".json": Form.LABEL_STUDIO, ".csv": Form.CSV}.get(file.suffix.lower())
    if wanted is None:
        raise InvalidInput(f"the ending of {file} names no format", hint="give --format label-studio or csv")
    data = output.read_file(file)
    with session.connected(context) as client:
        taken = client.import_labels(file.name, data, form=wanted, labeller=labeller, model=model)
    said = f"; {taken['skipped']} annotations say nothing" if taken["skipped"] else ""
    output.done(taken, f"{taken['added']} labels taken, {taken['unchanged']} were there already{said}", form)


@app.command("set")
def set_(
    sample: Annotated[str, typer.Argument(help="id of the sample")],
    label: Annotated[str, typer.Argument(help="one of the model's classes, or a number")],
    labeller: Annotated[str, typer.Option("--labeller", envvar=["DSOPS_LABELLER", "USER"], help="who says so")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Give one sample a label; what the labeller said before stays in its history.

    Example: dsops sample label set cam-1/0f.../17 seven --labeller ann
    """
    with session.connected(context) as client:
        taken = client.give_labels([{"sample": sample, "label": label, "labeller": labeller}])
    output.done(taken, f"{sample}: {label}" if taken["added"] else f"{sample}: {label}, as before", form)


@app.command("list")
def list_(
    model: Model,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List the labels that count: the newest of each labeller and sample."""
    with session.connected(context) as client:
        rows = client.labels(model)
    columns = {
        "time": "TIME", "labeller": "LABELLER", "label": "LABEL", "predicted": "PREDICTED", "set_version": "VERSION",
        "sample": "SAMPLE",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def classes(
    model: Model,
    name: Annotated[list[str] | None, typer.Argument(metavar="[CLASS]...", help="the classes in order")] = None,
    scale: Annotated[
        Scale | None, typer.Option("--scale", help="nominal and ordinal have classes; interval and ratio are numbers")
    ] = None,
    guideline: Annotated[Path | None, typer.Option("--guideline", help="text file: what labellers are told")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show what labels of a model may be; with classes, a scale or a guideline: make a new version of it.

    Example: dsops sample label classes digits --guideline guideline.md

    Without a version the labels of the model's newest bundle hold. What is not named stays as it was.
    """
    is_new = bool(name or scale or guideline)
    with session.connected(context) as client:
        if is_new:
            before = {} if name else client.label_classes(model)[-1]
            wanted = scale or before.get("scale", Scale.NOMINAL)
            kept = before.get("classes", []) if wanted in (Scale.NOMINAL, Scale.ORDINAL) else []
            text = _text(guideline) if guideline else before.get("guideline", "")
            client.new_label_classes(model, {"classes": name or kept, "scale": wanted, "guideline": text})
        rows = client.label_classes(model)
    columns = {"version": "VERSION", "created": "SINCE", "scale": "SCALE", "classes": "CLASSES"}
    output.rows(rows, columns, form)


@app.command()
def interface(
    model: Model,
    kind: Annotated[Kind, typer.Option("--kind", help="what labellers are shown")] = Kind.IMAGE,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
) -> None:
    """Print the labelling interface (XML) of Label Studio for the exported tasks of a model.

    Example: dsops sample label interface digits > interface.xml
    """
    with session.connected(context) as client:
        output.out.print(client.label_interface(model, kind).decode(), markup=False, end="")


def _text(path: Path) -> str:
    try:
        return output.read_file(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", why=str(error), hint="save it as UTF-8") from error
