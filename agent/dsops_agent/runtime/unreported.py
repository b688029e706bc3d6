"""What a report of drift would say now, in a file that outlives the process, for frames that no report has told yet.

Reports are a quarter of an hour apart while nothing changes. Without this file a process that is killed takes as much
of the counts with it; so it takes a minute of them. The file is removed before its frames are reported otherwise, and
before it is handed over: what it holds may be lost, and is never told twice. It is not forced to the disk, so that it
does not survive a power cut, nor a run folder in memory.
"""

import logging
import secrets
from contextlib import suppress
from pathlib import Path

from dsops.api.v1.telemetry_pb2 import TelemetryRecord
from dsops_agent.moment import Moments

logger = logging.getLogger(__name__)

_PREFIX = "drift-"
_MODE = 0o600
_MOST = 64
"""More files than a process has bundles with counts; what is beyond them is removed unread."""


class Unreported:
    """The file of one watch; there is none before :meth:`keep`. One thread at a time.

    Args:
        folder: The run folder.
        moments: Tells when a record is made.
    """

    def __init__(self, folder: Path, moments: Moments) -> None:
        self._path = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        self._moments = moments

    def keep(self, record: bytes) -> None:
        """Let a record be handed over by the next process, should this one be killed; it replaces the one before."""
        new = self._path.with_name(f".{self._path.name}")
        try:
            new.touch(_MODE)
            new.write_bytes(self._moments.appended(TelemetryRecord, record))
            new.replace(self._path)
        except OSError as error:  # a full disk: no worse than without the file
            logger.debug("%s cannot be written: %s", self._path, error.strerror)

    def forget(self) -> None:
        """Hand nothing over: its frames are reported."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def left_behind(folder: Path) -> list[bytes]:
    """Return the records that processes which were killed left in a run folder, and remove them from there."""
    found: list[bytes] = []
    for path in [*sorted(folder.glob(f"{_PREFIX}*")), *folder.glob(f".{_PREFIX}*")]:
        with suppress(OSError):
            record = path.read_bytes()
            path.unlink()  # before anybody has it
            if not path.name.startswith(".") and len(found) < _MOST:
                found.append(record)
    return found
