"""What a person sees while the demonstration runs, and the table at its end."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from dsops.files import write_atomically

Figure = float | int | bool | str


@dataclass
class Report:
    """Live lines, the time of each step, and every figure.

    On a terminal the running step is animated; elsewhere only plain lines are printed.
    """

    console: Console
    figures: dict[str, Figure] = field(default_factory=dict)
    steps: list[tuple[str, str, float]] = field(default_factory=list)
    _status: Status | None = None
    _outcome: str = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Run one step: say that it begins, and how long it took."""
        begun = time.monotonic()
        number = len(self.steps) + 1
        self.console.print(f"[bold]{number}. {title}[/bold]")
        self._outcome = ""
        if self.console.is_terminal:
            self._status = self.console.status(title)
            self._status.start()
        try:
            yield
        finally:
            if self._status:
                self._status.stop()
                self._status = None
        self.steps.append((title, self._outcome, time.monotonic() - begun))

    def say(self, line: str) -> None:
        """Print a line of the running step."""
        self.console.print(f"   {line}", markup=False)

    def command(self, line: str) -> None:
        """Show a command that is run."""
        self.console.print(f"   $ {line}", style="dim", markup=False)

    def outcome(self, line: str) -> None:
        """Say what came out of the running step; it stands in the last table."""
        self._outcome = line
        self.say(line)

    def record(self, **figures: Figure) -> None:
        """Keep figures for the table and for JSON."""
        self.figures.update(figures)

    def finish(self) -> None:
        """Print the table: what happened, and the time of each step."""
        table = Table(title="What happened", title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("step")
        table.add_column("figures", overflow="fold")
        table.add_column("seconds", justify="right")
        for title, outcome, seconds in self.steps:
            table.add_row(title, outcome, f"{seconds:.1f}")
        table.add_row("[bold]all[/bold]", self._traffic(), f"{sum(s for *_, s in self.steps):.1f}")
        self.console.print()
        self.console.print(table)

    def write_json(self, path: Path) -> None:
        """Write every figure."""
        seconds = {f"seconds_step_{n}": round(s, 2) for n, (*_, s) in enumerate(self.steps, 1)}
        write_atomically(path, json.dumps(self.figures | seconds, indent=2).encode() + b"\n")

    def _traffic(self) -> str:
        mqtt, grpc = self.figures.get("mqtt_bytes", 0), self.figures.get("grpc_bytes", 0)
        return f"{mqtt:,} bytes over MQTT, {grpc:,} over gRPC"
