"""``dsops rollout``: bring a release to devices, wave by wave."""

import time
from typing import Annotated, Any

import typer

from dsops.errors import AwaitedFailure, InvalidInput, TimedOut
from dsops_controller.cli import output, session
from dsops_controller.client import Client

app = typer.Typer(help="Bring releases to devices.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="rollout id")]
POLL_S = 0.3


@app.command()
def create(
    bundle: Annotated[str, typer.Argument(help="MODEL/RELEASE, or MODEL/RELEASE/VARIANT")],
    wave: Annotated[
        list[str] | None,
        typer.Option("--wave", "-w", help="a wave: 1 (devices), 10% (of the cohort), or names a,b; repeat in order"),
    ] = None,
    device: Annotated[list[str] | None, typer.Option("--device", "-d", help="cohort (default: all devices)")] = None,
    max_failures: Annotated[int, typer.Option("--max-failures", min=0, help="failures that do not stop it")] = 0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="seconds a deployment may take")] = 3600.0,
    urgent: Annotated[bool, typer.Option("--urgent", help="devices pass their maintenance windows over")] = False,
    changes_contract: Annotated[
        bool, typer.Option("--changes-contract", help="other inputs and outputs than before are meant")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="follow it; the exit code is its result")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Create a rollout and start its first wave (by default one canary, then the rest).

    Example: dsops rollout create digits/2 --wave 1 --wave 25% --wait

    A release with several variants needs one named: digits/2/int8.
    """
    model, release, variant = bundle_named(bundle)
    plan = {
        "model": model,
        "release": release,
        "variant": variant,
        "cohort": device or [],
        "waves": [wave_named(text) for text in wave or ["1"]],
        "max_failures": max_failures,
        "timeout_s": timeout_s,
        "urgent": urgent,
        "changes_contract": changes_contract,
    }
    with session.connected(context) as client:
        made = client.create_rollout(plan)
        if wait:
            follow(client, made["id"], None, form)
            return
    _print(made, form)
    output.say(f"watch with: dsops rollout status {made['id']} --wait")


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List rollouts, newest first."""
    columns = {"id": "ROLLOUT", "model": "MODEL", "release": "RELEASE", "state": "STATE", "reason": "REASON"}
    with session.connected(context) as client:
        output.rows(client.rollouts(), columns, form)


@app.command()
def status(
    rollout: Id,
    wait: Annotated[bool, typer.Option("--wait", help="follow it; the exit code is its result")] = False,
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=0, help="seconds to wait at most")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show a rollout. With --wait: exit code 0 when it succeeded, 3 when it stopped otherwise, 8 when time ran out."""
    with session.connected(context) as client:
        if wait:
            follow(client, rollout, timeout_s, form)
        else:
            _print(client.rollout(rollout), form)


@app.command()
def abort(
    rollout: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """End a rollout; devices that are still on their way stop, and go back to what they ran before."""
    with session.connected(context) as client:
        _print(client.abort_rollout(rollout), form)


@app.command()
def resume(
    rollout: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Let a paused rollout go on; its failures so far are forgiven."""
    with session.connected(context) as client:
        _print(client.resume_rollout(rollout), form)


def follow(client: Client, rollout: str, timeout_s: float | None, form: output.Format) -> None:
    """Print each change until the rollout stops moving.

    Raises:
        AwaitedFailure: It stopped without success.
        TimedOut: It still runs.
    """
    deadline = time.monotonic() + timeout_s if timeout_s is not None else None
    shown: dict[str, str] = {}
    while True:
        row = client.rollout(rollout)
        _say_changes(row, shown)
        if row["state"] != "running":
            break
        if deadline is not None and time.monotonic() > deadline:
            raise TimedOut(f"rollout {rollout} still runs", hint=f"dsops rollout status {rollout} --wait")
        time.sleep(POLL_S)
    _print(row, form)
    if row["state"] != "succeeded":
        raise AwaitedFailure(f"rollout {rollout} is {row['state']}", why=row["reason"], hint=_way_on(row))


def _way_on(row: dict[str, Any]) -> str:
    name = row["id"]
    return f"dsops rollout abort {name}, or dsops rollout resume {name}" if row["state"] == "paused" else ""


def _say_changes(row: dict[str, Any], shown: dict[str, str]) -> None:
    for number, wave in enumerate(row["waves"], 1):
        for part in wave:
            now = f"{part['state']} {part['step']} {part['code']} {_waits(part)}".rstrip()
            if part["state"] != "pending" and shown.get(part["device"]) != now:
                shown[part["device"]] = now
                output.say(f"wave {number}  {part['device']}  {now}")


def _print(row: dict[str, Any], form: output.Format) -> None:
    if form is output.Format.JSON:
        output.print_json(row)
        return
    reason = f" ({row['reason']})" if row["reason"] else ""
    output.out.print(f"{row['id']}  {row['model']}/{row['release']}  {row['state']}{reason}", markup=False)
    parts = [
        {"wave": n, **part, "message": part["message"] or _waits(part)}
        for n, wave in enumerate(row.get("waves", []), 1)
        for part in wave
    ]
    columns = {
        "wave": "WAVE",
        "device": "DEVICE",
        "state": "STATE",
        "step": "STEP",
        "code": "CODE",
        "message": "MESSAGE",
    }
    output.rows(parts, columns, form)


def _waits(part: dict[str, Any]) -> str:
    return f"waiting: {part['waiting']}" if part["waiting"] else ""


def bundle_named(text: str) -> tuple[str, int, str]:
    """Return model, release and variant of MODEL/RELEASE or MODEL/RELEASE/VARIANT; the variant may be empty.

    Raises:
        InvalidInput: It is neither.
    """
    model, _, rest = text.partition("/")
    release, _, variant = rest.partition("/")
    if not release.isdecimal():
        raise InvalidInput(f"{text} is not MODEL/RELEASE or MODEL/RELEASE/VARIANT", hint="for example: digits/2")
    return model, int(release), variant


def wave_named(text: str) -> dict[str, Any]:
    """Return the wave that a person wrote: a number of devices, a percentage, or names.

    Raises:
        InvalidInput: It is none of them.
    """
    if text.isdecimal():
        return {"count": int(text)}
    if text.endswith("%"):
        return {"percent": _percent(text)}
    return {"devices": text.split(",")}


def _percent(text: str) -> float:
    hint = "give 1 (devices), 10% (more than 0, at most 100) or names a,b"
    try:
        percent = float(text[:-1])
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a wave", hint=hint) from error
    if not 0 < percent <= 100:
        raise InvalidInput(f"{text!r} is not a wave", hint=hint)
    return percent
