"""``dsops retrain``: ask for a model to be trained anew, and see what became of it."""

from typing import Annotated, Any

import typer

from dsops_controller.cli import output, session

app = typer.Typer(help="Ask for models to be trained anew, and see what became of it.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="REQUEST", help="id, or the beginning of it")]


@app.command()
def request(
    model: Annotated[str, typer.Argument(help="model")],
    dataset: Annotated[str, typer.Option("--dataset", help="NAME or NAME/VERSION; default: the model's newest")] = "",
    note: Annotated[str, typer.Option("--note", help="for whoever trains")] = "",
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Ask for a model to be trained anew, by every adapter of controller.toml.

    Example: dsops retrain request digits --dataset field/3

    The same model, data set and bundle once more are the same request. While one is open there is no other: push the
    new release, which answers it, or close it.
    """
    with session.connected(context) as client:
        made = client.request_retraining(model, dataset, note)
    output.done(made, f"{made['id'][:12]} asks for {model}{_with(made)}", form)
    if form is output.Format.TABLE:
        output.say(f"look with: dsops retrain show {made['id'][:12]}")


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option("--model", help="only of this model")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """List the requests, newest first: why, how far, and to whom they were handed over."""
    with session.connected(context) as client:
        rows = client.retrainings(model)
    if form is output.Format.TABLE:
        rows = [row | {"id": output.short(row["id"]), "handed": _handed(row)} for row in rows]
    columns = {
        "id": "REQUEST", "created": "CREATED", "model": "MODEL", "release": "RELEASE", "cause": "CAUSE",
        "dataset": "DATA SET", "state": "STATE", "handed": "HANDED OVER",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def show(
    request: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Show one request: the figures that speak for it, and each attempt to hand it over."""
    with session.connected(context) as client:
        output.facts(client.retraining(request), form)


@app.command()
def close(
    request: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Close a request without an answer; the model may be asked for again."""
    with session.connected(context) as client:
        done = client.change_retraining(request, "close")
    output.done(done, f"{done['id'][:12]} is {done['state']}", form)


@app.command()
def retry(
    request: Id, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Hand a request over again: to whom it could not be, and to everybody if it was closed or had expired."""
    with session.connected(context) as client:
        done = client.change_retraining(request, "retry")
    output.done(done, f"{done['id'][:12]} is handed over again", form)


def _with(made: dict[str, Any]) -> str:
    return f" with {made['dataset']}" if made["dataset"] else ""


def _handed(row: dict[str, Any]) -> list[str]:
    return [f"{one['name']}: {one['state']}" for one in row["deliveries"]]
