"""The demonstration's stage as end-to-end tests use it: bundles by hand, a client, waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.files import write_atomically
from dsops.manifest import Attachment
from dsops_controller.build.bundles.package import build_bundle
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

    def publish(self, release: int, padding_bytes: int = 0) -> None:
        """Push a release; padding makes its transfer long enough to be interrupted."""
        path = self.folder / f"{release}.bundle"
        build_bundle(self.built, release, path, "int8")
        if padding_bytes:
            opened = Bundle.open(path)
            blobs = {blob.name: opened.read(blob.name) for blob in opened.manifest.blobs}
            blobs["padding.bin"] = np.random.default_rng(release).bytes(padding_bytes)
            padding = Attachment(blob="padding.bin", kind="document")
            fields = {"blobs": describe_blobs(blobs), "files": (*opened.manifest.files, padding)}
            padded = opened.manifest.model_copy(update=fields)
            write_atomically(path, encode_bundle(padded, blobs))
        self.commands.run("bundle", "sign", path, "--keys", self.keys, online=True)
        self.commands.run("bundle", "push", path, online=True)

    def online_devices(self) -> set[str]:
        return {row["id"] for row in self.client.devices() if row["online"]}


@contextmanager
def raised(stage: Fleet) -> Iterator[None]:
    """Enrol and connect both devices; everything is stopped afterwards."""
    try:
        stage.raise_curtain()
        for device in DEVICES:
            stage.start_agent(device)
        wait_for("devices are online", lambda: stage.online_devices() == set(DEVICES))
        yield
    finally:
        stage.processes.stop_all()


def plan(release: int) -> dict[str, Any]:
    return {"model": MODEL, "release": release, "waves": [{"devices": [DEVICES[0]]}], "timeout_s": 120}
