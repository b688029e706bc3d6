"""What the control process itself reports: the host each interval, signs of life, and events when they happen."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dsops.api.v1.telemetry_pb2 import Event, Heartbeat, HostInterval, Served, TelemetryRecord, Waiting
from dsops.errors import DeviceError
from dsops_agent.host import Host, HostFigures
from dsops_agent.moment import Moments
from dsops_agent.telemetry.spool import Spool

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 1000


@dataclass(frozen=True)
class Rhythm:
    """How often the control process reports, in seconds; a heartbeat comes with the next interval that is due."""

    interval_s: float
    heartbeat_s: float


@dataclass(frozen=True)
class AgentFigures:
    """What is known of the agent itself.

    Attributes:
        version: Of the agent.
        runtime_rss_bytes: Memory of the data process.
        served: What the device serves now.
    """

    version: str
    runtime_rss_bytes: Callable[[], int]
    served: Callable[[], Sequence[Served]]


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
    """Reads the host at the end of each interval, and says that the device lives. :meth:`run` is the body of a thread.

    Args:
        host: This host.
        spool: Where records go.
        moments: Tells when a record is made, and the time.
        rhythm: How often.
        agent: What is known of the agent itself.
    """

    def __init__(self, host: Host, spool: Spool, moments: Moments, *, rhythm: Rhythm, agent: AgentFigures) -> None:
        self._host = host
        self._spool = spool
        self._moments = moments
        self._clock = moments.clock
        self._rhythm = rhythm
        self._agent = agent
        self._began_s = self._clock.monotonic_s()
        self._beat_s = self._began_s - rhythm.heartbeat_s

    def run(self, stop: threading.Event) -> None:
        """Report until ``stop`` is set; the interval that was begun is reported too."""
        while True:
            start, began_s = self._clock.now(), self._clock.monotonic_s()
            stopping = stop.wait(self._rhythm.interval_s)
            self.collect(start, self._clock.monotonic_s() - began_s)
            if stopping:
                return

    def collect(self, start: datetime, interval_s: float) -> None:
        """Report one interval; a spool that cannot be written is logged, and has counted the records."""
        try:
            figures = self._host.figures(self._agent.runtime_rss_bytes())
            records = [host_record(figures, start, interval_s, self._spool.waiting_bytes), *self._heartbeat()]
            for record in records:
                self._moments.stamp(record)
            self._spool.append("telemetry", [record.SerializeToString() for record in records])
        except (DeviceError, OSError) as error:
            logger.warning("the host's figures were not stored: %s", error)

    def _heartbeat(self) -> list[TelemetryRecord]:
        now_s = self._clock.monotonic_s()
        if now_s - self._beat_s < self._rhythm.heartbeat_s:
            return []
        self._beat_s = now_s
        beat = Heartbeat(
            time_us=microseconds(self._clock.now()),
            interval_ms=round(self._rhythm.heartbeat_s * 1000),
            agent_version=self._agent.version,
            uptime_s=int(now_s - self._began_s),
            served=self._agent.served(),
            waiting=[
                Waiting(kind=kind, records=counted.pending, bytes=counted.waiting_bytes)
                for kind, counted in self._spool.counters().items()
            ],
        )
        return [TelemetryRecord(heartbeat=beat)]


class SpoolEvents:
    """Takes events into the spool. An event that cannot be stored is logged, and the spool has counted it."""

    def __init__(self, spool: Spool, moments: Moments) -> None:
        self._spool = spool
        self._moments = moments

    def event(
        self, kind: str, model: str = "", release: int = 0, digest: str = "", code: str = "", message: str = ""
    ) -> None:
        """Store one event that happens now; kinds are those that ``telemetry.proto`` names."""
        event = Event(
            time_us=microseconds(self._moments.clock.now()),
            kind=kind,
            model=model,
            release=release,
            digest=digest,
            code=code,
            message=message[:MAX_MESSAGE_CHARS],
        )
        record = TelemetryRecord(event=event)
        self._moments.stamp(record)
        try:
            self._spool.append("events", [record.SerializeToString()])
        except DeviceError as error:
            logger.warning("event %s was not stored: %s", kind, error)
