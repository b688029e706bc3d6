"""The delta's format: what is made is right, byte for byte; what is wrong is refused within bounds."""

import hashlib
import io
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.delta import (
    BLOCK_BYTES,
    MAX_PIECES,
    MAX_WINDOW_BYTES,
    Ends,
    Piece,
    Recipe,
    add,
    apply_delta,
    encode_delta,
    read_recipe,
    subtract,
)
from dsops.errors import DeltaFailed

BASE = hashlib.shake_256(b"base").digest(200_000)
NOISE = hashlib.shake_256(b"noise").digest(150_000)
TARGET = bytes((old + (noise < 20)) & 0xFF for old, noise in zip(BASE, NOISE, strict=False)) + b"tail" * 20
PIECES = (Piece(1000, 0), Piece(100_000, 1000), Piece(49_000, 101_000), Piece(80, None))


def ends(base: bytes = BASE, target: bytes = TARGET) -> Ends:
    return Ends(hashlib.sha256(base).hexdigest(), hashlib.sha256(target).hexdigest(), len(target))


def encoded(base: bytes = BASE, target: bytes = TARGET, pieces: tuple[Piece, ...] = PIECES, level: int = 3) -> bytes:
    return b"".join(encode_delta(base, target, pieces, level))


def applied(delta: bytes, base: bytes = BASE, wanted: Ends | None = None) -> bytes:
    out = io.BytesIO()
    for written in apply_delta(io.BytesIO(delta), io.BytesIO(base), out, wanted or ends()):
        assert written == out.tell()
    return out.getvalue()


def with_frame(frame: bytes, pieces: tuple[Piece, ...] = PIECES) -> bytes:
    return Recipe(ends(), len(BASE), pieces).encode() + frame


def raw_data() -> bytes:
    return zstandard.decompress(encoded()[len(Recipe(ends(), len(BASE), PIECES[:2]).encode()) :])


def test_it_makes_the_target_and_is_small() -> None:
    delta = encoded()
    assert applied(delta) == TARGET
    assert len(delta) < len(TARGET) / 4
    assert encoded() == delta


def test_neighbours_that_read_on_become_one_piece() -> None:
    recipe = read_recipe(io.BytesIO(encoded()))
    assert recipe.pieces == (Piece(150_000, 0), Piece(80, None))
    assert recipe.ends == ends()


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_blocks_are_added_and_subtracted_byte_by_byte(a: bytes, random: object) -> None:
    b = bytes(random.randrange(256) for _ in a)  # type: ignore[attr-defined]
    assert add(a, b) == bytes((x + y) & 0xFF for x, y in zip(a, b, strict=True))
    assert subtract(a, b) == bytes((x - y) & 0xFF for x, y in zip(a, b, strict=True))


def test_a_whole_block_wraps_around() -> None:
    ones, all_set = b"\x01" * BLOCK_BYTES, b"\xff" * BLOCK_BYTES
    assert add(ones, all_set) == bytes(BLOCK_BYTES)
    assert subtract(bytes(BLOCK_BYTES), ones) == all_set


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, bytes, tuple[Piece, ...]]:
    base = draw(st.binary(min_size=1, max_size=400))
    target = draw(st.binary(min_size=1, max_size=400))
    pieces, left = [], len(target)
    while left:
        length = draw(st.integers(1, left))
        fits = length <= len(base)
        source = draw(st.none() | st.integers(0, len(base) - length)) if fits else None
        pieces.append(Piece(length, source))
        left -= length
    return base, target, tuple(pieces)


@settings(deadline=None)
@given(cases(), st.sampled_from([1, 3, 9, 19]))
def test_any_pieces_make_any_target(case: tuple[bytes, bytes, tuple[Piece, ...]], level: int) -> None:
    base, target, pieces = case
    delta = b"".join(encode_delta(base, target, pieces, level))
    assert applied(delta, base, ends(base, target)) == target


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(DeltaFailed):
        applied(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_delta_never_makes_anything_else(data: st.DataObject) -> None:
    delta = bytearray(encoded())
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(delta) - 1) | st.integers(0, 200))
        delta[where] = data.draw(st.integers(0, 255))
    try:
        made = applied(bytes(delta))
    except DeltaFailed:
        return
    assert made == TARGET


