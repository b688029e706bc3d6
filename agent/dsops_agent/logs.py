"""Logging: one line per record on standard error, for the journal of the host."""

import logging
import sys
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]


class OneLine(logging.Formatter):
    """Formats a record, its exception included, as one line; line breaks become `` | ``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(threadName)s %(name)s: %(message)s")
        self.default_time_format = "%Y-%m-%dT%H:%M:%S"
        self.datefmt = self.default_time_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " | ".join(line.strip() for line in super().format(record).splitlines() if line.strip())


def configure(level: Level) -> None:
    """Send every record from ``level`` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
