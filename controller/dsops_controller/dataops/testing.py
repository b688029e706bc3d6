"""Records as a device makes them, for tests and simulations of the DataOps store."""

import struct
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

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
    Served,
    SignalReport,
    SkewCheck,
    TelemetryBatch,
    TelemetryRecord,
    Waiting,
)
from dsops.manifest import Blob, Lineage, Manifest, TensorSpec
from dsops_controller.dataops.batches import Batch, Kind, parse
from dsops_controller.db.tables import device as devices

DIGEST = "ab" * 32
RIVAL = "cd" * 32


def histogram(values: Sequence[float], scale: int = 4) -> Histogram:
    """Return the exponential histogram of positive values, as a device would fill it one value at a time."""
    indices = [_bucket(value, scale) for value in values]
    if not values:
        return Histogram(scale=scale)
    low = min(indices)
    counts = [0] * (max(indices) - low + 1)
    for index in indices:
        counts[index - low] += 1
    return Histogram(
        scale=scale, offset=low, counts=counts, sum=sum(values), count=len(values), min=min(values), max=max(values)
    )


def interval(
    start_us: int, latencies_us: Sequence[float] = (100.0,), *, model: str = "digits", release: int = 1
) -> TelemetryRecord:
    """Return what a model did in one second."""
    return TelemetryRecord(
        model=ModelInterval(
            start_us=start_us,
            interval_ms=1000,
            model=model,
            release=release,
            digest=DIGEST,
            count=len(latencies_us),
            errors=1,
            latency_us=histogram(latencies_us),
            confidence_ppm=histogram([900_000.0] * len(latencies_us)),
            labels=[len(latencies_us), 0],
            drift_score=0.25,
            drift_frames=len(latencies_us),
        )
    )


def comparison(
    start_us: int, distances: Sequence[float], *, disagreed: int = 0, mode: str = "shadow", reason: str = ""
) -> TelemetryRecord:
    """Return how a champion and its challenger compared in one second; the challenger takes twice the time."""
    frames = len(distances)
    return TelemetryRecord(
        comparison=ComparisonInterval(
            start_us=start_us,
            interval_ms=1000,
            model="digits",
            release=1,
            digest=DIGEST,
            challenger_release=2,
            challenger_digest=RIVAL,
            mode=mode,
            compared=frames,
            disagreed=disagreed,
            skipped=3,
            failed=1,
            answered=5 if mode == "split" else 0,
            fallbacks=2 if mode == "split" else 0,
            reason=reason,
            distance_ppm=histogram([1e6 * distance for distance in distances]),
            latency_us=histogram([100.0] * frames),
            challenger_latency_us=histogram([200.0] * frames),
            confidence_ppm=histogram([900_000.0] * frames),
            challenger_confidence_ppm=histogram([800_000.0] * frames),
        )
    )


def host(start_us: int) -> TelemetryRecord:
    """Return what a host did in one second."""
    return TelemetryRecord(host=HostInterval(start_us=start_us, interval_ms=1000, cpu_percent=12.5))


def drift_event(time_us: int, kind: str = "drift_alarm", *, model: str = "digits", release: int = 1) -> TelemetryRecord:
    """Return an event about drift."""
    figures = {"score": 9.5, "frames": 700.0, "signal.entropy": 3.5}
    return TelemetryRecord(
        event=Event(time_us=time_us, kind=kind, model=model, release=release, digest=DIGEST, figures=figures)
    )


BOOT = bytes(range(16))


def heartbeat(time_us: int) -> TelemetryRecord:
    """Return a sign of life, made in a known start of the host by a clock that nobody keeps."""
    return TelemetryRecord(
        heartbeat=Heartbeat(
            time_us=time_us,
            interval_ms=30_000,
            agent_version="0.1.0",
            uptime_s=12,
            served=[Served(model="digits", release=1, digest=DIGEST, state="serving")],
            waiting=[Waiting(kind="samples", records=3, bytes=4096)],
        ),
        moment=Moment(boot=BOOT, monotonic_us=5_000_000, clock=ClockTrust.CLOCK_FREE),
    )