@settings(deadline=None)
@given(st.integers(0, len(encoded()) - 12))
def test_a_cut_delta_is_refused(length: int) -> None:
    with pytest.raises(DeltaFailed):
        applied(encoded()[:length])


def test_a_wrong_base_is_refused_by_name() -> None:
    with pytest.raises(DeltaFailed, match="other files"):
        applied(encoded(), wanted=Ends("0" * 64, ends().target, len(TARGET)))


@pytest.mark.parametrize("base", [BASE[:-1] + b"?", BASE[:1000] + b"?" + BASE[1001:], BASE[:120_000], b""])
def test_a_damaged_base_is_noticed(base: bytes) -> None:
    if base[:150_000] == BASE[:150_000]:
        assert applied(encoded(), base) == TARGET, "what is not read cannot do harm"
        return
    with pytest.raises(DeltaFailed):
        applied(encoded(), base)


def test_a_delta_of_another_target_is_refused() -> None:
    lie = encoded(target=TARGET[:-1] + b"!")
    with pytest.raises(DeltaFailed, match="other files"):
        applied(lie)


def test_a_delta_that_only_claims_to_make_the_target_is_refused() -> None:
    lie = encoded(target=TARGET[:-1] + b"!")
    head = len(read_recipe(io.BytesIO(lie)).encode())
    with pytest.raises(DeltaFailed, match="not what was signed"):
        applied(with_frame(lie[head:], (Piece(150_000, 0), Piece(80, None))))


HOSTILE = {
    "no pieces": lambda: with_frame(b"", ()),
    "a piece of nothing": lambda: with_frame(b"", (*PIECES, Piece(0, None))),
    "too few bytes": lambda: with_frame(b"", PIECES[:-1]),
    "too many bytes": lambda: with_frame(b"", (*PIECES, Piece(1, None))),
    "lengths that overflow": lambda: with_frame(b"", (Piece(2**64 - 1, None), Piece(len(TARGET) + 1, None))),
    "beyond the base": lambda: with_frame(b"", (Piece(len(TARGET), len(BASE) - 10),)),
    "far beyond the base": lambda: with_frame(b"", (Piece(len(TARGET), 2**64 - 2),)),
    "another version": lambda: b"DSOPSDLT" + struct.pack("<I", 2) + encoded()[12:],
    "more pieces than allowed": lambda: encoded()[:12] + struct.pack("<I", MAX_PIECES + 1) + bytes(2_000_000),
    "no frame": lambda: with_frame(b""),
    "a garbage frame": lambda: with_frame(b"no zstd at all"),
    "one byte more": lambda: with_frame(zstandard.compress(raw_data() + b"!")),
    "one byte less": lambda: with_frame(zstandard.compress(raw_data()[:-1])),
    "a second frame": lambda: encoded() + zstandard.compress(b"!"),
    "bytes after the frame": lambda: encoded() + b"?",
    "a bomb": lambda: with_frame(zstandard.compress(bytes(64 << 20), 19)),
    "a frame that needs 128 MiB": lambda: with_frame(_wide_frame()),
}


def _wide_frame() -> bytes:
    settings = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return packer.compress(bytes(MAX_WINDOW_BYTES)) + packer.flush()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_deltas_end_in_one_error_within_bounds(name: str) -> None:
    delta = HOSTILE[name]()
    out = io.BytesIO()

    def run() -> Iterator[int]:
        return apply_delta(io.BytesIO(delta), io.BytesIO(BASE), out, ends())

    tracemalloc.start()
    try:
        with pytest.raises(DeltaFailed):
            for _ in run():
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert out.tell() <= len(TARGET)
    assert peak < len(delta) + MAX_WINDOW_BYTES + (8 << 20)
