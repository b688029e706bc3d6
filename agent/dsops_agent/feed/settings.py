"""The tables ``[[source]]`` and ``[[sink]]`` of the configuration, and what the feeding process is told of them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import InvalidConfig
from dsops.manifest import first_problem
from dsops_agent.config_values import Address, FilePath, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Number = Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
MAX_VALUES = 1 << 24
"""Values of a frame, or of a window, at most."""
_DAY_S = 86_400


def _not_too_large(shape: tuple[int, ...]) -> tuple[int, ...]:
    values = 1
    for length in shape:
        values *= length
        if length < 1 or values > MAX_VALUES:
            raise ValueError(f"its lengths are from 1 on, and it has {MAX_VALUES} values at most")
    return shape


def _topic(text: str) -> str:
    if not text or "\0" in text or len(text.encode()) > 1024:
        raise ValueError("it is no topic")
    return text


Shape = Annotated[tuple[int, ...], AfterValidator(_not_too_large), Field(max_length=8)]
Topic = Annotated[str, AfterValidator(_topic)]


class Broker(Section):
    """A broker near by, and what it knows this device by."""

    broker: Address = Field(description="host:port of the broker")
    ca: FilePath | None = Field(
        default=None, description="PEM file with the broker's authority; without it there is no TLS"
    )
    certificate: FilePath | None = Field(default=None, description="PEM file with a certificate for the broker")
    key: FilePath | None = Field(default=None, description="PEM file with the key of that certificate")
    user: str = Field(default="", max_length=128, description="user name for the broker")
    password: FilePath | None = Field(default=None, description="file with the password of that user")

    @model_validator(mode="after")
    def _belongs_together(self) -> "Broker":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.certificate is not None and self.ca is None:
            raise ValueError("a certificate needs ca as well")
        if self.password is not None and not self.user:
            raise ValueError("a password needs user as well")
        return self


class Directory(Section):
    """A folder into which somebody puts files, one frame or several each."""

    path: FilePath = Field(description="folder: files are taken out of it, and must be in one file system with it")
    keep: bool = Field(default=True, description="whether files that were answered go to `done` in it; else: deleted")
    settle_s: float = Field(
        default=0.5, ge=0.05, le=3600, description="a file that did not change for so long is whole"
    )
    max_bytes: int = Field(default=64 << 20, ge=1, le=1 << 30, description="longest file; longer ones fail")


class Camera(Section):
    """A camera (V4L2) or a video file; the newest frame wins."""

    device: str = Field(
        min_length=1, max_length=1024, description="number of the camera, its device, or a video: its path in full"
    )
    width: int = Field(default=0, ge=0, le=1 << 14, description="width that is asked of the camera; 0: its own")
    height: int = Field(default=0, ge=0, le=1 << 14, description="height that is asked of the camera; 0: its own")
    retry_s: float = Field(
        default=2.0, gt=0, le=_DAY_S, description="how long after its loss, or the end of a video, it is opened again"
    )
    silent_s: float = Field(
        default=30.0, ge=1, le=_DAY_S, description="a driver that says nothing for so long is restarted"
    )


class Messages(Broker):
    """A topic of a broker near by; a message is a frame, several, or a piece of a stream of samples."""

    topic: Topic = Field(description="topic, or filter of topics")
    format: Literal["json", "raw"] = Field(
        default="json", description="json: an array of numbers; raw: the bytes of `dtype`, least significant first"
    )
    max_bytes: int = Field(
        default=4 << 20, ge=1, le=64 << 20, description="longest message that the broker may send on"
    )
    queue: int = Field(
        default=16, ge=1, le=10_000, description="messages that wait; while it is full the oldest is dropped"
    )


class Replay(Section):
    """Frames of a file, at the source's rate: for trials."""

    path: FilePath = Field(description=".npy, or .npz with one array: [n, ...]")
    repeat: bool = Field(default=False, description="whether it begins anew at its end")


