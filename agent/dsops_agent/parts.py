"""The parts of a control process that has an identity, joined, started and stopped in order."""

import logging
import platform
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import dsops
from dsops.api.v1.telemetry_pb2 import Served
from dsops.clock import Clock
from dsops.directive import TransferLimits
from dsops.errors import DsopsError, InvalidConfig
from dsops.messages import Connection, Inventory, Problem
from dsops.topics import Topics
from dsops_agent.boot import boot_id
from dsops_agent.challenger_processes import ChallengerProcesses, Runtimes
from dsops_agent.commander import Commander
from dsops_agent.conditions import SystemConditions, VetoProgram
from dsops_agent.config import Config
from dsops_agent.credentials import Credentials
from dsops_agent.feed_process import FeedSupervisor
from dsops_agent.heartbeats import Heartbeats
from dsops_agent.host import SystemHost, why_no_runtime
from dsops_agent.identity import Identity, fingerprint
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.gate import Gate
from dsops_agent.install.installer import Installer
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Death, DeviceFacts, InstallConfig
from dsops_agent.install.probation import Rules
from dsops_agent.install.slots import Slots
from dsops_agent.launching import EarlyStart, launch, launch_challenger
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.reporter import Reporter, Signer
from dsops_agent.room import HostRoom
from dsops_agent.runtime_process import Launch
from dsops_agent.sources.assembly import Sources, Surroundings, holdings
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.sources.offers import Offers
from dsops_agent.status import Quarantined, SpoolStatus, Status
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.assembly import Reporting
from dsops_agent.telemetry.collect import AgentFigures, SpoolEvents
from dsops_agent.telemetry.spool import Spool
from dsops_agent.threads import Threads
from dsops_agent.transport.dates import judge_dates_by
from dsops_agent.transport.grpc import StoreChannel
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from dsops_agent.trust.store import TrustStore
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

PROVE_MEMORY_BYTES = 2 << 30
_RUNTIME_READY_S = 20.0
_INSTALLER, _MQTT, _SUPERVISOR = "the installer", "the connection to the broker", "the supervisor of the runtime"
_WITHIN_S = {_INSTALLER: 600.0, _MQTT: 120.0, _SUPERVISOR: 120.0}
"""The longest rounds: a step that reads a large bundle from a slow disk and changes over; a handshake; a start."""


def prover(config: Config) -> Prover:
    """Return what tries candidates, as the inference process will run them."""
    inference = config.inference
    delegate = inference.delegate.as_json() if inference.delegate else ""
    return Prover(inference.threads, delegate, cpus=inference.cpus, nice=inference.nice)


def install_config(config: Config) -> InstallConfig:
    """Return the installer's settings."""
    return InstallConfig(
        probation_s=config.install.probation_s,
        chunk_timeout_s=config.install.chunk_timeout_s,
        window=config.install.window,
        free_bytes=config.install.free_bytes,
        max_bundle_bytes=config.install.max_bundle_bytes,
        prove_memory_bytes=PROVE_MEMORY_BYTES,
        max_slowdown=config.install.max_slowdown,
        transfer=TransferLimits(bytes_per_s=config.transfer.bytes_per_s, bytes_per_day=config.transfer.bytes_per_day),
        scrub_hours=config.install.scrub_hours,
        rules=Rules(
            failures=config.install.probation_failures,
            slower=config.install.probation_slower,
            distance=config.install.probation_distance,
            false_alarms=config.install.probation_false_alarms,
        ),
        strikes=config.install.strikes,
        strike_span_s=config.install.strike_span_s,
    )


def gate(config: Config, clock: Clock) -> Gate:
    """Return what holds installs back until the device's maintenance rules allow them."""
    settings = config.maintenance
    rules = settings.rules()
    veto = VetoProgram(settings.veto, settings.veto_timeout_s, clock) if settings.veto else None
    return Gate(rules, SystemConditions(config.temperature_sensor) if rules.ask_the_host else None, veto)


def _life(identity: Identity, topics: Topics, journal: Journal, inventory: Inventory) -> Life:
    boot_id = secrets.token_hex(8)

    def message(seq: int, online: bool) -> bytes:
        facts = inventory if online else Inventory()
        connection = Connection(device=identity.device, online=online, boot_id=boot_id, conn_seq=seq, inventory=facts)
        return connection.encode()

    return Life(topics.connection(identity.device), partial(journal.next, "connection"), message)


