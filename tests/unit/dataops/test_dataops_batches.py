from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.telemetry_pb2 import Histogram, Loss, Served, TelemetryBatch, TelemetryRecord
from dsops.errors import InvalidInput
from dsops_controller.dataops.batches import Kind, parse
from dsops_controller.dataops.testing import (
    drift_event,
    drift_report,
    heartbeat,
    host,
    interval,
    kpi,
    received,
    sample,
    sample_batch,
    telemetry_batch,
)

STREAM = bytes(range(16))
NOW_US = 1_767_225_600_000_000


def good() -> TelemetryBatch:
    records = [
        interval(NOW_US),
        host(NOW_US),
        drift_event(NOW_US),
        heartbeat(NOW_US),
        kpi(NOW_US, 2.0),
        drift_report(NOW_US),
    ]
    return telemetry_batch(STREAM, [3, 4, 9, 10, 11, 12], records, losses=[Loss(kind="host", reason="full", count=1)])


def edit(change: Callable[[TelemetryBatch], object]) -> bytes:
    batch = good()
    change(batch)
    return batch.SerializeToString()


HOSTILE: dict[str, Callable[[TelemetryBatch], object]] = {
    "short stream": lambda b: setattr(b, "stream", b"abc"),
    "no stream": lambda b: setattr(b, "stream", b""),
    "more seqs than records": lambda b: b.seqs.append(20),
    "fewer seqs than records": lambda b: b.seqs.pop(),
    "equal seqs": lambda b: b.seqs.__setitem__(1, 3),
    "falling seqs": lambda b: b.seqs.__setitem__(2, 1),
    "seq zero": lambda b: b.seqs.__setitem__(0, 0),
    "seq too large": lambda b: b.seqs.__setitem__(2, 2**48 + 1),
    "more produced than can be": lambda b: setattr(b, "produced", 2**48 + 1),
    "more dropped than produced": lambda b: setattr(b, "dropped", 100),
    "produced too large": lambda b: setattr(b, "produced", 2**64 - 1),
    "empty record": lambda b: b.records[0].CopyFrom(TelemetryRecord()),
    "no time": lambda b: setattr(b.records[0].model, "start_us", 0),
    "time out of range": lambda b: setattr(b.records[1].host, "start_us", 2**63),
    "time after 2200": lambda b: setattr(b.records[1].host, "start_us", 7_258_118_400_000_001),
    "bad model": lambda b: setattr(b.records[0].model, "model", "../../etc"),
    "bad digest": lambda b: setattr(b.records[0].model, "digest", "xyz"),
    "release too large": lambda b: setattr(b.records[0].model, "release", 2**32 - 1),
    "count too large": lambda b: setattr(b.records[0].model, "count", 2**64 - 1),
    "labels too large": lambda b: b.records[0].model.labels.append(2**64 - 1),
    "histogram scale": lambda b: setattr(b.records[0].model.latency_us, "scale", 2**31 - 1),
    "histogram offset": lambda b: setattr(b.records[0].model.latency_us, "offset", -(2**31)),
    "histogram length": lambda b: b.records[0].model.latency_us.CopyFrom(Histogram(scale=10, counts=[0] * 5000)),
    "host figure too large": lambda b: setattr(b.records[1].host, "spool_bytes", 2**64 - 1),
    "event without kind": lambda b: setattr(b.records[2].event, "kind", ""),
    "event with a long text": lambda b: setattr(b.records[2].event, "message", "x" * 5000),
    "loss without kind": lambda b: setattr(b.losses[0], "kind", ""),
    "loss without end": lambda b: setattr(b.losses[0], "count", 2**64 - 1),
    "losses without end": lambda b: b.losses.extend([b.losses[0]] * 200),
    "boot id of another length": lambda b: setattr(b.records[3].moment, "boot", b"abc"),
    "unknown trust": lambda b: setattr(b.records[3].moment, "clock", 99),
    "monotonic time too large": lambda b: setattr(b.records[3].moment, "monotonic_us", 2**64 - 1),
    "heartbeat with many models": lambda b: b.records[3].heartbeat.served.extend([Served(model="a")] * 300),
    "heartbeat of a bad model": lambda b: setattr(b.records[3].heartbeat.served[0], "model", "../x"),
    "kpi without a name": lambda b: setattr(b.records[4].kpi, "name", ""),
    "kpi with a path": lambda b: setattr(b.records[4].kpi, "name", "../x"),
    "kpi with a long tag": lambda b: b.records[4].kpi.tags.update({"line": "x" * 5000}),
    "drift of an unknown state": lambda b: setattr(b.records[5].drift, "state", "fine"),
    "drift with many signals": lambda b: b.records[5].drift.signals.extend([b.records[5].drift.signals[0]] * 5000),
    "drift with a giant count": lambda b: b.records[5].drift.signals[0].counts.append(2**62),
    "event with many figures": lambda b: b.records[2].event.figures.update({str(i): 0.0 for i in range(300)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_batch_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        parse(Kind.TELEMETRY, edit(HOSTILE[name]))


@pytest.mark.parametrize(
    ("shape", "datatype", "data"),
    [
        ([2, 2], "FP32", b"1234"),
        ([-1], "FP32", b"1234"),
        ([2**31], "FP32", b""),
        ([1] * 17, "FP32", b"1234"),
        ([1], "FP99", b"1234"),
        ([1], "", b"1234"),
        ([], "FP32", b""),
    ],
)
def test_a_tensor_that_does_not_fit_its_shape_is_refused(shape: list[int], datatype: str, data: bytes) -> None:
    batch = sample_batch(STREAM, [1], [sample(NOW_US, [1.0])])
    tensor = batch.samples[0].input
    tensor.shape[:] = shape
    tensor.datatype, tensor.data = datatype, data
    with pytest.raises(InvalidInput):
        parse(Kind.SAMPLES, batch.SerializeToString())


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    for kind in Kind:
        try:
            batch = parse(kind, data)
        except InvalidInput:
            continue
        assert len(batch.seqs) == len(batch.records())


def test_newer_keeps_records_and_numbers_together() -> None:
    batch = received(good())
    rest = batch.newer(3)
    assert rest.seqs == (4, 9, 10, 11, 12)
    assert rest.records() == batch.records()[1:]
    assert batch.newer(12).seqs == ()
    assert batch.newer(0) is batch
    samples = received(sample_batch(STREAM, [1, 2], [sample(NOW_US, [1.0]), sample(NOW_US, [2.0])]))
    assert samples.newer(1).records() == samples.records()[1:]
    assert isinstance(samples.newer(1).message, SampleBatch)
