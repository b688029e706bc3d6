"""The sources that a configuration names, joined in the order in which they are asked, and their threads."""

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dsops.clock import Clock
from dsops.messages import ModelState, Problem
from dsops.topics import Topics
from dsops_agent.config import Config, SiteCache, Transfer
from dsops_agent.install.ports import EventSink
from dsops_agent.install.slots import Slots
from dsops_agent.sources.chain import Chain, LastSource
from dsops_agent.sources.folder import FolderSource
from dsops_agent.sources.http import HttpSource
from dsops_agent.sources.shelf import Holdings, Shelf
from dsops_agent.sources.site import SiteSource
from dsops_agent.threads import Threads
from dsops_agent.transport.dates import judge_dates_by
from dsops_agent.transport.mqtt import MqttSession, Settings


@dataclass(frozen=True)
class Surroundings:
    """What sources need of the agent.

    Attributes:
        device: Its name.
        topics: Spells the topics.
        deliver: Takes chunks, by digest.
        lost: Told of a chunk that does not come, and why.
        receiving: Told now and then that bytes come.
        wasted: Told of a chunk whose bytes came for nothing.
        events: Keeps events.
        clock: Time.
        trusted_now: Returns a lower bound of the true time while the clock is known to be behind, else None.
        holdings: Says which bundles the device has.
    """

    device: str
    topics: Topics
    deliver: Callable[[str, bytes], None]
    lost: Callable[[str, Problem], None]
    receiving: Callable[[], None]
    wasted: Callable[[str], None]
    events: EventSink
    clock: Clock
    trusted_now: Callable[[], datetime | None]
    holdings: Holdings


class Site:
    """The site cache: the session with its broker, asking it, and leaving there what neighbours may need."""

    def __init__(self, config: Config, around: Surroundings, chain: Chain) -> None:
        cache = config.site_cache
        self.source = SiteSource(around.topics, chain, around.clock, cache.wait_s)
        settings = Settings(
            device=around.device,
            address=cache.broker or "",
            tls=lambda: _site_tls(cache, around) if cache.ca else None,
            keepalive_s=config.mqtt.keepalive_s,
            reconnect_max_s=config.mqtt.reconnect_max_s,
        )
        self.session = MqttSession(settings, None, self.source, around.clock)
        self.source.use(self.session)
        self.shelf: Shelf | None = None
        if cache.serve:
            folder = config.state / "site"
            self.shelf = shelf = Shelf(self.session, around.topics, folder, cache.max_bytes, around.holdings)
            self.source.on_connected = shelf.connected
            chain.observe(shelf.took)

    def start(self, threads: Threads, stop: threading.Event) -> None:
        """Start the threads."""
        threads.start("site-mqtt", self.session.run)
        threads.start("site", self.source.run)
        if self.shelf:
            shelf = self.shelf
            threads.start("site-shelf", lambda: shelf.run(stop))

    def stop(self) -> None:
        """Let the threads end."""
        self.session.stop()
        self.source.stop()


class Sources:
    """Every source of chunks: files that are offered on the device, the site cache, web servers, the fleet's broker.

    Attributes:
        chain: Asks them; the installer's source.
        folder: Reads what is offered on this device.
        site: The site cache, if there is one.
    """

    def __init__(self, config: Config, around: Surroundings, broker: LastSource) -> None:
        self.chain = Chain(around.deliver, around.lost, around.wasted, around.events, around.clock)
        self.folder = FolderSource(self.chain)
        self.site = Site(config, around, self.chain) if config.site_cache.broker else None
        transfer = config.transfer
        self._http = tuple(
            HttpSource(base, self.chain, lambda: _https(transfer, around), receiving=around.receiving)
            for base in transfer.http
        )
        self.chain.use((self.folder, *([self.site.source] if self.site else []), *self._http), broker)
        self.chain.withdrawn(self.folder.name)

    def start(self, threads: Threads, stop: threading.Event) -> None:
        """Start the threads."""
        threads.start("folder", self.folder.run)
        for number, source in enumerate(self._http, 1):
            threads.start(f"http-{number}", source.run)
        if self.site:
            self.site.start(threads, stop)

    def stop(self) -> None:
        """Let the threads end."""
        self.folder.stop()
        for source in self._http:
            source.stop()
        if self.site:
            self.site.stop()

    @property
    def problem(self) -> str | None:
        """Why there is no connection to the site's broker."""
        return self.site.session.problem if self.site else None


def _https(transfer: Transfer, around: Surroundings) -> ssl.SSLContext:
    return _context(transfer.http_ca, around)


def _site_tls(cache: SiteCache, around: Surroundings) -> ssl.SSLContext:
    context = _context(cache.ca, around)
    if cache.certificate and cache.key:
        context.load_cert_chain(cache.certificate, cache.key)
    return context


def _context(authority: Path | None, around: Surroundings) -> ssl.SSLContext:
    """Return the context of a connection; raises OSError or ValueError when the authority's file cannot be used."""
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    now = around.trusted_now()
    if now is not None and authority:
        judge_dates_by(context, lambda: now, authority)
    return context


def holdings(observed: Mapping[str, ModelState], slots: Slots) -> dict[str, Path | None]:
    """Return the bundles that a device has or fetches: the file of each by SHA-256, None while it is being fetched."""
    found: dict[str, Path | None] = {}
    for model, state in observed.items():
        if state.target and not state.install.is_final:
            found[state.target] = None
        for digest in filter(None, (state.active, state.previous)):
            file = slots.holding(model, digest)
            found[digest] = file.path if file else None
    return found
