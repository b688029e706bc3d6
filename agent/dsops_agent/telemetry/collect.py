"""What the control process itself reports: figures of the host each interval, and events when they happen."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from dsops.api.v1.telemetry_pb2 import Event, HostInterval, TelemetryRecord
from dsops.clock import Clock
from dsops.errors import DeviceError
from dsops_agent.host import Host, HostFigures
from dsops_agent.telemetry.spool import Spool

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 1000


def microseconds(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return int(moment.timestamp() * 1_000_000)


def host_record(figures: HostFigures, start: datetime, interval_s: float, spool_bytes: int) -> TelemetryRecord:
    """Return the record of one interval that began at ``start``."""
    return TelemetryRecord(
        host=HostInterval(
            start_us=microseconds(start),
            interval_ms=round(interval_s * 1000),
            cpu_percent=figures.cpu_percent,
            load_1m=figures.load_1m,
            memory_used_bytes=figures.memory_used_bytes,
            memory_total_bytes=figures.memory_total_bytes,
            disk_free_bytes=figures.disk_free_bytes,
            agent_rss_bytes=figures.agent_rss_bytes,
            runtime_rss_bytes=figures.runtime_rss_bytes,
            temperature_c=figures.temperature_c,
            spool_bytes=spool_bytes,
        )
    )


class Collector:
    """Reads the host at the end of each interval. :meth:`run` is the body of a thread."""

    def __init__(
        self, host: Host, spool: Spool, clock: Clock, *, interval_s: float, runtime_rss_bytes: Callable[[], int]
    ) -> None:
        self._host = host
        self._spool = spool
        self._clock = clock
        self._interval_s = interval_s
        self._runtime_rss_bytes = runtime_rss_bytes

    def run(self, stop: threading.Event) -> None:
        """Report until ``stop`` is set; the interval that was begun is reported too."""
        while True:
            start, began_s = self._clock.now(), self._clock.monotonic_s()
            stopping = stop.wait(self._interval_s)
            self.collect(start, self._clock.monotonic_s() - began_s)
            if stopping:
                return

    def collect(self, start: datetime, interval_s: float) -> None:
        """Report one interval; a spool that cannot be written is logged, and has counted the record."""
        try:
            figures = self._host.figures(self._runtime_rss_bytes())
            record = host_record(figures, start, interval_s, self._spool.waiting_bytes)
            self._spool.append("telemetry", [record.SerializeToString()])
        except (DeviceError, OSError) as error:
            logger.warning("the host's figures were not stored: %s", error)


class SpoolEvents:
    """Takes events into the spool. An event that cannot be stored is logged, and the spool has counted it."""

    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock

    def event(
        self, kind: str, model: str = "", release: int = 0, digest: str = "", code: str = "", message: str = ""
    ) -> None:
        """Store one event that happens now; kinds are those that ``telemetry.proto`` names."""
        event = Event(
            time_us=microseconds(self._clock.now()),
            kind=kind,
            model=model,
            release=release,
            digest=digest,
            code=code,
            message=message[:MAX_MESSAGE_CHARS],
        )
        try:
            self._spool.append("telemetry", [TelemetryRecord(event=event).SerializeToString()])
        except DeviceError as error:
            logger.warning("event %s was not stored: %s", kind, error)
