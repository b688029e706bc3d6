"""``dsops drift``: how far devices see something else than the model was built for."""

from typing import Annotated

import typer

from dsops_controller.cli import output, session

app = typer.Typer(help="Look at drift.", no_args_is_help=True)


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(help="only this model")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show the drift of each device: level, score, frames seen, and the signals that say so."""
    with session.connected(context) as client:
        rows = client.drift(model)
    for row in rows:
        row["since"] = output.when(row.get("since_ms"))
        signals = sorted((row.get("signals") or {}).items(), key=lambda item: -item[1])
        row["because"] = [name for name, value in signals[:3] if value > 0]
    columns = {
        "device": "DEVICE", "model": "MODEL", "release": "RELEASE", "level": "LEVEL", "score": "SCORE",
        "frames": "FRAMES", "because": "BECAUSE", "since": "SINCE",
    }  # fmt: skip
    output.rows(rows, columns, form)
