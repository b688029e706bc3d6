"""``status.json``: what the control process says of itself to people and programs on the same device."""

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from dsops import strictjson
from dsops.errors import AlreadyRunning, NotFound, StateDamaged
from dsops.manifest import first_problem
from dsops.messages import ModelState, Problem
from dsops_agent.feed.counts import FeedStatus
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

PERIOD_S = 2.0


class SpoolStatus(BaseModel):
    """What became of the records of one kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    produced: int = 0
    stored: int = 0
    dropped: int = 0
    pending: int = 0


class SourceStatus(BaseModel):
    """How a source of chunks stands: what it brought since the start, why it failed last, how long it is set aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    chunks: int = 0
    total_bytes: int = 0
    problem: Problem | None = None
    aside_s: float = 0.0


class OfferStatus(BaseModel):
    """What became of the newest ``dsops-agent install``: bundles that it brings, by place, or why it is not taken.

    Until ``is_reached`` the installer has not acted on its directive: an end that a model shows is of another install.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    path: str
    bundles: Mapping[str, str] = {}
    is_reached: bool = False
    problem: Problem | None = None
    hint: str = ""


class Quarantined(BaseModel):
    """A bundle that is never tried again, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    digest: str
    problem: Problem


class Status(BaseModel):
    """The whole file.

    ``files`` names the folder with the files that a model's active bundle brings for programs, by model; ``scrubbed``
    is when every stored bundle was last read again; ``feed`` is there when frames come from sources; ``problems`` says
    of ``enrolment`` why there is no identity, of ``identity`` why it is not renewed, of ``inference`` why it is held
    back, of ``delegate`` why models run on the processor instead, of ``runtime`` that nothing can run them, of
    ``journal`` why it was begun anew, and of ``broker``, ``site cache``, ``telemetry`` and ``samples`` why there is no
    connection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    version: str
    pid: int
    updated: AwareDatetime
    enrolled: bool = False
    connected: bool = False
    fleet: str = ""
    fingerprint: str = ""
    certificate_expires: AwareDatetime | None = None
    clock: ClockState = ClockState.PLAUSIBLE
    runtime_pid: int | None = None
    inference_socket: str = ""
    models: Mapping[str, ModelState] = {}
    files: Mapping[str, str] = {}
    sources: tuple[SourceStatus, ...] = ()
    offer: OfferStatus | None = None
    scrubbed: AwareDatetime | None = None
    quarantine: tuple[Quarantined, ...] = ()
    spool: Mapping[str, SpoolStatus] = {}
    spool_bytes: int = 0
    feed: FeedStatus | None = None
    problems: Mapping[str, str] = {}

    def unhealthy_because(self) -> str:
        """Return why the agent is not in order, or an empty text."""
        if not self.enrolled:
            return self.problems.get("enrolment", "the device is not enrolled")
        if not self.connected:
            return self.problems.get("broker", "there is no connection to the broker")
        return self.problems.get("runtime", "") if self.runtime_pid else "the inference process is not running"


class StatusWriter:
    """Writes the file. :meth:`run` is the body of a thread."""

    def __init__(self, path: Path, read: Callable[[], Status]) -> None:
        self._path = path
        self._read = read
        self._changed = threading.Event()
        self._trouble = ""

    def changed(self) -> None:
        """Write soon."""
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Write every ``PERIOD_S`` seconds and after changes, until ``stop`` is set."""
        while not stop.is_set():
            self.write()
            self._changed.wait(PERIOD_S)
            self._changed.clear()

    def write(self) -> None:
        """Write once: whole or not at all, but not forced to the disk, for it is worthless after a power cut.

        A disk that does not take it is told of once, until it does again.
        """
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_bytes(strictjson.dumps(self._read().model_dump(mode="json")))
            temporary.replace(self._path)
            self._trouble = ""
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                logger.warning("cannot write %s: %s", self._path, trouble)
            self._trouble = trouble


def read_status(path: Path) -> Status:
    """Read the file.

    Raises:
        NotFound: There is none.
        StateDamaged: It is not a status.
    """
    try:
        return Status.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotFound(
            "the agent has not run yet", why=f"{path} does not exist", hint="start it: dsops-agent run"
        ) from error
    except OSError as error:
        raise StateDamaged(
            f"cannot read {path}", why=error.strerror or str(error), hint="use the agent's user"
        ) from error
    except ValidationError as error:
        raise StateDamaged(f"{path} is not a status", why=first_problem(error), hint="restart the agent") from error
    except ValueError as error:
        raise StateDamaged(f"{path} is not a status", why=str(error), hint="restart the agent") from error


class StateLock:
    """Held by the control process as long as it uses a state folder, or a folder in it."""

    def __init__(self, state: Path, name: str = "agent.lock") -> None:
        self._path = state / name
        self._handle = -1

    def take(self) -> None:
        """Take the lock.

        Raises:
            AlreadyRunning: Another process holds it.
            StateDamaged: The folder cannot be used.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateDamaged(
                f"cannot use the state folder {self._path.parent}",
                why=error.strerror or str(error),
                hint="check the key `state` of the configuration, and who owns the folder",
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise AlreadyRunning(f"an agent uses {self._path.parent} already") from error

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def is_running(state: Path) -> bool:
    """Return whether a control process uses the state folder at this moment."""
    try:
        handle = os.open(state / "agent.lock", os.O_RDONLY)
    except OSError:  # never started
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
