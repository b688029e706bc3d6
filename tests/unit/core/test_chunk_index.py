import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.bundle import sha256_hex
from dsops.chunks import MAX_CHUNK_BYTES, ChunkIndex, index_of, split
from dsops.errors import MalformedBundle


@given(st.lists(st.binary(max_size=900), min_size=1, max_size=5).filter(any), st.integers(1, 700))
def test_an_index_names_every_chunk_and_comes_back(parts: list[bytes], chunk_bytes: int) -> None:
    data = b"".join(parts)
    index = index_of(data, chunk_bytes, map(len, parts))
    chunks = list(split(data, chunk_bytes, map(len, parts)))
    assert b"".join(chunks) == data
    assert index.digests == tuple(sha256_hex(chunk) for chunk in chunks)
    assert [data[s.offset : s.offset + s.length] for s in index.spans] == chunks
    assert index.length_bytes == len(data)
    assert ChunkIndex.decode(index.encode()) == index
    assert index.digest == sha256_hex(index.encode())


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 90))
def test_a_part_has_the_same_chunks_wherever_it_stands(part: bytes, one: bytes, other: bytes, size: int) -> None:
    before = index_of(one + part, size, [len(one), len(part)])
    after = index_of(other + part, size, [len(other), len(part)])
    assert set(index_of(part, size).digests) <= set(before.digests) & set(after.digests)


def test_a_file_too_long_for_small_chunks_gets_larger_ones() -> None:
    index = index_of(bytes(70_000_000))
    assert index.chunk_bytes == MAX_CHUNK_BYTES
    assert len(index.encode()) < 64 * 1024


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(MalformedBundle):
        index_of(b"")
    with pytest.raises(MalformedBundle):
        index_of(bytes(120_000_000))


@pytest.mark.parametrize("cut", [0, 8, 15, 16, 24, 55])
def test_a_damaged_index_is_refused(cut: int) -> None:
    whole = index_of(b"abc", 1).encode()
    for damaged in (whole[:cut], whole + b"\0", b"X" + whole[1:]):
        with pytest.raises(MalformedBundle):
            ChunkIndex.decode(damaged)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(MalformedBundle):
        ChunkIndex.decode(data)
