"""Makes a bundle of an installed one and a delta, a slice at a time, so that the worker does other things in between.

What is made stands in a file of its own until it is durable and has the digest that was signed; then it takes the place
of the transfer's file. Killed before, it is made anew: the delta is still there.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dsops.delta import Ends, apply_delta
from dsops.errors import DeltaFailed
from dsops.files import fsync_folder
from dsops_agent.install.slots import disk_errors

SLICE_BYTES = 1 << 20
"""How much is made in one go: 3 ms on a server; a tenth of a second where adding and hashing do 10 MB/s."""


@dataclass(frozen=True)
class Files:
    """The delta, the bundle that it begins at, the file to write, and the file that it becomes."""

    delta: Path
    base: Path
    made: Path
    target: Path


class Rebuild:
    """One bundle that is being made.

    Args:
        files: Where everything stands.
        ends: From which bundle to which.

    Raises:
        DeltaFailed: The delta or its base cannot be opened.
        NoSpace: The disk is full.
        StateDamaged: The disk fails.
    """

    def __init__(self, files: Files, ends: Ends) -> None:
        self._files = files
        self._ends = ends
        self.written = 0
        """Bytes that are made."""
        self._open = ExitStack()
        try:
            delta, base = (self._open.enter_context(path.open("rb")) for path in (files.delta, files.base))
        except OSError as error:
            self.close()
            raise DeltaFailed("the delta or its base cannot be read", why=str(error.strerror)) from error
        try:
            with disk_errors("make a bundle of a delta"):
                self._out = self._open.enter_context(files.made.open("wb"))
        except Exception:
            self.close()
            raise
        self._steps: Iterator[int] = apply_delta(delta, base, self._out, ends)

    @property
    def progress(self) -> float:
        """Share of the bundle that is made."""
        return self.written / self._ends.target_bytes

    def go_on(self, most_bytes: int = SLICE_BYTES) -> bool:
        """Make a slice; return whether the bundle is whole, right and durable.

        Raises:
            DeltaFailed: The delta does not make it.
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        until = self.written + most_bytes
        with disk_errors("make a bundle of a delta"):
            for written in self._steps:
                self.written = written
                if written >= until:
                    return False
            self._out.flush()
            os.fsync(self._out.fileno())
            self.close()
            self._files.made.replace(self._files.target)
            fsync_folder(self._files.target.parent)
        return True

    def close(self) -> None:
        """Close the files; what was made so far is of no use."""
        self._open.close()
