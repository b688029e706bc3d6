"""Delta files beside the bundles, named by their digest, and their chunks."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import delete, select

from dsops.bundle import sha256_hex
from dsops.chunks import ChunkIndex, index_of
from dsops.errors import DigestMismatch, NotFound
from dsops.files import write_atomically
from dsops.ids import digest as check_digest
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.deltas.unwanted import forget_unwanted

_SHA256 = tables.delta.c.sha256


class Chunks(Protocol):
    """Files that devices fetch in chunks."""

    def index(self, sha256: str) -> ChunkIndex:
        """Return a file's chunk index."""
        ...

    def digests(self, sha256: str) -> tuple[str, ...]:
        """Return everything that devices fetch of a file: documents, its chunk index, then each chunk once."""
        ...

    def chunk(self, digest: str) -> bytes | None:
        """Return one chunk, chunk index or document by its digest; None when no file has it."""
        ...


class DeltaFiles:
    """Keeps and serves delta files. Safe for several threads.

    Args:
        db: Names the deltas that are offered.
        folder: Where the files are.
    """

    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder
        self._lock = threading.Lock()
        self._indexes: dict[str, ChunkIndex] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._unreadable: set[str] = set()
        """What was found to be lost or damaged, so that it is not looked into again."""

    def keep(self, data: bytes) -> tuple[str, str]:
        """Store a delta durably; return its digest and that of its chunk index.

        Raises:
            MalformedBundle: It is larger than an index can name.
            NoSpace: The disk is full; nothing is left behind.
        """
        index, sha256 = index_of(data), sha256_hex(data)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / sha256, data)
        with self._lock:
            self._unreadable.discard(sha256)
            self._learn(sha256, index)
        return sha256, index.digest

    def forget_lost(self) -> None:
        """Forget the deltas whose files are gone or damaged, so that they are made again when they are needed."""
        with self._db.write() as connection:
            offered = connection.execute(select(_SHA256).where(_SHA256.is_not(None))).scalars().all()
            gone = [sha256 for sha256 in offered if not (self._folder / sha256).exists()]
            lost = [*gone, *(sha256 for sha256 in offered if sha256 in self._unreadable)]
            connection.execute(delete(tables.delta).where(_SHA256.in_(lost)))

    def remove_unwanted(self) -> None:
        """Remove the deltas that nobody can use any more: first what names them, then their files.

        Killed in between, it leaves files without a name, which the next call removes. Must not be called while
        :meth:`keep` and what follows it are under way in another thread, for then a file has no name yet.
        """
        with self._db.write() as connection:
            forget_unwanted(connection)
        self.remove_strays()

    def remove_strays(self) -> None:
        """Remove every file that no delta names and of which the broker holds nothing: to take it back, it is read.

        As to threads as :meth:`remove_unwanted`.
        """
        if not self._folder.exists():
            return
        with self._db.read() as connection:
            held = set(connection.execute(select(tables.seeded.c.sha256)).scalars())
        named = self._named() | held
        strays = [path for path in self._folder.iterdir() if path.name not in named]
        with self._lock:
            for path in strays:
                path.unlink(missing_ok=True)
            known, self._indexes, self._places = self._indexes, {}, {}
            for sha256 in named & known.keys():
                self._learn(sha256, known[sha256])
            self._unreadable &= named

    def index(self, sha256: str) -> ChunkIndex:
        """Return a delta's chunk index.

        Raises:
            NotFound: There is none.
            DigestMismatch: The file is no longer what was made.
        """
        with self._lock:
            if sha256 not in self._indexes:
                self._learn(sha256, index_of(self._read(sha256)))
            return self._indexes[sha256]

    def digests(self, sha256: str) -> tuple[str, ...]:
        """Return what devices fetch of a delta: its chunk index, then each chunk once. Errors as of :meth:`index`."""
        index = self.index(sha256)
        return (index.digest, *dict.fromkeys(index.digests))

    def chunk(self, digest: str) -> bytes | None:
        """Return one chunk or chunk index of any delta that is offered, or None.

        Raises:
            DigestMismatch: The file is no longer what was made.
        """
        with self._lock:
            place = self._places.get(digest) or self._search(digest)
            if place is None:
                return None
            sha256, number = place
            if number < 0:
                return self._indexes[sha256].encode()
            span = self._indexes[sha256].spans[number]
        try:
            with (self._folder / sha256).open("rb") as file:
                file.seek(span.offset)
                data = file.read(span.length)
        except FileNotFoundError:  # removed in between, or lost
            return None
        if sha256_hex(data) != digest:
            raise DigestMismatch(f"delta {sha256} is damaged on the server")
        return data

    def _search(self, digest: str) -> tuple[str, int] | None:
        """Look into the deltas that were not looked into yet; a stranger's digest costs that once."""
        for sha256 in sorted(self._named() - self._indexes.keys() - self._unreadable):
            try:
                self._learn(sha256, index_of(self._read(sha256)))
            except (NotFound, DigestMismatch):  # devices that ask for it fetch the whole bundle
                self._unreadable.add(sha256)
        return self._places.get(digest)

    def _named(self) -> set[str]:
        with self._db.read() as connection:
            return set(connection.execute(select(_SHA256).where(_SHA256.is_not(None))).scalars())

    def _read(self, sha256: str) -> bytes:
        path = self._folder / check_digest(sha256)
        if not path.exists():
            raise NotFound(f"there is no delta {sha256}")
        data = path.read_bytes()
        if sha256_hex(data) != sha256:
            raise DigestMismatch(f"delta {sha256} is damaged on the server")
        return data

    def _learn(self, sha256: str, index: ChunkIndex) -> None:
        self._indexes[sha256] = index
        self._places.setdefault(index.digest, (sha256, -1))
        for number, digest in enumerate(index.digests):
            self._places.setdefault(digest, (sha256, number))


@dataclass(frozen=True)
class Stock:
    """Bundles and deltas together, as what the broker is offered."""

    bundles: Chunks
    deltas: Chunks

    def index(self, sha256: str) -> ChunkIndex:
        """Return a file's chunk index. Errors as of the parts."""
        try:
            return self.deltas.index(sha256)
        except NotFound:
            return self.bundles.index(sha256)

    def digests(self, sha256: str) -> tuple[str, ...]:
        """Return what devices fetch of a file. Errors as of the parts."""
        try:
            return self.deltas.digests(sha256)
        except NotFound:
            return self.bundles.digests(sha256)

    def chunk(self, digest: str) -> bytes | None:
        """Return one chunk or chunk index of any file, or None. Errors as of the parts."""
        return self.deltas.chunk(digest) or self.bundles.chunk(digest)