def kpi(time_us: int, value: float, *, name: str = "parts_rejected") -> TelemetryRecord:
    """Return a figure that a program on the device reported."""
    tags = {"line": "4"}
    return TelemetryRecord(
        kpi=Kpi(
            time_us=time_us, name=name, value=value, unit="{part}", model="digits", release=1, digest=DIGEST, tags=tags
        )
    )


def drift_report(
    start_us: int, counts: Sequence[int] = (90, 10), *, state: str = "ok", frames: int = 100
) -> TelemetryRecord:
    """Return what the drift monitor saw in one minute."""
    return TelemetryRecord(
        drift=DriftReport(
            start_us=start_us,
            interval_ms=60_000,
            model="digits",
            release=1,
            digest=DIGEST,
            state=state,
            score=0.5,
            frames=frames,
            signals=[SignalReport(name="entropy", cusum=0.25, counts=counts, thinning=1)],
            log_e=-0.5,
            epoch_us=start_us,
            epoch_frames=frames,
            skew=SkewCheck(state="ok", frames=frames, p_value=0.5),
        )
    )


def sample(time_us: int, values: Sequence[float], *, model: str = "digits", reason: str = "random") -> SampleRecord:
    """Return a captured input: one frame of FP32 values."""
    return SampleRecord(
        time_us=time_us,
        model=model,
        release=1,
        digest=DIGEST,
        reason=reason,
        score=0.5,
        inclusion=0.01,
        request_id=f"r-{time_us}",
        input=Tensor(datatype="FP32", shape=[1, len(values)], data=struct.pack(f"<{len(values)}f", *values)),
        predicted="seven",
    )


def manifest(release: int, datasets: Mapping[str, str] | None = None, accuracy: float | None = None) -> Manifest:
    """Return what a bundle of the model ``animals`` says of itself, without its parts."""
    names = ("golden.bin", "model.tflite", "profile.json")
    return Manifest(
        model="animals",
        release=release,
        labels=("cat", "dog", "fox"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 2, 2, 1)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1, 3)),),
        lineage=Lineage(datasets=dict(datasets or {})),
        metrics={} if accuracy is None else {"accuracy": accuracy},
        blobs=tuple(Blob(name=name, size_bytes=1, sha256="0" * 64) for name in names),
    )


def telemetry_batch(
    stream: bytes,
    seqs: Sequence[int],
    records: Sequence[TelemetryRecord],
    produced: int = 0,
    losses: Sequence[Loss] = (),
) -> TelemetryBatch:
    """Return a message of telemetry; ``produced`` is the last sequence number unless it is given."""
    made = produced or max(seqs, default=0)
    dropped = sum(loss.count for loss in losses)
    return TelemetryBatch(stream=stream, seqs=seqs, records=records, produced=made, dropped=dropped, losses=losses)


def sample_batch(stream: bytes, seqs: Sequence[int], samples: Sequence[SampleRecord]) -> SampleBatch:
    """Return a message of samples."""
    return SampleBatch(stream=stream, seqs=seqs, samples=samples, produced=max(seqs, default=0))


def received(message: TelemetryBatch | SampleBatch) -> Batch:
    """Return a message as the store has parsed and checked it."""
    kind = Kind.SAMPLES if isinstance(message, SampleBatch) else Kind.TELEMETRY
    return parse(kind, message.SerializeToString())


def _bucket(value: float, scale: int) -> int:
    """Return ``i`` with ``value`` in ``(2^(i / 2^scale), 2^((i + 1) / 2^scale)]``."""
    index = 0
    while 2.0 ** (index / 2.0**scale) < value:
        index += 1
    while 2.0 ** (index / 2.0**scale) >= value:
        index -= 1
    return index


def accept(connection: Connection, names: Iterable[str]) -> None:
    """Let devices take part that the database does not know yet; within the caller's transaction."""
    known = set(connection.execute(select(devices.c.id)).scalars())
    if new := [{"id": name, "state": "accepted", "created_ms": 0} for name in sorted(set(names) - known)]:
        connection.execute(devices.insert(), new)
