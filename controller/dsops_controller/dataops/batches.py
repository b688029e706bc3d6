"""What devices upload, parsed and checked. Bytes from a device pass here before anything else looks at them.

A thousand records a batch and a hundred batches a second pass on one thread: texts of refusals are made only for
refusals, names are remembered, and counts are looked at only where a count can be too large.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Any

from google.protobuf.message import DecodeError

from dsops import ids
from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import (
    ClockTrust,
    ComparisonInterval,
    DriftReport,
    Event,
    Heartbeat,
    Histogram,
    HostInterval,
    Kpi,
    Loss,
    ModelInterval,
    Moment,
    TelemetryBatch,
    TelemetryRecord,
)
from dsops.errors import InvalidInput

STREAM_BYTES = 16
MAX_RECORDS = 10_000
PARSED_TIMES = 5
MAX_BUCKETS = 4096
MAX_LABELS = 100_000
MAX_AXES = 16
MAX_FIGURES = 256
MAX_TEXT = 4096
MAX_LOSSES = 128
MAX_SERVED = 256
MAX_SIGNALS = 4096
BOOT_BYTES = 16
_BOOT_LENGTHS = frozenset({0, BOOT_BYTES})
_CLOCKS = frozenset(ClockTrust.values())
_INT32 = 2**31 - 1
MAX_COUNT = 2**40
"""Records of one stream: 1,000 a second for 34 years, and far from what a sum over a fleet overflows at."""
_INT64 = 2**63 - 1
_CONTINUES = bytes(byte >> 7 for byte in range(256))
_LONG_NUMBER = bytes([1] * 9)
"""A message with a count above 2^63-1 has this: such a varint has ten bytes, nine of which say that more follow
(:data:`_CONTINUES`).

