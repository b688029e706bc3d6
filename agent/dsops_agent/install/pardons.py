"""Bundles that somebody at the device wants out of quarantine: requests that another process leaves in a folder.

The agent alone writes its journal while it runs. A request is a file that bears the bundle's digest as its name; it is
removed once the journal holds what came of it, so that none is lost and none counts twice.
"""

import re
from pathlib import Path

from dsops.files import write_atomically
from dsops_agent.install.slots import disk_errors

_DIGEST = re.compile(r"[0-9a-f]{64}")


class PardonBox:
    """The folder.

    Args:
        folder: Where requests lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, digest: str) -> None:
        """Leave a request.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The folder cannot be written.
        """
        with disk_errors("ask the agent"):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_atomically(self._folder / digest, b"")

    def asked(self) -> tuple[str, ...]:
        """Return the digests that are asked for.

        Raises:
            StateDamaged: The folder cannot be read.
        """
        with disk_errors("look at what is asked for"):
            try:
                return tuple(sorted(path.name for path in self._folder.iterdir() if _DIGEST.fullmatch(path.name)))
            except FileNotFoundError:
                return ()

    def done(self, digest: str) -> None:
        """Remove a request.

        Raises:
            StateDamaged: The disk fails.
        """
        with disk_errors("remove a request"):
            (self._folder / digest).unlink(missing_ok=True)
