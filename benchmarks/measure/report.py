"""A benchmark's report: a table for people, a file for programs, an exit code for ``make``."""

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from rich.console import Console
from rich.table import Table

from dsops.errors import DsopsError
from dsops.files import write_atomically

RESULTS = Path(__file__).parents[1] / "results"
MISSED = 1
BROKEN = 2


@dataclass(frozen=True)
class Limit:
    """What a row must keep: our figure itself, or its ratio to the peer's, on one side of ``value``."""

    of: Literal["figure", "ratio"]
    sign: Literal["<=", ">="]
    value: float

    def __str__(self) -> str:
        return f"{'ratio ' if self.of == 'ratio' else ''}{self.sign} {_text(self.value)}"


@dataclass(frozen=True)
class Row:
    """One measured quantity. None for a figure that does not exist, such as the delay of an alarm that never came.

    Attributes:
        ours: Median of our runs, unless the name says otherwise.
        peer: The same of the peer, measured in the same run.
        against: Which peer.
    """

    name: str
    unit: str
    ours: float | None
    peer: float | None = None
    against: str = ""
    limit: Limit | None = None

    @property
    def ratio(self) -> float | None:
        """Our figure divided by the peer's."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def passed(self) -> bool | None:
        """Whether the limit is kept; None when there is none. A figure that does not exist keeps no limit."""
        if self.limit is None:
            return None
        figure = self.ratio if self.limit.of == "ratio" else self.ours
        if figure is None:
            return False
        return figure <= self.limit.value if self.limit.sign == "<=" else figure >= self.limit.value

    def as_dict(self) -> dict[str, object]:
        """Return the row as it is written to the results file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "against": self.against,
            "ratio": self.ratio,
            "limit": str(self.limit) if self.limit else None,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Report:
    """Everything that one benchmark found; ``facts`` say under which conditions."""

    name: str
    title: str
    facts: Mapping[str, object]
    rows: tuple[Row, ...]


def run(measure: Callable[[], Report]) -> int:
    """Run one benchmark, show and keep its report; return the exit code: 0, 1 for a limit missed, 2 for no result."""
    signal.signal(signal.SIGTERM, _leave)
    began_s = time.monotonic()
    try:
        report = measure()
    except DsopsError as error:
        sys.stderr.write(f"no result: {error}\n{error.hint}\n")
        return BROKEN
    _keep(report, time.monotonic() - began_s)
    _show(report)
    return MISSED if any(row.passed is False for row in report.rows) else 0


def _leave(number: int, frame: FrameType | None) -> None:
    """End as after an exception, so that no child stays behind."""
    sys.exit(128 + number)


def _keep(report: Report, took_s: float) -> None:
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": report.name,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "took_s": round(took_s, 1),
        "facts": dict(report.facts),
        "rows": [row.as_dict() for row in report.rows],
        "passed": all(row.passed is not False for row in report.rows),
    }
    write_atomically(RESULTS / f"{report.name}.json", json.dumps(content, indent=2).encode() + b"\n")


def _show(report: Report) -> None:
    table = Table(title=report.title, caption=", ".join(f"{key} {value}" for key, value in report.facts.items()))
    for name in ("measured", "unit"):
        table.add_column(name)
    for name in ("ours", "peer"):
        table.add_column(name, justify="right")
    table.add_column("against")
    table.add_column("ratio", justify="right")
    table.add_column("limit")
    for row in report.rows:
        table.add_row(
            row.name, row.unit, _text(row.ours), _text(row.peer), row.against, _text(row.ratio), _verdict(row)
        )
    Console(width=None if sys.stdout.isatty() else 132).print(table)


def _verdict(row: Row) -> str:
    if row.passed is None:
        return ""
    return f"{row.limit} [green]passed[/]" if row.passed else f"{row.limit} [bold red]failed[/]"


def _text(figure: float | None) -> str:
    """Return a figure with three significant digits, and no exponent."""
    if figure is None:
        return "-"
    if abs(figure) >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.3g}"
