"""The servers that programs ask end together: the times that they may take do not add up."""

import time
from collections.abc import Sequence
from typing import Protocol


class Door(Protocol):
    """A server whose end has two parts."""

    def end(self) -> None:
        """Take no more requests; returns at once."""
        ...

    def wait(self, wait_s: float) -> None:
        """Wait so long at most for the requests under way."""
        ...


def end_together(doors: Sequence[Door], grace_s: float) -> None:
    """Let none of the servers take requests any more, and wait for all of them, ``grace_s`` seconds at most."""
    ends_s = time.monotonic() + grace_s
    for door in doors:
        door.end()
    for door in doors:
        door.wait(max(ends_s - time.monotonic(), 0.0))
