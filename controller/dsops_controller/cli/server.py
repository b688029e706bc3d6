"""``dsops server``: the controller's service."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.errors import AwaitedFailure
from dsops_controller.cli import output, session

app = typer.Typer(help="Set up and run the controller.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="state folder")]


@app.command()
def init(
    folder: Folder,
    fleet: Annotated[str, typer.Option("--fleet", help="name of the fleet")] = "fleet",
    host: Annotated[str, typer.Option("--host", help="address that devices and operators use")] = "127.0.0.1",
    rest_port: Annotated[int, typer.Option("--rest-port", help="REST, for the CLI")] = 8443,
    broker_port: Annotated[int, typer.Option("--broker-port", help="MQTT broker")] = 8883,
    ingest_port: Annotated[int, typer.Option("--ingest-port", help="gRPC, for agents")] = 8444,
    enrolment_port: Annotated[int, typer.Option("--enrolment-port", help="gRPC, for new devices")] = 8445,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a state folder: certificate authority, online keys, database, broker configuration, operator's token.

    Example: dsops server init state --fleet cameras --host controller.example.org
    """
    setup = session.optional("dsops_controller.server.init", "controller")
    setup.init_server(
        folder,
        fleet=fleet,
        host=host,
        ports=setup.Ports(rest=rest_port, broker=broker_port, ingest=ingest_port, enrolment=enrolment_port),
    )
    sentence = (
        f"made {folder}\n"
        f"next: dsops trust quickstart --keys KEYS --server {folder}   (a trial; else: dsops trust init --help)\n"
        f"      mosquitto -c {folder / 'mosquitto' / 'mosquitto.conf'}\n"
        f"      dsops server run {folder}\n"
        f"      export DSOPS_CONTEXT={folder / 'operator.toml'}"
    )
    output.done({"folder": str(folder), "context": str(folder / "operator.toml")}, sentence, form)


@app.command()
def run(folder: Folder) -> None:
    """Run the controller until SIGTERM or Ctrl-C."""
    service = session.optional("dsops_controller.server.app", "controller")
    service.Server(folder, is_alone=True).run()


@app.command()
def broker(
    now: Annotated[bool, typer.Option("--now", help="try the broker out now, which takes some seconds")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Say what the MQTT broker allows, how it behaves, and what to change there; exit code 3 when something is wrong.

    The controller tries it out after each start. Example: dsops server broker --now
    """
    with session.connected(context) as client:
        found = client.broker()
        if now or found["checked"] is None:
            found = client.broker(again=True)
    if form is output.Format.JSON:
        output.print_json(found)
    else:
        output.rows(found["findings"], {"name": "WHAT", "level": "LEVEL", "text": "FOUND", "advice": "DO"}, form)
    wrong = [finding for finding in found["findings"] if finding["level"] == "error"]
    if wrong:
        hint = next((finding["advice"] for finding in wrong if finding["advice"]), "")
        raise AwaitedFailure(
            "the broker does not do what deliveries need", why="; ".join(each["name"] for each in wrong), hint=hint
        )


@app.command()
def status(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """Show the controller's figures: devices, rollouts, records stored, bytes over MQTT and gRPC."""
    with session.connected(context) as client:
        output.facts(client.summary(), form)
