"""``dsops policy``: what the online controller may choose, signed offline."""

import secrets as randomness
from pathlib import Path
from typing import Annotated

import typer

from dsops.errors import InvalidInput
from dsops.ids import model_name
from dsops_controller.cli import output, session, trust_event
from dsops_controller.cli.trust_place import Keys, Place, Purpose, ServerFolder, begin, check_target, finish, tell

app = typer.Typer(help="Bound what devices may be told to run.", no_args_is_help=True)
app.command("sign")(trust_event.sign)


@app.command("set")
def set_(
    model: Annotated[str, typer.Argument(help="model name")],
    event: Annotated[
        Path | None, typer.Argument(metavar="[EVENT]", help="folder to make for the signing event")
    ] = None,
    floor: Annotated[
        int | None, typer.Option("--floor", min=1, help="lowest release that devices accept; it never falls")
    ] = None,
    release: Annotated[
        int | None, typer.Option("--release", min=1, help="bound this release by the two options below")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", min=0, max=1, help="share of devices that may have it")
    ] = None,
    canary: Annotated[
        list[str] | None, typer.Option("--canary", help="device that may have it all the same; repeatable")
    ] = None,
    listed_only: Annotated[
        bool | None, typer.Option("--listed-only/--unlisted-too", help="whether other releases are refused")
    ] = None,
    keys: Keys = None,
    server: ServerFolder = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Set what the online controller may choose for a model: a floor, and how far one release may spread.

    Example: dsops policy set digits 2026-11-27-digits --release 3 --fraction 0.05 --canary cam-1

    What is not given stays as it is. Widening a fraction keeps the devices that were inside.
    """
    check_target(event, keys)
    drafts = session.optional("dsops_controller.trust.drafts", "controller")
    policies = session.optional("dsops_controller.trust.policies", "controller")
    place = Place(server, context)
    edit = begin(place)
    assert edit.base is not None
    wish = policies.Wish(floor, release, fraction, tuple(canary) if canary is not None else None, listed_only)
    present = edit.base.policy(model_name(model))
    if (floor, release, fraction, canary, listed_only) == (None,) * 5:
        hint = (
            "give --floor, --listed-only, or --release with --fraction; to sign it as it is: dsops trust renew policy"
        )
        raise InvalidInput("nothing is to be set", hint=hint)
    drafts.set_policy(edit, policies.changed(present, wish, randomness.token_hex(8)))
    tell(finish(edit, Purpose("policy", f"Policy of {model}"), event, keys, place), event, form)
