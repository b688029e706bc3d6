"""How a build tells its caller how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Told about the steps of one build, in their order."""

    def step(self, name: str, total: int | None = None) -> None:
        """A step begins. ``total`` is the number of its units, when that is known."""

    def advance(self, units: int = 1) -> None:
        """So many units more of the present step are done."""


class _Silent:
    def step(self, name: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, units: int = 1) -> None:
        """Say nothing."""


silent: Progress = _Silent()
"""Says nothing."""
