"""``dsops device``: the fleet's devices."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.bundle import write_atomically
from dsops_controller.cli import output, session

app = typer.Typer(help="Look at devices and enrol them.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="device name")]


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the devices with what they run."""
    with session.connected(context) as client:
        devices = client.devices()
    for device in devices:
        models = device.get("models") or {}
        device["runs"] = [f"{name} {state['active_release']}" for name, state in models.items() if state["active"]]
        device["last_seen"] = output.when(device.get("seen_ms"))
    columns = {"id": "DEVICE", "state": "STATE", "online": "ONLINE", "runs": "RUNS", "last_seen": "LAST SEEN"}
    output.rows(devices, columns, form)


@app.command()
def show(
    device: Name, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Show everything about one device."""
    with session.connected(context) as client:
        output.facts(client.device(device), form)


@app.command()
def token(
    device: Name,
    ttl_s: Annotated[int, typer.Option("--ttl", min=60, help="seconds until it expires")] = 86_400,
    to: Annotated[Path | None, typer.Option("--to", help="write it to this file (0600) instead of printing")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
) -> None:
    """Make a one-time token with which one device may enrol."""
    with session.connected(context) as client:
        made = client.new_token(device, ttl_s)
    if to is None:
        output.out.print(made["token"])
        return
    to.touch(mode=0o600)
    write_atomically(to, made["token"].encode())
    to.chmod(0o600)
