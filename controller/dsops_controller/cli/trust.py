"""``dsops trust``: the offline keys. Run these where the keys are kept; they belong on no server."""

from pathlib import Path
from typing import Annotated

import typer

from dsops import ids
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
) -> None:
    """Make the root of trust of a new fleet and hand its first metadata to the server."""
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ceremony.init(keys, server, root_keys=root_keys, threshold=threshold)
    output.say(f"root of trust made; keys are in {keys}: keep them offline")


@app.command()
def grant(
    model: Annotated[str, typer.Argument(help="model name")],
    keys: Keys,
    server: ServerFolder,
    floor: Annotated[int, typer.Option("--floor", min=1, help="lowest release that devices accept")] = 1,
) -> None:
    """Let a new key sign the bundles of one model."""
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ceremony.grant(keys, server, ids.model_name(model), floor=floor)
    output.say(f"bundles of {model} can now be signed with {keys}/model-{model}.pem")
