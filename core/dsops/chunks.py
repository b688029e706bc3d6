"""A bundle as content-addressed chunks: the index that a signed target names, and the chunks that it names.

The index is itself a chunk: ``DSOPSIDX``, chunk size (u32 little-endian), file length (u64 little-endian), then one
32-byte SHA-256 per chunk. A device that trusts the index's digest trusts every chunk by its own.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dsops.errors import MalformedBundle

DEFAULT_CHUNK_BYTES = 32 * 1024
MAX_CHUNK_BYTES = 60 * 1024
"""Below the smallest retained-message limit of the brokers in use (64 KB), topic and headers included."""
_MAGIC = b"DSOPSIDX"
_HEAD = struct.Struct("<8sIQ")
MAX_CHUNKS = (MAX_CHUNK_BYTES - _HEAD.size) // 32


@dataclass(frozen=True)
class ChunkIndex:
    """The chunks of one file in order: every chunk has ``chunk_bytes`` bytes but the last."""

    chunk_bytes: int
    length_bytes: int
    digests: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the index's bytes."""
        return _HEAD.pack(_MAGIC, self.chunk_bytes, self.length_bytes) + bytes.fromhex("".join(self.digests))

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded index, hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    def size_of(self, number: int) -> int:
        """Return the length of one chunk in bytes."""
        return min(self.chunk_bytes, self.length_bytes - number * self.chunk_bytes)

    @classmethod
    def decode(cls, data: bytes) -> "ChunkIndex":
        """Parse an index.

        Raises:
            MalformedBundle: It is not an index, or its numbers do not agree.
        """
        if len(data) < _HEAD.size or data[:8] != _MAGIC:
            raise MalformedBundle("the chunk index is not one")
        _, chunk_bytes, length_bytes = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if not 0 < chunk_bytes <= MAX_CHUNK_BYTES or len(body) != 32 * -(-length_bytes // chunk_bytes):
            raise MalformedBundle("the chunk index does not fit its file")
        return cls(chunk_bytes, length_bytes, tuple(body[i : i + 32].hex() for i in range(0, len(body), 32)))


def split(data: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the chunks of ``data`` in order."""
    for start in range(0, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]


def index_of(data: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> ChunkIndex:
    """Return the index of ``data``; beyond the index's own limit the chunks grow up to ``MAX_CHUNK_BYTES``.

    Raises:
        MalformedBundle: The file is larger than an index can name.
    """
    if len(data) > MAX_CHUNKS * chunk_bytes:
        chunk_bytes = MAX_CHUNK_BYTES
    if not data or len(data) > MAX_CHUNKS * chunk_bytes:
        raise MalformedBundle(f"{len(data)} bytes cannot be sent", why=f"1 to {MAX_CHUNKS * MAX_CHUNK_BYTES} can")
    return ChunkIndex(chunk_bytes, len(data), tuple(hashlib.sha256(c).hexdigest() for c in split(data, chunk_bytes)))
