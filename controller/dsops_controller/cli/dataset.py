"""``dsops dataset``: named versions of labelled samples, for training, and what was built of them."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops.files import write_atomically
from dsops_controller.cli import output, session, unpack
from dsops_controller.cli.sample import Why

app = typer.Typer(help="Make data sets of labelled samples, export and compare them.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(metavar="NAME[/VERSION]", help="a version; without a number the newest")]


class Form(StrEnum):
    """What data sets can be exported as."""

    NPZ = "npz"
    PARQUET = "parquet"
    IMAGES = "images"
    MANIFEST = "manifest"


class Split(StrEnum):
    """What a sample is for."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


class GroupBy(StrEnum):
    """What stays together in one split."""

    SITE = "site"
    DEVICE = "device"


class Labelled(StrEnum):
    """Which label a sample gets when several labellers said something."""

    AGREED = "agreed"
    MAJORITY = "majority"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="name of the data set: a-z 0-9 -")],
    model: Annotated[str, typer.Option("--model", help="samples of this model")],
    device: Annotated[str | None, typer.Option("--device", help="only from this device")] = None,
    reason: Annotated[Why | None, typer.Option("--reason", help="only those kept for this reason")] = None,
    release: Annotated[int | None, typer.Option("--release", min=1, help="only of this release")] = None,
    since: Annotated[datetime | None, typer.Option("--since", help="captured at or after (UTC)")] = None,
    until: Annotated[datetime | None, typer.Option("--until", help="captured before (UTC)")] = None,
    set_version: Annotated[
        int | None, typer.Option("--since-version", min=1, help="only labels given by this version of the classes on")
    ] = None,
    labelled: Annotated[
        Labelled, typer.Option("--label", help="the label that all labellers gave, or most of them")
    ] = Labelled.AGREED,
    fewest: Annotated[int, typer.Option("--labellers", min=1, max=100, help="labellers that a sample needs")] = 1,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="leave this class out; repeat")] = None,
    group_by: Annotated[GroupBy, typer.Option("--group-by", help="what stays together in one split")] = GroupBy.SITE,
    validation: Annotated[float, typer.Option("--validation", min=0, max=99, help="percent of the groups")] = 10.0,
    test: Annotated[float, typer.Option("--test", min=0, max=99, help="percent of the groups")] = 10.0,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a version of a data set of what is labelled now. The same content as the newest version is that version.

    Example: dsops dataset create field --model digits --labellers 2 --exclude seven

    A version is never changed: it has a digest, the SHA-256 of a manifest that names each sample by the SHA-256 of its
    exact tensor. Splits are made by site or device, never by frame, so that near-identical frames stay together; a
    group falls to the same split in every version.
    """
    new = {
        "name": name,
        "model": model,
        "device": device,
        "reason": reason,
        "release": release,
        "since": _utc(since),
        "until": _utc(until),
        "set_version": set_version,
        "labelled": labelled,
        "fewest": fewest,
        "excluded": exclude or [],
        "group_by": group_by,
        "validation": validation / 100,
        "test": test / 100,
    }
    with session.connected(context) as client:
        made = client.create_dataset(new)
    what = "made" if made["is_new"] else "has this content already:"
    output.done(made, f"{what} {made['reference']}: {made['samples']} samples, digest {made['digest']}", form)
    if form is output.Format.TABLE:
        left = made["left_out"]
        output.say(
            f"left out: {left['unlabelled']} without a label that counts, {left['duplicates']} equal to others, "
            f"{left['sealed']} sealed"
        )
        _print_counts(made, form)


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the data sets, each name's newest version first."""
    with session.connected(context) as client:
        rows = client.datasets()
    if form is output.Format.TABLE:
        rows = [row | {"digest": output.short(row["digest"])} for row in rows]
    columns = {
        "reference": "DATA SET", "model": "MODEL", "samples": "SAMPLES", "gone": "ERASED", "is_kept": "KEPT",
        "created": "CREATED", "digest": "DIGEST",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def show(
    dataset: Reference,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show one version: how it was made, its classes by split, and the models that were built of it."""
    with session.connected(context) as client:
        found = client.dataset(dataset)
    output.facts(found, form, hidden=("counts", "models", "is_new"))
    if form is output.Format.TABLE:
        _print_counts(found, form)
        built = {"model": "BUILT MODEL", "release": "RELEASE", "variant": "VARIANT", "purpose": "FOR", "by": "NAMED BY"}
        output.rows(found["models"], built, form)


@app.command()
def export(
    dataset: Reference,
    to: Annotated[Path, typer.Argument(help="file to write (npz, manifest), or new folder (parquet, images)")],
    format_: Annotated[Form, typer.Option("--format", "-f", help="npz is what dsops model build reads")] = Form.NPZ,
    split: Annotated[Split | None, typer.Option("--split", help="only this one; default all")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write a version for training, with class counts and the probability with which each sample was kept.

    Example: dsops dataset export field/3 training.npz --split training

    npz has x, y, classes, inclusion and slice.site. parquet and images make folders with a file or a folder for each
    split and class. The controller remembers the file's digest: a bundle that names the file in its lineage, as
    dsops model build does with its data files, leads back to the data set.
    """
    is_folder = format_ in (Form.PARQUET, Form.IMAGES)
    if is_folder:
        unpack.check_folder(to)
    else:
        output.check_place(to)
    with session.connected(context) as client:
        data = client.export_dataset(dataset, format_, split)
    if is_folder:
        count = unpack.unpack(data, to)
        output.done({"folder": str(to), "files": count}, f"{to}: {count} files", form)
        return
    write_atomically(to, data)
    output.done({"file": str(to), "bytes": len(data)}, f"{to}: {len(data)} bytes", form)


@app.command()
def remove(
    dataset: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="a version")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Keep the samples of a version no longer than others. Its manifest stays, for the models that were built of it.

    Example: dsops dataset remove field/3 --yes

    A data set keeps its samples, and the files of the store that they are in, past the days of the store's retention.
    Once it is removed it can be exported only as long as they last. To keep it again, make it again.
    """
    if "/" not in dataset:
        raise InvalidInput(f"{dataset!r} names no version", hint=f"for example dsops dataset remove {dataset}/1")
    with session.connected(context) as client:
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"give up the samples of {dataset}?", err=True)):
            raise InvalidInput("nothing was removed", why="it was not confirmed", hint="give --yes")
        gone = client.remove_dataset(dataset)
    output.done(gone, f"{gone['reference']} keeps its {gone['samples']} samples no longer than others", form)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="NAME/VERSION")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="NAME/VERSION, or NAME for the newest")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show how one version differs from another: samples that came and went, and labels that changed.

    Example: dsops dataset diff field/2 field
    """
    with session.connected(context) as client:
        found = client.diff_datasets(before, after)
    if form is output.Format.JSON:
        output.print_json(found)
        return
    counts = [f"{len(found[name])} {name}" for name in ("added", "removed", "relabelled", "moved")]
    output.say(f"{found['before']} to {found['after']}: {', '.join(counts)}")
    if found["relabelled"]:
        output.rows(found["relabelled"], {"before": "BEFORE", "now": "NOW", "sample": "SAMPLE"}, form)


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.replace(tzinfo=UTC).isoformat()


def _print_counts(found: dict[str, Any], form: output.Format) -> None:
    counts = found["counts"]
    classes = sorted({name for split in counts.values() for name in split})
    rows = [{"name": name, **{split: counts[split].get(name, 0) for split in counts}} for name in classes]
    output.rows(rows, {"name": "CLASS", **{split: split.upper() for split in counts}}, form)
    if not all(counts[split] for split in ("validation", "test")):
        output.say("a split is empty: there are few groups, and all samples of a group stay together")
