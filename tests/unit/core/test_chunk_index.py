import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.bundle import sha256_hex
from dsops.chunks import MAX_CHUNK_BYTES, ChunkIndex, index_of, split
from dsops.errors import MalformedBundle


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 700))
def test_an_index_names_every_chunk_and_comes_back(data: bytes, chunk_bytes: int) -> None:
    index = index_of(data, chunk_bytes)
    chunks = list(split(data, chunk_bytes))
    assert b"".join(chunks) == data
    assert index.digests == tuple(sha256_hex(chunk) for chunk in chunks)
    assert [index.size_of(n) for n in range(len(chunks))] == [len(chunk) for chunk in chunks]
    assert ChunkIndex.decode(index.encode()) == index
    assert index.digest == sha256_hex(index.encode())


def test_a_file_too_long_for_small_chunks_gets_larger_ones() -> None:
    index = index_of(bytes(70_000_000))
    assert index.chunk_bytes == MAX_CHUNK_BYTES
    assert len(index.encode()) < 64 * 1024


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(MalformedBundle):
        index_of(b"")
    with pytest.raises(MalformedBundle):
        index_of(bytes(120_000_000))


@pytest.mark.parametrize("cut", [0, 8, 19, 20, 51])
def test_a_damaged_index_is_refused(cut: int) -> None:
    whole = index_of(b"abc", 1).encode()
    for damaged in (whole[:cut], whole + b"\0", b"X" + whole[1:]):
        with pytest.raises(MalformedBundle):
            ChunkIndex.decode(damaged)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(MalformedBundle):
        ChunkIndex.decode(data)
