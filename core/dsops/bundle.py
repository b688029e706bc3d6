"""The bundle's container: flat, strict, reproducible.

    offset  length  what
    0       8       magic ``DSOPSBND``
    8       4       format version, u32 little-endian, 1 or 2
    12      4       manifest length M, u32 little-endian, at most 1 MiB
    16      M       manifest, canonical JSON
    16+M    ...     blobs, concatenated in the manifest's order, no padding

The file ends with the last blob. There are no paths, links, modes or compression, so what archives are attacked with
cannot be said. Equal inputs give equal bytes.
"""

import errno
import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dsops.chunks import ChunkIndex, index_by, index_of
from dsops.errors import DigestMismatch, InvalidInput, MalformedBundle, UnreadableBundle
from dsops.manifest import FORMATS, MAX_MANIFEST_BYTES, Blob, Manifest

MAGIC = b"DSOPSBND"
_HEAD = struct.Struct("<8sII")
_PIECE = 1 << 20
MAX_BLOB_BYTES = 1 << 31
"""A longer payload no runtime can load: FlatBuffers end there. What is longer is refused before anybody reads it."""


def sha256_hex(data: bytes) -> str:
    """Return the lower-case hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def describe_blobs(blobs: Mapping[str, bytes]) -> tuple[Blob, ...]:
    """Return the manifest entries of ``blobs``, sorted by name."""
    return tuple(Blob(name=n, size_bytes=len(blobs[n]), sha256=sha256_hex(blobs[n])) for n in sorted(blobs))


def encode_bundle(manifest: Manifest, blobs: Mapping[str, bytes]) -> bytes:
    """Return a bundle's bytes.

    Raises:
        InvalidInput: ``blobs`` are not those of the manifest.
    """
    if manifest.blobs != describe_blobs(blobs):
        raise InvalidInput("the blobs are not those of the manifest")
    head = manifest.encode()
    return b"".join([_HEAD.pack(MAGIC, manifest.format, len(head)), head, *(blobs[b.name] for b in manifest.blobs)])


def bundle_index(data: bytes) -> ChunkIndex:
    """Return the chunk index of a bundle file: its head, and each blob, has chunks of its own.

    Raises:
        MalformedBundle: It is no bundle, or larger than an index can name.
    """
    manifest, head = _read_head(io.BytesIO(data))
    lengths = (len(head), *(blob.size_bytes for blob in manifest.blobs))
    if sum(lengths) != len(data):
        raise MalformedBundle(f"the bundle has {len(data)} bytes", why=f"its manifest says {sum(lengths)}")
    return index_of(data, segments=lengths)


def file_index(path: Path) -> ChunkIndex:
    """Return what :func:`bundle_index` returns, of a file of which only a chunk is in memory at a time.

    Raises:
        MalformedBundle: It is absent, no regular file, no bundle, or larger than an index can name.
    """
    try:
        with _open_regular(path) as file:
            manifest, head = _read_head(file)
            lengths = (len(head), *(blob.size_bytes for blob in manifest.blobs if blob.size_bytes))
            file.seek(0)
            return index_by(lambda span: file.read(span.length), lengths)
    except OSError as error:
        raise UnreadableBundle(f"cannot read bundle {path.name}", why=str(error.strerror)) from error


class Bundle:
    """An opened bundle. Opening checks structure and lengths; every read of a blob checks its digest.

    The manifest is that of the head that was read when the bundle was opened, and :meth:`verify` tells the digest of a
    file with that very head. So whoever compares it with the digest that was asked for may use every blob that is read
    afterwards, whatever became of the file in between.
    """

    def __init__(self, path: Path, manifest: Manifest, head: bytes) -> None:
        self.path = path
        self.manifest = manifest
        self._head = head
        blobs_start = len(head)
        self.segments = (blobs_start, *(blob.size_bytes for blob in manifest.blobs))
        """Lengths of the parts that have chunks of their own: the head, then each blob."""
        self._starts: dict[str, int] = {}
        position = blobs_start
        for blob in manifest.blobs:
            self._starts[blob.name] = position
            position += blob.size_bytes

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a bundle file.

        Raises:
            MalformedBundle: It is absent, no regular file, cut short, too long, or not a bundle.
        """
        try:
            with _open_regular(path) as file:
                manifest, head = _read_head(file)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UnreadableBundle(f"cannot read bundle {path.name}", why=str(error.strerror)) from error
        for blob in manifest.blobs:
            if blob.size_bytes > MAX_BLOB_BYTES:
                raise MalformedBundle(
                    f"blob {blob.name} is longer than {MAX_BLOB_BYTES} bytes", why=f"{blob.size_bytes} bytes"
                )
        expected = len(head) + sum(blob.size_bytes for blob in manifest.blobs)
        if size != expected:
            raise MalformedBundle(f"{path.name} has {size} bytes", why=f"its manifest says {expected}")
        return cls(path, manifest, head)

    def read(self, name: str) -> bytes:
        """Return one blob, checked.

        Raises:
            MalformedBundle: There is none of that name, or the file cannot be read any more.
            DigestMismatch: Its bytes are not those that the manifest names.
        """
        blob = self.manifest.blob(name)
        with self._reading() as file:
            file.seek(self._starts[name])
            data = file.read(blob.size_bytes)
        if sha256_hex(data) != blob.sha256:
            raise self._differs(blob)
        return data

    def pieces(self, name: str, piece_bytes: int = _PIECE) -> Iterator[bytes]:
        """Return one blob piece by piece. Only the end tells whether it is whole: nothing of it may be used before.

        Args:
            name: The blob.
            piece_bytes: Length of each piece but the last.

        Raises:
            MalformedBundle: There is none of that name, or the file cannot be read any more.
            DigestMismatch: Its bytes are not those that the manifest names.
        """
        blob = self.manifest.blob(name)
        state = hashlib.sha256()
        with self._reading() as file:
            file.seek(self._starts[name])
            for piece in _pieces(file, blob.size_bytes, piece_bytes):
                state.update(piece)
                yield piece
        if state.hexdigest() != blob.sha256:
            raise self._differs(blob)

    def digest(self) -> str:
        """Return the digest of the whole file, which vouches for every blob if that digest was verified before.

        Raises:
            MalformedBundle: The file cannot be read any more.
        """
        whole = hashlib.sha256(self._head)
        with self._reading() as file:
            file.seek(len(self._head))
            for piece in _pieces(file):
                whole.update(piece)
        return whole.hexdigest()

    def verify(self) -> str:
        """Check every blob's digest, and return that of the whole file; both come of one pass over it.

        No more than a piece of a blob is in memory at a time.

        Raises:
            MalformedBundle: The file cannot be read any more.
            DigestMismatch: One differs.
        """
        whole = hashlib.sha256(self._head)
        with self._reading() as file:
            file.seek(len(self._head))
            for blob in self.manifest.blobs:
                part = hashlib.sha256()
                for piece in _pieces(file, blob.size_bytes):
                    part.update(piece)
                    whole.update(piece)
                if part.hexdigest() != blob.sha256:
                    raise self._differs(blob)
        return whole.hexdigest()

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        try:
            with _open_regular(self.path) as file:
                yield file
        except OSError as error:
            raise UnreadableBundle(f"cannot read bundle {self.path.name}", why=str(error.strerror)) from error

    def _differs(self, blob: Blob) -> DigestMismatch:
        return DigestMismatch(f"blob {blob.name} of {self.path.name} is not what its manifest names")


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or device, which could block or never end, is refused."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "it is not a regular file")


