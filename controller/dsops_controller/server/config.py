"""The server's configuration: ``controller.toml``, read once at the start, frozen, every key known."""

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from dsops.clock import Clock
from dsops.errors import InvalidConfig
from dsops.manifest import Frozen, first_problem
from dsops_controller.alerts.settings import AlertSettings
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.places import Place, place_of
from dsops_controller.dataops.lake.retention import (
    EVENT_DAYS,
    MINUTE_DAYS,
    SAMPLE_BYTES,
    SAMPLE_DAYS,
    TELEMETRY_DAYS,
    RetentionRules,
)
from dsops_controller.fleet.decision import IdentityRules
from dsops_controller.monitoring.settings import MetricsSettings, OtlpSettings
from dsops_controller.retraining.settings import RetrainingSettings
from dsops_controller.rollout.wanted import RETAINED_BYTES
from dsops_controller.server.quotas import UNCHANGED, QuotaRules

FILE = "controller.toml"

Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
HostPort = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}$")]
"""``host:port``; an IPv6 address stands in brackets."""


class Listener(Frozen):
    """Where one interface of the server listens."""

    host: Host = "127.0.0.1"
    port: Port


class RestListener(Listener):
    """Where the HTTPS interface listens."""

    port: Port = 8443


class IngestListener(Listener):
    """Where the gRPC interface for telemetry and samples listens."""

    port: Port = 8444


class EnrolmentListener(Listener):
    """Where the gRPC interface for enrolment listens."""

    port: Port = 8445


class BrokerSettings(Frozen):
    """Where the MQTT broker is that the server connects to, and how many bytes of bundles it may be asked to keep."""

    host: Host = "127.0.0.1"
    port: Port = 8883
    topic_prefix: str = Field(default="dsops/v1", pattern=r"^[A-Za-z0-9_.-]{1,32}(/[A-Za-z0-9_.-]{1,32}){0,2}$")
    retained_bytes: int = Field(default=RETAINED_BYTES, ge=0)


class Advertise(Frozen):
    """Addresses that enrolled devices are told: the broker, and the DataOps store (the ``ingest`` interface)."""

    broker: HostPort
    store: HostPort


class StoreSettings(Frozen):
    """The DataOps store.

    Attributes:
        lake: Folder of the lake, relative to the server's folder, or URL of an object store: ``s3://bucket/prefix``.
        options: For an object store, as the Delta library names them: ``aws_region``, ``aws_endpoint_url``, keys. What
            is not given comes from the environment (``AWS_...``).
        flush_s: Seconds between flushes.
        upkeep_s: Seconds between compactions; the first after midnight (UTC) comes by itself.
    """

    lake: str = Field(default="lake", min_length=1)
    options: dict[str, str] = Field(default_factory=dict)
    flush_s: float = Field(default=10.0, gt=0, le=3600)
    upkeep_s: float = Field(default=3600.0, ge=60, le=86_400)


Days = Annotated[int, Field(ge=0, le=36_500)]


class RetentionSettings(Frozen):
    """How long the lake keeps rows: whole days after their own day, 0 for ever.

    Attributes:
        telemetry_days: Telemetry of models and hosts, and whatever has no line of its own here.
        events_days: Events.
        minutes_days: Telemetry added up over devices.
        samples_days: Samples.
        samples_bytes: Bytes of one model's samples; the oldest days go first, the newest day stays. 0 sets no bound.
    """

    telemetry_days: Days = TELEMETRY_DAYS
    events_days: Days = EVENT_DAYS
    minutes_days: Days = MINUTE_DAYS
    samples_days: Days = SAMPLE_DAYS
    samples_bytes: int = Field(default=SAMPLE_BYTES, ge=0)

    def rules(self) -> RetentionRules:
        """Return them as rules of the lake."""
        own = {
            LakeTable.EVENTS: self.events_days,
            LakeTable.MINUTES: self.minutes_days,
            LakeTable.SAMPLES: self.samples_days,
        }
        return RetentionRules({table: own.get(table, self.telemetry_days) for table in LakeTable}, self.samples_bytes)


class RolloutSettings(Frozen):
    """Seconds between two looks at running rollouts when nothing happens."""

    tick_s: float = Field(default=1.0, gt=0, le=60)


class IdentitySettings(Frozen):
    """Devices' certificates: how long they live, and who may wait for an operator without a token.

    Attributes:
        certificate_days: Life of a device's certificate; the device renews it at two thirds.
        grace_days: So long after its end its key may still ask for the next one, and sign reports.
        pending_max: Devices that may wait for an operator at once.
        pending_per_address: Those of one address.
        pending_days: A waiting device that did not ask for so long is forgotten.
        retry_s: How often a waiting device shall ask.
    """

    certificate_days: float = Field(default=90.0, gt=0, le=825)
    grace_days: float = Field(default=30.0, ge=0, le=3650)
    pending_max: int = Field(default=1000, ge=0, le=100_000)
    pending_per_address: int = Field(default=100, ge=0, le=100_000)
    pending_days: float = Field(default=7.0, gt=0, le=365)
    retry_s: int = Field(default=30, ge=1, le=3600)

    def rules(self) -> IdentityRules:
        """Return them as the rules of enrolment."""
        return IdentityRules(
            life=timedelta(days=self.certificate_days),
            grace=timedelta(days=self.grace_days),
            pending_max=self.pending_max,
            pending_per_address=self.pending_per_address,
            pending_life=timedelta(days=self.pending_days),
            retry_s=self.retry_s,
        )


