"""What devices upload in the ingest benchmark, and messages of it that cost the sender next to nothing.

A batch is encoded once; what changes from one to the next, the numbers, is put in front of it, which is the same
message (Protocol Buffers, "Encoding", Last One Wins and the order of fields).
"""

import random
import time
from dataclasses import dataclass

from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import Moment, TelemetryBatch
from dsops_controller.dataops.testing import BOOT, DIGEST, interval

TELEMETRY_RECORDS = 1000
"""As many as an agent sends at once when it was away."""
VARIANTS = 20
"""So many different records; a histogram takes a while to fill."""
SAMPLE_RECORDS = 20
SAMPLE_BYTES = 10_000
PATHS = {"telemetry": "/dsops.api.v1.Telemetry/Report", "samples": "/dsops.api.v1.Samples/Upload"}


@dataclass(frozen=True)
class Load:
    """One batch's records, encoded.

    Attributes:
        kind: telemetry or samples.
        records: How many.
        body: The field of the records.
    """

    kind: str
    records: int
    body: bytes

    def message(self, stream: bytes, first: int) -> bytes:
        """Return a batch whose records have the numbers from ``first`` on."""
        kind = TelemetryBatch if self.kind == "telemetry" else SampleBatch
        last = first + self.records - 1
        return bytes(kind(stream=stream, seqs=range(first, last + 1), produced=last).SerializeToString()) + self.body


def load(kind: str) -> Load:
    """Return a batch of minutes of a model's telemetry (225 bytes a record), or one of samples of 10 KB each."""
    draw, now_us = random.Random(1), time.time_ns() // 1000
    moment = Moment(boot=BOOT, monotonic_us=1, clock=1)
    if kind == "telemetry":
        batch = TelemetryBatch()
        minutes = [interval(1, [draw.lognormvariate(9, 0.3) for _ in range(60)]) for _ in range(VARIANTS)]
        for number in range(TELEMETRY_RECORDS):
            record = batch.records.add()
            record.CopyFrom(minutes[number % VARIANTS])
            record.model.start_us = now_us - (TELEMETRY_RECORDS - number) * 60_000_000
            record.moment.CopyFrom(moment)
        return Load(kind, TELEMETRY_RECORDS, batch.SerializeToString())
    samples = SampleBatch(samples=[_sample(draw, now_us + number, moment) for number in range(SAMPLE_RECORDS)])
    return Load(kind, SAMPLE_RECORDS, samples.SerializeToString())


def _sample(draw: random.Random, time_us: int, moment: Moment) -> SampleRecord:
    pixels = Tensor(datatype="UINT8", shape=[1, SAMPLE_BYTES], data=draw.randbytes(SAMPLE_BYTES))
    answer = Tensor(datatype="FP32", shape=[1, 2], data=bytes(8))
    return SampleRecord(
        time_us=time_us,
        model="digits",
        release=1,
        digest=DIGEST,
        reason="audit",
        input=pixels,
        output=answer,
        moment=moment,
    )
