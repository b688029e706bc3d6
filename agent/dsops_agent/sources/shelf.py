"""What a device leaves on its site's broker for its neighbours: everything of the bundles that it has or fetches.

A chunk is left as soon as it came, and whatever is in a slot is left again after each connection, for a broker may have
lost everything. What belongs to no slot any more is taken away; the index of each bundle is kept on disk for that, so
that it is not forgotten over a restart. Should that fail, the messages expire.
"""

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsops.bundle import file_index
from dsops.chunks import ChunkIndex
from dsops.errors import DsopsError
from dsops.files import write_atomically
from dsops.topics import Topics
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.regular import read_part
from dsops_agent.sources.site import SiteBroker, SiteSource

logger = logging.getLogger(__name__)

EXPIRY_S = 7 * 86_400
MOST_UNDER_WAY = 32
"""Messages that wait for the broker at most: more would be dropped."""
MOST_FRESH_BYTES = 2 << 20
MOST_DOCUMENT_BYTES = 1 << 20
_TIDY_S = 5.0

Holdings = Callable[[], Mapping[str, Path | None]]
"""Returns the bundles that the device has or fetches: the file of each by SHA-256, None while it is being fetched."""


@dataclass(frozen=True)
class _Left:
    """A chunk that was left: its length, and the bundle that it is of; empty for a document of trust."""

    size_bytes: int
    file: str


class Shelf:
    """Leaves chunks on the site's broker. :meth:`run` is a thread.

    Args:
        broker: The session with the site's broker.
        topics: Spells the topics.
        folder: Keeps the indexes of what was left.
        max_bytes: How much is left there at most.
        holdings: Says what the device has.
    """

    def __init__(self, broker: SiteBroker, topics: Topics, folder: Path, max_bytes: int, holdings: Holdings) -> None:
        self._broker = broker
        self._topics = topics
        self._folder = folder
        self._max_bytes = max_bytes
        self._holdings = holdings
        self._lock = threading.Lock()
        self._fresh: deque[tuple[Chunk, bytes]] = deque()
        self._documents: dict[str, bytes] = {}
        self._anew = threading.Event()
        self._left: dict[str, _Left] = {}
        self._work: Iterator[None] = iter(())
        self._is_round_over = True
        self._is_full = False
        """Whether a chunk was refused for want of room; nothing more is read for the shelf until there is some."""
        self.left_bytes = 0
        """Bytes that are there by us."""

    def took(self, source: str, chunk: Chunk, data: bytes) -> None:
        """Take a chunk with the right bytes that came from a source; one from the site is there already."""
        if source == SiteSource.name:
            return
        with self._lock:
            if sum(len(data) for _, data in self._fresh) + len(data) <= MOST_FRESH_BYTES:  # else from the slot, later
                self._fresh.append((chunk, data))
            if not chunk.file:
                self._keep_document(chunk.digest, data)

    def _keep_document(self, digest: str, data: bytes) -> None:
        self._documents[digest] = data
        while sum(map(len, self._documents.values())) > MOST_DOCUMENT_BYTES:
            del self._documents[next(iter(self._documents))]

    def connected(self) -> None:
        """Take note of a new connection: everything is left again."""
        self._anew.set()

    def run(self, stop: threading.Event) -> None:
        """Leave and take away until ``stop`` is set."""
        waited_s = _TIDY_S
        while not stop.wait(0.05):
            waited_s += 0.05
            if not self._broker.is_connected:
                continue
            if self._anew.is_set() or (self._is_round_over and waited_s >= _TIDY_S):
                waited_s = 0.0  # a round that is not over goes on: begun again and again it might never come to its end
                self._begin_anew()
            with suppress(DsopsError, OSError):  # a file that goes while it is read: the next round sees what is there
                self._step()

    def _begin_anew(self) -> None:
        if self._anew.is_set():
            self._anew.clear()
            self._left.clear()
            self.left_bytes = 0
            self._is_full = False
        self._work, self._is_round_over = self._round(), False

    def _step(self) -> None:
        while self._broker.waiting < MOST_UNDER_WAY:
            with self._lock:
                fresh = self._fresh.popleft() if self._fresh else None
            if fresh:
                self._leave(fresh[0].digest, fresh[1], fresh[0].file)
            elif next(self._work, self) is self:
                self._is_round_over = True
                return

    def _round(self) -> Iterator[None]:
        """Take away what is nobody's, then leave what is not there, a message at a time."""
        held = self._holdings()
        found = {sha256: self._index(sha256, path) for sha256, path in held.items() if path}
        indexes = {sha256: index for sha256, index in found.items() if index}
        kept = {digest for index in indexes.values() for digest in (index.digest, *index.digests)}
        yield from self._tidy(held, kept)
        with self._lock:
            documents = dict(self._documents)
        for digest, data in documents.items():
            if self._leave(digest, data, ""):
                yield
        for sha256, index in indexes.items():
            yield from self._leave_bundle(held[sha256], sha256, index)

    def _leave_bundle(self, path: Path | None, sha256: str, index: ChunkIndex) -> Iterator[None]:
        if self._leave(index.digest, index.encode(), sha256):
            yield
        for digest, span in zip(index.digests, index.spans, strict=True):
            if self._is_full:
                return
            if digest not in self._left and path:
                data = read_part(path, span.offset, span.length)
                if hashlib.sha256(data).hexdigest() == digest and self._leave(digest, data, sha256):
                    yield

    def _tidy(self, held: Mapping[str, Path | None], kept: set[str]) -> Iterator[None]:
        gone = {digest for digest, left in self._left.items() if left.file and left.file not in held}
        files = (
            [file for file in self._folder.glob("*.index") if file.stem not in held] if self._folder.is_dir() else []
        )
        for file in files:
            with suppress(DsopsError):
                index = ChunkIndex.decode(file.read_bytes())
                gone |= {index.digest, *index.digests}
        for digest in gone - kept:
            left = self._left.pop(digest, None)
            if left:
                self.left_bytes -= left.size_bytes
                self._is_full = False
            self._broker.publish(self._topics.chunk(digest), b"", retain=True)
            yield
        for file in files:
            file.unlink(missing_ok=True)

    def _index(self, sha256: str, path: Path) -> ChunkIndex | None:
        """Return the index of a bundle in a slot, and keep it; None when the slot is damaged."""
        kept = self._folder / f"{sha256}.index"
        with suppress(DsopsError, FileNotFoundError):
            return ChunkIndex.decode(kept.read_bytes())
        with suppress(DsopsError):
            index = file_index(path)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_atomically(kept, index.encode())
            return index
        return None

    def _leave(self, digest: str, data: bytes, file: str) -> bool:
        """Leave a chunk unless it is there, or there is no room; return whether it was left."""
        known = self._left.get(digest)
        if known:
            if file and not known.file:
                self._left[digest] = _Left(len(data), file)
            return False
        if self.left_bytes + len(data) > self._max_bytes:
            self._is_full = True
            return False
        self._left[digest] = _Left(len(data), file)
        self.left_bytes += len(data)
        self._broker.publish(self._topics.chunk(digest), data, retain=True, expiry_s=EXPIRY_S)
        return True
