"""Telemetry is added up over devices and time as the reference merge of histograms adds it, whatever devices send."""

import random
from itertools import permutations
from typing import Any

import pytest

from dsops.api.v1.telemetry_pb2 import Histogram, ModelInterval, TelemetryRecord
from dsops_controller.dataops.histograms import merged
from dsops_controller.dataops.lake.columns import COLUMNS, LakeTable
from dsops_controller.dataops.lake.minutes import MOST_BUCKETS, as_table, roll_up
from dsops_controller.dataops.lake.rows import Pending, Rows, split
from dsops_controller.dataops.lake.totals import by_bundle
from dsops_controller.dataops.testing import DIGEST, histogram, host, interval, telemetry_batch

NOW_US = 1_767_225_600_000_000
MINUTE_US = 60_000_000
MOST_INT = 2**63 - 1


def rows_of(*records: TelemetryRecord, each: int = 7) -> Rows:
    """Return rows as several inbox rows bring them."""
    pending = []
    for number, first in enumerate(range(0, len(records), each)):
        part = records[first : first + each]
        batch = telemetry_batch(b"a" * 16, range(first + 1, first + 1 + len(part)), part)
        seqs = b"".join(seq.to_bytes(8, "little") for seq in batch.seqs)
        now_ms = NOW_US // 1000 + number
        pending.append(Pending(number, "cam-1", "a", "telemetry", seqs, batch.SerializeToString(), now_ms))
    return split(pending)


def minutes(*records: TelemetryRecord) -> list[dict[str, Any]]:
    table = as_table(roll_up(rows_of(*records).above(LakeTable.TELEMETRY, -1)))
    assert table.column_names == list(COLUMNS[LakeTable.MINUTES])
    return list(table.to_struct_array().to_pylist())


