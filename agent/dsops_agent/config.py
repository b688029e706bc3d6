"""The agent's configuration: one TOML file, read once at start, frozen, every key with its meaning."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dsops.direct import direct_path
from dsops.directive import MAX_SEQ
from dsops.errors import InvalidConfig
from dsops_agent.config_inference import Inference
from dsops_agent.config_samples import Samples, WatchRule
from dsops_agent.config_telemetry import Telemetry
from dsops_agent.config_values import (
    CHALLENGER_NAME,
    CHALLENGER_SOCKET,
    DAY_S,
    SOCKET_PATH_BYTES,
    Address,
    BaseUrls,
    DeviceName,
    FilePath,
    Section,
    TimeZone,
    WindowText,
)
from dsops_agent.feed.settings import Sink, Source
from dsops_agent.install.maintenance import Rules, Schedule, parse

DEFAULT_PATH = Path("/etc/dsops/agent.toml")


class Enrolment(Section):
    """How the device gets its identity, and a new one when it was away for so long that its certificate ended."""

    address: Address = Field(description="host:port of the controller's enrolment service (gRPC over TLS)")
    ca: FilePath = Field(description="PEM file with the authority that the enrolment service's certificate must have")
    token: FilePath | None = Field(
        default=None,
        description="file with the one-time enrolment token, deleted after it was used; without it an operator accepts",
    )
    retry_max_s: float = Field(
        default=60.0, gt=0, le=DAY_S, description="longest wait between two tries while nothing answers"
    )


class Trust(Section):
    """Whose signatures the device believes."""

    root: FilePath = Field(description="first TUF root metadata of the fleet, put there by who sets up the device")


class Install(Section):
    """How a bundle comes onto the device."""

    probation_s: float = Field(
        default=60.0, ge=0, le=30 * DAY_S, description="how long a new bundle must answer before it is kept"
    )
    probation_failures: float = Field(
        default=0.02, ge=0, le=1, description="share of requests that a new bundle may fail at, if the old one did not"
    )
    probation_slower: float = Field(
        default=2.0,
        ge=1,
        le=1000,
        description="how many times the old bundle's 95th percentile of latency the new one's may be",
    )
    probation_distance: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="total variation distance of its answers from the old one's and from its profile at most; 1: any",
    )
    probation_false_alarms: float = Field(
        default=0.001,
        gt=0,
        le=0.5,
        description="probability that a bundle within these limits is rolled back all the same",
    )
    strikes: int = Field(
        default=3,
        ge=1,
        le=100,
        description="so many ends of the inference process by one bundle roll it back; so do 10 s of frames that hang",
    )
    strike_span_s: float = Field(
        default=600.0,
        gt=0,
        le=30 * DAY_S,
        description="how long such an end counts; on probation, as long as that lasts",
    )
    hang_s: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="a frame that takes longer ends the inference process; so does, if that is less, one that takes "
        "longer than 5 s, 200 times its model's latency budget and 50 times the longest that came back",
    )
    chunk_timeout_s: float = Field(
        default=5.0, gt=0, le=3600, description="how long a chunk may take before it is asked again"
    )
    window: int = Field(default=16, ge=1, le=16, description="chunks asked for at the same time")
    free_bytes: int = Field(default=16 << 20, ge=0, description="disk space that an install must leave free")
    max_bundle_bytes: int = Field(default=0, ge=0, description="longest bundle, with its files; 0: what the disk takes")
    max_slowdown: float = Field(
        default=2.0,
        ge=0,
        le=1000,
        description="how many times as long as the active bundle's a frame of a new one may take that states no "
        "latency budget; 0: any",
    )
    scrub_hours: float = Field(
        default=24.0, ge=0, le=24 * 366, description="how often stored bundles are read again; 0: never"
    )


class Maintenance(Section):
    """When a bundle may come onto the device, and when it may take over; a rollout that is urgent does not wait.

    Windows are times of the device's own wall clock. A window over midnight belongs to the day on which it begins.
    """

    timezone: TimeZone = Field(default="UTC", description="time zone of the windows, for example Europe/Berlin")
    download: tuple[WindowText, ...] = Field(
        default=(), description='windows for fetching, for example ["mon-fri 22:00-05:00"]; empty: always'
    )
    activate: tuple[WindowText, ...] = Field(
        default=(), description="windows for changing over to a new bundle; empty: always"
    )
    on_power: bool = Field(default=False, description="whether external power is needed")
    idle_percent: float = Field(
        default=100.0, gt=0, le=100, description="other programs must use less of the processors than this; 100: any"
    )
    metered: tuple[str, ...] = Field(
        default=(), description='network interfaces over which no bundle is fetched, for example ["wwan*", "ppp0"]'
    )
    max_temperature_c: float = Field(
        default=0.0, ge=0, description="nothing is done, however urgent, while the device is hotter; 0: no limit"
    )
    veto: FilePath | None = Field(
        default=None,
        description="program that is asked each time, with download or activate, model and release as arguments: "
        "exit status 0 allows it, else the first line of its output is the reason why not",
    )
    veto_timeout_s: float = Field(default=10.0, gt=0, le=60, description="how long that program may take")

    def rules(self) -> Rules:
        """Return the section as the installer reads it."""
        zone = ZoneInfo(self.timezone)
        return Rules(
            download=Schedule(zone, tuple(map(parse, self.download))),
            activate=Schedule(zone, tuple(map(parse, self.activate))),
            on_power=self.on_power,
            idle_percent=self.idle_percent,
            metered=self.metered,
            max_temperature_c=self.max_temperature_c,
        )


class Transfer(Section):
    """From where bundles come besides the broker, and how much of them it may fetch.

    The controller can lower the limits, and never lift them.
    """

    site: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
        description="name of the site: its devices share a link, and the budget that the controller has for it",
    )
    http: BaseUrls = Field(
        default=(), max_length=4, description="web servers with the files of `dsops bundle export`: a URL, or several"
    )
    http_ca: FilePath | None = Field(
        default=None, description="PEM file with the authority of those web servers; without it those of the system"
    )
    bytes_per_s: int = Field(default=0, ge=0, le=MAX_SEQ, description="bytes of bundles a second at most; 0: no limit")
    bytes_per_day: int = Field(default=0, ge=0, le=MAX_SEQ, description="bytes of bundles a day at most; 0: no limit")


class SiteCache(Section):
    """A broker near by, on which devices of one site leave for each other what they fetched."""

    broker: Address | None = Field(default=None, description="host:port of the site's broker; without it there is none")
    ca: FilePath | None = Field(
        default=None, description="PEM file with the authority of the site's broker; without it there is no TLS"
    )
    certificate: FilePath | None = Field(default=None, description="PEM file with a certificate for the site's broker")
    key: FilePath | None = Field(default=None, description="PEM file with the key of that certificate")
    wait_s: float = Field(default=1.0, gt=0, le=60, description="how long a chunk may take before others are asked")
    serve: bool = Field(default=False, description="whether this device leaves there what it fetched")
    max_bytes: int = Field(default=64 << 20, ge=1 << 20, description="how much it leaves there at most")

    @model_validator(mode="after")
    def _is_consistent(self) -> "SiteCache":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.certificate is not None and self.ca is None:
            raise ValueError("a certificate needs ca as well")
        if self.broker is None and (self.serve or self.ca is not None):
            raise ValueError("without broker there is no site cache")
        return self


class Drift(Section):
    """Whether inputs and outputs are compared with the model's profile."""

    enabled: bool = Field(default=True, description="whether drift is monitored")
    report_every_s: float = Field(
        default=900.0,
        ge=0,
        le=DAY_S,
        description="how often drift is reported while nothing changes; a change is reported with its interval of "
        "telemetry, and told in an event at once",
    )
    suppress_below: int = Field(
        default=5, ge=0, le=1000, description="counts of a drift report below this are reported as 0; not with noise"
    )
    epsilon: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="noise makes a drift report's counts epsilon-differentially private, 0.01 or more; 0: none",
    )


