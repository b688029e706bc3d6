"""``dsops alerts``: what is wrong with the fleet, since when, and who was told."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from dsops.errors import InvalidInput
from dsops_controller.cli import output, session

app = typer.Typer(help="Look at alerts.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ALERT", help="id, or the beginning of it")]


class Kind(StrEnum):
    """What alerts are about."""

    DRIFT = "drift"
    FLEET_DRIFT = "fleet-drift"
    SKEW = "skew"
    LOSSES = "losses"
    SILENT = "silent"
    AUDITED_ERROR = "audited-error"


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Option("--kind", help="only of this kind")] = None,
    every: Annotated[bool, typer.Option("--all", help="those that are over too")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="newest so many")] = 100,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List the open alerts, newest first.

    A cause has one alert while it lasts. With --all, STATE says why one is resolved whose cause is not gone: its device
    "left" the fleet or was "unheard" of for a week, or its kind is "unwatched". Of what to tell, and whom, is written
    in controller.toml: [alerts] and [alerts.webhook.NAME].
    """
    with session.connected(context) as client:
        rows = client.alerts(kind=kind.value if kind else None, every=every, limit=limit)
    if form is output.Format.TABLE:
        rows = [row | {"id": output.short(row["id"]), "state": _state(row), "told": _told(row)} for row in rows]
    columns = {
        "id": "ALERT", "opened": "OPENED", "kind": "KIND", "state": "STATE", "model": "MODEL", "device": "DEVICE",
        "told": "TOLD", "summary": "SUMMARY",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def show(
    alert: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Show one alert: the figures behind it, and each attempt to tell of it."""
    with session.connected(context) as client:
        output.facts(client.alert(alert), form)


@app.command()
def retry(
    alert: Annotated[str | None, typer.Argument(metavar="[ALERT]", help="id, or the beginning of it")] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", help="of every alert, those for this webhook")] = None,
    every: Annotated[bool, typer.Option("--all", help="of every alert, for every webhook")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Hand notices over again that were given up: those of an alert, or all of them, at the pace of new ones.

    Example: dsops alerts retry --webhook ops
    """
    if [alert is not None, webhook is not None, every].count(True) != 1:
        raise InvalidInput("it is not said which notices", hint="dsops alerts retry ALERT, or --webhook NAME, or --all")
    with session.connected(context) as client:
        if alert is not None:
            found = client.retry_alert(alert)
            output.done(found, f"{found['id'][:12]} is handed over again", form)
            return
        found = client.retry_alerts(webhook)
    output.done(found, f"{found['notices']} notices are handed over again", form)


def _state(row: dict[str, Any]) -> str:
    ended = row.get("ended", "over")  # not told by a controller of an older version
    return str(row["state"] if ended in {None, "over"} else f"{row['state']}: {ended}")


def _told(row: dict[str, Any]) -> str:
    return ", ".join(f"{one['hook']} of {one['notice']}: {one['state']}" for one in row["notices"])