class Source(Section):
    """Where frames come from, and what is asked of which model about them."""

    name: Name = Field(description="name of the source: in answers, and in `dsops-agent status`")
    model: Name = Field(description="model that is asked")
    input: str = Field(default="", max_length=256, description="name that the model's only input must have; empty: any")
    outputs: tuple[str, ...] = Field(
        default=(), max_length=16, description='outputs that answers have, for example ["label"]; empty: all'
    )
    sinks: tuple[str, ...] = Field(default=(), max_length=16, description="sinks that answers go to; empty: all")
    rate_hz: float = Field(
        default=0.0, ge=0, le=10_000, description="frames a second at most; 0: as they come, and as answers come"
    )
    window: int = Field(
        default=0, ge=0, le=MAX_VALUES, description="samples of a stream that make a frame; 0: it is no stream"
    )
    stride: int = Field(
        default=0, ge=0, le=MAX_VALUES, description="samples from one window's begin to the next one's; 0: `window`"
    )
    dtype: Number = Field(default="float32", description="type of the values of raw frames and of .raw files")
    shape: Shape = Field(
        default=(), description="shape of a raw frame, or with `window` of a sample; empty: as the model has it"
    )
    form: Literal["", "raw", "real"] = Field(
        default="",
        description="raw: frames are as a sensor gives them, and the runtime prepares them as the bundle says; real: "
        "they are prepared. Empty: raw where the model takes raw frames, no scale or offset is set, and the type fits",
    )
    key: str = Field(
        default="",
        max_length=256,
        description="key of the source's requests: while two releases are compared by a split, one of them answers all "
        "of one key. {device} and {source} stand for the names; empty: each request by itself",
    )
    scale: float | None = Field(
        default=None,
        description="frames are multiplied by it; empty: pictures that are not raw as the bundle says, else by 1/255",
    )
    offset: float = Field(default=0.0, description="added after that")
    colour: Literal["rgb", "bgr"] = Field(
        default="rgb", description="order of a picture's colours, where the bundle does not say"
    )
    directory: Directory | None = Field(default=None, description="a folder with files")
    camera: Camera | None = Field(default=None, description="a camera or a video")
    mqtt: Messages | None = Field(default=None, description="a topic of a broker")
    replay: Replay | None = Field(default=None, description="a file of frames at a rate")

    @model_validator(mode="after")
    def _is_one(self) -> "Source":
        found = [name for name in ("directory", "camera", "mqtt", "replay") if getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError("a source is one of directory, camera, mqtt and replay")
        if self.window and self.camera is not None:
            raise ValueError("a camera has no window")
        if self.stride and not self.window:
            raise ValueError("a stride needs window as well")
        if self.replay is not None and not self.rate_hz:
            raise ValueError("a replay needs rate_hz")
        return self

    def key_on(self, device: str) -> str:
        """Return the key of its requests on a device, the names filled in."""
        return self.key.replace("{device}", device).replace("{source}", self.name)

    @property
    def kind(self) -> str:
        """Which kind of source it is."""
        return next(name for name in ("directory", "camera", "mqtt", "replay") if getattr(self, name) is not None)


class TopicSink(Broker):
    """A topic of a broker near by."""

    topic: Topic = Field(description="topic; {source} and {model} in it stand for the names")
    retain: bool = Field(default=False, description="whether the broker keeps the newest answer")


class FileSink(Section):
    """A file of JSON lines."""

    path: FilePath = Field(description="file; older answers are in the same name with .1, .2 and so on")
    max_bytes: int = Field(default=4 << 20, ge=1024, le=1 << 40, description="longest file; then a new one begins")
    files: int = Field(default=4, ge=1, le=1000, description="files at most; the oldest one is deleted")


class Command(Section):
    """A program that is run for each answer, one at a time, without a shell."""

    program: tuple[str, ...] = Field(
        min_length=1, max_length=64, description="program, its path in full, and arguments; the answer is its input"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=3600, description="how long it may take; then it is killed")

    @model_validator(mode="after")
    def _is_absolute(self) -> "Command":
        if not Path(self.program[0]).is_absolute():
            raise ValueError("the program is named by its path in full")
        return self


class Sink(Section):
    """Where answers go."""

    name: Name = Field(description="name of the sink: in sources, and in `dsops-agent status`")
    queue: int = Field(
        default=256, ge=1, le=100_000, description="answers that wait; while it is full the oldest is dropped"
    )
    mqtt: TopicSink | None = Field(default=None, description="a topic of a broker")
    file: FileSink | None = Field(default=None, description="a file of JSON lines")
    command: Command | None = Field(default=None, description="a program")

    @model_validator(mode="after")
    def _is_one(self) -> "Sink":
        if sum(one is not None for one in (self.mqtt, self.file, self.command)) != 1:
            raise ValueError("a sink is one of mqtt, file and command")
        return self

    @property
    def kind(self) -> str:
        """Which kind of sink it is."""
        return next(name for name in ("mqtt", "file", "command") if getattr(self, name) is not None)


class FeedSettings(Section):
    """How the feeding process works.

    Attributes:
        device: Name of the device, in answers and as a client of brokers.
        socket: The inference socket.
        state: Folder of its own.
        sources: Where frames come from.
        sinks: Where answers go.
    """

    device: str
    socket: str
    state: Path
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "FeedSettings":
        """Read settings from JSON.

        Raises:
            InvalidConfig: They are not valid; the text names the key.
        """
        try:
            return cls.model_validate(strictjson.loads(text.encode()))
        except strictjson.JsonRefused as error:
            raise InvalidConfig("the feed's settings are not JSON", why=str(error)) from error
        except ValidationError as error:
            raise InvalidConfig("the feed's settings are not valid", why=first_problem(error)) from error
