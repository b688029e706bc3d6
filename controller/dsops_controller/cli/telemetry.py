"""``dsops telemetry``: what devices say of themselves and of their models."""

import csv
import io
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops.files import write_atomically
from dsops_controller.cli import output, periods, session

app = typer.Typer(help="Look at telemetry.", no_args_is_help=True)


@app.command()
def show(
    model: Annotated[str | None, typer.Option("--model", help="only of this model")] = None,
    device: Annotated[str | None, typer.Option("--device", help="only from this device")] = None,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="how far back")] = 60,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show answers, errors, latency and confidence by device and release."""
    with session.connected(context) as client:
        rows = client.telemetry(model=model, device=device, minutes=minutes)
    if form is output.Format.TABLE:
        rows = [row | {"digest": output.short(row.get("digest"))} for row in rows]
    columns = {
        "device": "DEVICE", "model": "MODEL", "release": "RELEASE", "count": "ANSWERS", "errors": "ERRORS",
        "p50_us": "P50 US", "p95_us": "P95 US", "confidence": "CONFIDENCE", "digest": "BUNDLE",
    }  # fmt: skip
    output.rows(rows, columns, form)


class What(StrEnum):
    """What can be asked."""

    SERIES = "series"
    QUANTILES = "quantiles"
    LATEST = "latest"
    LOSSES = "losses"
    HEARTBEATS = "heartbeats"


class Of(StrEnum):
    """What is distributed."""

    LATENCY = "latency"
    CONFIDENCE = "confidence"


class Form(StrEnum):
    """How to give it."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


_TITLES = {"release": "RELEASE", "digest": "BUNDLE", "count": "ANSWERS"}
_HIDDEN = {What.LATEST: ("received_ms", "digest", "interval_ms"), What.HEARTBEATS: ("time",)}


@app.command()
def query(
    what: Annotated[What, typer.Argument(help="what to ask for", metavar="WHAT")] = What.SERIES,
    model: Annotated[str | None, typer.Option("--model", help="only of this model")] = None,
    release: Annotated[int | None, typer.Option("--release", min=0, help="only of this release")] = None,
    device: Annotated[str | None, typer.Option("--device", help="only from this device")] = None,
    since: Annotated[str, typer.Option("--since", help="from this time on, or so long ago")] = "1h",
    until: Annotated[str | None, typer.Option("--until", help="before this time; now by default")] = None,
    bucket: Annotated[str, typer.Option("--bucket", help="length of a bucket of a series, whole minutes")] = "5m",
    of: Annotated[Of, typer.Option("--of", help="what is distributed")] = Of.LATENCY,
    quantile: Annotated[list[float] | None, typer.Option("--quantile", min=0, max=1, help="rank; repeat it")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="write it to this file")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: Annotated[Form, typer.Option("--output", "-o", help="table, json, csv, or arrow (with --to)")] = Form.TABLE,
) -> None:
    """Ask for telemetry over time and over the fleet.

    WHAT is one of: series (answers, errors and quantiles in buckets of time), quantiles (the same over the whole
    period), latest (newest figures by device and model; the row without a model is the host), losses (what devices
    dropped, of which kind and why), heartbeats (since when each device is silent, the longest first).

    Example: dsops telemetry query series --model digits --since 1d --bucket 15m -o csv
    """
    if form is Form.ARROW and to is None:
        raise InvalidInput("an Arrow file cannot be shown", hint="name the file: --to FILE")
    if to is not None:
        output.check_place(to)
    asked: dict[str, Any] = {"model": model, "release": release, "device": device}
    if what in (What.SERIES, What.QUANTILES):
        asked |= {"since": periods.moment(since), "until": periods.moment(until), "of": of.value, "quantile": quantile}
    if what is What.SERIES:
        asked["bucket_s"] = round(periods.span(bucket).total_seconds())
    with session.connected(context) as client:
        if form is Form.ARROW and to is not None:
            write_atomically(to, client.telemetry_arrow(what.value, **asked))
            return
        rows = client.telemetry_query(what.value, **asked)
    text = _csv(rows) if form is Form.CSV else json.dumps(rows, indent=2) + "\n"
    if to is not None:
        write_atomically(to, text.encode())
        output.say(f"{to}: {len(rows)} rows")
    elif form is Form.TABLE:
        _show(what, rows)
    else:
        sys.stdout.write(text)


def _show(what: What, rows: list[dict[str, Any]]) -> None:
    rows = [row | ({"digest": output.short(row["digest"])} if "digest" in row else {}) for row in rows]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _HIDDEN.get(what, ())]
    columns = {name: _TITLES.get(name, name.upper().replace("_", " ")) for name in names}
    output.rows(rows, columns, output.Format.TABLE)


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@app.command()
def kpis(
    name: Annotated[str | None, typer.Option("--name", help="only of this name")] = None,
    model: Annotated[str | None, typer.Option("--model", help="only about this model")] = None,
    device: Annotated[str | None, typer.Option("--device", help="only from this device")] = None,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="how far back")] = 60,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="how many at most")] = 100,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List figures that programs on devices reported, newest first, with the release that served then."""
    with session.connected(context) as client:
        rows = client.kpis(name=name, model=model, device=device, minutes=minutes, limit=limit)
    if form is output.Format.TABLE:
        rows = [row | {"tags": _pairs(row.get("tags"))} for row in rows]
    columns = {
        "time": "TIME", "device": "DEVICE", "name": "NAME", "value": "VALUE", "unit": "UNIT", "model": "MODEL",
        "release": "RELEASE", "tags": "TAGS",
    }  # fmt: skip
    output.rows(rows, columns, form)


def _pairs(tags: object) -> str:
    return " ".join(f"{key}={value}" for key, value in tags.items()) if isinstance(tags, dict) else ""
