"""``dsops telemetry``: what devices say of themselves and of their models."""

from typing import Annotated

import typer

from dsops_controller.cli import output, session

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
