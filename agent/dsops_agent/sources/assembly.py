"""The sources that a configuration names, joined in the order in which they are asked, and their threads."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dsops.clock import Clock
from dsops_agent.config import Transfer
from dsops_agent.install.ports import EventSink
from dsops_agent.sources.chain import Chain, LastSource
from dsops_agent.sources.folder import FolderSource
from dsops_agent.sources.http import HttpSource
from dsops_agent.threads import Threads
from dsops_agent.transport.dates import judge_dates_by


@dataclass(frozen=True)
class Surroundings:
    """What sources need of the agent.

    Attributes:
        deliver: Takes chunks, by digest.
        events: Keeps events.
        clock: Time.
        trusted_now: Returns a lower bound of the true time while the clock is known to be behind, else None.
    """

    deliver: Callable[[str, bytes], None]
    events: EventSink
    clock: Clock
    trusted_now: Callable[[], datetime | None]


class Sources:
    """Every source of chunks.

    Attributes:
        chain: Asks them; the installer's source.
        folder: Reads what is offered on this device.
    """

    def __init__(self, transfer: Transfer, around: Surroundings, broker: LastSource) -> None:
        self.chain = Chain(around.deliver, around.events, around.clock)
        self._http = tuple(HttpSource(base, self.chain, lambda: _https(transfer, around)) for base in transfer.http)
        self.folder = FolderSource(self.chain)
        self.chain.use((self.folder, *self._http), broker)
        self.chain.withdrawn(self.folder.name)

    def start(self, threads: Threads) -> None:
        """Start the threads."""
        threads.start("folder", self.folder.run)
        for number, source in enumerate(self._http, 1):
            threads.start(f"http-{number}", source.run)

    def stop(self) -> None:
        """Let the threads end."""
        self.folder.stop()
        for source in self._http:
            source.stop()


def _https(transfer: Transfer, around: Surroundings) -> ssl.SSLContext:
    """Return the context of a connection; raises OSError or ValueError when the authority's file cannot be used."""
    context = ssl.create_default_context(cafile=str(transfer.http_ca) if transfer.http_ca else None)
    now = around.trusted_now()
    if now is not None and transfer.http_ca:
        judge_dates_by(context, lambda: now, transfer.http_ca)
    return context
