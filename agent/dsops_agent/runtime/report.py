"""Ends intervals on time, and hands finished records to the control process."""

import logging
import secrets
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from dsops.api.v1 import samples_pb2, telemetry_pb2
from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_agent.give_back import give_back_free
from dsops_agent.moment import Moments
from dsops_agent.runtime.channel import Channel
from dsops_agent.runtime.collect import micros
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.records import BATCH_BYTES, Kind, RecordBuffer
from dsops_agent.runtime.watch import ModelWatch

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_LAST_TIMEOUT_S = 1.0
_SETTLE_S, _LAST_SETTLE_S = 1.0, 0.3
_AGAIN_S = 0.25
"""How often is looked whether the last answers of a replaced bundle were looked at."""


@dataclass(eq=False)
class _Watched:
    """A watch, and the bundle that it watches: when nothing holds that any more, no request is under way either.

    Attributes:
        is_seen: Tells whether the last of its answers was looked at; None while there may be more.
    """

    watch: ModelWatch
    served: "weakref.ref[ServedModel]"
    is_seen: Callable[[], bool] | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more requests will come."""
        return self.served() is None


class Reporter:
    """Knows every watch that may still have something to report, and the buffer of finished records.

    Args:
        make_watch: Makes the watch of a bundle; it puts its records by the function that it is given.
        channel: Returns the channel to the control process, or None.
        settle: Waits, at most so many seconds, until the watches have been shown what was answered before.
        mark: Returns what tells whether they have been shown what was answered until now.
        interval_s: Length of an interval.
        clock: Tells the time.
    """

    def __init__(
        self,
        make_watch: Callable[[ServedModel, Callable[[Kind, bytes, bool], None]], ModelWatch],
        channel: Callable[[], Channel | None],
        settle: Callable[[float], object],
        mark: Callable[[], Callable[[], bool]],
        interval_s: float,
        clock: Clock,
    ) -> None:
        self.buffer = RecordBuffer()
        self._make_watch = make_watch
        self._channel = channel
        self._settle = settle
        self._mark = mark
        self._interval_s = interval_s
        self._clock = clock
        self._moments = Moments(clock)
        self._source = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._watched: list[_Watched] = []
        self._has_waiting = False
        # The garbage collector may put into it at any time, in any thread.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopped = False

    def watch(self, served: ServedModel) -> ModelWatch:
        """Return the watch of a bundle that is about to be served."""
        made = self._make_watch(served, self.put)
        one = _Watched(made, weakref.ref(served, lambda _: self._wake.put(None)))
        with self._lock:
            self._watched.append(one)
        return made

    def wish(self) -> None:
        """Have every watch look anew which samples somebody asked for."""
        for one in self._all():
            one.watch.wish()

    def event(self, kind: str, message: str) -> None:
        """Report something that is of no model."""
        event = telemetry_pb2.Event(time_us=micros(self._clock.now()), kind=kind, message=message)
        self.put(Kind.TELEMETRY, telemetry_pb2.TelemetryRecord(event=event).SerializeToString(), True)

    def run(self) -> None:
        """Report until :meth:`stop`; the body of a thread."""
        due_s = self._clock.monotonic_s() + self._interval_s
        while not self._stopped:
            left_s = due_s - self._clock.monotonic_s()
            self._wait(max(min(left_s, _AGAIN_S) if self._has_waiting else left_s, 0.0))
            is_due = self._clock.monotonic_s() >= due_s
            if is_due:
                due_s = self._clock.monotonic_s() + self._interval_s
            try:
                if is_due:
                    self.end_intervals()
                self.end_replaced()
                self.send(_TIMEOUT_S)
            except Exception:  # the border of the thread: reporting must go on with the next interval
                logger.exception("records could not be reported")

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped = True
        self._wake.put(None)

    def end_intervals(self, settle_s: float = _SETTLE_S) -> None:
        """End every watch's interval, once what was answered in it was looked at, or ``settle_s`` are over."""
        self._settle(settle_s)
        for one in self._all():
            one.watch.end_interval()

    def end_replaced(self) -> None:
        """End the intervals of bundles that were replaced and whose answers were looked at, and forget their watches.

        They do not wait for the end of the interval, nor their samples for that of a period: all releases of that time
        would be in memory together. The memory that they had goes back to the kernel.
        """
        if self._forget_replaced():
            give_back_free()

    def _forget_replaced(self) -> bool:
        """Return whether a watch was forgotten, of which nothing is left here then."""
        over = [one for one in self._all() if one.is_over]
        for one in over:
            one.is_seen = one.is_seen or self._mark()  # nothing more will be offered of it
        forgotten = {one for one in over if one.is_seen and one.is_seen()}
        for one in forgotten:
            one.watch.end_interval()
            one.watch.finish()
        with self._lock:
            self._watched = [one for one in self._watched if one not in forgotten]
        self._has_waiting = len(forgotten) < len(over)
        return bool(forgotten)

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
        for one in self._all():
            one.watch.finish()
        if not self.send(_LAST_TIMEOUT_S):
            logger.warning("%d records could not be handed over and are lost", self.buffer.waiting)

    def put(self, kind: Kind, record: bytes, urgent: bool) -> None:
        """Take a finished record, made now; one that is urgent is sent at once."""
        holder = samples_pb2.SampleRecord if kind is Kind.SAMPLES else telemetry_pb2.TelemetryRecord
        self.buffer.add(kind, self._moments.appended(holder, record))
        if urgent or self.buffer.waiting_bytes >= BATCH_BYTES:
            self._wake.put(None)

    def _all(self) -> list[_Watched]:
        with self._lock:
            return list(self._watched)

    def _wait(self, timeout_s: float) -> None:
        """Wait until there is something to do, however often that was said."""
        try:
            self._wake.get(timeout=timeout_s)
            while True:
                self._wake.get_nowait()
        except Empty:
            pass
