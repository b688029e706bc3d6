"""What sources and sinks did since the feeding process began: counted there, read by the control process."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dsops import strictjson

logger = logging.getLogger(__name__)

Count = Literal["frames", "answers", "failures", "drops"]


class SourceCounts(BaseModel):
    """What became of a source's frames; ``drops`` were never asked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = ""
    frames: int = 0
    answers: int = 0
    failures: int = 0
    drops: int = 0
    problem: str = ""


class SinkCounts(BaseModel):
    """What became of the answers that were given to a sink; ``answers`` are those that it took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = ""
    answers: int = 0
    failures: int = 0
    drops: int = 0
    problem: str = ""


class FeedStatus(BaseModel):
    """The feeding process; ``restarts`` counts how often it was started again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = 0
    restarts: int = 0
    sources: Mapping[str, SourceCounts] = {}
    sinks: Mapping[str, SinkCounts] = {}


class Counts:
    """Counters of one source or sink, and the problem that it has at the moment. Safe for several threads."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._counted: dict[str, int] = dict.fromkeys(("frames", "answers", "failures", "drops"), 0)
        self._problem = ""

    def add(self, what: Count, number: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counted[what] += number

    def trouble(self, text: str) -> None:
        """Set the present problem, and log it when it is another one than before; an empty text: there is none."""
        plain = _printable(text)
        with self._lock:
            is_new, self._problem = plain != self._problem, plain
        if text and is_new:
            logger.warning("%s", plain)

    def of_source(self) -> SourceCounts:
        """Return the counters of a source."""
        with self._lock:
            return SourceCounts(kind=self._kind, problem=self._problem, **self._counted)

    def of_sink(self) -> SinkCounts:
        """Return the counters of a sink."""
        with self._lock:
            counted = {name: number for name, number in self._counted.items() if name != "frames"}
            return SinkCounts(kind=self._kind, problem=self._problem, **counted)


def _printable(text: str) -> str:
    """Return a text on one line: what names of files and hostile messages put into it must not forge another one."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write_status(path: Path, status: FeedStatus) -> None:
    """Write the file: whole or not at all, but not forced to the disk, for it is worthless after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(strictjson.dumps(status.model_dump(mode="json")))
        temporary.replace(path)
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error.strerror)


def read_status(path: Path) -> FeedStatus:
    """Return what the feeding process says of itself; nothing when it has not said anything that can be read."""
    try:
        return FeedStatus.model_validate(strictjson.loads(path.read_bytes()))
    except (OSError, ValidationError, strictjson.JsonRefused):
        return FeedStatus()
