"""The buffer of records: bounded, confirmed, counted."""

import pytest

from dsops_agent.runtime.records import BATCH_BYTES, Kind, Reason, RecordBuffer


def test_nothing_waits_at_first() -> None:
    assert RecordBuffer().batch() is None


def test_a_batch_is_the_same_until_it_is_confirmed() -> None:
    buffer = RecordBuffer()
    buffer.add(Kind.TELEMETRY, b"one")
    first = buffer.batch()
    buffer.add(Kind.SAMPLES, b"two")
    assert first is not None
    assert buffer.batch() is first
    assert first.records == (b"one",)
    assert buffer.waiting == 2
    buffer.confirm(first)
    second = buffer.batch()
    assert second is not None
    assert (second.number, second.kinds, second.records) == (2, (Kind.SAMPLES,), (b"two",))
    buffer.confirm(second)
    assert buffer.batch() is None
    assert (buffer.waiting, buffer.waiting_bytes) == (0, 0)


def test_only_the_batch_under_way_can_be_confirmed() -> None:
    buffer = RecordBuffer()
    buffer.add(Kind.TELEMETRY, b"one")
    batch = buffer.batch()
    assert batch is not None
    buffer.confirm(batch)
    with pytest.raises(ValueError, match="not under way"):
        buffer.confirm(batch)


def test_a_batch_is_limited_but_never_empty() -> None:
    buffer = RecordBuffer()
    sizes = [BATCH_BYTES + 5, BATCH_BYTES - 10, 10, 1]
    for size in sizes:
        assert buffer.add(Kind.SAMPLES, bytes(size))
    found = []
    while (batch := buffer.batch()) is not None:
        found.append([len(record) for record in batch.records])
        buffer.confirm(batch)
    assert found == [[sizes[0]], [sizes[1], 10], [1]]


def test_a_full_buffer_loses_the_new_record_and_tells_how_many() -> None:
    buffer = RecordBuffer({Kind.TELEMETRY: 10, Kind.SAMPLES: 4})
    assert buffer.add(Kind.SAMPLES, b"1234")
    assert not buffer.add(Kind.SAMPLES, b"5")
    assert buffer.add(Kind.TELEMETRY, b"samples do not crowd it out"[:10])
    assert not buffer.add(Kind.TELEMETRY, b"x")
    assert not buffer.add(Kind.TELEMETRY, b"y")
    batch = buffer.batch()
    assert batch is not None
    header = batch.header("abc")
    assert header == {
        "kinds": ["samples", "telemetry"],
        "sizes": [4, 10],
        "source": "abc",
        "batch": 1,
        "lost": {"samples": {"lost": 1}, "telemetry": {"lost": 2}},
    }
    assert not buffer.add(Kind.SAMPLES, b"6")
    buffer.lose(Kind.SAMPLES, Reason.UNREDACTED)
    assert buffer.batch() is batch  # a loss after the batch was made is told with the next one, once
    buffer.confirm(batch)
    after = buffer.batch()
    assert after is not None
    assert (after.records, dict(after.lost)) == ((), {Kind.SAMPLES: {Reason.LOST: 1, Reason.UNREDACTED: 1}})
    buffer.confirm(after)
    assert buffer.batch() is None
