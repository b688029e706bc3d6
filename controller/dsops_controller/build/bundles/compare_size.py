"""What an update costs over the air: the chunks that a device does not have yet, and what a delta would cost.

Fine-tuning moves a few weights nearly everywhere, so hardly a chunk stays the same, while the difference of each tensor
compresses well. Devices fetch chunks; the other figure tells what could be saved.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dsops.bundle import sha256_hex
from dsops.chunks import ChunkIndex
from dsops_controller.build.bundles.compare_weights import pairs
from dsops_controller.build.bundles.payload import Payload

_LEVEL = 6
_WINDOW = 1 << 15
"""What deflate remembers, in bytes."""


@dataclass(frozen=True)
class UpdateSize:
    """What a device that has the older bundle fetches for the newer one.

    Attributes:
        length_bytes: Length of the newer bundle.
        chunk_bytes: Length of a chunk.
        chunks: Number of its chunks.
        shared_chunks: How many of them the older bundle has, too.
        fetch_bytes: What is fetched: its other chunks, and the chunk index.
        delta_bytes: Estimate of a delta: each tensor subtracted from its predecessor byte by byte, other new blobs
            whole, all of it deflated.
    """

    length_bytes: int
    chunk_bytes: int
    chunks: int
    shared_chunks: int
    fetch_bytes: int
    delta_bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return it for JSON."""
        return {
            "length_bytes": self.length_bytes,
            "chunk_bytes": self.chunk_bytes,
            "chunks": self.chunks,
            "shared_chunks": self.shared_chunks,
            "fetch_bytes": self.fetch_bytes,
            "delta_bytes": self.delta_bytes,
        }


def update_size(before: ChunkIndex, after: ChunkIndex, delta_bytes: int) -> UpdateSize:
    """Return what going from one bundle file to another costs; ``delta_bytes`` comes from :func:`delta_size`."""
    held = set(before.digests)
    missing = {digest: number for number, digest in enumerate(after.digests) if digest not in held}
    fetched = sum(after.spans[number].length for number in missing.values())
    shared = sum(digest in held for digest in after.digests)
    index_bytes = 0 if before == after else len(after.encode())
    return UpdateSize(
        after.length_bytes, after.chunk_bytes, len(after.digests), shared, fetched + index_bytes, delta_bytes
    )


def delta_size(
    old: Mapping[str, bytes], new: Mapping[str, bytes], payload: tuple[str, Payload], earlier: tuple[str, Payload]
) -> int:
    """Return the estimated length of a delta in bytes; see :class:`UpdateSize`.

    Args:
        old: The older bundle's blobs.
        new: The newer bundle's blobs.
        payload: Name and structure of the newer bundle's payload.
        earlier: The same of the older bundle.
    """
    held = {sha256_hex(data) for data in old.values()}
    name, structure = payload
    total = 0
    for blob, data in new.items():
        if sha256_hex(data) in held:
            continue
        if blob == name:
            total += _payload_delta(old[earlier[0]], earlier[1], data, structure)
        else:
            total += _deflated(data, old.get(blob, b""))
    return total


def _payload_delta(old: bytes, before: Payload, new: bytes, after: Payload) -> int:
    known = pairs(before, after)
    packer = zlib.compressobj(_LEVEL)
    total, position = 0, 0
    rest, old_rest = bytearray(), _without_weights(old, before)
    for start, weight in sorted({weight.start: weight for weight in after.weights}.items()):
        if start < position:
            continue
        rest += new[position:start]
        position = start + weight.length_bytes
        values = np.frombuffer(new, np.uint8, weight.length_bytes, start)
        if weight in known:
            values = values - np.frombuffer(old, np.uint8, weight.length_bytes, known[weight].start)
        total += len(packer.compress(values.tobytes()))
    rest += new[position:]
    return total + len(packer.flush()) + _deflated(bytes(rest), old_rest)


def _without_weights(data: bytes, payload: Payload) -> bytes:
    kept, position = bytearray(), 0
    for start, length in sorted({(weight.start, weight.length_bytes) for weight in payload.weights}):
        kept += data[position:start]
        position = max(position, start + length)
    return bytes(kept + data[position:])


def _deflated(data: bytes, known: bytes) -> int:
    packer = zlib.compressobj(_LEVEL, zdict=known[-_WINDOW:])
    return len(packer.compress(data)) + len(packer.flush())
