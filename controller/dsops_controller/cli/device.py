"""``dsops device``: the fleet's devices."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.files import write_secret
from dsops_controller.cli import device_why, output, session

app = typer.Typer(help="Look at devices and enrol them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="device name")]


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the devices with what they run."""
    with session.connected(context) as client:
        devices = client.devices()
    for device in devices:
        models = device.get("models") or {}
        device["runs"] = [f"{name}/{state['active_release']}" for name, state in models.items() if state["active"]]
        device["last_seen"] = output.when(device.get("seen_ms"))
    columns = {"id": "DEVICE", "state": "STATE", "online": "ONLINE", "runs": "RUNS", "last_seen": "LAST SEEN"}
    output.rows(devices, columns, form)


@app.command()
def show(
    device: Name, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Show everything about one device."""
    with session.connected(context) as client:
        output.facts(client.device(device), form, hidden=("seen_ms",))


@app.command()
def why(
    device: Name,
    what: Annotated[str, typer.Argument(metavar="[MODEL[/RELEASE]]", help="one model, or one release of it")] = "",
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Say which releases a device would accept or refuse, and by which of its rules.

    Example: dsops device why cam-1 digits/2

    The answers come from the signed metadata, by the same rules that run on the device (docs/reference/trust-rules.md).
    """
    with session.connected(context) as client:
        device_why.show(client, device, what, form)


@app.command()
def token(
    device: Name,
    ttl_s: Annotated[int, typer.Option("--ttl", min=60, help="seconds until it expires")] = 86_400,
    to: Annotated[Path | None, typer.Option("--to", help="write it to this file (0600) instead of printing")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a one-time token with which one device may enrol.

    Example: dsops device token cam-1 --to token
    """
    if to is not None:
        output.check_place(to)  # before a token is made that would be lost
    with session.connected(context) as client:
        made = client.new_token(device, ttl_s)
    if to is not None:
        write_secret(to, made["token"].encode())
        made = {**made, "token": "", "file": str(to)}
        output.done(made, f"{to}: token for {device}, until {output.text(made['expires'])}", form)
    elif form is output.Format.JSON:
        output.print_json(made)
    else:
        output.out.print(made["token"], markup=False)