def _read_head(file: BinaryIO) -> tuple[Manifest, bytes]:
    """Return the manifest, and everything before the first blob, which it was read from."""
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        raise MalformedBundle("the file is too short to be a bundle")
    magic, version, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise MalformedBundle("the file is not a dsops bundle", why="it does not begin with the magic bytes")
    if version not in FORMATS:
        raise MalformedBundle(f"bundle format {version} is not known", hint="update dsops")
    if length > MAX_MANIFEST_BYTES:
        raise MalformedBundle("the manifest is too long", why=f"{length} bytes, {MAX_MANIFEST_BYTES} allowed")
    data = file.read(length)
    if len(data) != length:
        raise MalformedBundle("the manifest is cut short")
    manifest = Manifest.decode(data)
    if manifest.format != version:
        raise MalformedBundle(f"the manifest is of format {manifest.format}", why=f"the container is of {version}")
    names = [blob.name for blob in manifest.blobs]
    if names != sorted(names):
        raise MalformedBundle("the blobs are not in order", why="they are sorted by name")
    return manifest, head + data


def file_digest(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 (hex) and its length in bytes."""
    with path.open("rb") as file:
        digest = _digest(_pieces(file))
        return digest, file.tell()


def _digest(pieces: Iterable[bytes]) -> str:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def _pieces(file: BinaryIO, most: int | None = None, piece_bytes: int = _PIECE) -> Iterator[bytes]:
    """Yield what follows in a file, ``most`` bytes or all of it."""
    left = most
    while left is None or left > 0:
        piece = file.read(piece_bytes if left is None else min(left, piece_bytes))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece
