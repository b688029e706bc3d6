"""``dsops trace``: from what a device ran back to who signed it, what it was made of, and who let it there."""

from datetime import datetime
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops_controller.cli import output, periods, session

app = typer.Typer(help="From what a device ran back to signers, data and approvals.", no_args_is_help=True)


@app.callback()
def trace() -> None:
    """Keep ``device`` a word of its own: other things will be traced."""


@app.command()
def device(
    device: Annotated[str, typer.Argument(help="device name")],
    at: Annotated[str | None, typer.Option("--at", help="moment, or so long ago; default: now")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show which bundles a device ran at a moment, and where each came from.

    Example: dsops trace device cam-1 --at 2026-11-27T15:00:00Z

    "answered" means that it answered requests in an interval of telemetry that holds the moment; "between" that it did
    so before and after; "committed" and "last" rest on the last commit or answer before. Signers and policy are those
    that are published now.
    """
    with session.connected(context) as client:
        found = client.trace_device(device, _moment(at))
    if form is output.Format.JSON:
        output.print_json(found)
        return
    if not found["bundles"]:
        output.say(f"nothing that {device} uploaded says what it ran at {output.text(found['at'])}")
    for one in found["bundles"]:
        output.facts(_facts(one), form)


def _moment(text: str | None) -> str | None:
    found = periods.moment(text)
    if found is not None and not 1971 <= datetime.fromisoformat(found).year <= 2199:
        raise InvalidInput(f"{text!r} is out of range", hint="for example 2026-11-27T15:00:00Z, or 2h for so long ago")
    return found


def _facts(one: dict[str, Any]) -> dict[str, Any]:
    ran = one["ran"]
    answers = f", {ran['requests']} answers" if ran["requests"] else ""
    return {
        "model": f"{ran['model']}/{ran['release']}" + (f"/{one['variant']}" if one["variant"] else ""),
        "bundle": ran["digest"],
        "proof": f"{ran['proof']}, {output.text(ran['since'])} to {output.text(ran['until'])}{answers}",
        "pushed": one["pushed"],
        "signed by": _signers(one["signed"]),
        "policy": policy_words(one["policy"]),
        "policy signed by": _signers(one["policy_signed"]),
        "data sets": [f"{purpose}: {name}" for purpose, name in one["datasets"].items()],
        "data": [f"{purpose}: {digest}" for purpose, digest in one["data"].items()],
        "training code": one["commit"],
        "source": one["source_sha256"],
        "rollouts": [f"{part['rollout']} (wave {part['wave']}, {part['state']})" for part in one["rollouts"]],
        "audit": [f"{output.text(deed['time'])} {deed['actor']} {deed['action']}" for deed in one["deeds"]],
        "not known": one["unknown"],
    }


def policy_words(says: dict[str, Any]) -> list[str]:
    """Return what a policy says: its floor, and which devices may run the release."""
    if not says:
        return []
    ring = says.get("ring")
    if ring is None:
        return [f"floor {says['floor']}", "no ring"]
    canary = f" and {', '.join(ring['canary'])}" if ring["canary"] else ""
    return [f"floor {says['floor']}", f"ring {ring['fraction']:.0%} of devices{canary}"]


def _signers(signed: dict[str, Any] | None) -> str | None:
    if signed is None:
        return None
    return (
        f"{', '.join(signed['signers'])} ({signed['role']} version {signed['version']}, {signed['threshold']} needed)"
    )
