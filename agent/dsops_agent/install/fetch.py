"""One transfer: first the chunk index that the signed target names, then the chunks that are missing.

The file under way is ``<sha256>.part`` and its index ``<sha256>.index`` in the staging folder. Resuming needs no other
record: the chunks that are there are hashed again.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dsops.bundle import file_digest
from dsops.chunks import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES, ChunkIndex, Span
from dsops.errors import DigestMismatch, MalformedBundle, TransferFailed
from dsops.files import fsync_folder, fsync_or_discard, write_atomically
from dsops.messages import Problem
from dsops_agent.install.ports import Chunk, ChunkSource
from dsops_agent.install.reuse import held_chunks
from dsops_agent.install.slots import disk_errors
from dsops_agent.install.spending import Spending
from dsops_agent.install.window import Action, Kind, Window

MAX_OUTSTANDING_BYTES = 512 * 1024
"""Chunks asked for at one time hold at most this, whatever their size: the broker and the agent keep them in memory."""
NOBODY = "there is no connection to the broker"
LOOK_S = 10.0
"""A transfer that waits for its budget looks so often for a source that costs nothing of it, such as a stick."""


@dataclass(frozen=True)
class Wanted:
    """The file to fetch: its digest and length, and the digest of its chunk index. All of it is signed."""

    sha256: str
    length_bytes: int
    index: str


@dataclass(frozen=True)
class Pace:
    """How a transfer asks: at most ``window`` chunks at one time, each again after ``timeout_s`` at the earliest."""

    window: int
    timeout_s: float


class PartFile:
    """The file under way. Every chunk stands at its place; what is missing is a hole.

    Raises:
        NoSpace: The disk is full.
        StateDamaged: The disk fails.
    """

    def __init__(self, path: Path, index: ChunkIndex) -> None:
        self.path = path
        self._places: dict[str, list[int]] = {}
        self._index = index
        for number, digest in enumerate(index.digests):
            self._places.setdefault(digest, []).append(number)
        with disk_errors("open the transfer's file"):
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
            self._file.truncate(index.length_bytes)
            is_empty = os.fstat(self._file.fileno()).st_blocks == 0
            self.missing = dict.fromkeys(self._places) if is_empty else self._find_missing()

    def _find_missing(self) -> dict[str, None]:
        missing: dict[str, None] = {}
        for number, digest in enumerate(self._index.digests):
            span = self._index.spans[number]
            self._file.seek(span.offset)
            if hashlib.sha256(self._file.read(span.length)).hexdigest() != digest:
                missing[digest] = None
        return missing

    @property
    def progress(self) -> float:
        """Share of the distinct chunks that are there."""
        return 1 - len(self.missing) / len(self._places)

    def place(self, digest: str) -> tuple[int, Span]:
        """Return the number of a chunk, and where it stands; of several the first."""
        number = self._places[digest][0]
        return number, self._index.spans[number]

    def store(self, digest: str, data: bytes) -> None:
        """Write one verified chunk to every place that it has.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        with disk_errors("write a chunk"):
            for number in self._places[digest]:
                self._file.seek(self._index.spans[number].offset)
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
        self.missing.pop(digest, None)

    def finish(self, wanted: Wanted) -> None:
        """Make the whole file durable and check it.

        Raises:
            DigestMismatch: It is not what was signed, although every chunk is what the index names.
            TransferFailed: The disk lost chunks.
        """
        with disk_errors("finish the transfer's file"):
            fsync_or_discard(self.path, self._file.fileno())
            fsync_folder(self.path.parent)
            found = file_digest(self.path)
            lost = self._find_missing() if found[0] != wanted.sha256 else {}
        if lost:
            raise TransferFailed("the disk gave back other bytes than were written", why=f"{len(lost)} chunks differ")
        if found != (wanted.sha256, wanted.length_bytes):
            raise DigestMismatch("the chunks do not make the signed bundle", why="index and bundle do not agree")

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._file.close()


