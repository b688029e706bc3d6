"""The root command: nouns, global options, and the one place where an error becomes text and an exit code."""

import sys
from importlib import metadata
from typing import Annotated

import typer

from dsops.errors import DsopsError
from dsops.exits import Exit, exit_code
from dsops_controller.cli import bundle, demo, device, drift, model, output, rollout, sample, server, telemetry, trust

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
app.add_typer(device.app, name="device")
app.add_typer(rollout.app, name="rollout")
app.add_typer(drift.app, name="drift")
app.add_typer(sample.app, name="sample")
app.add_typer(telemetry.app, name="telemetry")
app.add_typer(server.app, name="server")
app.command("demo")(demo.demo)


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


def main() -> None:
    """Run the command line and exit with its code (see :mod:`dsops.exits`)."""
    try:
        app()
    except DsopsError as error:
        if "--debug" in sys.argv:
            raise
        output.failure(error, _wanted_format())
        sys.exit(exit_code(error))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(Exit.FAILED)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _wanted_format() -> output.Format:
    arguments = " ".join(sys.argv)
    wants_json = any(form in arguments for form in ("-o json", "-ojson", "--output json", "--output=json"))
    return output.Format.JSON if wants_json else output.Format.TABLE


if __name__ == "__main__":
    main()
