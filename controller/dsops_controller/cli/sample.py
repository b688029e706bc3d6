"""``dsops sample``: inputs that devices kept for a reason."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsops.files import write_atomically
from dsops_controller.cli import output, sample_keys, sample_request, session

app = typer.Typer(help="Look at samples and export them.", no_args_is_help=True)
sample_keys.add_to(app)
sample_request.add_to(app)


class Why(StrEnum):
    """Why a device kept a sample."""

    RANDOM = "random"
    UNCERTAIN = "uncertain"
    DRIFT = "drift"
    DISAGREEMENT = "shadow_disagreement"
    REQUEST = "request"


Model = Annotated[str | None, typer.Option("--model", help="only of this model")]
Device = Annotated[str | None, typer.Option("--device", help="only from this device")]
Reason = Annotated[Why | None, typer.Option("--reason", help="only those kept for this reason")]


@app.command("list")
def list_(
    model: Model = None,
    device: Device = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="newest so many")] = 50,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List samples, newest first."""
    with session.connected(context) as client:
        rows = client.samples(model=model, device=device, reason=reason, limit=limit)
    columns = {
        "time": "TIME", "device": "DEVICE", "model": "MODEL", "release": "RELEASE", "reason": "REASON",
        "score": "SCORE", "predicted": "PREDICTED", "request_id": "REQUEST",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="file to write (.npz)")],
    model: Model = None,
    device: Device = None,
    reason: Reason = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write samples with their inputs to an .npz archive, for labelling and training.

    Example: dsops sample export samples.npz --device cam-1 --reason drift
    """
    output.check_place(to)
    with session.connected(context) as client:
        data = client.export_samples(model=model, device=device, reason=reason)
    write_atomically(to, data)
    output.done({"file": str(to), "bytes": len(data)}, f"{to}: {len(data)} bytes", form)
