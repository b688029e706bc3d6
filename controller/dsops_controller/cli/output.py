"""What commands print: results on standard output (a table or JSON), everything else on standard error."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console

from dsops.errors import InvalidInput

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00:00)")
_FAR_MS = 1e14
_EPOCH_MS = 1e12
"""From here on a figure in milliseconds is a moment (after 2001), below it is a duration."""


class Format(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs")]


def rows(data: Sequence[Mapping[str, Any]], columns: Mapping[str, str], output: Format) -> None:
    """Print many things: the ``columns`` (title by key, dots reach inside) as a table, or everything as JSON."""
    if output is Format.JSON:
        print_json(data)
    elif data:
        _print_columns([tuple(columns.values()), *(tuple(text(reach(row, key)) for key in columns) for row in data)])
    else:
        say("(none)")


def facts(data: Mapping[str, Any], output: Format, hidden: Sequence[str] = ()) -> None:
    """Print one thing: a line a key except for the ``hidden`` ones, or all of it as JSON."""
    if output is Format.JSON:
        print_json(data)
        return
    shown = {key: value for key, value in data.items() if key not in hidden}
    _print_columns([(key, _figure(key, value)) for key, value in flatten(shown)], has_titles=False)


def done(data: Mapping[str, Any], sentence: str, output: Format) -> None:
    """Tell what a command did: a sentence for people, or JSON."""
    if output is Format.JSON:
        print_json(data)
    else:
        say(sentence)


def print_json(data: object) -> None:
    """Print JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def say(line: str) -> None:
    """Tell a person something that is not the result."""
    err.print(line, markup=False)


def check_place(path: Path) -> None:
    """Check that a file can be written there, before work is done that would be lost.

    Raises:
        InvalidInput: Its folder is not there, or it is a folder itself.
    """
    if path.is_dir():
        raise InvalidInput(f"cannot write {path}", why="it is a folder", hint="name a file")
    if not path.parent.is_dir():
        raise InvalidInput(f"cannot write {path}", why=f"there is no folder {path.parent}", hint="make it first")


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror), hint="check the path") from error


def reach(row: Mapping[str, Any], key: str) -> object:
    """Return a value inside nested mappings; a missing part gives None."""
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Return nested mappings as ``a.b`` keys, in order; those in a list go by their name, or else by their place."""
    found: list[tuple[str, object]] = []
    for key, value in data.items():
        inner = _inner(value)
        if inner:
            found.extend(flatten(inner, f"{prefix}{key}." if key else prefix))
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _inner(value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return {str(item.get("name", place)): _unnamed(item) for place, item in enumerate(value, 1)}
    return {}


def _unnamed(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "name"}


def text(value: object) -> str:
    """Return a value as people read it."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(text(item) for item in value)
    shown = _MOMENT.sub(r"\1 \2Z", str(value))
    return "".join(letter if letter.isprintable() else " " for letter in shown)  # devices choose some texts


def when(moment_ms: float | None) -> str:
    """Return epoch milliseconds as UTC text."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if moment_ms else "-"


def short(digest: str | None) -> str:
    """Return the beginning of a digest, enough to tell two apart."""
    return digest[:12] if digest else "-"


def _figure(key: str, value: object) -> str:
    is_moment = key.endswith("_ms") and isinstance(value, int | float) and _EPOCH_MS < value < _FAR_MS
    is_moment = is_moment and not key.rpartition(".")[2].startswith("max_")
    return when(value) if is_moment and isinstance(value, int | float) else text(value)


def _print_columns(lines: Sequence[Sequence[str]], *, has_titles: bool = True) -> None:
    """Print columns as wide as they must be: nothing is cut or folded, so that other programs can read them."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for place, line in enumerate(lines):
        shown = "  ".join(_padded(line, widths)).rstrip()
        out.print(shown, style="bold" if has_titles and place == 0 else None, markup=False)


def _padded(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for cell, width in zip(line, widths, strict=True):
        yield cell + " " * (width - cell_len(cell))
