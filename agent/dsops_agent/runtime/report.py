"""Ends intervals on time, and hands finished records to the control process."""

import logging
import secrets
import threading
import weakref
from collections.abc import Callable

from dsops.api.v1 import samples_pb2, telemetry_pb2
from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_agent.give_back import give_back_free
from dsops_agent.moment import Moments
from dsops_agent.runtime.channel import Channel
from dsops_agent.runtime.collect import micros
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.records import BATCH_BYTES, Kind, RecordBuffer
from dsops_agent.runtime.swap import Serving
from dsops_agent.runtime.watch import ModelWatch

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_LAST_TIMEOUT_S = 1.0
_SETTLE_S, _LAST_SETTLE_S = 1.0, 0.3


class Reporter:
    """Knows every watch that may still have something to report, and the buffer of finished records.

    Args:
        make_watch: Makes the watch of a bundle; it puts its records by the function that it is given.
        serving: Returns everything that is served now.
        channel: Returns the channel to the control process, or None.
        settle: Waits, at most so many seconds, until the watches have been shown what was answered before.
        interval_s: Length of an interval.
        clock: Tells the time.
    """

    def __init__(
        self,
        make_watch: Callable[[ServedModel, Callable[[Kind, bytes, bool], None]], ModelWatch],
        serving: Callable[[], list[Serving]],
        channel: Callable[[], Channel | None],
        settle: Callable[[float], object],
        interval_s: float,
        clock: Clock,
    ) -> None:
        self.buffer = RecordBuffer()
        self._make_watch = make_watch
        self._serving = serving
        self._channel = channel
        self._settle = settle
        self._interval_s = interval_s
        self._clock = clock
        self._moments = Moments(clock)
        self._source = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._watches: list[ModelWatch] = []
        self._idle: set[int] = set()
        self._served: dict[int, weakref.ref[Serving]] = {}
        self._wake = threading.Event()
        self._stopped = False

    def watch(self, served: ServedModel) -> ModelWatch:
        """Return the watch of a bundle that is about to be served."""
        made = self._make_watch(served, self.put)
        with self._lock:
            self._watches.append(made)
        return made

    def wish(self) -> None:
        """Have every watch look anew which samples somebody asked for."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.wish()

    def event(self, kind: str, message: str) -> None:
        """Report something that is of no model."""
        event = telemetry_pb2.Event(time_us=micros(self._clock.now()), kind=kind, message=message)
        self.put(Kind.TELEMETRY, telemetry_pb2.TelemetryRecord(event=event).SerializeToString(), True)

    def run(self) -> None:
        """Report until :meth:`stop`; the body of a thread."""
        due_s = self._clock.monotonic_s() + self._interval_s
        while not self._stopped:
            self._wake.wait(max(due_s - self._clock.monotonic_s(), 0.0))
            self._wake.clear()
            is_due = self._clock.monotonic_s() >= due_s
            if is_due:
                due_s = self._clock.monotonic_s() + self._interval_s
            try:
                if is_due:
                    self.end_intervals()
                self.send(_TIMEOUT_S)
            except Exception:  # the border of the thread: reporting must go on with the next interval
                logger.exception("records could not be reported")

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped = True
        self._wake.set()

    def end_intervals(self, settle_s: float = _SETTLE_S) -> None:
        """End every watch's interval. A bundle that is no longer served and did nothing more is forgotten.

        The memory that it had goes back to the kernel then. One whose last request is still under way is not forgotten:
        the answer will be counted. Its samples do not wait for the end of their period: a hundred releases in a quarter
        of an hour would all wait.
        """
        self._settle(settle_s)
        if self._end_and_forget():
            give_back_free()

    def _end_and_forget(self) -> bool:
        """End every watch's interval; return whether one was forgotten, of which nothing is left here then."""
        active = {id(serving.watch): weakref.ref(serving) for serving in self._serving()}
        self._served |= active
        with self._lock:
            watches = list(self._watches)
        idle = {id(watch) for watch in watches if not watch.end_interval()} - active.keys()
        # One that is idle for the first time may be about to be served.
        over = {one for one in self._idle & idle if not self._is_held(one)}
        self._idle = idle - over
        for watch in watches:
            if id(watch) in over:
                watch.finish()
                self._served.pop(id(watch), None)
        with self._lock:
            self._watches = [watch for watch in self._watches if id(watch) not in over]
        return bool(over)

    def _is_held(self, watch: int) -> bool:
        """Return whether what the watch is of is still held, by a request."""
        served = self._served.get(watch)
        return served is not None and served() is not None

    def send(self, timeout_s: float) -> bool:
        """Send what waits; False when something still waits: there is no control process, it refused, or is slow.

        Another thread that sends is waited for: who ends the process may come while the last batch is under way.
        """
        if not self._sending.acquire(timeout=timeout_s):
            return False
        try:
            return self._send(timeout_s)
        finally:
            self._sending.release()

    def _send(self, timeout_s: float) -> bool:
        while (batch := self.buffer.batch()) is not None:
            channel = self._channel()
            if channel is None:
                return False
            try:
                channel.call("records", b"".join(batch.records), timeout_s, **batch.header(self._source))
            except DsopsError as error:
                logger.warning("%d records wait: %s", len(batch.records), error)
                return False
            self.buffer.confirm(batch)
        return True

    def finish(self) -> None:
        """End the intervals and send what there is, at the end of the process."""
        self.end_intervals(_LAST_SETTLE_S)
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.finish()
        if not self.send(_LAST_TIMEOUT_S):
            logger.warning("%d records could not be handed over and are lost", self.buffer.waiting)

    def put(self, kind: Kind, record: bytes, urgent: bool) -> None:
        """Take a finished record, made now; one that is urgent is sent at once."""
        holder = samples_pb2.SampleRecord if kind is Kind.SAMPLES else telemetry_pb2.TelemetryRecord
        self.buffer.add(kind, self._moments.appended(holder, record))
        if urgent or self.buffer.waiting_bytes >= BATCH_BYTES:
            self._wake.set()
