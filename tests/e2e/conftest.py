"""A whole fleet in processes of its own: mosquitto, the controller, two agents with their runtimes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsops.bundle import Bundle, describe_blobs, encode_bundle, write_atomically
from dsops_controller.build.package import build_bundle
from dsops_controller.build.recipe import build_model
from dsops_controller.client import Access, Client
from dsops_controller.demo.prepare import prepare
from dsops_controller.demo.stage import MODEL, Stage

DEVICES = ("cam-1", "cam-2")


def wait_for(what: str, is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s until {what}"
        time.sleep(0.05)


class Fleet(Stage):
    """The demonstration's stage, with what tests need besides: hands-on bundles and a client."""

    def __init__(self, folder: Path, built: Path) -> None:
        super().__init__(folder, print)
        self.built = built

    def client(self) -> Client:
        return Client(Access.load(self.commands.context))

    def publish(self, release: int, padding_bytes: int = 0) -> None:
        """Push a release; padding makes its transfer long enough to be interrupted."""
        path = self.folder / f"{release}.bundle"
        build_bundle(self.built, release, path)
        if padding_bytes:
            opened = Bundle.open(path)
            blobs = {blob.name: opened.read(blob.name) for blob in opened.manifest.blobs}
            blobs["padding.bin"] = np.random.default_rng(release).bytes(padding_bytes)
            padded = opened.manifest.model_copy(update={"blobs": describe_blobs(blobs)})
            write_atomically(path, encode_bundle(padded, blobs))
        self.commands.run("bundle", "sign", path, "--keys", self.keys, online=True)
        self.commands.run("bundle", "push", path, online=True)

    def online_devices(self) -> set[str]:
        with self.client_session() as client:
            return {row["id"] for row in client.devices() if row["online"]}

    def client_session(self) -> "_Session":
        return _Session(self.client())


class _Session:
    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> Client:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model, trained and quantized once for all tests."""
    folder = tmp_path_factory.mktemp("model")
    prepare(folder / "recipe", seed=7)
    build_model(folder / "recipe", folder / "built")
    return folder / "built"


@pytest.fixture
def fleet(tmp_path: Path, built: Path) -> Iterator[Fleet]:
    """A fleet whose two devices are enrolled and online; everything is stopped afterwards."""
    stage = Fleet(tmp_path / "f", built)
    stage.folder.mkdir()
    try:
        stage.raise_curtain()
        for device in DEVICES:
            stage.start_agent(device)
        wait_for("devices are online", lambda: stage.online_devices() == set(DEVICES))
        yield stage
    finally:
        stage.processes.stop_all()


def plan(release: int) -> dict[str, Any]:
    return {"model": MODEL, "release": release, "waves": [{"devices": [DEVICES[0]]}], "timeout_s": 120}
