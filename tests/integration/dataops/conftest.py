"""A real controller as a process, without a broker, whose store has samples; commands run in this process."""

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_outcome import Outcome, runner

from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.clock import SystemClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.testing import DIGEST, received, sample_batch
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.demo.ports import free_ports
from dsops_controller.server.config import load_config
from dsops_controller.server.init import Ports, init_server

MODEL = "animals"
CLASSES = ("cat", "dog", "fox")
STREAM = b"s" * 16


class Controller:
    """A server's folder, and the process that serves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        init_server(folder, fleet="fleet", ports=Ports(*free_ports(4)))

    def put(self, device: str, samples: list[SampleRecord], first: int = 1) -> None:
        """Store samples as if a device had uploaded them; only while the server does not run."""
        db = Database(load_config(self.folder).database_url(self.folder))
        migrate.upgrade(db)
        inbox = Inbox(db, SystemClock())
        inbox.start()
        inbox.put(device, received(sample_batch(STREAM, range(first, first + len(samples)), samples)))
        inbox.stop()
        db.close()

    def start(self) -> None:
        command = [sys.executable, "-m", "dsops_controller.cli.app", "server", "run", str(self.folder)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(b"ready:"), (self.folder / "server.log").read_text()

    def kill(self) -> None:
        """End the process as kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


def picture(number: int, predicted: str, *, reason: str = "random", model: str = MODEL) -> SampleRecord:
    """Return a picture of 4 x 4 grey pixels that says what it was taken for."""
    values = [(number * 7 + place) % 256 / 255 for place in range(16)]
    scores = [0.8 if name == predicted else 0.1 for name in CLASSES]
    now_us = round(datetime.now(UTC).timestamp() * 1_000_000)
    return SampleRecord(
        time_us=now_us - 60_000_000 + number,
        model=model,
        release=1,
        digest=DIGEST,
        reason=reason,
        score=0.5,
        inclusion=0.25,
        request_id=f"r-{number}",
        input=Tensor(datatype="FP32", shape=[1, 4, 4, 1], data=struct.pack("<16f", *values)),
        output=Tensor(datatype="FP32", shape=[1, 3], data=struct.pack("<3f", *scores)),
        predicted=predicted,
    )


def sample_id(device: str, number: int) -> str:
    return f"{device}/{STREAM.hex()}/{number}"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs a command in this process."""
    return runner(capsys)


@pytest.fixture
def new_controller() -> type[Controller]:
    """Return what makes a controller of its own."""
    return Controller


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A running controller with 30 pictures from two devices."""
    made = Controller(tmp_path_factory.mktemp("controller") / "server")
    for device, shift in (("cam-1", 0), ("cam-2", 100)):
        made.put(device, [picture(shift + number, CLASSES[number % 3]) for number in range(15)])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def dsops(
    run: Callable[..., Outcome], controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Return a function that runs a command as the operator of the running controller."""
    monkeypatch.setenv("DSOPS_CONTEXT", str(controller.folder / "operator.toml"))
    return run


@pytest.fixture(scope="session")
def controller_class() -> type[Controller]:
    """Return what makes controllers that tests share."""
    return Controller