Source: Protocol Buffers, "Encoding", Base 128 Varints.
"""
_LAST_US = 7_258_118_400_000_000  # the year 2200: a time plus an interval stays a time everywhere
_ITEM_BYTES = {
    "BOOL": 1,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "FP16": 2,
    "INT32": 4,
    "UINT32": 4,
    "FP32": 4,
    "INT64": 8,
    "UINT64": 8,
    "FP64": 8,
}

Message = TelemetryBatch | SampleBatch
Telemetry = ModelInterval | HostInterval | Event | ComparisonInterval | Heartbeat | Kpi | DriftReport
Record = Telemetry | SampleRecord


class Kind(StrEnum):
    """Which of a device's spool streams a batch is of."""

    TELEMETRY = "telemetry"
    SAMPLES = "samples"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one stream of one device: record ``i`` has sequence number ``seqs[i]``; numbers rise.

    Attributes:
        kind: What the records are.
        stream: The stream's id, 32 hex digits.
        seqs: Sequence numbers, rising, at least 1.
        message: The message, with exactly one record for each number.
        size_bytes: Length of the message as received.
    """

    kind: Kind
    stream: str
    seqs: tuple[int, ...]
    message: Message
    size_bytes: int

    @property
    def memory_bytes(self) -> int:
        """What the parsed batch takes, about: records of telemetry are many small messages, those of samples are not.

        Measured with protobuf 7's upb: 1,000 intervals of 225 bytes take 1,010 bytes each, 650 more while looked at.
        """
        return self.size_bytes * (PARSED_TIMES if self.kind is Kind.TELEMETRY else 2)

    def newer(self, watermark: int) -> "Batch":
        """Return the part whose numbers are above ``watermark``."""
        first = next((i for i, seq in enumerate(self.seqs) if seq > watermark), len(self.seqs))
        if first == 0:
            return self
        part = _slice(self.message, first)
        return Batch(self.kind, self.stream, self.seqs[first:], part, part.ByteSize())

    def records(self) -> list[Record]:
        """Return the records without their envelope, in order."""
        if isinstance(self.message, SampleBatch):
            return list(self.message.samples)
        return [unwrap(record) for record in self.message.records]

    def moments(self) -> list[Moment]:
        """Return the moment of each record, in order."""
        holders = self.message.samples if isinstance(self.message, SampleBatch) else self.message.records
        return [holder.moment for holder in holders]


def parse(kind: Kind, data: bytes) -> Batch:
    """Parse and check one serialized ``TelemetryBatch`` or ``SampleBatch``.

    Raises:
        InvalidInput: The bytes are no such message, or a value is out of its range; the text names the first one.
    """
    message: Message
    try:
        message = TelemetryBatch.FromString(data) if kind is Kind.TELEMETRY else SampleBatch.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"a {kind} batch cannot be parsed", why=str(error)) from error
    _check_envelope(message)
    batch = Batch(kind, message.stream.hex(), tuple(message.seqs), message, len(data))
    has_long = _LONG_NUMBER in data.translate(_CONTINUES)  # a search by a pattern takes ten times as long
    for record, moment in zip(batch.records(), batch.moments(), strict=True):
        check, counts = _CHECKS[type(record)]
        check(record)
        _check_moment(moment)
        if has_long:
            _check_counts(moment.monotonic_us, *counts(record))
    return batch


def unwrap(record: TelemetryRecord) -> Telemetry:
    """Return what a telemetry record holds.

    Raises:
        InvalidInput: It holds nothing that this store knows.
    """
    kind = record.WhichOneof("kind")
    if kind is None:
        raise InvalidInput("a telemetry record is empty or of a kind that this store does not know")
    found: Telemetry = getattr(record, kind)
    return found


def _slice(message: Message, first: int) -> Message:
    part = type(message).FromString(message.SerializeToString())
    del part.seqs[:first]
    del (part.samples if isinstance(part, SampleBatch) else part.records)[:first]
    return part


def _check_envelope(message: Message) -> None:
    count = len(message.samples if isinstance(message, SampleBatch) else message.records)
    _require(len(message.stream) == STREAM_BYTES, f"a stream id has {STREAM_BYTES} bytes, not {len(message.stream)}")
    _require(count <= MAX_RECORDS, f"{count} records are too many; {MAX_RECORDS} are allowed")
    _require(len(message.seqs) == count, f"{len(message.seqs)} sequence numbers for {count} records")
    _require(all(a < b for a, b in pairwise(message.seqs)), "sequence numbers do not rise")
    if message.seqs:
        _require(message.seqs[0] >= 1, "sequence numbers begin at 1")
        _require(message.seqs[-1] <= MAX_COUNT, f"a sequence number is above {MAX_COUNT}")
    _require(message.produced <= MAX_COUNT, f"more than {MAX_COUNT} records cannot have been produced")
    _require(message.dropped <= message.produced, "produced and dropped do not belong together")
    _require(len(message.losses) <= MAX_LOSSES, f"{len(message.losses)} kinds of losses are too many")
    for loss in message.losses:
        _check_loss(loss)
    lost = sum(loss.count for loss in message.losses)
    _require(lost == message.dropped, f"losses of {lost} records in all where {message.dropped} were dropped")


def _check_loss(loss: Loss) -> None:
    _require(
        0 < len(loss.kind) <= 32 and 0 < len(loss.reason) <= 32,
        "a loss names its kind and its reason, 32 characters at most",
    )
    _require(loss.count <= MAX_COUNT, f"more than {MAX_COUNT} records cannot have been lost")


def _check_moment(moment: Moment) -> None:
    if len(moment.boot) not in _BOOT_LENGTHS:
        raise _invalid(f"a boot id has {BOOT_BYTES} bytes, not {len(moment.boot)}")
    if moment.clock not in _CLOCKS:
        raise _invalid(f"a clock of unknown trust {moment.clock}")


def _check_heartbeat(beat: Heartbeat) -> None:
    _check_time(beat.time_us)
    _check_texts(beat.agent_version)
    _require(len(beat.served) <= MAX_SERVED, f"{len(beat.served)} models are too many")
    _require(len(beat.waiting) <= MAX_LOSSES, f"{len(beat.waiting)} kinds of records are too many")
    for served in beat.served:
        _check_model(served.model, served.release, served.digest)
        _check_texts(served.state)
    _check_texts(*(kind.kind for kind in beat.waiting))


def _check_kpi(kpi: Kpi) -> None:
    _check_time(kpi.time_us)
    ids.kpi_name(kpi.name)
    _require(len(kpi.unit) <= 64, "a figure's unit has at most 64 characters")
    _require(len(kpi.tags) <= MAX_FIGURES, f"{len(kpi.tags)} tags are too many")
    _check_texts(*kpi.tags, *kpi.tags.values())
    if kpi.model:
        _check_model(kpi.model, kpi.release, kpi.digest)
    _require(kpi.release <= _INT32, "a release is above 2^31-1")


def _check_drift(report: DriftReport) -> None:
    _check_time(report.start_us)
    _check_model(report.model, report.release, report.digest)
    _require(report.state in ("ok", "warning", "drift"), f"a drift report of the unknown state {report.state[:16]!r}")
    _require(
        all(time <= _LAST_US for time in (report.since_us, report.onset_us, report.epoch_us)), "a time is out of range"
    )
    _require(len(report.signals) <= MAX_SIGNALS, f"{len(report.signals)} signals are too many")
    _check_texts(report.skew.state, *report.skew.signals, *(signal.name for signal in report.signals))
    for signal in report.signals:
        _require(len(signal.counts) <= MAX_BUCKETS, f"a signal of {len(signal.counts)} bins")
        _require(all(abs(count) <= MAX_COUNT for count in signal.counts), f"a count is above {MAX_COUNT}")


def _check_interval(interval: ModelInterval) -> None:
    _check_time(interval.start_us)
    _check_model(interval.model, interval.release, interval.digest)
    if len(interval.labels) > MAX_LABELS:
        raise _invalid(f"{len(interval.labels)} labels are too many")
    _check_histogram(interval.latency_us)
    _check_histogram(interval.confidence_ppm)


def _check_comparison(found: ComparisonInterval) -> None:
    _check_time(found.start_us)
    _check_model(found.model, found.release, found.digest)
    _check_model(found.model, found.challenger_release, found.challenger_digest)
    _require(0 < len(found.mode) <= 64, "the mode of a comparison has 1 to 64 characters")
    _check_texts(found.reason)
    _require(found.disagreed <= found.compared, "more frames disagreed than were compared")
    both = found.latency_us, found.challenger_latency_us, found.confidence_ppm, found.challenger_confidence_ppm
    for histogram in (found.distance_ppm, *both):
        _check_histogram(histogram)


def _check_event(event: Event) -> None:
    _check_time(event.time_us)
    _require(0 < len(event.kind) <= 64, "an event's kind has 1 to 64 characters")
    if event.model:
        _check_model(event.model, event.release, event.digest)
    _require(len(event.figures) <= MAX_FIGURES, f"{len(event.figures)} figures are too many")
    _check_texts(event.digest, event.code, event.message, *event.figures)
    _require(event.release <= _INT32, "a release is above 2^31-1")


def _check_sample(sample: SampleRecord) -> None:
    _check_time(sample.time_us)
    _check_model(sample.model, sample.release, sample.digest)
    _require(0 < len(sample.reason) <= 64, "a sample's reason has 1 to 64 characters")
    _check_texts(
        sample.request_id, sample.predicted, sample.redaction, sample.schema, sample.requested_by, *sample.scores
    )
    _require(len(sample.scores) <= MAX_FIGURES, f"{len(sample.scores)} scores are too many")
    _require(len(sample.sealed.key_id) in (0, 32), "a key id has 32 bytes")
    _check_tensor(sample.input, is_sealed=bool(sample.sealed.ciphertext))
    _check_tensor(sample.output)


def _check_tensor(tensor: Tensor, *, is_sealed: bool = False) -> None:
    _require(len(tensor.shape) <= MAX_AXES, f"a tensor of {len(tensor.shape)} axes")
    _require(all(0 <= axis <= _INT32 for axis in tensor.shape), "a tensor with an axis out of range")
    if tensor.datatype == "BYTES":
        return
    item_bytes = _ITEM_BYTES.get(tensor.datatype, 0)
    if not tensor.data and (is_sealed or not tensor.datatype):
        return  # the data are elsewhere, or were not kept
    _require(item_bytes > 0, f"a tensor of the unknown datatype {tensor.datatype[:16]!r}")
    expected = math.prod(tensor.shape) * item_bytes
    _require(len(tensor.data) == expected, f"a tensor of {len(tensor.data)} bytes whose shape needs {expected}")


def _check_histogram(histogram: Histogram) -> None:
    scale, buckets = histogram.scale, len(histogram.counts)
    if not -10 <= scale <= 20:
        raise _invalid(f"a histogram of scale {scale}")
    if buckets > MAX_BUCKETS:
        raise _invalid(f"a histogram of {buckets} buckets")
    # A bucket's bounds must be finite numbers: 2^(index / 2^scale) with an exponent below 1000.
    if (abs(histogram.offset) + buckets) / 2.0**scale > 1000:
        raise _invalid("a histogram whose buckets are out of range")


def _check_model(model: str, release: int, digest: str) -> None:
    _check_names(model, digest)
    if release > _INT32:
        raise _invalid("a release is above 2^31-1")


@lru_cache(4096)
def _check_names(model: str, digest: str) -> None:
    ids.model_name(model)
    if digest:
        ids.digest(digest)


def _check_time(time_us: int) -> None:
    if not 0 < time_us <= _LAST_US:
        raise _invalid(f"a time of {time_us} us is out of range")


def _check_host(host: HostInterval) -> None:
    _check_time(host.start_us)


def _check_counts(*counts: int) -> None:
    _require(max(counts) <= _INT64, "a count is above 2^63-1")


def _counts(record: Telemetry) -> list[int]:
    """Return every count of a record, those of its histograms too."""
    found: list[int] = []
    for field, value in record.ListFields():
        if field.message_type is not None and field.message_type.name == Histogram.DESCRIPTOR.name:
            found += [value.count, value.zero, *value.counts]
        elif field.message_type is None and field.cpp_type == field.CPPTYPE_UINT64 and field.type != field.TYPE_FIXED64:
            found += [value] if isinstance(value, int) else value
    return found


def _counts_of_heartbeat(beat: Heartbeat) -> list[int]:
    return [beat.uptime_s, *(count for kind in beat.waiting for count in (kind.records, kind.bytes))]


def _counts_of_drift(report: DriftReport) -> list[int]:
    return [report.frames, report.epoch_frames, report.skew.frames]


def _no_counts(_record: Record) -> list[int]:
    return []


def _check_texts(*texts: str) -> None:
    if not all(len(text) <= MAX_TEXT for text in texts):
        raise _invalid(f"a text is longer than {MAX_TEXT} characters")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _invalid(problem)


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput("a batch from a device is not valid", why=problem)


_CHECKS: dict[type[Record], tuple[Callable[[Any], None], Callable[[Any], list[int]]]] = {
    ModelInterval: (_check_interval, _counts),
    HostInterval: (_check_host, _counts),
    Event: (_check_event, _no_counts),
    ComparisonInterval: (_check_comparison, _counts),
    Heartbeat: (_check_heartbeat, _counts_of_heartbeat),
    Kpi: (_check_kpi, _no_counts),
    DriftReport: (_check_drift, _counts_of_drift),
    SampleRecord: (_check_sample, _no_counts),
}
