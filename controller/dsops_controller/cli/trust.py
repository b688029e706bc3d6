"""``dsops trust``: the offline keys. Run these where the keys are kept; they belong on no server."""

from pathlib import Path
from typing import Annotated

import typer

from dsops import ids
from dsops.trust import Policy, Ring
from dsops_controller.cli import output, session

app = typer.Typer(help="Make and use the offline keys.", no_args_is_help=True)
Keys = Annotated[Path, typer.Option("--keys", help="folder of the offline keys")]
ServerFolder = Annotated[Path, typer.Option("--server", help="the server's state folder")]


@app.command()
def init(
    keys: Keys,
    server: ServerFolder,
    root_keys: Annotated[int, typer.Option("--root-keys", min=1, max=9, help="number of root keys")] = 3,
    threshold: Annotated[int, typer.Option("--threshold", min=1, max=9, help="how many must sign")] = 2,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make the root of trust of a new fleet and hand its first metadata to the server."""
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ceremony.init(keys, server, root_keys=root_keys, threshold=threshold)
    output.done({"keys": str(keys)}, f"root of trust made; keys are in {keys}: keep them offline", form)


@app.command()
def renew(
    roles: Annotated[list[str], typer.Argument(help="roles to sign again: root, targets, fleet, policy, model-<name>")],
    keys: Keys,
    server: ServerFolder,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Sign roles again before they expire (root, targets: 365 days; fleet, model-<name>: 180; policy: 90).

    Example: dsops trust renew fleet policy --keys keys --server state
    """
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    renewed = [{"role": role.role, "version": role.version} for role in ceremony.renew(keys, server, roles)]
    output.rows(renewed, {"role": "ROLE", "version": "VERSION"}, form)


@app.command()
def policy(
    model: Annotated[str, typer.Argument(help="model name")],
    keys: Keys,
    server: ServerFolder,
    floor: Annotated[int, typer.Option("--floor", min=1, help="lowest release that devices accept")] = 1,
    release: Annotated[
        int | None, typer.Option("--release", min=1, help="bound this release by the options below")
    ] = None,
    fraction: Annotated[
        float, typer.Option("--fraction", min=0, max=1, help="share of devices that may have it")
    ] = 1.0,
    canary: Annotated[list[str] | None, typer.Option("--canary", help="device that may have it all the same")] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Set what the online controller may choose for a model: a floor, and how far one release may spread.

    Example: dsops trust policy digits --release 2 --fraction 0.1 --canary cam-1 --keys keys --server state
    """
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ring = Ring(fraction=fraction, salt=f"{model}/{release}", canary=tuple(canary or ()))
    rings = {str(release): ring} if release else {}
    signed = ceremony.set_policy(keys, server, Policy(model=ids.model_name(model), floor=floor, rings=rings))
    sentence = f"policy of {model} is version {signed.version}; a running server publishes it within seconds"
    output.done({"model": model, "role": signed.role, "version": signed.version}, sentence, form)


@app.command()
def grant(
    model: Annotated[str, typer.Argument(help="model name")],
    keys: Keys,
    server: ServerFolder,
    floor: Annotated[int, typer.Option("--floor", min=1, help="lowest release that devices accept")] = 1,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Let a new key sign the bundles of one model."""
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ceremony.grant(keys, server, ids.model_name(model), floor=floor)
    key = keys / f"model-{model}.pem"
    output.done({"model": model, "key": str(key)}, f"bundles of {model} can now be signed with {key}", form)
