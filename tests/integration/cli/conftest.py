"""A real controller as a process, without a broker; the command line runs in this process, or in one of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_outcome import Outcome, runner

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.files import write_atomically
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model
from dsops_controller.demo.ports import free_ports
from dsops_controller.demo.prepare import prepare
from dsops_controller.server.init import Ports, init_server
from dsops_controller.trust import ceremony

MODEL = "digits"


@dataclass(frozen=True)
class Site:
    """A server's folder, the offline keys, and the context file for it."""

    server: Path
    keys: Path

    @property
    def context(self) -> Path:
        return self.server / "operator.toml"

    @property
    def root(self) -> Path:
        return self.server / "trust" / "metadata" / "1.root.json"


def found(folder: Path) -> Site:
    site = Site(folder / "server", folder / "keys")
    init_server(site.server, fleet="fleet", ports=Ports(*free_ports(4)))
    ceremony.init(site.keys, site.server, root_keys=3, threshold=2)
    ceremony.grant(site.keys, site.server, MODEL)
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that runs; each module has its own, for release numbers only rise."""
    made = found(tmp_path_factory.mktemp("site"))
    command = [sys.executable, "-m", "dsops_controller.cli.app", "server", "run", str(made.server)]
    with (made.server / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready:"), (made.server / "server.log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def other_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A fleet with other keys, whose server does not run."""
    return found(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that builds."""
    folder = tmp_path_factory.mktemp("recipe") / "digits"
    prepare(folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def built(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(recipe, tmp_path_factory.mktemp("built") / "digits").folder


@pytest.fixture
def make_bundle(built: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an unsigned bundle of a release; a note makes other bytes of it."""

    def make(release: int, note: str = "") -> Path:
        path = tmp_path / f"{MODEL}-{release}{note}.bundle"
        build_bundle(built, release, path, "int8")
        if note:
            opened = Bundle.open(path)
            blobs = {blob.name: opened.read(blob.name) for blob in opened.manifest.blobs}
            manifest = opened.manifest.model_copy(update={"description": note, "blobs": describe_blobs(blobs)})
            write_atomically(path, encode_bundle(manifest, blobs))
        return path

    return make


@pytest.fixture
def offline(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs a command in this process."""
    return runner(capsys)


@pytest.fixture
def dsops(offline: Callable[..., Outcome], site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a function that runs a command in this process, as the operator of the running server."""
    monkeypatch.setenv("DSOPS_CONTEXT", str(site.context))
    return offline
