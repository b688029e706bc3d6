"""What commands print: results on standard output (a table or JSON), everything else on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dsops.errors import DsopsError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs")]


def rows(data: Sequence[Mapping[str, Any]], columns: Mapping[str, str], output: Format) -> None:
    """Print many things: the ``columns`` (title by key, dots reach inside) as a table, or everything as JSON."""
    if output is Format.JSON:
        print_json(data)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for row in data:
        table.add_row(*(text(reach(row, key)) for key in columns))
    out.print(table)
    if not data:
        err.print("(none)")


def facts(data: Mapping[str, Any], output: Format) -> None:
    """Print one thing: a line a key, or JSON."""
    if output is Format.JSON:
        print_json(data)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in flatten(data):
        table.add_row(key, text(value))
    out.print(table)


def print_json(data: object) -> None:
    """Print JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def say(line: str) -> None:
    """Tell a person something that is not the result."""
    err.print(line)


def failure(error: DsopsError, output: Format = Format.TABLE) -> None:
    """Print an error in three lines: what, why, what to do."""
    if output is Format.JSON:
        sys.stderr.write(json.dumps(error.as_dict()) + "\n")
        return
    err.print(f"error[{error.code}]: {error.what}", style="red", markup=False)
    if error.why:
        err.print(f"  why: {error.why}", markup=False)
    if error.hint:
        err.print(f"  do:  {error.hint}", markup=False)


def reach(row: Mapping[str, Any], key: str) -> object:
    """Return a value inside nested mappings; a missing part gives None."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Return nested mappings as ``a.b`` keys, in order."""
    found: list[tuple[str, object]] = []
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found.extend(flatten(value, f"{prefix}{key}."))
        else:
            found.append((f"{prefix}{key}", value))
    return found


def text(value: object) -> str:
    """Return a value as people read it."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(text(item) for item in value)
    return str(value)


def when(moment_ms: float | None) -> str:
    """Return epoch milliseconds as local-free UTC text."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if moment_ms else "-"
