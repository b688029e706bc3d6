"""`dsops-agent install` with a running agent: what it refuses, what it prints, and what Ctrl-C ends."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import describe_blobs, encode_bundle
from dsops.errors import DsopsError, InvalidInput
from dsops.kit import KIT_FILE
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import ChallengerState, ModelState, Problem
from dsops.states import Install
from dsops_agent.config import load
from dsops_agent.install.places import challenger_place
from dsops_agent.install_command import Follower, install
from dsops_agent.status import OfferStatus, Status

pytestmark = pytest.mark.integration

Ask = Callable[..., subprocess.CompletedProcess[str]]
DIGEST = "a" * 64


def write_bundle(path: Path) -> Path:
    blobs = {"model.tflite": b"x" * 1000, "profile.json": b"{}", "golden.bin": b"g"}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(model="digits", release=1, inputs=(spec,), outputs=(spec,), blobs=describe_blobs(blobs))
    path.write_bytes(encode_bundle(manifest, blobs))
    return path


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_in_a_few_lines(
    agent: Any, ask: Ask, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    bundle = write_bundle(tmp_path / "digits.bundle")
    assert ask(agent.folder, "install", str(bundle)).returncode == 6  # nobody runs
    agent.start()
    eventually(agent.is_well, 60)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no bundle")
    (tmp_path / "circle").symlink_to("circle")
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / KIT_FILE).write_text("{}")
    for path, code, named in (
        (tmp_path / "nothing", 2, "request.invalid_input"),
        (tmp_path / "empty", 2, "request.invalid_input"),
        (Path("/dev/zero"), 2, "request.invalid_input"),
        (tmp_path / "circle", 2, "request.invalid_input"),
        (tmp_path / ("long" * 100), 2, "request.invalid_input"),
        (tmp_path / "text", 7, "bundle.malformed"),
        (kit, 2, "request.invalid_input"),
        (bundle, 6, "request.conflict"),
    ):
        done = ask(agent.folder, "install", str(path))
        assert done.returncode == code, (path, done)
        lines = done.stderr.splitlines()
        assert lines[0].startswith(f"error[{named}]: "), done.stderr
        assert lines[-1].startswith(("  why: ", "  do: ")), done.stderr
        assert "Traceback" not in done.stderr
    assert "do: bring what the device shall run as well" in done.stderr
    assert "no directive wants this bundle" in agent.log


def test_an_interrupt_ends_the_following_and_says_that_the_install_goes_on(
    agent: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / KIT_FILE).write_text("{}")
    agent.signal(signal.SIGSTOP)  # it cannot answer
    words = ["-m", "dsops_agent", "install", str(kit), "--config", str(agent.folder / "agent.toml")]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "is offered to the agent" in process.stdout.readline()
    offer = json.loads((agent.folder / "state/offers/offer.json").read_text())
    assert offer["path"] == str(kit)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    agent.signal(signal.SIGCONT)
    assert process.returncode == 130
    assert "the install goes on" in errors
    eventually(lambda: agent.status.offer is not None)
    assert agent.status.offer.problem.code == "request.invalid_input"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_looked_into_is_said(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.toml").write_text('device = "cam-1"\nstate = "state"\n[trust]\nroot = "r"\n')
    config = load(tmp_path / "agent.toml").config

    def fail(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "is_file", fail)
    with pytest.raises(InvalidInput, match="cannot look at") as caught:
        install(config, tmp_path, print)
    assert caught.value.why == os.strerror(number)
    assert caught.value.hint


def status(*, problem: Problem | None = None, is_reached: bool = True, **models: ModelState) -> Status:
    offer = OfferStatus(id="1", path="/kit", bundles={"digits": DIGEST}, is_reached=is_reached, problem=problem)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Status(device="cam-1", version="1", pid=1, updated=now, offer=offer, models=models)


def at(install: Install, progress: float = 0.0, problem: Problem | None = None, target: str = DIGEST) -> ModelState:
    return ModelState(install=install, progress=progress, problem=problem, target=target)


def test_each_change_is_said_once_until_everything_is_installed() -> None:
    follower = Follower("1")
    seen = [
        status(digits=at(Install.COMMITTED, target="b" * 64)),
        status(digits=at(Install.FETCHING, 0.31)),
        status(digits=at(Install.FETCHING, 0.33)),
        status(digits=at(Install.FETCHING, 0.41)),
        status(digits=at(Install.COMMITTED, 1.0)),
    ]
    lines = [line for one in seen for line in follower.look(one)]
    assert lines == ["/kit: digits", "digits: fetching 30 %", "digits: fetching 40 %", "digits: committed"]
    assert follower.is_over


def of_challenger(install: Install, problem: Problem | None = None, target: str = "c" * 64) -> Status:
    rival = ChallengerState(install=install, problem=problem, target=target)
    said = status(digits=at(Install.COMMITTED).model_copy(update={"challenger": rival}))
    assert said.offer is not None
    bundles = {**said.offer.bundles, challenger_place("digits"): "c" * 64}
    return said.model_copy(update={"offer": said.offer.model_copy(update={"bundles": bundles})})


def test_a_challenger_is_followed_to_its_end_too() -> None:
    follower = Follower("1")
    lines = list(follower.look(of_challenger(Install.COMMITTED, target="d" * 64)))  # the one before
    assert lines == ["/kit: digits, challenger of digits", "digits: committed"]
    assert list(follower.look(of_challenger(Install.PROVED))) == ["challenger of digits: proved"]
    assert not follower.is_over
    assert list(follower.look(of_challenger(Install.COMMITTED))) == ["challenger of digits: committed"]
    assert follower.is_over
    refused = Problem(code="bundle.golden_mismatch", message="3 of 8 differ")
    with pytest.raises(DsopsError) as caught:
        list(Follower("1").look(of_challenger(Install.REJECTED, refused)))
    assert caught.value.code == refused.code


def test_a_refusal_is_the_error_that_the_agent_named() -> None:
    refused = Problem(code="trust.directive_unsigned", message="the directive is refused: 0 keys signed, 1 is needed")
    for one in (status(problem=refused), status(digits=at(Install.REJECTED, problem=refused))):
        with pytest.raises(DsopsError) as caught:
            list(Follower("1").look(one))
        assert (caught.value.code, caught.value.why) == (refused.code, "0 keys signed, 1 is needed")


def test_the_end_of_an_install_before_is_none_of_ours() -> None:
    follower, trouble = Follower("1"), Problem(code="device.no_space", message="full")
    assert list(follower.look(status(is_reached=False, digits=at(Install.COMMITTED)))) == ["/kit: digits"]
    assert list(follower.look(status(is_reached=False, digits=at(Install.REJECTED, problem=trouble)))) == []
    assert not follower.is_over
    list(follower.look(status(digits=at(Install.COMMITTED))))
    assert follower.is_over


def test_another_offer_is_none_of_ours() -> None:
    follower = Follower("2")
    assert list(follower.look(status(digits=at(Install.COMMITTED)))) == []
    assert not follower.is_over