@pytest.fixture(params=["in Python", "in DuckDB"], autouse=True)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few rows added up in Python, as usual, and by DuckDB, as many are."""
    if request.param == "in DuckDB":
        monkeypatch.setattr("dsops_controller.dataops.lake.minutes.FEW_ROWS", 0)


def odd_histogram(draw: random.Random) -> Histogram:
    if draw.random() < 0.1:
        return Histogram(scale=draw.randrange(-2, 8))
    made = histogram([draw.lognormvariate(5, 1.5) for _ in range(draw.randrange(1, 40))], scale=draw.randrange(0, 7))
    made.zero = draw.randrange(3)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_minutes_are_what_the_reference_merge_finds(seed: int) -> None:
    draw = random.Random(seed)
    records = []
    for _ in range(60):
        record = interval(
            NOW_US + draw.randrange(3) * MINUTE_US + draw.randrange(MINUTE_US), release=draw.choice((1, 2))
        )
        record.model.latency_us.CopyFrom(odd_histogram(draw))
        record.model.confidence_ppm.CopyFrom(odd_histogram(draw))
        records.append(record)
    found = minutes(*records)
    expected: dict[tuple[int, int], list[ModelInterval]] = {}
    for record in records:
        expected.setdefault((record.model.start_us // MINUTE_US, record.model.release), []).append(record.model)
    assert len(found) == len(expected)
    for row in found:
        parts = expected[round(row["time"].timestamp() * 1e6) // MINUTE_US, row["release"]]
        assert (row["intervals"], row["count"]) == (len(parts), sum(one.count for one in parts))
        assert row["errors"] == len(parts)
        judge(row, "latency", [one.latency_us for one in parts])
        judge(row, "confidence", [one.confidence_ppm for one in parts])


def judge(row: dict[str, Any], name: str, parts: list[Histogram]) -> None:
    reference = merged([part for part in parts if part.counts])
    buckets = {row[f"{name}_offset"] + i: count for i, count in enumerate(row[f"{name}_counts"]) if count}
    assert (row[f"{name}_scale"], buckets) == (reference.scale or 0, reference.buckets)
    assert row[f"{name}_zero"] == sum(part.zero for part in parts)
    assert row[f"{name}_count"] == sum(part.count for part in parts)
    assert row[f"{name}_sum"] == pytest.approx(sum(part.sum for part in parts))
    assert (row[f"{name}_min"], row[f"{name}_max"]) == (reference.low, reference.high)
    assert not row[f"{name}_counts"] or (row[f"{name}_counts"][0] and row[f"{name}_counts"][-1])


def test_minutes_added_up_by_bundle_are_telemetry_added_up_by_bundle() -> None:
    draw = random.Random(5)
    records = [interval(NOW_US + n * MINUTE_US, [draw.lognormvariate(9, 1) for _ in range(9)]) for n in range(20)]
    found = by_bundle(roll_up(rows_of(*records).above(LakeTable.TELEMETRY, -1)))
    assert list(found) == [(DIGEST, "digits", 1)]
    added = found[DIGEST, "digits", 1]
    assert added.counts == [180, 20, 0]
    expected = merged([record.model.latency_us for record in records])
    assert added.histograms["latency"].merged == expected
    assert added.histograms["latency"].count == 180


def test_values_that_are_far_apart_make_a_histogram_coarse_and_not_long() -> None:
    """One device could else have billions of buckets made, and the flush would end for want of memory."""
    near, far = interval(NOW_US), interval(NOW_US)
    near.model.latency_us.CopyFrom(Histogram(scale=20, offset=-(10**9), counts=[2], count=2))
    far.model.latency_us.CopyFrom(Histogram(scale=20, offset=10**9, counts=[3], count=3))
    (row,) = minutes(near, far)
    counts = row["latency_counts"]
    assert len(counts) <= MOST_BUCKETS
    assert (counts[0], counts[-1], sum(counts)) == (2, 3, 5)
    shift = 20 - row["latency_scale"]
    assert row["latency_offset"] == -(10**9) >> shift


def test_counts_that_no_column_holds_are_as_large_as_they_can_be() -> None:
    records = [interval(NOW_US), interval(NOW_US)]
    for record in records:
        record.model.count = record.model.latency_us.count = MOST_INT
        record.model.latency_us.counts[:] = [MOST_INT]
        record.model.latency_us.sum = 1.7e308
    (row,) = minutes(*records)
    assert (row["count"], row["latency_count"], row["latency_counts"]) == (MOST_INT, MOST_INT, [MOST_INT])
    assert row["latency_sum"] is None


@pytest.mark.parametrize("limits", [*permutations([(0.0, 1.7e308), (0.0, 2.0), (5.0, 6.0)]), ((0.0, 1.7e308),)])
def test_a_least_value_of_zero_hides_no_other_limit(limits: tuple[tuple[float, float], ...]) -> None:
    records = []
    for low, high in limits:
        record = interval(NOW_US)
        record.model.latency_us.CopyFrom(Histogram(counts=[1], count=1, min=low, max=high))
        records.append(record)
    (row,) = minutes(*records)
    assert (row["latency_min"], row["latency_max"]) == (5.0 if len(limits) > 1 else 0.0, 1.7e308)
    judge(row, "latency", [record.model.latency_us for record in records])


def test_rows_above_a_watermark_are_the_tail_of_their_table() -> None:
    records = [interval(NOW_US + n) if n % 3 else host(NOW_US + n) for n in range(20)]
    rows = rows_of(*records, each=5)  # four inbox rows, with ids 0 to 3
    assert (rows.batches, rows.first_id, rows.last_id) == (4, 0, 3)
    for table, wanted in ((LakeTable.TELEMETRY, 1), (LakeTable.HOSTS, 0)):
        for watermark in range(-1, 4):
            expected = [n + 1 for n in range(5 * (watermark + 1), 20) if bool(n % 3) is bool(wanted)]
            assert rows.above(table, watermark)["seq"].to_pylist() == expected
    assert rows.above(LakeTable.EVENTS, -1).num_rows == 0
    assert not rows.has(LakeTable.EVENTS)
