"""``dsops store``: the tables behind telemetry, events and samples."""

import sys
from typing import Annotated

import typer

from dsops.errors import AwaitedFailure, InvalidInput
from dsops_controller.cli import output, session

app = typer.Typer(help="Look over and tend the DataOps store.", no_args_is_help=True)

_TENDED = {
    "table": "TABLE", "files_before": "FILES BEFORE", "files_after": "FILES AFTER", "dropped_rows": "ROWS DROPPED",
    "removed_files": "FILES REMOVED",
}  # fmt: skip


@app.command()
def tables(
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show what each table holds: rows, files, bytes, days, its version, and versions that something needs."""
    with session.connected(context) as client:
        rows = client.store_tables()
    columns = {
        "table": "TABLE", "version": "VERSION", "rows": "ROWS", "files": "FILES", "bytes": "BYTES",
        "first_day": "FIRST DAY", "last_day": "LAST DAY", "pinned": "PINNED",
    }  # fmt: skip
    output.rows(rows, columns, form)


@app.command()
def check(
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Check every log, every file and every record's identity; say what is wrong and what to do. Exit code 3: damage.

    Reads the footers of all files and the identities of all records: some seconds for ten million.
    """
    with session.connected(context) as client:
        found = client.check_store()
    if form is output.Format.JSON:
        output.print_json(found)
    else:
        columns = {"where": "WHERE", "level": "LEVEL", "text": "FOUND", "hint": "WHAT TO DO"}
        output.rows(found["findings"], columns, form)
    if found["level"] == "damaged":
        raise AwaitedFailure("the store is damaged", why="see what was found", hint="follow the advice of each line")


@app.command()
def unpin(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="as dsops store tables names it")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Give up what a controller with a database of its own has pinned, when it does not come back.

    Example: dsops store unpin dataset/field/3@inbox-0123456789abcdef --yes

    Its data set can be exported no longer than its samples are kept. A controller that runs gives up its own: dsops
    dataset remove.
    """
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"give up what {owner} keeps?", err=True)):
        raise InvalidInput("nothing was given up", why="it was not confirmed", hint="give --yes")
    with session.connected(context) as client:
        client.unpin(owner)
    output.done({"owner": owner}, f"nothing is kept for {owner} any more", form)


@app.command()
def compact(
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Join small files now; it is done every hour without being asked."""
    with session.connected(context) as client:
        rows = client.tend_store("compact")
    output.rows(rows, _TENDED, form)


@app.command()
def vacuum(
    hours: Annotated[
        int | None, typer.Option("--hours", min=1, help="remove what left its table so long ago; 24 unless given")
    ] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Remove files that no table and no pinned version needs any more; it is done every hour without being asked.

    A reader that began before, and needs longer than the hours, finds files gone.
    """
    with session.connected(context) as client:
        rows = client.tend_store("vacuum", hours=hours)
    output.rows(rows, _TENDED, form)


@app.command()
def retain(
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Drop now what is past its days or its model's bytes (controller.toml, retention); it is done every hour."""
    with session.connected(context) as client:
        rows = client.tend_store("retain")
    output.rows(rows, _TENDED, form)
