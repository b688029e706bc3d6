"""``dsops device``: the fleet's devices."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dsops.errors import Interrupted, InvalidInput
from dsops.files import write_secret
from dsops_controller import listing
from dsops_controller.cli import delivery, device_why, output, session
from dsops_controller.client import Client

app = typer.Typer(help="Look at devices, let them in, shut them out.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="device name")]


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the devices: state, what they run, key, end of the certificate, and where those that wait came from."""
    with session.connected(context) as client:
        devices = client.devices()
    for device in devices:
        models = device.get("models") or {}
        device["runs"] = [f"{name}/{state['active_release']}" for name, state in models.items() if state["active"]]
        device["last_seen"] = output.when(device.get("seen_ms"))
        device["key"] = output.short(device.get("key_sha256"))
    columns = {
        "id": "DEVICE",
        "state": "STATE",
        "online": "ONLINE",
        "runs": "RUNS",
        "key": "KEY",
        "certificate_ends": "CERTIFICATE ENDS",
        "origin": "ORIGIN",
        "last_seen": "LAST SEEN",
    }
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

    The answers come from the signed metadata, by the same rules that run on the device (docs/reference/trust-rules.md),
    and from what the device itself reported: whether the bundle fits, and how it did there. Before it was tried, the
    runtime, memory and what programs there use are compared here; operators, delegates and the disk by the device only.
    """
    with session.connected(context) as client:
        device_why.show(client, device, what, form)


@app.command()
def events(
    device: Name,
    kind: Annotated[str | None, typer.Option("--kind", help="refused, committed, rolled_back, failed, ...")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="at most so many")] = 20,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List what a device told: refusals with their codes, installs that ended, drift; newest first.

    Example: dsops device events cam-1 --kind refused
    """
    with session.connected(context) as client:
        rows = client.events(device=device, kind=kind, limit=limit)
    columns = {"time": "TIME", "kind": "KIND", "model": "MODEL", "release": "RELEASE", "code": "CODE"}
    output.rows(rows, columns | {"message": "TEXT"}, form)


@app.command()
def kit(
    device: Name,
    to: Annotated[Path, typer.Option("--out", help="folder to write into; made if it is not there")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write what a device is to run into a folder, for a USB stick: it installs that without a network.

    Challengers that it is to compare come with it.

    Example: dsops device kit cam-1 --out /media/stick/cam-1

    On the device: dsops-agent install FOLDER. Sealed bundles stay sealed; only this device can open them.
    """
    with session.connected(context) as client:
        made = delivery.make_kit(client, device, delivery.Files(to))
    marks = {False: "", True: " (challenger)"}
    names = ", ".join(f"{one.model} {one.release}{marks[one.is_challenger]}" for one in made.bundles)
    ends = f"{made.expires:%Y-%m-%d %H:%M} UTC"
    sentence = f"{to}: {names} for {device}, until {ends}; on the device: dsops-agent install FOLDER"
    output.done(made.model_dump(mode="json"), sentence, form)


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


@app.command()
def accept(
    device: Name,
    key: Annotated[str, typer.Option("--key", help="fingerprint (SHA-256) to accept, instead of asking")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="accept the key that the device shows, unseen")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Let a device take part that waits, was rejected or is suspended: it alone, by the key that is shown.

    Compare the fingerprint with the one that the device itself shows. Example: dsops device accept cam-1
    """
    with session.connected(context) as client:
        seen = key.lower().replace(":", "") or _seen(client, device, is_trusted=yes)
        changed = client.accept(device, seen)
    output.done(changed, f"{device} is accepted, key {changed['key_sha256']}", form)


@app.command()
def reject(
    device: Name, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Refuse a device that waits; a token for its name lets the right one have it."""
    with session.connected(context) as client:
        changed = client.reject(device)
    output.done(changed, f"{device} is rejected", form)


@app.command()
def suspend(
    device: Name, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Shut a device out until it is accepted again; its sessions with broker and store end within seconds."""
    with session.connected(context) as client:
        changed = client.suspend(device)
    output.done(changed, f"{device} is suspended; back again with: dsops device accept {device}", form)


@app.command()
def pardon(
    device: Name,
    bundle: Annotated[str, typer.Argument(help="MODEL/RELEASE, MODEL/RELEASE/VARIANT, or the bundle's SHA-256")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Let a device try a bundle again that it quarantined because it failed there; at once if it is still wanted.

    Example: dsops device pardon cam-1 digits/2
    """
    with session.connected(context) as client:
        made = client.pardon(device, bundle)
    output.done(made, f"{device} is told to try {made['sha256'][:12]} again", form)


@app.command()
def decommission(
    device: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Take a device out for good: certificates are revoked, its tokens and its desired state deleted.

    The name cannot be used again.
    """
    if not yes:
        _confirm(f"{device} can never come back under this name. Go on?")
    with session.connected(context) as client:
        changed = client.decommission(device)
    output.done(changed, f"{device} is decommissioned", form)


@app.command()
def preauthorize(
    file: Annotated[Path, typer.Argument(help="CSV: device,key_sha256")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Let devices join without a token, by keys that are known beforehand; all of the list, or nothing.

    A key's fingerprint is the SHA-256 of its DER SubjectPublicKeyInfo. Example: dsops device preauthorize batch.csv
    """
    lines = listing.parse(_text(file))
    with session.connected(context) as client:
        done = client.preauthorise([{"device": line.device, "key_sha256": line.key_sha256} for line in lines])
    output.done(done, f"{done['listed']} devices may join by their keys", form)


def _seen(client: Client, device: str, *, is_trusted: bool) -> str | None:
    """Show the key that a device has, and return it once the operator agrees."""
    found = client.device(device)
    shown: str | None = found["key_sha256"]
    if shown is None or found["state"] == "suspended":
        return shown  # a suspended device's key was accepted before
    if not is_trusted:
        _confirm(f"{device} came from {found['origin'] or 'somewhere'} with the key {shown}. Accept it?")
    return shown


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("this has to be confirmed", why="there is no terminal to ask at", hint="give --yes")
    try:
        is_sure = typer.confirm(question, err=True)
    except typer.Abort:
        is_sure = False
    if not is_sure:
        raise Interrupted("nothing was changed")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not text", why=str(error), hint="write it as UTF-8") from error
