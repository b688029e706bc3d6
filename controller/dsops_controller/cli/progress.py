"""Shows how far a build is: a bar a step on a terminal, a line a step elsewhere; always on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from dsops_controller.cli import output


class _Nothing:
    def step(self, name: str, total: int | None = None) -> None:
        """Show nothing."""

    def advance(self, units: int = 1) -> None:
        """Show nothing."""


class _Lines:
    """A line as each step begins; for logs."""

    def step(self, name: str, total: int | None = None) -> None:
        """Print the step's name."""
        output.say(f"{name} ({total})" if total else name)

    def advance(self, units: int = 1) -> None:
        """Print nothing."""


class _Bars:
    """A bar a step. A step ends when the next one begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def step(self, name: str, total: int | None = None) -> None:
        """Finish the bar of the step before and begin another."""
        self.finish()
        self._task = self._bars.add_task(name, total=total)

    def advance(self, units: int = 1) -> None:
        """Move the present bar."""
        if self._task is not None:
            self._bars.advance(self._task, units)

    def finish(self) -> None:
        """Fill the present bar and stop its clock."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total or task.completed or 1
            self._bars.update(self._task, total=total, completed=total)
            self._bars.stop_task(self._task)
            self._task = None


Shown = _Nothing | _Lines | _Bars


@contextmanager
def shown(*, wanted: bool, console: Console = output.err) -> Iterator[Shown]:
    """Give what a build tells of its steps.

    Args:
        wanted: Show anything at all.
        console: Where to.
    """
    if not wanted:
        yield _Nothing()
    elif not console.is_terminal:
        yield _Lines()
    else:
        columns = (
            SpinnerColumn(finished_text="\N{CHECK MARK}"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as bars:
            progress = _Bars(bars)
            yield progress
            progress.finish()