@dataclass
class Parts:
    """Everything that runs on an enrolled device. Implements the broker session's inbox and the installer's listener.

    Nothing starts before :meth:`start`. ``is_awaited`` tells that somebody waits for the device's first contact.
    """

    config: Config
    credentials: Credentials
    clock: Clock
    inventory: Inventory
    status_changed: Callable[[], None]
    hearts: Heartbeats
    early: EarlyStart
    is_awaited: bool = False

    def __post_init__(self) -> None:
        """Join the parts."""
        self.identity = self.credentials.current
        state, device = self.config.state, self.identity.device
        self._recovering, self._recovered = threading.Event(), threading.Event()
        self._topics = Topics(self.identity.fleet.topic_prefix)
        self._journal = Journal(state / "journal.db")
        self._spool = Spool(state / "spool", self.config.telemetry.spool_bytes, self.clock)
        self._moments = Moments(self.clock)
        self._events = SpoolEvents(self._spool, self._moments)
        self._supervisor = RuntimeSupervisor(
            launch(self.config),
            prover(self.config),
            self._spool,
            self._events,
            self.clock,
            Told(self._runtime_started, self._runtime_died),
        )
        self._supervisor.beat, self._supervisor.early = self._beat(_SUPERVISOR), self.early.take
        self._supervisor.wishes = self._journal.sample_requests
        self._challengers = ChallengerProcesses(
            self.config.run_folder,
            self._challenger_supervisor,
            partial(launch_challenger, self.config),
            lambda model, has_ended: self._installer.challenger_started(model, has_ended=has_ended),
        )
        self._feed = FeedSupervisor(self.config, self.clock) if self.config.source else None
        built = datetime.fromisoformat(dsops.BUILD_TIME)
        self._trust = TrustStore(state / "trust", self._first_root(), self.clock, built)
        self._session = self._make_session()
        signer = Signer(
            device, self._topics.state(device), lambda: self.credentials.current.key, self._journal.next_report
        )
        self._reporter = Reporter(
            signer, lambda: self._installer, self._session, lambda: self._session.is_connected, self.clock
        )
        self._sources = self._make_sources()
        self._installer = self._make_installer()
        self._commander = Commander(
            self._topics, device, self._installer, partial(self._sources.chain.came, MqttChunks.name)
        )
        self._offers = Offers(state / "offers", self._sources.folder, self._sources.chain, self._installer, self.clock)
        self._channel = StoreChannel(lambda: self.credentials.current, self.clock)
        self._reporting = Reporting(
            self.config.telemetry,
            self._spool,
            self._moments,
            host=SystemHost(state, self.config.temperature_sensor),
            agent=AgentFigures(dsops.__version__, lambda: self._supervisor.rss_bytes, self._served),
            channel=self._channel,
        )

    def _served(self) -> list[Served]:
        """Return what the device's slots say that it serves, and whether the inference process does."""
        return [
            Served(
                model=model,
                release=state.active_release,
                digest=state.active,
                state="serving" if self._supervisor.is_serving(model, state.active) else "not serving",
            )
            for model, state in self._installer.observed().items()
            if state.active is not None
        ]

    def _challenger_supervisor(self, how: Launch, started: Callable[[bool], None]) -> RuntimeSupervisor:
        unasked = Prover(self.config.inference.threads)  # candidates are proved for the champions' one
        told = Told(started, lambda _death: None)  # how often it ended is counted by whom the start is told
        return RuntimeSupervisor(how, unasked, self._spool, self._events, self.clock, told)

    def _make_session(self) -> MqttSession:
        settings = Settings(
            device=self.identity.device,
            address=self.identity.fleet.broker,
            tls=self._tls,
            keepalive_s=self.config.mqtt.keepalive_s,
            first_contact_max_s=self.config.mqtt.first_contact_max_s,
            is_awaited=self.is_awaited,
            reconnect_max_s=self.config.mqtt.reconnect_max_s,
            will_delay_s=self.config.mqtt.will_delay_s,
            accepted=self.credentials.accepted,
            refused=self.credentials.refused,
            beat=self._beat(_MQTT),
            receiving=self._receiving,
        )
        life = _life(self.identity, self._topics, self._journal, self.inventory)
        session = MqttSession(settings, life, self, self.clock)
        session.subscribe(self._topics.down(self.identity.device), 1)
        session.subscribe(self._topics.trust(), 1)
        return session

    def _tls(self) -> ssl.SSLContext:
        """Return the context of a connection; a clock that is behind must not judge the broker's certificate."""
        context = self.credentials.tls()
        if self._trust.clock_state() is ClockState.BEHIND:
            judge_dates_by(context, self._trust.now, self.credentials.current.ca_path)
        return context

    def _make_sources(self) -> Sources:
        device = self.identity.device
        around = Surroundings(
            device=device,
            topics=self._topics,
            deliver=self._chunk_came,
            lost=self._chunk_lost,
            receiving=self._receiving,
            wasted=self._chunk_wasted,
            events=self._events,
            clock=self.clock,
            trusted_now=self._trusted_now,
            holdings=lambda: holdings(self._installer.observed(), self._installer.slots),
        )
        broker = MqttChunks(self._session, self._topics, device, self._chunk_lost)
        return Sources(self.config, around, broker)

    def _trusted_now(self) -> datetime | None:
        return self._trust.now() if self._trust.clock_state() is ClockState.BEHIND else None

    def _make_installer(self) -> Installer:
        state = self.config.state
        runtimes = Runtimes(self._supervisor, self._challengers)
        return Installer(
            config=install_config(self.config),
            device=DeviceFacts(self.identity.device, self.identity.fleet.fleet, platform.machine(), boot_id()),
            journal=self._journal,
            slots=Slots(state / "slots", self._journal),
            trust=self._trust,
            chunks=self._sources.chain,
            runtime=runtimes,
            challengers=runtimes,
            keys=ContentKeys(self.identity.device, self._journal, self.credentials.content_key),
            room=HostRoom(state),
            events=self._events,
            listener=self,
            clock=self.clock,
            gate=gate(self.config, self.clock),
            is_at_hand=self._sources.folder.has,
            beat=self._beat(_INSTALLER),
        )

    def _first_root(self) -> bytes:
        path = self.config.trust.root
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidConfig(
                f"cannot read {path}",
                why=f"trust.root names it: {error.strerror}",
                hint="copy the fleet's 1.root.json to the device",
                key="trust.root",
            ) from error

    # What others tell us.

    def _chunk_came(self, digest: str, data: bytes) -> None:
        self._installer.chunk_arrived(digest, data)

    def message(self, topic: str, payload: bytes) -> None:
        """Take a message from the broker."""
        if not self._commander.on_message(topic, payload):
            logger.debug("a message on %s is for nobody", topic)

    def _chunk_lost(self, digest: str, problem: Problem) -> None:
        self._installer.chunk_lost(digest, problem)

    def _chunk_wasted(self, digest: str) -> None:
        self._installer.chunk_wasted(digest)

    def _receiving(self) -> None:
        self._installer.receiving()

    def connected(self) -> None:
        """Take note of a connection to the broker."""
        self._installer.connected()
        self._reporter.changed()
        self.status_changed()

    def disconnected(self) -> None:
        """Take note of the loss of the connection."""
        self.status_changed()

    def changed(self) -> None:
        """Take note of a change of observed state."""
        self._reporter.changed()
        self.status_changed()

    def identity_changed(self) -> None:
        """Connect with the identity of now; the store's channel follows by itself, and so do reports."""
        self._session.reconnect(self.credentials.current.fleet.broker)
        self.status_changed()

    def _runtime_started(self, is_first: bool) -> None:
        if not is_first or self._recovering.is_set():
            self._installer.runtime_restarted()
        self.status_changed()

    # Who watches over the loops.

    def _beat(self, name: str) -> Callable[[float], None]:
        return lambda rest_s: self.hearts.beat(name, self.clock.monotonic_s(), rest_s)

    def _watched(self, threads: Threads, thread: str, name: str, body: Callable[[], None]) -> None:
        """Start a thread whose loop must make progress until it comes to its end."""
        self.hearts.expect(name, _WITHIN_S[name], self.clock.monotonic_s())

        def run() -> None:
            body()
            self.hearts.forget(name)

        threads.start(thread, run)

    @property
    def is_ready(self) -> bool:
        """Whether everything that is installed answers, or the inference process was waited for in vain."""
        return self._recovered.is_set()

    def summary(self) -> str:
        """Return a line for people."""
        if not self.is_ready:
            return "starts: what is installed is looked at and activated"
        active = {name: state.active_release for name, state in self._installer.observed().items() if state.active}
        models = ", ".join(f"{name}/{release}" for name, release in sorted(active.items())) or "no model yet"
        answers = f"answers {models}" if self._supervisor.pid else "the inference process is not running"
        return f"{answers}; {'connected' if self._session.is_connected else self._session.problem or 'not connected'}"

    def _runtime_died(self, death: Death) -> None:
        self._installer.runtime_died(death)

    # Start and end.

    def start(self, threads: Threads, stop: threading.Event) -> None:
        """Start the threads."""
        self._watched(threads, "runtime", _SUPERVISOR, self._supervisor.run)
        if (feed := self._feed) is not None:
            threads.start("feed", lambda: feed.run(stop))
        threads.start("prover", lambda: self._installer.prove(stop))
        threads.start("challengers", lambda: self._installer.attend(stop))
        self._watched(threads, "installer", _INSTALLER, lambda: self._install(stop))
        self._sources.start(threads, stop)
        threads.start("offers", lambda: self._offers.run(stop))
        self._watched(threads, "mqtt", _MQTT, self._session.run)
        threads.start("reporter", lambda: self._reporter.run(stop))
        self._reporting.start(threads, stop)

    def _install(self, stop: threading.Event) -> None:
        """Recover once the inference process answers, or without it when it takes too long; then install."""
        ends_s = self.clock.monotonic_s() + _RUNTIME_READY_S
        while not self._supervisor.ready.wait(0.1) and not stop.is_set() and self.clock.monotonic_s() < ends_s:
            continue
        if stop.is_set():
            return
        self._recovering.set()
        self._installer.recover()
        self._recovered.set()
        self._installer.run(stop)

    def stop(self, threads: Threads) -> None:
        """Stop the threads after their ``stop`` was set: first who uses others, last who sends what is left."""
        threads.join(1.0, "installer", "reporter", "collector", "offers", "site-shelf")
        self._sources.stop()
        self._session.stop()
        self._supervisor.leave()
        self._challengers.leave()
        threads.join(5.5, "runtime", "prover", "challengers", "mqtt", "feed")
        self._challengers.join(0.5)
        self._reporting.stop(threads)

    def close(self) -> None:
        """Close files and connections."""
        self._channel.close()
        self._spool.close()
        self._journal.close()
        self._trust.close()

    def status(self, base: Status, problems: Mapping[str, str]) -> Status:
        """Return what is known of the parts, and of ``problems`` elsewhere."""
        identity = self.credentials.current
        models = self._installer.observed()
        folders = {model: self._installer.slots.files(model) for model in models}
        mine = {
            "broker": self._session.problem,
            "journal": self._journal_loss(),
            "inference": self._supervisor.held_back,
            "site cache": self._sources.problem,
            **self._reporting.problems(),
            "delegate": self._supervisor.delegate_problem,
            "runtime": why_no_runtime(),
        }
        return base.model_copy(
            update={
                "enrolled": True,
                "connected": self._session.is_connected,
                "fleet": identity.fleet.fleet,
                "fingerprint": fingerprint(identity.key),
                "certificate_expires": identity.expires,
                "clock": self._trust.clock_state(),
                "runtime_pid": self._supervisor.pid,
                "sources": self._sources.chain.states(),
                "offer": self._offers.status(),
                "models": models,
                "files": {model: str(folder) for model, folder in folders.items() if folder},
                "quarantine": self._quarantine(),
                "scrubbed": self._installer.scrubbed(),
                "spool": self._spool_status(),
                "spool_bytes": self._spool.waiting_bytes,
                "feed": self._feed.status() if self._feed else None,
                "problems": {name: text for name, text in {**mine, **problems}.items() if text},
            }
        )

    def _quarantine(self) -> tuple[Quarantined, ...]:
        rows = self._installer.quarantine()
        return tuple(Quarantined(model=row.model, digest=row.digest, problem=row.problem) for row in rows)

    def _journal_loss(self) -> str:
        try:
            return self._journal.loss()
        except DsopsError as error:
            return str(error)

    def _spool_status(self) -> dict[str, SpoolStatus]:
        try:
            counters = self._spool.counters()
        except DsopsError as error:
            logger.warning("the spool's counters cannot be read: %s", error)
            return {}
        return {
            kind: SpoolStatus(produced=c.produced, stored=c.stored, dropped=c.dropped, pending=c.pending)
            for kind, c in counters.items()
        }
