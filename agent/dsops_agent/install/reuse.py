"""Chunks of a wanted file that bundles on the device hold already: these are copied, not fetched.

A bundle's head and blobs have chunks of their own, so two of them have chunks in common only where they have a part of
the same length: labels, golden inputs or a profile that stayed the same, a payload of which only the last layers were
trained anew. Only such parts are read, chunk by chunk. What is damaged does not have the wanted digest, and is fetched.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dsops.bundle import Bundle
from dsops.chunks import ChunkIndex, Span
from dsops.errors import MalformedBundle

logger = logging.getLogger(__name__)


def held_chunks(index: ChunkIndex, installed: Path, missing: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    """Yield digest and bytes of the chunks of ``missing`` that an installed bundle holds; nothing if it is unreadable.

    Args:
        index: The wanted file's chunk index.
        installed: A bundle of any model.
        missing: Digests that are looked for; may shrink meanwhile.
    """
    try:
        segments = Bundle.open(installed).segments
        with installed.open("rb") as file:
            for digest, span in _candidates(index, segments):
                if digest in missing:
                    file.seek(span.offset)
                    data = file.read(span.length)
                    if hashlib.sha256(data).hexdigest() == digest:
                        yield digest, data
    except (OSError, MalformedBundle) as error:
        logger.warning("nothing of %s can be used again: %s", installed, error)


def _candidates(index: ChunkIndex, segments: Iterable[int]) -> Iterator[tuple[str, Span]]:
    """Yield each chunk that a bundle of other ``segments`` may hold, and where it would stand there."""
    parts, start, size = _parts(index), 0, index.chunk_bytes
    for length in segments:
        for digests in parts.get(length, ()):
            for number, digest in enumerate(digests):
                yield digest, Span(start + number * size, min(size, length - number * size))
        start += length


def _parts(index: ChunkIndex) -> dict[int, list[tuple[str, ...]]]:
    """Return the digests of each part of a file, by the part's length."""
    parts: dict[int, list[tuple[str, ...]]] = {}
    first = 0
    for length in index.segments:
        count = -(-length // index.chunk_bytes)
        parts.setdefault(length, []).append(index.digests[first : first + count])
        first += count
    return parts
