"""Which part of a newer bundle is subtracted from which part of an older one. Pure.

Blobs go together by their bytes, then by their name; the constants of a payload by name, type and shape, then, where
names are new, by type and shape in the file's order. What lies between constants goes together when every such part has
the length that it had. A pair is subtracted only where that packs better than the bytes themselves.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import zstandard

from dsops.delta import BLOCK_BYTES, Piece, difference
from dsops.errors import InvalidModel
from dsops.manifest import Blob, Manifest
from dsops_controller.build.bundles.payload import Weight, read_payload

_SAMPLE_BYTES = 4 * BLOCK_BYTES
"""How much of a pair is looked at to tell whether subtracting it helps."""


@dataclass(frozen=True)
class BundleBytes:
    """A bundle's file in memory, not sealed, and its manifest."""

    data: bytes
    manifest: Manifest

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where each blob begins in the file."""
        found, position = {}, len(self.data) - sum(blob.size_bytes for blob in self.manifest.blobs)
        for blob in self.manifest.blobs:
            found[blob.name] = position
            position += blob.size_bytes
        return found

    @property
    def head_bytes(self) -> int:
        """Length of what comes before the blobs."""
        return len(self.data) - sum(blob.size_bytes for blob in self.manifest.blobs)

    @cached_property
    def constants(self) -> tuple[Weight, ...]:
        """The payload's constants in the order of its file; bytes that several share appear once."""
        payload = self.manifest.blob(self.manifest.payload)
        start = self.starts[payload.name]
        try:
            weights = read_payload(self.data[start : start + payload.size_bytes]).weights
        except InvalidModel:  # whether a payload is sound is not asked here
            return ()
        return tuple(_apart(sorted(weights, key=lambda weight: weight.start)))


@dataclass(frozen=True)
class _Pair:
    """A part of the newer file, and where its older counterpart begins, if there is one."""

    start: int
    length: int
    source: int | None


def match(old: BundleBytes, new: BundleBytes) -> Iterator[Piece]:
    """Yield the pieces of a delta that makes ``new`` of ``old``, in the order of the newer file."""
    packer = zstandard.ZstdCompressor(level=1)
    for pair in _pairs(old, new):
        piece = Piece(pair.length, pair.source)
        helps = pair.source is not None and _helps(packer, old.data, new.data, pair.start, piece)
        yield piece if helps else Piece(pair.length, None)


def _pairs(old: BundleBytes, new: BundleBytes) -> Iterator[_Pair]:
    yield _Pair(0, new.head_bytes, 0 if old.head_bytes == new.head_bytes else None)
    by_digest = {blob.sha256: blob for blob in old.manifest.blobs}
    by_name = {blob.name: blob for blob in old.manifest.blobs}
    payloads = (old.manifest.payload, new.manifest.payload)
    for blob in new.manifest.blobs:
        before = by_digest.get(blob.sha256) or by_name.get(blob.name)
        if (before and before.name, blob.name) == payloads and before and before.sha256 != blob.sha256:
            yield from _within_payload(old, new)
        elif blob.size_bytes:
            yield _Pair(new.starts[blob.name], blob.size_bytes, _source(old, before, blob))


def _source(old: BundleBytes, before: Blob | None, blob: Blob) -> int | None:
    same_length = before is not None and before.size_bytes == blob.size_bytes
    return old.starts[before.name] if before and same_length else None


def _within_payload(old: BundleBytes, new: BundleBytes) -> Iterator[_Pair]:
    a, b = old.manifest.blob(old.manifest.payload), new.manifest.blob(new.manifest.payload)
    first, start = old.starts[a.name], new.starts[b.name]
    known = _counterparts(old.constants, new.constants)
    gaps, before = _gaps(new.constants, b.size_bytes), _gaps(old.constants, a.size_bytes)
    are_alike = [length for _, length in gaps] == [length for _, length in before]
    for number, (position, length) in enumerate(gaps):
        if length:
            yield _Pair(start + position, length, first + before[number][0] if are_alike else None)
        if number < len(new.constants):
            weight = new.constants[number]
            earlier = known.get(weight)
            yield _Pair(start + weight.start, weight.length_bytes, first + earlier.start if earlier else None)


def _apart(weights: Iterable[Weight]) -> Iterator[Weight]:
    """Yield the constants that do not reach into one before."""
    position = 0
    for weight in weights:
        if weight.start >= position and weight.length_bytes:
            yield weight
            position = weight.start + weight.length_bytes


def _gaps(weights: tuple[Weight, ...], length: int) -> list[tuple[int, int]]:
    """Return start and length of what lies before, between and after constants; one more than there are constants."""
    ends = [0, *(weight.start + weight.length_bytes for weight in weights)]
    starts = [*(weight.start for weight in weights), length]
    return [(end, start - end) for end, start in zip(ends, starts, strict=True)]


def _counterparts(old: tuple[Weight, ...], new: tuple[Weight, ...]) -> dict[Weight, Weight]:
    def form(weight: Weight) -> tuple[Hashable, ...]:
        return weight.dtype, weight.shape, weight.length_bytes

    named = {(weight.name, form(weight)): weight for weight in old}
    found = {weight: named[key] for weight in new if (key := (weight.name, form(weight))) in named}
    taken = set(found.values())
    left: dict[Hashable, list[Weight]] = defaultdict(list)
    for weight in reversed([weight for weight in old if weight not in taken]):
        left[form(weight)].append(weight)
    for weight in new:
        if weight not in found and left[form(weight)]:
            found[weight] = left[form(weight)].pop()
    return found


def _helps(packer: zstandard.ZstdCompressor, old: bytes, new: bytes, start: int, piece: Piece) -> bool:
    """Tell from the middle of a pair whether its difference packs better than the newer bytes."""
    assert piece.source is not None, "there is something to subtract"
    skipped = max(0, piece.length - _SAMPLE_BYTES) // 2
    sample = Piece(min(piece.length, _SAMPLE_BYTES), piece.source + skipped)
    changed = b"".join(difference(old, new, start + skipped, sample))
    plain = new[start + skipped : start + skipped + sample.length]
    if not any(changed):
        return True
    return _cost(packer, changed) <= _cost(packer, plain)


def _cost(packer: zstandard.ZstdCompressor, data: bytes) -> tuple[int, int]:
    return len(packer.compress(data)), -data.count(0)
