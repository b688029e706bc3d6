"""``dsops sample request``: ask devices for the next frames."""

from typing import Annotated, Any

import typer

from dsops_controller.cli import output, session


def add_to(app: typer.Typer) -> None:
    """Add the command to those about samples."""
    app.command()(request)


def request(
    model: Annotated[str, typer.Argument(help="model")],
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="frames of each device")],
    reason: Annotated[str, typer.Option("--reason", help="why; kept in the audit trail")],
    device: Annotated[list[str] | None, typer.Option("--device", "-d", help="these devices only; repeat")] = None,
    site: Annotated[list[str] | None, typer.Option("--site", help="the devices of this site; repeat")] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=336, help="for so long; then no more are kept")] = 24,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Ask devices for the next frames that a model sees, within their own budgets and rules.

    Example: dsops sample request digits --site hall-3 --count 20 --reason "new lamp at the gate"

    Every device that has the model is asked, or those that --device and --site name together.
    What comes has the reason "request" and bears the id that is printed. A device whose configuration keeps inputs to
    itself sends none for this either.
    """
    wanted: dict[str, Any] = {"model": model, "cohort": device or [], "sites": site or []}
    wanted |= {"count": count, "hours": hours, "reason": reason}
    with session.connected(context) as client:
        asked = client.request_samples(wanted)
    many = f"{len(asked['devices'])} devices are asked for {count} samples of {model} each"
    output.done(asked, f"{asked['id']}: {many}", form)
