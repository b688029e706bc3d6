"""A delta: how one bundle is made of another, byte for byte.

    offset  length  what
    0       8       magic ``DSOPSDLT``
    8       4       format version, u32 little-endian, 1
    12      4       number of pieces P, u32, at most 65,536
    16      32      SHA-256 of the base
    48      8       length of the base, u64
    56      32      SHA-256 of the target
    88      8       length of the target, u64
    96      16 P    pieces in the target's order: length, place of its base in the base file or 2^64 - 1, each u64
    96+16P  ...     one zstd frame: of each piece with a base (new - old) mod 256, of the others the bytes themselves

Fine-tuning moves a few weights of nearly every tensor by a little. The difference of two tensors is then nearly all
zeros and small numbers, which an entropy coder packs well; a search for equal strings finds hardly any.

Whoever applies a delta believes nothing of it: it works in bounded memory, never writes more than the target's length,
and what it made counts only if it has the digest that the owners signed.

Bytes are added and subtracted without carries between them as in H. S. Warren, Hacker's Delight (2nd ed., 2012),
section 2-18, on integers of a whole block: the agent's control process has no NumPy.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import zstandard

from dsops.errors import DeltaFailed

MAX_PIECES = 1 << 16
MAX_WINDOW_BYTES = 1 << 20
"""Memory that a frame may ask for to be unpacked."""
_WINDOW_LOG = 17
"""Small numbers repeat near by or not at all: a larger window costs a device memory and packs no better."""
BLOCK_BYTES = 1 << 16
WORTH = 0.6
"""A delta is worth its trouble when it has at most this share of the bytes: it saves at least 40 %."""
_MAGIC = b"DSOPSDLT"
_VERSION = 1
_HEAD = struct.Struct("<8sII32sQ32sQ")
_PIECE = struct.Struct("<QQ")
_NO_BASE = (1 << 64) - 1


@dataclass(frozen=True)
class Piece:
    """A part of the target: its length, and where the base's part that was subtracted from it begins, if one was."""

    length: int
    source: int | None


@dataclass(frozen=True)
class Ends:
    """From what to what: digests (hex) and the target's length in bytes."""

    base: str
    target: str
    target_bytes: int


@dataclass(frozen=True)
class Recipe:
    """The head of a delta."""

    ends: Ends
    base_bytes: int
    pieces: tuple[Piece, ...]

    def encode(self) -> bytes:
        """Return the head's bytes."""
        ends, base, target = self.ends, bytes.fromhex(self.ends.base), bytes.fromhex(self.ends.target)
        count = len(self.pieces)
        head = _HEAD.pack(_MAGIC, _VERSION, count, base, self.base_bytes, target, ends.target_bytes)
        return head + b"".join(
            _PIECE.pack(piece.length, _NO_BASE if piece.source is None else piece.source) for piece in self.pieces
        )


def is_worth(delta_bytes: int, other_bytes: int) -> bool:
    """Return whether a delta saves enough of the bytes that are needed without it."""
    return delta_bytes <= WORTH * other_bytes


def add(a: bytes, b: bytes) -> bytes:
    """Return the sums of two blocks' bytes modulo 256; both have the same length, at most ``BLOCK_BYTES``."""
    low, high = _masks()
    x, y = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    return (((x & low) + (y & low)) ^ ((x ^ y) & high)).to_bytes(len(a), "little")


def subtract(a: bytes, b: bytes) -> bytes:
    """Return the differences of two blocks' bytes modulo 256; lengths as in :func:`add`."""
    low, high = _masks()
    high = high if len(a) == BLOCK_BYTES else high & ((1 << 8 * len(a)) - 1)
    x, y = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    return (((x | high) - (y & low)) ^ ((x ^ ~y) & high)).to_bytes(len(a), "little")


@cache
def _masks() -> tuple[int, int]:
    """Return the low seven bits and the high bit of each byte of a block: 140 KB, for which a device may never ask."""
    return int.from_bytes(b"\x7f" * BLOCK_BYTES, "little"), int.from_bytes(b"\x80" * BLOCK_BYTES, "little")


def read_recipe(file: BinaryIO) -> Recipe:
    """Read the head of a delta; the file stands at the frame afterwards.

    Raises:
        DeltaFailed: It is no delta, or its pieces do not fit the files.
    """
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size or head[:8] != _MAGIC:
        raise DeltaFailed("the file is not a delta")
    _, version, count, base, base_bytes, target, target_bytes = _HEAD.unpack(head)
    if version != _VERSION:
        raise DeltaFailed(f"delta format {version} is not known")
    if not 0 < count <= MAX_PIECES:
        raise DeltaFailed("the delta has too many pieces, or none", why=f"{count}, {MAX_PIECES} are allowed")
    body = file.read(count * _PIECE.size)
    if len(body) != count * _PIECE.size:
        raise DeltaFailed("the delta is cut short")
    pieces = tuple(Piece(length, None if source == _NO_BASE else source) for length, source in _PIECE.iter_unpack(body))
    if not all(piece.length for piece in pieces) or sum(piece.length for piece in pieces) != target_bytes:
        raise DeltaFailed("the delta's pieces do not make its target")
    if any(piece.source is not None and piece.source + piece.length > base_bytes for piece in pieces):
        raise DeltaFailed("the delta reaches beyond its base")
    return Recipe(Ends(base.hex(), target.hex(), target_bytes), base_bytes, pieces)