class QuotaSettings(Frozen):
    """What each device may upload, and how many streams may be open; a rate of 0 sets no limit.

    Attributes:
        records_per_s: Records of one device in the long run.
        records_burst: Records of one device at once.
        bytes_per_s: Bytes of one device's messages in the long run.
        bytes_burst: Bytes of one device's messages at once.
        calls_per_s: Calls of one device in the long run.
        calls_burst: Calls of one device at once.
        device_streams: Streams that one device may have open.
        streams: Streams that may be open together; what a message may have (4 MiB) times this is the most memory that
            half-sent messages can take.
    """

    records_per_s: float = Field(default=UNCHANGED.records_per_s, ge=0)
    records_burst: float = Field(default=UNCHANGED.records_burst, ge=1)
    bytes_per_s: float = Field(default=UNCHANGED.bytes_per_s, ge=0)
    bytes_burst: float = Field(default=UNCHANGED.bytes_burst, ge=1)
    calls_per_s: float = Field(default=UNCHANGED.calls_per_s, ge=0)
    calls_burst: float = Field(default=UNCHANGED.calls_burst, ge=1)
    device_streams: int = Field(default=UNCHANGED.device_streams, ge=3, le=1000)
    streams: int = Field(default=UNCHANGED.streams, ge=3, le=100_000)

    def rules(self) -> QuotaRules:
        """Return them as the rules of the gRPC interface."""
        return QuotaRules(**self.model_dump())


class ServerConfig(Frozen):
    """Everything that an operator may choose.

    Attributes:
        fleet: Name of the fleet; part of every directive.
        database: SQLAlchemy URL of the state database; empty means ``state.db`` in the server's folder.
        rest: The HTTPS interface for operators.
        broker: The MQTT broker.
        ingest: The gRPC interface for telemetry and samples (mutual TLS).
        enrolment: The gRPC interface for enrolment (TLS).
        advertise: What devices are told.
        store: The DataOps store.
        retention: How long it keeps rows.
        rollout: The rollout engine.
        identity: Devices' certificates.
        retraining: When to ask for a model to be trained anew, and whom.
        alerts: Of what of the fleet to tell, and whom.
        metrics: Who may read the figures at ``/metrics``.
        otlp: Where the figures are sent.
        quotas: What each device may upload.
    """

    fleet: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    database: str = ""
    rest: RestListener = RestListener()
    broker: BrokerSettings = BrokerSettings()
    ingest: IngestListener = IngestListener()
    enrolment: EnrolmentListener = EnrolmentListener()
    advertise: Advertise
    store: StoreSettings = StoreSettings()
    retention: RetentionSettings = RetentionSettings()
    rollout: RolloutSettings = RolloutSettings()
    identity: IdentitySettings = IdentitySettings()
    retraining: RetrainingSettings = RetrainingSettings()
    alerts: AlertSettings = AlertSettings()
    metrics: MetricsSettings = MetricsSettings()
    otlp: OtlpSettings = OtlpSettings()
    quotas: QuotaSettings = QuotaSettings()

    def database_url(self, folder: Path) -> str:
        """Return the URL of the state database of a server in ``folder``."""
        return self.database or f"sqlite:///{folder.resolve() / 'state.db'}"

    def lake_place(self, folder: Path, clock: Clock) -> Place:
        """Return where the lake of a server in ``folder`` is.

        Raises:
            InvalidConfig: The place is not supported.
        """
        return place_of(self.store.lake, folder.resolve(), self.store.options, clock)


def load_config(folder: Path) -> ServerConfig:
    """Read the configuration of the server in ``folder``.

    Raises:
        InvalidConfig: The file is absent, not TOML, or has an unknown, missing or invalid key; the text names file and
            key.
    """
    path = folder / FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(
            f"cannot read {path}",
            why=error.strerror or str(error),
            hint="create the folder with: dsops server init",
        ) from error
    except ValueError as error:
        raise InvalidConfig(f"{path} is not TOML", why=str(error), hint="correct the line that is named") from error
    try:
        return ServerConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidConfig(
            f"{path} is not valid", why=first_problem(error), hint="correct, add or remove the key that is named"
        ) from error


def encode_config(config: ServerConfig) -> str:
    """Return a configuration as TOML text with one comment a section; :func:`load_config` reads it back."""
    plain = config.model_dump(mode="json")
    top = [f"{key} = {_value(value)}" for key, value in plain.items() if not isinstance(value, dict)]
    sections = [_section(key, value) for key, value in plain.items() if isinstance(value, dict)]
    return "\n".join(["# Configuration of `dsops server run`.", *top, "", *sections])


_COMMENTS = {
    "rest": "HTTPS interface for operators",
    "broker": "MQTT broker that the server connects to, and how many bytes of bundles it shall keep at most",
    "ingest": "gRPC interface for telemetry and samples (mutual TLS)",
    "enrolment": "gRPC interface for enrolment (TLS)",
    "advertise": "addresses that enrolled devices are told",
    "store": "DataOps store: folder or URL of the lake, options of an object store, seconds between flushes, upkeeps",
    "retention": "how many days rows are kept (0: for ever), and how many bytes of samples of a model",
    "rollout": "rollout engine: seconds between two looks",
    "quotas": "what one device may upload over gRPC (a rate of 0: no limit), and how many streams may be open",
    "identity": "devices' certificates, and devices that wait for an operator",
    "alerts": "of what of the fleet to tell; whom: [alerts.webhook.NAME]",
    "metrics": "file of a token that opens /metrics (Prometheus) and nothing else",
    "otlp": "OpenTelemetry receiver of the figures (OTLP/HTTP, JSON), for example http://127.0.0.1:4318",
    "retraining": "when to ask for a model to be trained anew; whom: [retraining.webhook.NAME], .command., .file.",
}


def _section(name: str, values: dict[str, object]) -> str:
    lines = [f"# {_COMMENTS[name]}", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    return "\n".join([*lines, ""])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    # A path may hold anything; a TOML basic string needs both characters escaped.
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