class Transfer:
    """Fetches one file. Single-threaded; the caller passes chunks and time in.

    Args:
        staging: Folder of the file under way.
        wanted: The file.
        source: Where chunks are asked for.
        pace: How to ask.
        installed: Bundles on the device, whose chunks need not be fetched.
        spending: The budget, if there is one.
    """

    def __init__(
        self,
        staging: Path,
        wanted: Wanted,
        source: ChunkSource,
        pace: Pace,
        *,
        installed: Iterable[Path] = (),
        spending: Spending | None = None,
    ) -> None:
        self.path = part_path(staging, wanted.sha256)
        self._index_path = staging / f"{wanted.sha256}.index"
        self._wanted = wanted
        self._source = source
        self._pace = pace
        self._installed = installed
        self._spending = spending
        self._goes_on_s: float | None = None
        self.waiting = ""
        """What the transfer waits for: its budget, or somebody to ask; empty when it goes on."""
        self._part: PartFile | None = None
        self._window = Window((), limit=1, timeout_s=pace.timeout_s)
        self._asked: set[str] = set()
        self._near: set[str] = set()
        """Chunks that were asked for only where that costs nothing."""
        self.copied_bytes = 0
        """Bytes of chunks that were on the device already, in other bundles."""
        self.wrong = 0
        """Number of chunks that came with wrong bytes."""
        self.done = False

    @property
    def progress(self) -> float:
        """Share of the chunks that are on the device, 0 to 1."""
        return self._part.progress if self._part else 0.0

    @property
    def next_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return min((s for s in (self._window.next_s, self._goes_on_s) if s is not None), default=None)

    def is_cut_off(self, digest: str) -> bool:
        """Return whether nobody who may have a chunk can be asked at this moment."""
        return self._source.is_cut_off(self._chunk(digest))

    def take(self, digest: str) -> bool:
        """Return whether somebody can be asked for a chunk, within the budget; it is spent, unless it is near by."""
        if self.is_cut_off(digest):
            return False
        if self._spending is None:
            return True
        self._near.discard(digest)
        if self._source.has_near(self._chunk(digest)):
            self._near.add(digest)
            return True
        return self._spending.take(self._length(digest))

    def spend(self, digest: str) -> None:
        """Spend what a chunk costs that is asked for again, unless it comes from near by."""
        if self._spending is not None and digest not in self._near:
            self._spending.spend(self._length(digest))

    def wasted(self, digest: str) -> None:
        """Spend what a chunk costs whose bytes came for nothing from a source that was asked for it."""
        if digest in self._asked:
            self.spend(digest)

    def start(self, now_s: float) -> None:
        """Begin, or resume from what the staging folder holds.

        Raises:
            TransferFailed: It was given up.
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
            MalformedBundle: The signed index is none, or is of a file of another length.
            DigestMismatch: Index and bundle do not agree.
        """
        with disk_errors("read the chunk index"):
            self._index_path.parent.mkdir(parents=True, exist_ok=True)
            data = self._index_path.read_bytes() if self._index_path.exists() else b""
        if hashlib.sha256(data).hexdigest() == self._wanted.index:
            self._begin(data, now_s)
        else:
            self._window = Window((self._wanted.index,), limit=1, timeout_s=self._pace.timeout_s, meter=self)
            self._do(self._window.fill(now_s), b"", now_s)

    def arrived(self, digest: str, data: bytes, now_s: float) -> None:
        """Take one chunk from anywhere; it counts only if it was asked for. Errors as in :meth:`start`."""
        if self.done or digest not in self._asked:
            return
        good = len(data) <= MAX_CHUNK_BYTES and hashlib.sha256(data).hexdigest() == digest
        self.wrong += not good
        self._do(self._window.arrived(digest, good=good, now_s=now_s), data, now_s)
        self._finish_if_whole()

    def lost(self, digest: str, problem: Problem, now_s: float) -> None:
        """Ask elsewhere for a chunk that a source cannot bring. Errors as in :meth:`start`."""
        if self.done or digest not in self._asked:
            return
        if digest in self._near:
            self._do(self._window.put_back(digest, now_s), b"", now_s)
        else:
            self._do(self._window.lost(digest, str(problem.message or problem.code), now_s), b"", now_s)

    def tick(self, now_s: float) -> None:
        """Ask again for what is late. Errors as in :meth:`start`."""
        if self._spending:
            self._spending.follow()
        self._do(self._window.tick(now_s), b"", now_s)

    def reconnected(self, now_s: float) -> None:
        """Begin to wait anew for everything that is outstanding."""
        self._window.reconnected(now_s)

    def receiving(self, now_s: float) -> None:
        """Note that bytes come, which may be those of a chunk."""
        self._window.receiving(now_s)

    def close(self) -> None:
        """Stop asking and close the file; what came stays for the next time."""
        for digest in tuple(self._asked):
            self._cancel(digest)
        if self._part:
            self._part.close()

    def _begin(self, data: bytes, now_s: float) -> None:
        index = ChunkIndex.decode(data)
        if index.length_bytes != self._wanted.length_bytes:
            why = f"{index.length_bytes} bytes, not {self._wanted.length_bytes}"
            raise MalformedBundle("the chunk index is of another file", why=why)
        self._part = PartFile(self.path, index)
        self._copy_what_is_here(index, self._part)
        limit = min(self._pace.window, MAX_OUTSTANDING_BYTES // index.chunk_bytes)
        pull = self._window.had_to_pull  # a broker that has lost the index has lost the chunks
        timeout_s = self._pace.timeout_s
        self._window = Window(self._part.missing, limit=limit, timeout_s=timeout_s, pull=pull, meter=self)
        self._do(self._window.fill(now_s), b"", now_s)
        self._finish_if_whole()

    def _copy_what_is_here(self, index: ChunkIndex, part: PartFile) -> None:
        for path in self._installed if part.missing else ():
            for digest, data in held_chunks(index, path, part.missing):
                part.store(digest, data)
                self.copied_bytes += len(data)

    def _finish_if_whole(self) -> None:
        if self._part and not self._part.missing and not self.done:
            self._part.finish(self._wanted)
            self.done = True

    def _do(self, actions: list[Action], data: bytes, now_s: float) -> None:
        for action in actions:
            match action.kind:
                case Kind.REQUEST:
                    self._asked.update(action.digests)
                    self._source.request(self._chunk(action.digests[0]))
                case Kind.CANCEL:
                    self._cancel(action.digests[0])
                case Kind.NEED:
                    self._leave_the_near(action.digests)
                    self._asked.update(action.digests)
                    self._source.need(tuple(map(self._chunk, action.digests)))
                case Kind.STORE:
                    self._store(action.digests[0], data, now_s)
                case Kind.FAIL:
                    raise TransferFailed("the bundle could not be fetched", why=action.reason)
        self._look_at_the_budget(now_s)

    def _leave_the_near(self, digests: Iterable[str]) -> None:
        """Spend what chunks cost that are asked of the controller after all."""
        for digest in self._near.intersection(digests):
            self._near.discard(digest)
            self.spend(digest)

    def _look_at_the_budget(self, now_s: float) -> None:
        """Note until when, and why, nothing more is asked for."""
        self._goes_on_s, self.waiting = None, ""
        coming = self._window.coming
        if not self._window.has_room:
            return
        if self.is_cut_off(coming):
            self.waiting = NOBODY
        elif self._spending and not self._source.has_near(self._chunk(coming)):
            length = self._length(coming)
            wait_s = self._spending.wait_s(length)
            self._goes_on_s = now_s + min(wait_s, LOOK_S) if wait_s else None
            self.waiting = self._spending.explain(length)

    def _length(self, digest: str) -> int:
        """Return the bytes of a chunk; of the index, which is not known yet, about."""
        if self._part is None:
            return min(MAX_CHUNK_BYTES, 1024 + 32 * (self._wanted.length_bytes // DEFAULT_CHUNK_BYTES))
        return self._part.place(digest)[1].length

    def _chunk(self, digest: str) -> Chunk:
        near = digest in self._near
        if self._part is None:
            return Chunk(digest, near=near)
        number, span = self._part.place(digest)
        return Chunk(digest, self._wanted.sha256, span.offset, span.length, self._wanted.index, number, near)

    def _cancel(self, digest: str) -> None:
        self._asked.discard(digest)
        self._source.cancel(digest)

    def _store(self, digest: str, data: bytes, now_s: float) -> None:
        if self._part:
            self._part.store(digest, data)
        else:
            self._keep_index(data, now_s)

    def _keep_index(self, data: bytes, now_s: float) -> None:
        ChunkIndex.decode(data)
        with disk_errors("keep the chunk index"):
            write_atomically(self._index_path, data)
        self._begin(data, now_s)


def part_path(staging: Path, sha256: str) -> Path:
    """Return the file under way of a bundle."""
    return staging / f"{sha256}.part"


def staged_names(staging: Path) -> frozenset[str]:
    """Return the names of the files under way.

    Raises:
        StateDamaged: The folder cannot be read or made.
    """
    with disk_errors("look at the staging folder"):
        staging.mkdir(parents=True, exist_ok=True)
        return frozenset(path.name for path in staging.iterdir() if path.is_file())


def remove(staging: Path, names: frozenset[str]) -> None:
    """Remove files under way.

    Raises:
        StateDamaged: The folder cannot be tidied.
    """
    with disk_errors("tidy the staging folder"):
        for name in names:
            (staging / name).unlink(missing_ok=True)


def bytes_on_disk(path: Path) -> int:
    """Return the disk space that a file takes, holes not counted; 0 when it is absent."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