def apply_delta(delta: BinaryIO, base: BinaryIO, out: BinaryIO, wanted: Ends) -> Iterator[int]:
    """Make the target, block by block; yields how many bytes of it are written. Only the end tells that it is right.

    Args:
        delta: The delta.
        base: What it starts from. It need not be checked before: a wrong base cannot make the wanted target.
        out: Where the target is written, from its start; nothing is read back or made durable.
        wanted: What it must be a delta of, as it was signed or is installed.

    Raises:
        DeltaFailed: It is of other files, damaged or hostile, or what it makes is not the wanted target.
        OSError: The target cannot be written.
    """
    recipe = read_recipe(delta)
    if recipe.ends != wanted:
        raise DeltaFailed("the delta is of other files", why=f"of {recipe.ends.base[:16]} to {recipe.ends.target[:16]}")
    state, written = hashlib.sha256(), 0
    for block in _blocks(delta, base, recipe.pieces):
        state.update(block)
        out.write(block)
        written += len(block)
        yield written
    if state.hexdigest() != wanted.target:
        raise DeltaFailed("what the delta made is not what was signed", why="the base or the delta is damaged")


def _blocks(delta: BinaryIO, base: BinaryIO, pieces: Iterable[Piece]) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with unpacker.stream_reader(delta, read_size=BLOCK_BYTES, read_across_frames=True, closefd=False) as frame:
        for piece in pieces:
            if piece.source is not None:
                _seek(base, piece.source)
            for size in _sizes(piece.length):
                block = _unpacked(frame, size)
                yield block if piece.source is None else add(block, _read(base, size))
        if _unpacked(frame, 1, is_end=True):
            raise DeltaFailed("the delta is longer than its target")


def _sizes(length: int) -> Iterator[int]:
    for done in range(0, length, BLOCK_BYTES):
        yield min(BLOCK_BYTES, length - done)


def _unpacked(frame: "zstandard.ZstdDecompressionReader", size: int, *, is_end: bool = False) -> bytes:
    try:
        block = frame.read(size)
    except (zstandard.ZstdError, OSError) as error:
        raise DeltaFailed("the delta's data are damaged", why=str(error)) from error
    if len(block) != size and not is_end:
        raise DeltaFailed("the delta is cut short")
    return block


def _seek(base: BinaryIO, offset: int) -> None:
    try:
        base.seek(offset)
    except OSError as error:
        raise DeltaFailed("the delta's base cannot be read", why=str(error.strerror)) from error


def _read(base: BinaryIO, size: int) -> bytes:
    try:
        block = base.read(size)
    except OSError as error:
        raise DeltaFailed("the delta's base cannot be read", why=str(error.strerror)) from error
    if len(block) != size:
        raise DeltaFailed("the delta's base is too short")
    return block


def encode_delta(base: bytes, target: bytes, pieces: Iterable[Piece], level: int) -> Iterator[bytes]:
    """Yield a delta's bytes; equal inputs give equal bytes, as long as the library is the same.

    Args:
        base: What is installed.
        target: What is wanted.
        pieces: How the target is made; neighbours that can be one become one.
        level: zstd's level, 1 to 19.

    Raises:
        DeltaFailed: There are too many pieces.
    """
    joined = tuple(_joined(pieces))
    if len(joined) > MAX_PIECES:
        raise DeltaFailed("the delta has too many pieces", why=f"{len(joined)}, {MAX_PIECES} are allowed")
    ends = Ends(hashlib.sha256(base).hexdigest(), hashlib.sha256(target).hexdigest(), len(target))
    yield Recipe(ends, len(base), joined).encode()
    settings = zstandard.ZstdCompressionParameters.from_level(level, source_size=len(target), window_log=_WINDOW_LOG)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj(size=len(target))
    start = 0
    for piece in joined:
        for block in difference(base, target, start, piece):
            yield packer.compress(block)
        start += piece.length
    yield packer.flush()


def difference(base: bytes, target: bytes, start: int, piece: Piece) -> Iterator[bytes]:
    """Yield what a delta says of the piece that begins at ``start`` of the target, block by block."""
    for done in range(0, piece.length, BLOCK_BYTES):
        size = min(BLOCK_BYTES, piece.length - done)
        new = target[start + done : start + done + size]
        old = None if piece.source is None else base[piece.source + done : piece.source + done + size]
        yield new if old is None else subtract(new, old)


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield pieces, neighbours that read on in the base (or need none) as one."""
    before: Piece | None = None
    for piece in pieces:
        follows = None if before is None or before.source is None else before.source + before.length
        if before is not None and piece.source == follows:
            before = Piece(before.length + piece.length, before.source)
            continue
        if before is not None:
            yield before
        before = piece
    if before is not None:
        yield before
