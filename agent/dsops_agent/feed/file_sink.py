"""A sink that is a file of JSON lines, rotated by size, bounded in all."""

import contextlib
import json
import os
import threading
from pathlib import Path

from dsops_agent.feed.ports import Answer
from dsops_agent.feed.settings import FileSink

_LOOKED_AT_BYTES = 16 << 20
"""How much of a file is searched for what may be repeated: more than what waits for a sink is never repeated."""


class FileOutlet:
    """Appends lines. A line is written whole, and an answer once, also when the process is killed in between.

    Args:
        settings: Which file, and how large.
    """

    def __init__(self, settings: FileSink) -> None:
        self._settings = settings
        self._handle = -1
        self._size = 0
        self._before: frozenset[str] | None = None

    def write(self, answer: Answer, stop: threading.Event) -> None:
        """Append an answer, unless it is a repetition of one that is there.

        Raises:
            OSError: The file cannot be written; nothing of the answer is in it.
        """
        self._open()
        if answer.is_again and answer.id in self._ids_before():
            return
        line = answer.record + b"\n"
        if self._size and self._size + len(line) > self._settings.max_bytes:
            self._rotate()
            self._open()
        self._append(line)

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        if self._handle >= 0:
            return
        path = self._settings.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._handle).st_size
        self._cut_half_a_line()

    def _cut_half_a_line(self) -> None:
        """A power cut, or another hand, may have left a line without its end."""
        end = self._size
        while end and os.pread(self._handle, 1, end - 1) != b"\n":
            begin = max(0, end - 4096)
            piece = os.pread(self._handle, end - begin, begin)
            end = begin + piece.rfind(b"\n") + 1
        if end != self._size:
            os.ftruncate(self._handle, end)
            self._size = end

    def _append(self, line: bytes) -> None:
        try:
            left = line
            while left:  # a disk that is nearly full takes a part, and refuses the rest
                left = left[os.write(self._handle, left) :]
            os.fdatasync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            self.close()
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        self.close()
        for number in range(self._settings.files - 1, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))
        if self._settings.files == 1:
            self._settings.path.unlink()

    def _numbered(self, number: int) -> Path:
        path = self._settings.path
        return path.with_name(f"{path.name}.{number}") if number else path

    def _ids_before(self) -> frozenset[str]:
        """Return the answers that were there at the start, those that may be repeated: the newest ones."""
        if self._before is None:
            found: set[str] = set()
            for number in range(min(2, self._settings.files)):
                with contextlib.suppress(OSError):
                    found.update(map(_id, _end_of(self._numbered(number)).splitlines()))
            self._before = frozenset(found)
        return self._before


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOKED_AT_BYTES))
        return file.read(_LOOKED_AT_BYTES)


def _id(line: bytes) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("id", "")) if isinstance(record, dict) else ""
