"""Uploads the spool: one thread for each stream, one batch in flight, deleted when the store acknowledged it.

The store keeps the highest number it has committed of each stream, in the transaction of the records (see
``protos/dsops/api/v1/telemetry.proto``). So a batch that is sent twice is stored once, provided that no later one
overtakes it: that is why there is only ever one in flight.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from dsops.api.v1.samples_pb2 import SampleBatch, SampleRecord
from dsops.api.v1.telemetry_pb2 import Ack, Loss, TelemetryBatch, TelemetryRecord
from dsops.clock import Clock
from dsops.errors import DeviceError, DsopsError, StoreUnreachable
from dsops_agent.backoff import Backoff
from dsops_agent.telemetry.allowance import Allowance
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.spool_records import Batch
from dsops_agent.telemetry.worth import Kind
from dsops_agent.transport.grpc import AckStream, Upload, code_and_text, pushback_s

logger = logging.getLogger(__name__)

DEADLINE_S = 30.0
FLUSH_S = 3.0
POLL_S = 1.0
LONGEST_WAIT_S = 60.0
"""However far off the allowance is: links and clocks change."""
LONGEST_PUSHBACK_S = 3600.0
"""However long the store asks to wait: it may be wrong."""
MAX_BATCH_BYTES = 1 << 20
MIN_BATCH_BYTES = 16 << 10
MAX_BATCH_RECORDS = 1000

BatchT = TypeVar("BatchT")


@dataclass
class Pace:
    """How much goes into a batch: halved when a batch was too much for the link or the store, doubled when it went."""

    max_bytes: int = MAX_BATCH_BYTES
    max_records: int = MAX_BATCH_RECORDS

    def shrink(self) -> None:
        """Halve both bounds."""
        self.max_bytes = max(MIN_BATCH_BYTES, self.max_bytes // 2)
        self.max_records = max(1, self.max_records // 2)

    def grow(self) -> None:
        """Double both bounds."""
        self.max_bytes = min(MAX_BATCH_BYTES, self.max_bytes * 2)
        self.max_records = min(MAX_BATCH_RECORDS, self.max_records * 2)


@dataclass(frozen=True)
class Sending(Generic[BatchT]):
    """A batch as a message, and the numbers of records that are no records."""

    message: BatchT
    unreadable: tuple[int, ...]


Encode = Callable[[Batch], Sending[BatchT]]


def encode_telemetry(batch: Batch) -> Sending[TelemetryBatch]:
    """Return a batch of telemetry as the message that goes out."""
    message = TelemetryBatch(stream=batch.stream, produced=batch.produced, dropped=batch.dropped, losses=_losses(batch))
    unreadable = []
    for seq, data in zip(batch.seqs, batch.records, strict=True):
        try:
            message.records.append(TelemetryRecord.FromString(data))
            message.seqs.append(seq)
        except DecodeError:
            unreadable.append(seq)
    return Sending(message, tuple(unreadable))


def encode_samples(batch: Batch) -> Sending[SampleBatch]:
    """Return a batch of samples as the message that goes out."""
    message = SampleBatch(stream=batch.stream, produced=batch.produced, dropped=batch.dropped, losses=_losses(batch))
    unreadable = []
    for seq, data in zip(batch.seqs, batch.records, strict=True):
        try:
            message.samples.append(SampleRecord.FromString(data))
            message.seqs.append(seq)
        except DecodeError:
            unreadable.append(seq)
    return Sending(message, tuple(unreadable))


def _losses(batch: Batch) -> list[Loss]:
    return [Loss(kind=loss.what, reason=loss.reason, count=loss.count) for loss in batch.losses]


@dataclass(frozen=True)
class Terms:
    """When an uploader sends, and what it learns on the way.

    Attributes:
        backoff: How long it waits after a failure.
        allowance: How much may go out.
        heard: Takes the store's time of each acknowledgement, microseconds since 1970 UTC.
    """

    backoff: Backoff
    allowance: Allowance
    heard: Callable[[int], None]


class Uploader(Generic[BatchT]):
    """Uploads one stream. :meth:`run` is the body of a thread; :meth:`stop` ends it within ``FLUSH_S`` seconds."""

    def __init__(
        self,
        kind: Kind,
        spool: Spool,
        clock: Clock,
        *,
        upload: Upload[BatchT],
        encode: Encode[BatchT],
        terms: Terms,
    ) -> None:
        self.kind = kind
        self._spool = spool
        self._clock = clock
        self._upload = upload
        self._encode = encode
        self._terms = terms
        self._pace = Pace()
        self._stopping = threading.Event()
        self._stream_lock = threading.Lock()
        self._stream: AckStream | None = None
        self._unacknowledged: Batch | None = None
        self.problem: str | None = None
        """Why the newest try failed; None after a success."""

    def run(self) -> None:
        """Upload until :meth:`stop`, then try once more to send what is left."""
        while not self._stopping.is_set():
            self._stopping.wait(self._round(DEADLINE_S))
        self._round(FLUSH_S, last=True)

    def stop(self) -> None:
        """End :meth:`run` soon. What is under way is broken off; the store knows what it has."""
        self._stopping.set()
        with self._stream_lock:
            if self._stream is not None:
                self._stream.cancel()

    def _round(self, deadline_s: float, *, last: bool = False) -> float:
        """Send what waits; return how many seconds to wait before the next round."""
        try:
            pause_s = self._drain(deadline_s, last=last)
        except grpc.RpcError as error:
            return self._after_failure(error, last=last)
        except DsopsError as error:
            return self._wait_s(str(error))
        self._terms.backoff.reset()
        self.problem = None
        return max(POLL_S, pause_s)

    def _drain(self, deadline_s: float, *, last: bool) -> float:
        batch, pause_s = self._next()
        if batch is None:
            return pause_s
        ends_s = self._clock.monotonic_s() + deadline_s / 2
        outbox: queue.SimpleQueue[BatchT | None] = queue.SimpleQueue()
        stream = self._open(outbox, deadline_s, last=last)
        try:
            acks = iter(stream)
            while batch is not None and not pause_s and self._clock.monotonic_s() < ends_s:
                pause_s = self._exchange(batch, outbox, acks)
                if not pause_s:
                    batch, pause_s = self._next()
            outbox.put(None)
            for _ in acks:  # a polite end: the store closes the stream when it has seen ours closed
                logger.debug("an acknowledgement that nobody asked for")
        finally:
            outbox.put(None)
            stream.cancel()
            with self._stream_lock:
                self._stream = None
        return pause_s

    def _next(self) -> tuple[Batch | None, float]:
        """Return the next batch, or in how many seconds there may be one."""
        batch = self._spool.batch(self.kind, self._pace.max_bytes, self._pace.max_records)
        if batch is None:
            return None, 0.0
        wait_s = self._terms.allowance.wait_s(self.kind, batch.size_bytes)
        return (None, min(wait_s, LONGEST_WAIT_S)) if wait_s > 0 else (batch, 0.0)

    def _open(self, outbox: "queue.SimpleQueue[BatchT | None]", deadline_s: float, *, last: bool) -> AckStream:
        with self._stream_lock:
            if self._stopping.is_set() and not last:
                raise StoreUnreachable("the upload was broken off", why="the agent stops")
            self._stream = stream = self._upload(iter(outbox.get, None), deadline_s, self._terms.allowance.is_metered)
            return stream

    def _exchange(self, batch: Batch, outbox: "queue.SimpleQueue[BatchT | None]", acks: Iterator[Ack]) -> float:
        """Send one batch and wait for its acknowledgement; return the pause in seconds that the store asks for."""
        sending = self._encode(batch)
        if sending.unreadable:
            logger.warning("%d %s records cannot be read and are dropped", len(sending.unreadable), self.kind)
            self._spool.drop(self.kind, sending.unreadable, "unreadable")
            if len(sending.unreadable) == len(batch.seqs):
                return 0.0
        self._unacknowledged = batch
        self._terms.allowance.spend(self.kind, batch.size_bytes)
        outbox.put(sending.message)
        ack = next(acks, None)
        if ack is None:
            raise StoreUnreachable("the store ended the stream", why="a batch was not acknowledged")
        if batch.seqs and ack.committed_seq < batch.seqs[0]:
            raise StoreUnreachable("the store acknowledged nothing", why=f"{ack.committed_seq} < {batch.seqs[0]}")
        self._unacknowledged = None
        self._terms.heard(ack.server_us)
        self._spool.ack(self.kind, ack.committed_seq, batch.dropped)
        self._pace.grow()
        return ack.pause_ms / 1000

    def _after_failure(self, error: grpc.RpcError, *, last: bool) -> float:
        code, text = code_and_text(error)
        batch, self._unacknowledged = self._unacknowledged, None
        if code is grpc.StatusCode.CANCELLED and (last or self._stopping.is_set()):
            return 0.0
        if asked_s := pushback_s(error):  # a quota, or a store that is busy: the same batch may come again later
            return self._wait_s(f"{code.name}: {text}", min(asked_s, LONGEST_PUSHBACK_S))
        is_broken = code is grpc.StatusCode.UNAVAILABLE and batch is not None  # the link may never hold for a whole one
        if is_broken or code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self._pace.shrink()
        if batch is not None and _is_poison(code, text):
            return self._split(batch, f"{code.name}: {text}")
        return self._wait_s(f"{code.name}: {text}")

    def _split(self, batch: Batch, why: str) -> float:
        """Try a refused batch in smaller ones; a single one is dropped, or it would stay for ever."""
        if not batch.seqs:
            return self._wait_s(why)
        if len(batch.seqs) > 1:
            self._pace.max_records = max(1, len(batch.seqs) // 2)
            return 0.0
        logger.warning("the store refuses a %s record, which is dropped: %s", self.kind, why)
        try:
            self._spool.drop(self.kind, batch.seqs, "refused")
        except DeviceError as error:
            return self._wait_s(str(error))
        return 0.0

    def _wait_s(self, why: str, least_s: float = 0.0) -> float:
        """Return how long to wait: at least so long, and a share drawn at random, or all would come back at once."""
        wait_s = least_s + self._terms.backoff.next_s()
        self.problem = why
        logger.warning("upload of %s failed, next try in %.1f s: %s", self.kind, wait_s, why)
        return wait_s


def _is_poison(code: grpc.StatusCode, text: str) -> bool:
    """Whether the same batch will be refused again, as opposed to a store that is busy now."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # gRPC gives this code to messages over the size limit, too
        return "larger than max" in text
    return code is grpc.StatusCode.INVALID_ARGUMENT
