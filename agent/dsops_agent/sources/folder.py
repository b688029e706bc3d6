"""Chunks from files on this device: a bundle file, or a folder such as a kit on a USB stick."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsops import ids
from dsops.chunks import MAX_CHUNK_BYTES
from dsops.errors import InvalidInput, SourceFailed, SourceLacks
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.ports import Delivery
from dsops_agent.sources.regular import read_part, read_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where files are.

    Attributes:
        folder: Has files by their SHA-256; None for none.
        files: Single files, by their SHA-256.
        held: Small files that are in memory, by their SHA-256.
    """

    folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    held: Mapping[str, bytes] = field(default_factory=dict)

    def read(self, chunk: Chunk) -> bytes:
        """Return a chunk's bytes, unchecked.

        Raises:
            SourceFailed: It is not here, or cannot be read.
        """
        if chunk.digest in self.held:
            return self.held[chunk.digest]
        if chunk.file and chunk.length:
            return read_part(self._path(chunk.file), chunk.offset, chunk.length)
        return read_whole(self._path(chunk.file or chunk.digest), MAX_CHUNK_BYTES)

    def has(self, sha256: str) -> bool:
        """Return whether a file is here; not whether it is what its name says. A medium that fails has none."""
        if sha256 in self.files:
            return True
        try:
            return self.folder is not None and (self.folder / sha256).is_file()
        except OSError:
            return False

    def _path(self, sha256: str) -> Path:
        if sha256 in self.files:
            return self.files[sha256]
        try:
            name = ids.digest(sha256)
        except InvalidInput as error:
            raise SourceLacks("no file can have that name", why=str(error)) from error
        if self.folder is None:
            raise SourceLacks("it is another file that was offered", why=sha256)
        return self.folder / name


class FolderSource:
    """Reads what is asked for. :meth:`run` is a thread, for a stick may take its time.

    Args:
        delivery: Takes what comes.
    """

    name = "folder"
    is_near = True

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._changed = threading.Condition()
        self._wanted: dict[str, Chunk] = {}
        self._is_over = False
        self.place = Place()
        """Where files are; set anew at any time."""

    def has(self, sha256: str) -> bool:
        """Return whether a file is here at this moment; not whether it is what its name says."""
        return self.place.has(sha256)

    def request(self, chunk: Chunk) -> None:
        """Read a chunk."""
        with self._changed:
            self._wanted[chunk.digest] = chunk
            self._changed.notify()

    def cancel(self, digest: str) -> None:
        """Do not read a chunk any more."""
        with self._changed:
            self._wanted.pop(digest, None)

    def stop(self) -> None:
        """End :meth:`run` soon."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    def run(self) -> None:
        """Read until :meth:`stop`."""
        while (chunk := self._next()) is not None:
            try:
                self._delivery.came(self.name, chunk.digest, self.place.read(chunk))
            except SourceFailed as error:
                self._delivery.lost(self.name, (chunk.digest,), error)

    def _next(self) -> Chunk | None:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._is_over)
            return None if self._is_over else self._wanted.pop(next(iter(self._wanted)))
