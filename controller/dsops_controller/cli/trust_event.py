"""``dsops trust show|sign|status|publish``: what a holder does with a signing event."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsops.clock import SystemClock
from dsops.errors import Interrupted, InvalidInput
from dsops_controller.cli import output, secrets, session
from dsops_controller.cli.trust_place import Place, ServerFolder

if TYPE_CHECKING:
    from dsops_controller.trust.diff import Change
    from dsops_controller.trust.events import Event as SigningEvent
    from dsops_controller.trust.status import Need

Event = Annotated[Path, typer.Argument(metavar="EVENT", help="folder of the signing event")]


def show(event: Event, form: output.Output = output.Format.TABLE) -> None:
    """Show what a signing event would change, and the sha256 of each document to read aloud.

    Example: dsops trust show 2026-11-27-init
    """
    found = _read(event)
    if form is output.Format.JSON:
        output.print_json(_as_json(found))
        return
    for line in _words(found):
        output.out.print(line, markup=False)


def sign(
    event: Event,
    key: Annotated[str, typer.Option("--key", help="your key: file:alice.pem, hsm:2?label=alice, awskms:..., ...")],
    known_root: Annotated[
        Path | None, typer.Option("--known-root", help="a root that you know, if your key signed nothing here before")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="you have read it: do not ask")] = False,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Sign every pending role of an event that your key may sign, after showing what would change.

    Example: dsops trust sign 2026-11-27-init --key file:alice.pem

    Needs no network. What the event calls published must follow from what your key signed before, or from --known-root.
    """
    events = session.optional("dsops_controller.trust.events", "controller")
    signers = session.optional("dsops_controller.trust.signers", "controller")
    signing = session.optional("dsops_controller.trust.signing", "controller")
    found = _read(event)
    opened = signers.open_key(key, secrets.Secrets())
    names = signing.check(found, opened, output.read_file(known_root) if known_root else None)
    if form is output.Format.TABLE or not yes:
        for line in _words(found):
            output.say(line)
    if not yes:
        _confirm(names)
    signed = signing.sign(found, opened, names)
    for name in names:
        events.save(event, signed, name)
    needs = _needs(signed)
    sentence = f"signed {', '.join(names)}\n" + "\n".join(need.sentence for need in needs)
    output.done({"signed": list(names), "needs": _needs_json(needs)}, sentence, form)


def status(event: Event, form: output.Output = output.Format.TABLE) -> None:
    """Show which signatures an event has, and whose are missing.

    Example: dsops trust status 2026-11-27-init
    """
    needs = _needs(_read(event))
    if form is output.Format.JSON:
        output.print_json({"complete": all(need.is_met for need in needs), "needs": _needs_json(needs)})
        return
    for need in needs:
        output.out.print(need.sentence, markup=False)


def publish(
    event: Event,
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Publish an event that has its signatures: all of it or nothing. The same again changes nothing.

    Example: dsops trust publish 2026-11-27-init --server state

    Refused unless a device accepts the result, whichever root it was given.
    """
    statuses = session.optional("dsops_controller.trust.status", "controller")
    found = _read(event)
    statuses.check_complete(found)
    output.rows(Place(server, context).submit(found), {"role": "ROLE", "version": "VERSION"}, form)


def _read(folder: Path) -> "SigningEvent":
    events = session.optional("dsops_controller.trust.events", "controller")
    event: SigningEvent = events.read(folder)
    return event


def _confirm(names: tuple[str, ...]) -> None:
    if not secrets.is_attended():
        raise InvalidInput("nobody is there to read what would be signed", hint="run it in a terminal, or add --yes")
    if not typer.confirm(f"sign {', '.join(names)}?", err=True):
        raise Interrupted("nothing was signed")


def _changes(event: "SigningEvent") -> "tuple[Change, ...]":
    diff = session.optional("dsops_controller.trust.diff", "controller")
    found: tuple[Change, ...] = diff.changes(event, SystemClock().now())
    return found


def _needs(event: "SigningEvent") -> "tuple[Need, ...]":
    statuses = session.optional("dsops_controller.trust.status", "controller")
    found: tuple[Need, ...] = statuses.needs(event)
    return found


def _words(event: "SigningEvent") -> list[str]:
    holders = session.optional("dsops_controller.trust.holders", "controller")
    lines = []
    for change in _changes(event):
        was = f"{change.before} -> " if change.before else "new, version "
        lines += [f"{change.role}: {was}{change.after}", *(f"    {line}" for line in change.lines)]
        lines += [f"    sha256 {holders.spoken(change.digest)}", ""]
    return [*lines, *(need.sentence for need in _needs(event))]


def _as_json(event: "SigningEvent") -> dict[str, Any]:
    changes = [
        {"role": c.role, "before": c.before, "after": c.after, "sha256": c.digest, "changes": list(c.lines)}
        for c in _changes(event)
    ]
    return {"title": event.info.title, "changes": changes, "needs": _needs_json(_needs(event))}


def _needs_json(needs: "tuple[Need, ...]") -> list[dict[str, Any]]:
    return [
        {"role": n.role, "by": n.by, "threshold": n.threshold, "signed": list(n.signed), "missing": list(n.missing)}
        for n in needs
    ]
