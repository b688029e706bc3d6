"""The tree of commands: nouns, and the options that stand before them."""

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from dsops.errors import InvalidInput
from dsops.exits import Exit
from dsops_controller.cli import (
    alerts,
    bundle,
    challenger,
    dataset,
    demo,
    device,
    drift,
    model,
    output,
    policy,
    retrain,
    rollout,
    sample,
    server,
    site,
    store,
    telemetry,
    trace,
    trust,
)

app = typer.Typer(
    name="dsops",
    help="Deploys quantized models to fleets of edge devices and keeps them honest there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(model.app, name="model")
app.add_typer(bundle.app, name="bundle")
app.add_typer(trust.app, name="trust")
app.add_typer(policy.app, name="policy")
app.add_typer(device.app, name="device")
app.add_typer(rollout.app, name="rollout")
app.add_typer(challenger.app, name="challenger")
app.add_typer(site.app, name="site")
app.add_typer(drift.app, name="drift")
app.add_typer(sample.app, name="sample")
app.add_typer(store.app, name="store")
app.add_typer(dataset.app, name="dataset")
app.add_typer(retrain.app, name="retrain")
app.add_typer(trace.app, name="trace")
app.add_typer(telemetry.app, name="telemetry")
app.add_typer(alerts.app, name="alerts")
app.add_typer(server.app, name="server")
app.command("demo")(demo.demo)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        InvalidInput: There is no such command, or it is used wrongly.
        DsopsError: It failed.
    """
    try:
        return app(list(arguments), standalone_mode=False, prog_name="dsops") or Exit.DONE
    except typer.TyperException as error:
        text = error.format_message().replace("Value error, ", "")
        if not text:  # a noun alone: its help was printed
            return Exit.USAGE
        context = getattr(error, "ctx", None)
        hint = f"see: {context.command_path if context else 'dsops'} --help"
        raise InvalidInput(text[0].lower() + text[1:].rstrip("."), hint=hint) from error


def _version(wanted: bool) -> None:
    if wanted:
        output.out.print(f"dsops {metadata.version('dsops')}")
        raise typer.Exit


@app.callback()
def root(
    _debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Hold the options that come before the noun."""
