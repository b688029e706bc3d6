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
