"""The controller's parts and how they are connected. Nothing here starts anything."""

from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from dsops.clock import Clock
from dsops.topics import Topics
from dsops_controller.alerts.driver import Watch
from dsops_controller.audit import Audit, RefusalGuard
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.db.database import Database
from dsops_controller.deltas.files import DeltaFiles, Stock
from dsops_controller.deltas.workshop import Workshop
from dsops_controller.fleet.ca import REVOCATIONS, Authority
from dsops_controller.fleet.enrolment import Enrolment, ReplySettings
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.renewal import Renewal
from dsops_controller.fleet.sites import Sites
from dsops_controller.fleet.standing import Changes
from dsops_controller.monitoring.figures import Monitoring
from dsops_controller.monitoring.otlp import OtlpExporter
from dsops_controller.monitoring.settings import metrics_token_sha256
from dsops_controller.retraining.driver import Retraining
from dsops_controller.rollout.challengers import Challengers
from dsops_controller.rollout.desired import Director
from dsops_controller.rollout.driver import Driver
from dsops_controller.rollout.pardons import Pardons
from dsops_controller.rollout.rollouts import Rollouts
from dsops_controller.rollout.sample_requests import SampleRequests
from dsops_controller.server.broker import BYTES_IN, BYTES_OUT, Broker
from dsops_controller.server.checkup import Checkup
from dsops_controller.server.config import ServerConfig
from dsops_controller.server.data_parts import assemble_data
from dsops_controller.server.eviction import Evictor
from dsops_controller.server.expulsion import Expulsion
from dsops_controller.server.ingest import Endpoint, IngestServer, Services, Tls
from dsops_controller.server.init import operator_token_sha256
from dsops_controller.server.intake import Effects, Intake
from dsops_controller.server.link import LinkSettings, Message
from dsops_controller.server.mosquitto import ACL_FILE, CONTROLLER, PID_FILE
from dsops_controller.server.offers import Offers
from dsops_controller.server.outbox import Outbox
from dsops_controller.server.overview import Overview
from dsops_controller.server.probe import ProbeSettings, probe
from dsops_controller.server.publications import Publications, controller_message
from dsops_controller.server.rest.api import guarded
from dsops_controller.server.revocations import RevocationFiles, Revocations
from dsops_controller.server.tls import controller_credentials, server_credentials
from dsops_controller.tracing import Tracer
from dsops_controller.trust.director_keys import DirectorKeys
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.repository import Repository


@dataclass(frozen=True)
class Parts:
    """What the composition root starts and stops."""

    lake: Lake
    lake_upkeep: Upkeep
    inbox: Inbox
    ingest: IngestServer
    repository: Repository
    outbox: Outbox
    broker: Broker
    revocations: Revocations
    expulsion: Expulsion
    enrolment: Enrolment
    workshop: Workshop
    driver: Driver
    checkup: Checkup
    retraining: Retraining
    watch: Watch
    exporter: OtlpExporter
    rest: ASGIApp


