"""``dsops sample``: inputs that devices kept for a reason, what labellers say of them, and how good that is."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops.files import write_atomically
from dsops_controller.cli import label, output, sample_keys, sample_request, session, unpack

app = typer.Typer(help="Look at samples, export them, take labels in, and judge them.", no_args_is_help=True)
app.add_typer(label.app, name="label")
sample_keys.add_to(app)
sample_request.add_to(app)


class Why(StrEnum):
    """Why a device kept a sample."""

    RANDOM = "random"
    UNCERTAIN = "uncertain"
    DRIFT = "drift"
    DISAGREEMENT = "shadow_disagreement"
    REQUEST = "request"


class Form(StrEnum):
    """What samples can be exported as."""

    NPZ = "npz"
    PARQUET = "parquet"
    ARROW = "arrow"
    CSV = "csv"
    IMAGES = "images"
    LABEL_STUDIO = "label-studio"


class Only(StrEnum):
    """Which samples, by what labellers said of them."""

    LABELLED = "labelled"
    UNLABELLED = "unlabelled"
    DISPUTED = "disputed"


class Folder(StrEnum):
    """What the folders of pictures are named after."""

    LABEL = "label"
    PREDICTED = "predicted"


_BY_ENDING = {
    ".npz": Form.NPZ,
    ".parquet": Form.PARQUET,
    ".arrow": Form.ARROW,
    ".feather": Form.ARROW,
    ".csv": Form.CSV,
    ".json": Form.LABEL_STUDIO,
}

Model = Annotated[str | None, typer.Option("--model", help="only of this model")]
Device = Annotated[str | None, typer.Option("--device", help="only from this device")]
Reason = Annotated[Why | None, typer.Option("--reason", help="only those kept for this reason")]
Days = Annotated[int | None, typer.Option("--days", min=1, max=3660, help="only of the newest days")]
Id = Annotated[str, typer.Argument(metavar="SAMPLE", help="id, as the list shows it")]


@app.command("list")
def list_(
    model: Model = None,
    device: Device = None,
    reason: Reason = None,
    days: Days = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="newest so many")] = 50,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List samples, newest first."""
    with session.connected(context) as client:
        rows = client.samples(model=model, device=device, reason=reason, days=days, limit=limit)
    columns = {
        "time": "TIME", "model": "MODEL", "release": "RELEASE", "reason": "REASON",
        "score": "SCORE", "predicted": "PREDICTED", "id": "SAMPLE",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def show(
    sample: Id,
    image: Annotated[Path | None, typer.Option("--image", help="also write the input as a picture (.png)")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show one sample: why it was kept, its tensors in few figures, and everything that labellers said of it.

    Example: dsops sample show cam-1/0f.../17 --image frame.png
    """
    if image is not None:
        output.check_place(image)
    with session.connected(context) as client:
        found = client.sample(sample)
        picture = client.sample_image(sample) if image is not None else b""
    output.facts(found, form)
    if image is not None:
        write_atomically(image, picture)
        output.say(f"{image}: {len(picture)} bytes")


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="file to write; a new folder with --format images")],
    format_: Annotated[
        Form | None, typer.Option("--format", "-f", help="default: by the ending .npz .parquet .arrow .csv .json")
    ] = None,
    model: Model = None,
    device: Device = None,
    reason: Reason = None,
    days: Days = None,
    only: Annotated[
        Only | None, typer.Option("--only", help="by what labellers said; disputed: they do not all say the same")
    ] = None,
    by: Annotated[Folder, typer.Option("--by", help="what names the folders of images")] = Folder.LABEL,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write samples with their inputs and labels, for labelling, training and looking at.

    Example: dsops sample export tasks.json --model digits --reason shadow_disagreement

    npz, parquet and arrow hold the exact tensors, csv only what is known of them. images makes a folder for each class
    with a picture for each sample. label-studio (.json) makes tasks with what the device predicted; the interface for
    them comes from: dsops sample label interface MODEL
    """
    wanted = format_ or _BY_ENDING.get(to.suffix.lower())
    if wanted is None:
        raise InvalidInput(f"the ending of {to} names no format", hint=f"give --format {'|'.join(Form)}")
    if wanted is Form.IMAGES:
        unpack.check_folder(to)
    else:
        output.check_place(to)
    which = {"model": model, "device": device, "reason": reason, "days": days, "only": only, "by": by}
    with session.connected(context) as client:
        data = client.export_samples(format=wanted, **which)
    if wanted is Form.IMAGES:
        count = unpack.unpack(data, to)
        output.done({"folder": str(to), "files": count}, f"{to}: {count} files", form)
        return
    write_atomically(to, data)
    output.done({"file": str(to), "bytes": len(data)}, f"{to}: {len(data)} bytes", form)


@app.command()
def quality(
    model: Annotated[str, typer.Argument(help="model")],
    set_version: Annotated[
        int | None, typer.Option("--since-version", min=1, help="only labels given by this version of the classes on")
    ] = None,
    enough: Annotated[float, typer.Option("--enough", min=0.0, max=1.0, help="kappa that is good enough")] = 0.8,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Tell how far labellers agree: Krippendorff's alpha, Cohen's kappa of each pair and class, and where they do not.

    A class is LISTED when the lower end of its kappa (95 %) is below --enough: say better what it is, make a new
    version of the classes, and label its samples again.
    """
    with session.connected(context) as client:
        found = client.label_quality(model, set_version=set_version, enough=enough)
    if form is output.Format.JSON:
        output.print_json(found)
        return
    alpha = _interval(found["alpha"])
    output.say(
        f"{found['samples']} samples labelled, {found['twice']} by two or more; alpha ({found['scale']}) {alpha}"
    )
    pairs = [
        {"who": f"{pair['first']} {pair['second']}", "kappa": _interval(pair["kappa"]), "items": pair["kappa"]["items"]}
        | {"agreed": pair["agreed"]}
        for pair in found["pairs"]
    ]
    if pairs:
        output.rows(pairs, {"who": "LABELLERS", "kappa": "KAPPA", "agreed": "AGREED", "items": "OF"}, form)
    if found["classes"]:
        output.rows([_class(one) for one in found["classes"]], _CLASS, form)
    if found["disagreements"]:
        output.rows([_disagreement(one) for one in found["disagreements"]], _DISAGREEMENT, form)


@app.command()
def coverage(
    model: Annotated[str, typer.Argument(help="model")],
    site: Annotated[list[str] | None, typer.Option("--site", help="a site that must be covered too; repeat")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Tell which classes and sites have enough labels, and what the devices say of what.

    Covered is what has 20 labelled samples or more, one of them labelled in the last 90 days. RIGHT FROM and SHARE FROM
    are lower ends (95 %) of how much the devices get right, and of the share of all labelled samples.
    """
    with session.connected(context) as client:
        found = client.label_coverage(model, site or [])
    if form is output.Format.JSON:
        output.print_json(found)
        return
    output.say(f"{found['samples']} samples with one label, {found['disputed']} on which labellers disagree")
    output.rows([{"what": "class", **one} for one in found["classes"]] + _places(found), _CASE, form)
    wrong = [cell for cell in found["cells"] if cell["predicted"] != cell["label"]]
    if wrong:
        output.rows(wrong, _CELL, form)


@app.command()
def erase(
    reason: Annotated[str, typer.Option("--reason", help="why; kept in the audit trail")],
    sample: Annotated[list[str] | None, typer.Argument(metavar="[SAMPLE]...", help="ids")] = None,
    device: Annotated[str | None, typer.Option("--device", help="every sample of this device")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Take samples out for good, with their labels: nothing shows or exports them, and data sets get a new version.

    Example: dsops sample erase --device cam-1 --reason "request of 27 November" --yes
    """
    if bool(sample) == bool(device):
        raise InvalidInput("name samples, or a device", hint="dsops sample erase SAMPLE..., or --device NAME")
    with session.connected(context) as client:
        named = sample or [row["id"] for row in client.samples(device=device, limit=10_000)]
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"erase {len(named)} samples for good?", err=True)):
            raise InvalidInput("nothing was erased", why="it was not confirmed", hint="give --yes")
        done: dict[str, Any] = {"samples": 0, "versions": []}
        if named:
            done = client.erase_samples(named, reason)
    made = f"; new versions: {', '.join(done['versions'])}" if done["versions"] else ""
    output.done(done, f"{done['samples']} samples erased{made}", form)


_CLASS = {"name": "CLASS", "kappa": "KAPPA", "items": "SAMPLES", "listed": "LISTED", "instead": "INSTEAD"}
_DISAGREEMENT = {"labels": "LABELS", "sample": "SAMPLE"}
_CASE = {
    "what": "WHAT",
    "name": "NAME",
    "samples": "SAMPLES",
    "is_covered": "COVERED",
    "right_low": "RIGHT FROM",
    "share_low": "SHARE FROM",
    "newest": "NEWEST",
}
_CELL = {"label": "IS", "predicted": "PREDICTED", "samples": "SAMPLES", "share_low": "FROM", "share_high": "TO"}


def _places(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"what": "site", **one} for one in found["sites"]]


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "-"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def _class(one: dict[str, Any]) -> dict[str, Any]:
    instead = [f"{other['instead']} ({other['samples']})" for other in one["confusions"][:3]]
    shown = {"name": one["name"], "kappa": _interval(one["kappa"]), "items": one["kappa"]["items"]}
    return shown | {"listed": one["is_listed"], "instead": instead}


def _disagreement(one: dict[str, Any]) -> dict[str, Any]:
    return {"sample": one["sample"], "labels": [f"{who}: {label}" for who, label in one["labels"].items()]}