class Mqtt(Section):
    """How the device keeps its connection to the broker."""

    keepalive_s: int = Field(default=30, ge=1, le=1160, description="time without traffic after which a ping is sent")
    first_contact_max_s: float = Field(
        default=10.0,
        ge=0,
        le=DAY_S,
        description="after a start, and after a connection was lost, up to so long is waited",
    )
    reconnect_max_s: float = Field(default=60.0, gt=0, le=DAY_S, description="longest wait between two connections")
    will_delay_s: int = Field(
        default=10, ge=0, le=DAY_S, description="how long the broker waits before it says we are gone"
    )


class Config(Section):
    """The whole file."""

    device: DeviceName = Field(description="name of this device")
    state: FilePath = Field(description="folder that holds everything the agent keeps")
    run: Path = Field(
        default=Path(),
        description="folder of the sockets, for example /run/dsops, which programs can enter; empty: the folder `run` "
        "in `state`",
    )
    temperature_sensor: str = Field(
        default="*",
        min_length=1,
        max_length=128,
        description="sensors that say how hot the device is, for example cpu_thermal or nvme/Composite: a pattern of "
        "chip, or chip/label; the hottest counts, and what cannot be (-40 or less, 125 or more) does not",
    )
    log: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe record logged")
    enrolment: Enrolment | None = Field(default=None, description="how the device gets its identity")
    trust: Trust = Field(description="whose signatures the device believes")
    inference: Inference = Field(default=Inference(), description="how programs ask for inference")
    install: Install = Field(default=Install(), description="how a bundle comes onto the device")
    maintenance: Maintenance = Field(default=Maintenance(), description="when a bundle may come onto the device")
    transfer: Transfer = Field(default=Transfer(), description="from where bundles come, and how much of them")
    site_cache: SiteCache = Field(default=SiteCache(), description="a broker near by that devices of a site share")
    telemetry: Telemetry = Field(default=Telemetry(), description="what the device reports")
    samples: Samples = Field(default=Samples(), description="which inputs the device keeps")
    drift: Drift = Field(default=Drift(), description="whether drift is monitored")
    mqtt: Mqtt = Field(default=Mqtt(), description="how the device keeps its connection to the broker")
    sink: tuple[Sink, ...] = Field(default=(), max_length=16, description="where answers to frames of sources go")
    source: tuple[Source, ...] = Field(default=(), max_length=16, description="where frames come from by themselves")

    @field_validator("sink", "source")
    @classmethod
    def _has_names_of_its_own(cls, tables: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [table.name for table in tables]
        twice = [name for number, name in enumerate(names) if name in names[:number]]
        if twice:
            raise ValueError(f"two are named {twice[0]}")
        return tables

    @field_validator("source")
    @classmethod
    def _knows_its_sinks(cls, sources: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        if "sink" in info.data:
            known = {sink.name for sink in info.data["sink"]}
            for source in sources:
                unknown = [name for name in source.sinks if name not in known]
                if unknown:
                    raise ValueError(f"source {source.name} names the sink {unknown[0]}, and there is no such [[sink]]")
        return sources

    @property
    def run_folder(self) -> Path:
        """Folder of the sockets."""
        return self.state / "run" if self.run == Path() else self.run

    @property
    def inference_socket(self) -> Path:
        """Where programs ask for inference."""
        return self.run_folder / "inference.sock" if self.inference.socket == Path() else self.inference.socket


@dataclass(frozen=True)
class Setting:
    """One key as ``config show`` prints it."""

    key: str
    value: str | int | float | bool | None
    origin: Literal["default", "file"]
    meaning: str


@dataclass(frozen=True)
class Loaded:
    """A configuration and the file that it comes from."""

    config: Config
    path: Path
    raw: Mapping[str, Any]

    def settings(self) -> tuple[Setting, ...]:
        """Return every key with value, origin and meaning, in the order of this module."""
        return tuple(_settings(self.config, self.raw, ""))


def load(path: Path) -> Loaded:
    """Read and check a configuration file. A relative path in it counts from the file's folder.

    Raises:
        InvalidConfig: The file is absent or not TOML, or a key is unknown, missing or ill-typed; the error names
            the file and the key.
    """
    raw = _read(path)
    folder = path.resolve().parent
    try:
        config = Config.model_validate(_against_folder(raw, folder), context={"folder": folder})
    except ValidationError as error:
        raise _explain(path, error) from error
    _check_sockets(path, config)
    return Loaded(config, path, raw)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(
            f"cannot read configuration {path}",
            why=error.strerror or str(error),
            hint="name the file with --config FILE",
            file=str(path),
        ) from error
    except ValueError as error:
        raise InvalidConfig(
            f"{path} is not TOML", why=str(error), hint="correct the line that is named", file=str(path)
        ) from error


def _against_folder(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve the two paths that may be empty; the other ones resolve themselves when they are validated."""
    found = dict(raw)
    if isinstance(raw.get("run"), str) and raw["run"]:
        found["run"] = folder / raw["run"]
    inference = raw.get("inference")
    if isinstance(inference, dict) and isinstance(inference.get("socket"), str) and inference["socket"]:
        found["inference"] = {**inference, "socket": folder / inference["socket"]}
    return found


def _explain(path: Path, error: ValidationError) -> InvalidConfig:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    plain = ".".join(part for part in problem["loc"] if isinstance(part, str))
    if problem["type"] == "missing":
        what, why, hint = f"key {key} is missing in {path}", _meaning(plain), f"add {key} to the file"
    elif problem["type"] == "extra_forbidden":
        what, why = (
            f"key {key} in {path} is not known",
            "every key of the file must be one of those that `config show` lists",
        )
        near = difflib.get_close_matches(plain, known_keys(), n=1)
        hint = f"did you mean {near[0]}?" if near else "remove it"
    else:
        what = f"key {key} in {path} has a value that cannot be used"
        why = f"{problem['msg'].removeprefix('Value error, ')} (it is {problem['input']!r})"
        hint = f"correct it: {_meaning(plain)}" if _meaning(plain) else "correct it"
    return InvalidConfig(what, why=why, hint=hint, file=str(path), key=key)


def _check_sockets(path: Path, config: Config) -> None:
    sockets = {
        "run": direct_path(config.run_folder / ("x" * CHALLENGER_NAME) / CHALLENGER_SOCKET),
        "inference.socket": direct_path(config.inference_socket),
    }
    for key, socket in sockets.items():
        length = len(str(socket).encode())
        if length > SOCKET_PATH_BYTES:
            raise InvalidConfig(
                f"key {key} in {path} gives a path that is too long for a socket",
                why=f"{socket} has {length} bytes, {SOCKET_PATH_BYTES} are possible",
                hint='set run to a short folder, for example run = "/run/dsops"',
                file=str(path),
                key=key,
            )


def _fields(model: type[BaseModel], head: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield head + name, field.description or ""
        else:
            yield from _fields(section, f"{head}{name}.")


def _section(annotation: object) -> type[Section] | None:
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def known_keys() -> tuple[str, ...]:
    """Return every key that the file may have."""
    return tuple(key for key, _ in _fields(Config))


_TABLES: tuple[tuple[str, type[Section]], ...] = (("samples.watch", WatchRule), ("source", Source), ("sink", Sink))


def tables() -> tuple[Setting, ...]:
    """Return every key of the tables that a file may have several of, with its default; origin ``file``: required."""
    return tuple(setting for name, kind in _TABLES for setting in _keys(kind, f"{name}."))


def _keys(kind: type[BaseModel], head: str) -> Iterator[Setting]:
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            yield from _keys(section, f"{head}{name}.")
        else:
            value = None if field.is_required() else _shown(field.default)
            yield Setting(head + name, value, "file" if field.is_required() else "default", field.description or "")


def _meaning(key: str) -> str:
    """Return what a key means; of a table also which keys it has."""
    kind: type[BaseModel] = Config
    meaning = ""
    for part in key.split("."):
        field = kind.model_fields.get(part)
        if field is None:
            return ""
        meaning, section = field.description or "", _section(field.annotation)
        if section is None:
            return meaning
        kind = section
    return f"{meaning}; its keys are {', '.join(kind.model_fields)}"


def _settings(section: Section, raw: Mapping[str, Any], head: str) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _settings(value, raw.get(name, {}), f"{head}{name}.")
        elif isinstance(value, tuple) and _section(field.annotation) is not None:
            for number, one in enumerate(value):
                yield from _settings(one, raw[name][number], f"{head}{name}.{number}.")
        elif _section(field.annotation) is None:
            shown = _shown(value)
            yield Setting(head + name, shown, "file" if name in raw else "default", field.description or "")


def _shown(value: object) -> str | int | float | bool | None:
    if value in (None, Path()):
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str | int | float | bool) else str(value)
