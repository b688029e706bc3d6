"""A bundle as content-addressed chunks: the index that a signed target names, and the chunks that it names.

The index is itself a chunk: ``DSOPSIDX``, chunk size (u32 little-endian), number of segments S (u32), then the length
of each segment (u64), then one 32-byte SHA-256 per chunk. A device that trusts the index's digest trusts every chunk by
its own. Chunks do not cross the border of a segment: a blob that stays the same from release to release has the same
chunks wherever it stands in the file, and comes over the network once.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from dsops.errors import MalformedBundle

DEFAULT_CHUNK_BYTES = 32 * 1024
MAX_CHUNK_BYTES = 60 * 1024
"""Below the smallest retained-message limit of the brokers in use (64 KB), topic and headers included."""
MAX_CHUNKS = MAX_CHUNK_BYTES // 32
"""No index can name more: it is a chunk itself, and each name takes 32 bytes."""
MAX_SEGMENTS = 512
_MAGIC = b"DSOPSIDX"
_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Span:
    """Where a chunk stands in its file, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class ChunkIndex:
    """The chunks of one file in order: every chunk has ``chunk_bytes`` bytes but the last one of each segment."""

    chunk_bytes: int
    segments: tuple[int, ...]
    digests: tuple[str, ...]

    @cached_property
    def length_bytes(self) -> int:
        """Length of the file."""
        return sum(self.segments)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Where each chunk stands."""
        return tuple(_spans(self.segments, self.chunk_bytes))

    def encode(self) -> bytes:
        """Return the index's bytes."""
        lengths = b"".join(_LENGTH.pack(length) for length in self.segments)
        head = _HEAD.pack(_MAGIC, self.chunk_bytes, len(self.segments))
        return head + lengths + bytes.fromhex("".join(self.digests))

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded index, hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, data: bytes) -> "ChunkIndex":
        """Parse an index.

        Raises:
            MalformedBundle: It is not an index, or its numbers do not agree.
        """
        if len(data) < _HEAD.size or data[:8] != _MAGIC:
            raise MalformedBundle("the chunk index is not one")
        _, chunk_bytes, count = _HEAD.unpack_from(data)
        start = _HEAD.size + count * _LENGTH.size
        if not 0 < chunk_bytes <= MAX_CHUNK_BYTES or not 0 < count <= MAX_SEGMENTS or len(data) < start:
            raise MalformedBundle("the chunk index does not fit its file")
        segments = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
        body = data[start:]
        if not all(segments) or len(body) != 32 * sum(-(-length // chunk_bytes) for length in segments):
            raise MalformedBundle("the chunk index does not fit its file")
        return cls(chunk_bytes, segments, tuple(body[i : i + 32].hex() for i in range(0, len(body), 32)))


def split(data: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES, segments: Iterable[int] = ()) -> Iterator[bytes]:
    """Yield the chunks of ``data`` in order."""
    for span in _spans(_borders(data, segments), chunk_bytes):
        yield data[span.offset : span.offset + span.length]


def index_of(data: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES, segments: Iterable[int] = ()) -> ChunkIndex:
    """Return the index of ``data``; beyond the index's own limit the chunks grow up to ``MAX_CHUNK_BYTES``.

    Args:
        data: The file.
        chunk_bytes: Length of a chunk.
        segments: Lengths of the parts that have chunks of their own (:attr:`dsops.bundle.Bundle.segments`); empty for
            a file without parts.

    Raises:
        MalformedBundle: The file is larger than an index can name.
    """
    return index_by(lambda span: data[span.offset : span.offset + span.length], _borders(data, segments), chunk_bytes)


def index_by(
    read: Callable[[Span], bytes], segments: tuple[int, ...], chunk_bytes: int = DEFAULT_CHUNK_BYTES
) -> ChunkIndex:
    """Return what :func:`index_of` returns, of a file that is read chunk by chunk.

    Args:
        read: Returns the bytes at a place; called in order.
        segments: Lengths of the parts that have chunks of their own, all of the file.
        chunk_bytes: Length of a chunk.

    Raises:
        MalformedBundle: The file is larger than an index can name.
    """
    for size in (chunk_bytes, MAX_CHUNK_BYTES):
        chunks = sum(-(-length // size) for length in segments)
        if chunks and _HEAD.size + 8 * len(segments) + 32 * chunks <= MAX_CHUNK_BYTES:
            digests = tuple(hashlib.sha256(read(span)).hexdigest() for span in _spans(segments, size))
            return ChunkIndex(size, segments, digests)
    most = (MAX_CHUNK_BYTES - _HEAD.size - 8 * len(segments)) // 32 * MAX_CHUNK_BYTES
    raise MalformedBundle(f"{sum(segments)} bytes cannot be sent", why=f"1 to {most} can")


def _borders(data: bytes, segments: Iterable[int]) -> tuple[int, ...]:
    found = tuple(length for length in segments if length) or (len(data),)
    assert sum(found) == len(data), "segments cover the file"
    return found


def _spans(segments: Iterable[int], chunk_bytes: int) -> Iterator[Span]:
    start = 0
    for length in segments:
        for offset in range(0, length, chunk_bytes):
            yield Span(start + offset, min(chunk_bytes, length - offset))
        start += length
