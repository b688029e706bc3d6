"""What an update costs over the air: the chunks that a device does not have yet, and the delta that may be offered.

Fine-tuning moves a few weights nearly everywhere, so hardly a chunk stays the same, while the difference of each tensor
packs well.
"""

from dataclasses import dataclass

from dsops.chunks import ChunkIndex
from dsops.delta import is_worth
from dsops_controller.deltas.making import make_delta
from dsops_controller.deltas.matching import BundleBytes


@dataclass(frozen=True)
class UpdateSize:
    """What a device that has the older bundle fetches for the newer one.

    Attributes:
        length_bytes: Length of the newer bundle.
        chunk_bytes: Length of a chunk.
        chunks: Number of its chunks.
        shared_chunks: How many of them the older bundle has, too.
        fetch_bytes: What is fetched: its other chunks, and the chunk index.
        delta_bytes: Length of the delta as the controller makes it; where there can be none, what is fetched.
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
            "delta_offered": is_worth(self.delta_bytes, self.length_bytes),
        }


def update_size(before: ChunkIndex, after: ChunkIndex, delta_bytes: int | None) -> UpdateSize:
    """Return what going from one bundle file to another costs; ``delta_bytes`` comes from :func:`delta_size`."""
    held = set(before.digests)
    missing = {digest: number for number, digest in enumerate(after.digests) if digest not in held}
    fetched = sum(after.spans[number].length for number in missing.values())
    shared = sum(digest in held for digest in after.digests)
    fetched += 0 if before == after else len(after.encode())
    delta = fetched if delta_bytes is None else delta_bytes
    return UpdateSize(after.length_bytes, after.chunk_bytes, len(after.digests), shared, fetched, delta)


def delta_size(old: BundleBytes, new: BundleBytes) -> int | None:
    """Return the length of the delta in bytes; None for sealed bundles, which have none: ciphertexts share nothing."""
    if old.data == new.data:
        return 0
    if old.manifest.sealed or new.manifest.sealed:
        return None
    return len(make_delta(old, new))