def assemble(folder: Path, config: ServerConfig, db: Database, authority: Authority, clock: Clock) -> Parts:
    """Build every part of the server in ``folder``.

    Raises:
        NotFound: A key is missing.
        StateDamaged: A file of the folder cannot be read.
    """
    keys = OnlineKeys.load(folder / "keys")
    rules, told, changes = config.identity.rules(), _reply(config), Changes(db)
    registry = Registry(db, clock, RefusalGuard(clock), changes, rules.grace)
    who = (db, authority, clock, told, rules)
    enrolment, renewal = Enrolment(*who, changes), Renewal(*who)
    repository = Repository(folder / "trust", keys, clock)
    bundles = Bundles(db, folder / "bundles", repository, clock)
    data = assemble_data(folder, config, db, bundles, clock)
    services = Services(db, data.inbox, enrolment, renewal, changes, clock, config.quotas.rules())
    ingest = _ingest(folder, config, services)
    outbox = Outbox(clock)
    director = Director(config.fleet, DirectorKeys(repository, keys))
    workshop = Workshop(db, bundles, DeltaFiles(db, folder / "deltas"), clock, config.broker.retained_bytes)
    driver = Driver(db, outbox, director, clock, workshop)
    workshop.made = driver.wake
    topics = Topics(config.broker.topic_prefix)
    expulsion = Expulsion(db, _evictor(folder, config, authority), clock)
    revocations = Revocations(db, authority, _revocation_files(folder, config), expulsion.follow, changes, clock)
    intake = Intake(topics, registry, _effects(outbox, driver, Audit(db, clock), expulsion), clock)
    publications = Publications(db, topics, repository, Stock(bundles, workshop.files), clock)
    broker = Broker(_link(folder, config, topics, clock), outbox, publications, Offers(db, clock), intake, clock)
    checkup = Checkup(lambda: probe(_probe(folder, config, authority)), broker.sessions, clock)
    monitoring = Monitoring(
        db, data.watch.alerts, clock, broker.figures, lambda: ingest.traffic().grpc_bytes, config.alerts.fdr
    )
    exporter = OtlpExporter(config.otlp, folder, config.fleet, monitoring, clock)
    rollouts = Rollouts(db, director, clock, config.broker.retained_bytes)
    backend = data.backend()(
        registry=registry,
        enrolment=enrolment,
        overview=Overview(db),
        repository=repository,
        bundles=bundles,
        rollouts=rollouts,
        challengers=Challengers(db, rollouts, clock, config.broker.retained_bytes),
        pardons=Pardons(db, director, clock),
        sample_requests=SampleRequests(db, clock),
        sites=Sites(db, clock),
        monitoring=monitoring,
        tracer=Tracer(db, data.store, data.lineage, repository),
        outbox=outbox,
        checkup=checkup,
        clock=clock,
        wake=driver.wake,
        mqtt=broker.figures,
        grpc_bytes=lambda: ingest.traffic().grpc_bytes,
    )
    web = guarded(backend, operator_token_sha256(folder), metrics_token_sha256(folder, config.metrics))
    about_identity = (revocations, expulsion, enrolment)
    about_rollouts = (workshop, driver, checkup)
    kept, about_data = (data.lake, data.upkeep, data.inbox), (data.retraining, data.watch, exporter)
    return Parts(*kept, ingest, repository, outbox, broker, *about_identity, *about_rollouts, *about_data, web)


def _reply(config: ServerConfig) -> ReplySettings:
    advertise = config.advertise
    return ReplySettings(config.fleet, advertise.broker, advertise.store, config.broker.topic_prefix)


def _ingest(folder: Path, config: ServerConfig, services: Services) -> IngestServer:
    files = server_credentials(folder)
    tls = Tls(files.key.read_bytes(), files.certificate.read_bytes(), files.ca.read_bytes())
    listen, enrol = config.ingest, config.enrolment
    return IngestServer(services, tls, Endpoint(listen.host, listen.port), Endpoint(enrol.host, enrol.port))


def _revocation_files(folder: Path, config: ServerConfig) -> RevocationFiles:
    return RevocationFiles(
        revoked=controller_credentials(folder).ca.with_name(REVOCATIONS),
        access=folder / "mosquitto" / ACL_FILE,
        pid=folder / "mosquitto" / PID_FILE,
        topic_prefix=config.broker.topic_prefix,
    )


def _evictor(folder: Path, config: ServerConfig, authority: Authority) -> Evictor:
    broker, ca = config.broker, controller_credentials(folder).ca
    return Evictor(broker.host, broker.port, ca, authority.issue_evictor)


def _probe(folder: Path, config: ServerConfig, authority: Authority) -> ProbeSettings:
    broker, ca = config.broker, controller_credentials(folder).ca
    return ProbeSettings(broker.host, broker.port, ca, broker.topic_prefix, authority.issue_client)


def _effects(outbox: Outbox, driver: Driver, trail: Audit, expulsion: Expulsion) -> Effects:
    def record(device: str, why: str) -> None:
        trail.record(f"device:{device}", "message.refused", device, why)

    return Effects(outbox.answer, driver.wake, record, expulsion.heard)


def _link(folder: Path, config: ServerConfig, topics: Topics, clock: Clock) -> LinkSettings:
    files = controller_credentials(folder)
    gone = controller_message(topics, clock, online=False)
    return LinkSettings(
        host=config.broker.host,
        port=config.broker.port,
        ca=files.ca,
        certificate=files.certificate,
        key=files.key,
        client_id=CONTROLLER,
        filters=((topics.every_up(), 1), (BYTES_IN, 0), (BYTES_OUT, 0)),
        will=Message(gone.topic, gone.payload, retain=True),
    )
