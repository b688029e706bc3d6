"""What devices upload, parsed and checked. Bytes from a device pass here before anything else looks at them."""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

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
MAX_BUCKETS = 4096
MAX_LABELS = 100_000
MAX_AXES = 16
MAX_FIGURES = 256
MAX_TEXT = 4096
MAX_LOSSES = 128
MAX_SERVED = 256
MAX_SIGNALS = 4096
BOOT_BYTES = 16
_INT32 = 2**31 - 1
MAX_COUNT = 2**48
"""Records of one stream; beyond what a device can produce, and far from what a sum over a fleet overflows at."""
_INT64 = 2**63 - 1
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
    for record, moment in zip(batch.records(), batch.moments(), strict=True):
        _check_record(record)
        _check_moment(moment)
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


def _check_loss(loss: Loss) -> None:
    _require(
        0 < len(loss.kind) <= 32 and 0 < len(loss.reason) <= 32,
        "a loss names its kind and its reason, 32 characters at most",
    )
    _require(loss.count <= MAX_COUNT, f"more than {MAX_COUNT} records cannot have been lost")


def _check_record(record: Record) -> None:
    match record:
        case ModelInterval():
            _check_interval(record)
        case HostInterval():
            _check_time(record.start_us)
            _check_counts(
                record.memory_used_bytes,
                record.memory_total_bytes,
                record.disk_free_bytes,
                record.agent_rss_bytes,
                record.runtime_rss_bytes,
                record.spool_bytes,
            )
        case Event():
            _check_event(record)
        case ComparisonInterval():
            _check_comparison(record)
        case Heartbeat():
            _check_heartbeat(record)
        case Kpi():
            _check_kpi(record)
        case DriftReport():
            _check_drift(record)
        case SampleRecord():
            _check_sample(record)


def _check_moment(moment: Moment) -> None:
    _require(len(moment.boot) in (0, BOOT_BYTES), f"a boot id has {BOOT_BYTES} bytes, not {len(moment.boot)}")
    _check_counts(moment.monotonic_us)
    _require(moment.clock in ClockTrust.values(), f"a clock of unknown trust {moment.clock}")


def _check_heartbeat(beat: Heartbeat) -> None:
    _check_time(beat.time_us)
    _check_texts(beat.agent_version)
    _check_counts(beat.uptime_s, *(count for kind in beat.waiting for count in (kind.records, kind.bytes)))
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
    _check_counts(report.frames, report.epoch_frames, report.skew.frames)
    _require(len(report.signals) <= MAX_SIGNALS, f"{len(report.signals)} signals are too many")
    _check_texts(report.skew.state, *report.skew.signals, *(signal.name for signal in report.signals))
    for signal in report.signals:
        _require(len(signal.counts) <= MAX_BUCKETS, f"a signal of {len(signal.counts)} bins")
        _require(all(abs(count) <= MAX_COUNT for count in signal.counts), f"a count is above {MAX_COUNT}")


def _check_interval(interval: ModelInterval) -> None:
    _check_time(interval.start_us)
    _check_model(interval.model, interval.release, interval.digest)
    _check_counts(interval.count, interval.errors, interval.drift_frames, interval.unobserved, *interval.labels)
    _require(len(interval.labels) <= MAX_LABELS, f"{len(interval.labels)} labels are too many")
    _check_histogram(interval.latency_us)
    _check_histogram(interval.confidence_ppm)


def _check_comparison(found: ComparisonInterval) -> None:
    _check_time(found.start_us)
    _check_model(found.model, found.release, found.digest)
    _check_model(found.model, found.challenger_release, found.challenger_digest)
    _require(0 < len(found.mode) <= 64, "the mode of a comparison has 1 to 64 characters")
    _check_texts(found.reason)
    _require(found.disagreed <= found.compared, "more frames disagreed than were compared")
    _check_counts(found.compared, found.skipped, found.failed, found.answered, found.fallbacks)
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
    _require(-10 <= histogram.scale <= 20, f"a histogram of scale {histogram.scale}")
    _require(len(histogram.counts) <= MAX_BUCKETS, f"a histogram of {len(histogram.counts)} buckets")
    # A bucket's bounds must be finite numbers: 2^(index / 2^scale) with an exponent below 1000.
    reach = (abs(histogram.offset) + len(histogram.counts)) / 2.0**histogram.scale
    _require(reach <= 1000, "a histogram whose buckets are out of range")
    _check_counts(histogram.count, histogram.zero, *histogram.counts)


def _check_model(model: str, release: int, digest: str) -> None:
    ids.model_name(model)
    _require(release <= _INT32, "a release is above 2^31-1")
    if digest:
        ids.digest(digest)


def _check_time(time_us: int) -> None:
    _require(0 < time_us <= _LAST_US, f"a time of {time_us} us is out of range")


def _check_counts(*counts: int) -> None:
    _require(not counts or max(counts) <= _INT64, "a count is above 2^63-1")


def _check_texts(*texts: str) -> None:
    _require(all(len(text) <= MAX_TEXT for text in texts), f"a text is longer than {MAX_TEXT} characters")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidInput("a batch from a device is not valid", why=problem)
