"""Everything that reports, put together: the collector, the uploaders of the spool's streams, and their allowance."""

import random
import threading
from collections.abc import Mapping

from dsops_agent.backoff import Backoff
from dsops_agent.conditions import is_metered
from dsops_agent.config_telemetry import Telemetry
from dsops_agent.host import Host
from dsops_agent.moment import Moments
from dsops_agent.telemetry.allowance import Allowance
from dsops_agent.telemetry.collect import AgentFigures, Collector, Rhythm
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.upload import BatchT, Encode, Terms, Uploader, encode_samples, encode_telemetry
from dsops_agent.telemetry.worth import Kind
from dsops_agent.threads import Threads
from dsops_agent.transport.grpc import StoreChannel, Upload, sample_upload, telemetry_upload

_FIRST_WAIT_S = 1.0
_FLUSH_S = 3.2


class Reporting:
    """What the control process reports, and how the spool is emptied.

    Args:
        config: How often, and how much.
        spool: Where records wait.
        moments: Tells when a record is made, and the time.
        host: This host.
        agent: What is known of the agent itself.
        channel: The way to the store.

    Raises:
        DeviceError: The spool cannot be read.
    """

    def __init__(
        self,
        config: Telemetry,
        spool: Spool,
        moments: Moments,
        *,
        host: Host,
        agent: AgentFigures,
        channel: StoreChannel,
    ) -> None:
        self._config = config
        self._spool = spool
        self._moments = moments
        self._allowance = Allowance(
            config.upload_rules(), moments.clock, lambda: is_metered(config.metered), spool.today(), spool.keep_today
        )
        rhythm = Rhythm(config.interval_s, config.heartbeat_s)
        self._collector = Collector(host, spool, moments, rhythm=rhythm, agent=agent)
        report = telemetry_upload(channel)
        self._uploaders = (
            self._uploader("events", report, encode_telemetry),
            self._uploader("telemetry", report, encode_telemetry),
            self._uploader("samples", sample_upload(channel), encode_samples),
        )

    def start(self, threads: Threads, stop: threading.Event) -> None:
        """Start the threads."""
        threads.start("collector", lambda: self._collector.run(stop))
        for uploader in self._uploaders:
            threads.start(f"upload-{uploader.kind}", uploader.run)

    def stop(self, threads: Threads) -> None:
        """Send what is left, within about three seconds, and end the uploaders."""
        for uploader in self._uploaders:
            uploader.stop()
        threads.join(_FLUSH_S, *(f"upload-{uploader.kind}" for uploader in self._uploaders))

    def problems(self) -> Mapping[str, str | None]:
        """Return why the newest try of each stream failed; None after a success."""
        return {uploader.kind: uploader.problem for uploader in self._uploaders}

    def _uploader(self, kind: Kind, upload: Upload[BatchT], encode: Encode[BatchT]) -> Uploader[BatchT]:
        return Uploader(
            kind,
            self._spool,
            self._moments.clock,
            upload=upload,
            encode=encode,
            terms=Terms(
                Backoff(_FIRST_WAIT_S, self._config.retry_max_s, random.SystemRandom().random),
                self._allowance,
                self._moments.heard,
            ),
        )
