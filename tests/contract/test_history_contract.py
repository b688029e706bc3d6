"""What the port of times promises: in a folder over SQLite, over PostgreSQL where its programs are, and on S3."""

from datetime import datetime, timedelta

import pytest
from lake_site import EVERYWHERE, STAGES, START, Site, put, us

from dsops.errors import InvalidInput
from dsops_controller.dataops.history import Ask, Quantity, Span
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.testing import DIGEST, host, interval, sample, sample_batch, telemetry_batch

A, B = b"a" * 16, b"b" * 16
HOUR = Span(START, START + timedelta(hours=1))


def two_devices(site: Site, stage: str) -> None:
    """Put three intervals in two minutes: [100] and [300] in the first, [1000, 1000] in the sixth."""
    first = telemetry_batch(A, [1, 2], [interval(us(), [100.0]), interval(us(310), [1000.0] * 2)])
    second = telemetry_batch(B, [1], [interval(us(59), [300.0])])
    put(site, stage, ("cam-1", first), ("cam-2", second))


@EVERYWHERE
@STAGES
def test_a_distribution_adds_up_devices_by_bundle(site: Site, stage: str) -> None:
    two_devices(site, stage)
    put(site, stage, ("cam-1", telemetry_batch(A, [3], [interval(us(3600), [5.0])])))
    (row,) = site.history.distribution(HOUR, Ask(ranks=(0.25, 0.5, 1.0)))
    assert (row.start, row.model, row.release, row.digest) == (START, "digits", 1, DIGEST)
    assert (row.count, row.errors, row.mean) == (4, 3, pytest.approx(600.0))
    assert row.quantiles == pytest.approx((100.0, 300.0, 1000.0), rel=0.03)
    (sure,) = site.history.distribution(HOUR, Ask(of=Quantity.CONFIDENCE, ranks=(0.5,)))
    assert (sure.mean, sure.quantiles) == (pytest.approx(0.9), (pytest.approx(0.9, rel=0.03),))


@EVERYWHERE
@STAGES
def test_a_series_has_the_buckets_that_have_data(site: Site, stage: str) -> None:
    two_devices(site, stage)
    rows = site.history.series(HOUR, timedelta(minutes=5), Ask(ranks=(1.0,)))
    assert [(row.start, row.count) for row in rows] == [(START, 2), (START + timedelta(minutes=5), 2)]
    assert [row.quantiles[0] for row in rows] == pytest.approx([300.0, 1000.0], rel=0.03)
    (one,) = site.history.series(HOUR, timedelta(minutes=5), Ask(device="cam-2", ranks=(1.0,)))
    assert (one.start, one.count, one.quantiles) == (START, 1, (pytest.approx(300.0, rel=0.03),))
    assert site.history.series(HOUR, timedelta(minutes=1), Ask(model="words")) == []
    assert len(site.history.series(HOUR, timedelta(minutes=1), Ask(model="digits"))) == 2


@EVERYWHERE
def test_minutes_come_from_every_part_that_a_flush_brought(site: Site) -> None:
    """Ten parts of one minute, flushed one by one, some days late: sums as if they had come at once."""
    for number in range(10):
        put(site, "lake", (f"cam-{number}", telemetry_batch(A, [1], [interval(us(number), [100.0 + number] * 3)])))
    (row,) = site.history.distribution(Span(START, START + timedelta(minutes=1)), Ask(ranks=(0.0, 1.0)))
    assert (row.count, row.quantiles) == (30, (pytest.approx(100.0, rel=0.03), pytest.approx(109.0, rel=0.03)))


@EVERYWHERE
def test_the_latest_figures_are_by_device_and_model(site: Site) -> None:
    put(site, "inbox", ("cam-1", telemetry_batch(A, [1, 2, 3], [interval(us()), host(us()), interval(us(60), [7.0])])))
    put(site, "inbox", ("Cam-2", telemetry_batch(A, [1], [interval(us(), model="words")])))
    rows = site.history.latest()  # upper case first, whatever the language that a database was made for
    assert [(row.device, row.model) for row in rows] == [("Cam-2", "words"), ("cam-1", ""), ("cam-1", "digits")]
    assert (rows[2].time, rows[2].figures["p95_us"]) == (START + timedelta(seconds=61), pytest.approx(7.0, rel=0.03))
    assert [row.device for row in site.history.latest(model="words")] == ["Cam-2"]
    assert [row.model for row in site.history.latest(device="cam-1")] == ["", "digits"]


@EVERYWHERE
@STAGES
def test_samples_come_with_their_tensors_from_a_range_of_time(site: Site, stage: str) -> None:
    first = sample_batch(A, [1, 2, 3], [sample(us(second), [second, 1.0]) for second in (0, 60, 120)])
    second = sample_batch(B, [1], [sample(us(60), [9.0, 9.0], model="007")])
    put(site, stage, ("cam-1", first), ("cam-2", second))
    until = START + timedelta(seconds=120)
    rows = site.history.tensors(SampleFilter(model="digits", until=until))
    assert [row.row.time for row in rows] == [START + timedelta(seconds=60), START]
    assert rows[0].input == bytes.fromhex("00007042 0000803f")
    assert (rows[0].row.input_bytes, rows[0].row.shape, rows[0].output) == (8, (1, 2), b"")
    assert len(site.history.tensors(SampleFilter(), 3)) == 3
    assert [row.row.device for row in site.history.tensors(SampleFilter(model="007"))] == ["cam-2"]
    assert site.history.tensors(SampleFilter(since=until + timedelta(seconds=1))) == []
    with pytest.raises(InvalidInput):
        site.history.tensors(SampleFilter(), 0)


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True, scope="module")
def test_what_makes_no_sense_is_refused(site: Site) -> None:
    with pytest.raises(InvalidInput):
        Span(START, START + timedelta(seconds=30))
    with pytest.raises(InvalidInput):
        Span(START, START - timedelta(hours=1))
    with pytest.raises(InvalidInput):
        Span(datetime(2026, 1, 1), datetime(2026, 1, 2))  # noqa: DTZ001
    with pytest.raises(InvalidInput):
        Ask(ranks=(1.5,))
    for bucket in (timedelta(seconds=30), timedelta(seconds=90)):
        with pytest.raises(InvalidInput):
            site.history.series(HOUR, bucket, Ask())
    with pytest.raises(InvalidInput):
        site.history.series(Span(START, START + timedelta(days=365)), timedelta(minutes=1), Ask())


@EVERYWHERE
def test_an_empty_store_has_no_history(site: Site) -> None:
    assert site.history.latest() == []
    assert site.history.distribution(HOUR, Ask()) == []
    assert site.history.tensors(SampleFilter()) == []
