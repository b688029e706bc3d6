"""Wrong configuration, busy ports, second instances, missing peers, a full disk, signals: clear errors, no orphans."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops.errors import RuntimeCrashed
from dsops_controller.demo import digits
from dsops_controller.demo.processes import Child
from dsops_controller.demo.programs import Classifier
from dsops_controller.demo.stage import MODEL
from dsops_controller.server.init import Ports, init_server

pytestmark = pytest.mark.e2e

AGENT = [sys.executable, "-m", "dsops_agent"]
DSOPS = [sys.executable, "-m", "dsops_controller.cli.app"]
END_S = 10.0
DISK_BYTES = 96 << 20


def run(command: list[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


def agent_toml(folder: Path, *, extra: str = "", without: str = "", enrolment: str = "127.0.0.1:1") -> Path:
    lines = [
        'device = "cam-1"', f'state = "{folder / "state"}"', extra, "[enrolment]", f'address = "{enrolment}"',
        'ca = "ca.crt"', 'token = "token"', "retry_max_s = 0.2", "[trust]", 'root = "1.root.json"',
    ]  # fmt: skip
    path = folder / "agent.toml"
    path.write_text("\n".join(line for line in lines if not without or not line.startswith(without)))
    return path


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def processes_that_name(folder: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = process.info["cmdline"] or []
        if process.info["pid"] != os.getpid() and any(str(folder) in word for word in words):
            found.append(words)
    return found


def child(fleet: Fleet, name: str) -> Child:
    (found,) = [c for c in fleet.processes.children if c.name == name]
    return found


def status(fleet: Fleet, device: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((fleet.home(device) / "state" / "status.json").read_text())
    return loaded


def release_that_answers(fleet: Fleet, device: str) -> str:
    inference = Classifier(fleet.inference_socket(device), MODEL)
    try:
        return inference.classify(digits.splits(7).test.x[0], "bad-input").release
    except RuntimeCrashed:
        return ""
    finally:
        inference.close()


def roll_out(fleet: Fleet, release: int, timeout_s: float = 60.0) -> dict[str, Any]:
    fleet.publish(release)
    rollout = fleet.client.create_rollout(plan(release) | {"timeout_s": timeout_s})["id"]
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] != "running", timeout_s=120)
    return fleet.client.rollout(rollout)


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda folder: agent_toml(folder).unlink(), ""),
        (lambda folder: agent_toml(folder).write_text("device = "), ""),
        (lambda folder: agent_toml(folder).write_bytes(b"\xff\xfe"), ""),
        (lambda folder: agent_toml(folder, extra='colour = "red"'), "colour"),
        (lambda folder: agent_toml(folder, extra='[install]\nprobaton_s = 1'), "install.probaton_s"),
        (lambda folder: agent_toml(folder, without="device"), "device"),
        (lambda folder: agent_toml(folder, without="root"), "trust.root"),
        (lambda folder: agent_toml(folder, enrolment="nowhere"), "enrolment.address"),
        (lambda folder: agent_toml(folder, extra='log = "loud"'), "log"),
    ],
)  # fmt: skip
def test_a_wrong_agent_configuration(tmp_path: Path, spoil: Callable[[Path], object], key: str) -> None:
    spoil(tmp_path)
    for verb in (("run",), ("status",), ("config", "show")):
        refused = run(AGENT, *verb, "--config", tmp_path / "agent.toml")
        assert refused.returncode == 2, refused.stderr
        first = refused.stderr.splitlines()[0]
        assert first.startswith("error[request.invalid_config]: ")
        assert str(tmp_path / "agent.toml") in first
        assert key in first
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", ["rest", "ingest", "enrolment"])
def test_a_busy_port_is_named(tmp_path: Path, name: str) -> None:
    sockets = {key: socket.create_server(("127.0.0.1", 0)) for key in ("rest", "broker", "ingest", "enrolment")}
    ports = {key: listening.getsockname()[1] for key, listening in sockets.items()}
    init_server(tmp_path / "server", fleet="fleet", ports=Ports(**ports))
    for key, listening in sockets.items():
        if key != name:
            listening.close()
    with sockets[name]:
        refused = run(DSOPS, "server", "run", tmp_path / "server")
    assert refused.returncode == 1, refused.stderr
    error = next(line for line in refused.stderr.splitlines() if line.startswith("error["))
    assert error.startswith("error[device.port_busy]: ")
    assert name in error
    assert str(ports[name]) in error
    assert "Traceback" not in refused.stderr


def test_an_enrolment_service_that_is_not_there(tmp_path: Path, fleet_folder: Path) -> None:
    shutil.copy(fleet_folder / "ca" / "ca.crt", tmp_path / "ca.crt")
    (tmp_path / "1.root.json").write_text("{}")
    (tmp_path / "token").write_text("guess")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    config = agent_toml(tmp_path, enrolment=f"127.0.0.1:{port}")
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen([*AGENT, "run", "--config", str(config)], stdout=log, stderr=log)
    try:
        problem = tmp_path / "state" / "status.json"
        wait_for("the problem is told", lambda: problem.exists() and "enrolment" in problem.read_text())
        wait_for("the problem is told", lambda: json.loads(problem.read_text())["problems"].get("enrolment", "") != "")
        assert process.poll() is None
        told = run(AGENT, "status", "--check", "--config", config)
        assert (told.returncode, (tmp_path / "token").exists()) == (3, True), told.stderr
    finally:
        process.terminate()
        process.wait(END_S)
    assert process.returncode == 0, (tmp_path / "agent.log").read_text()


@pytest.fixture
def fleet_folder(tmp_path: Path) -> Path:
    """A server's folder whose server does not run."""
    init_server(tmp_path / "unused", fleet="fleet")
    return tmp_path / "unused"


@pytest.mark.slow
def test_a_fleet_whose_parts_are_doubled_missing_or_stopped(fleet: Fleet) -> None:
    canary, other = DEVICES
    assert roll_out(fleet, 1)["state"] == "succeeded"

    refused = run(DSOPS, "server", "run", fleet.server)
    assert refused.returncode == 6, refused.stderr
    assert "error[device.already_running]" in refused.stderr
    refused = run(AGENT, "run", "--config", fleet.home(canary) / "agent.toml")
    assert refused.returncode == 6, refused.stderr
    assert "error[device.already_running]" in refused.stderr

    fleet.processes.stop(child(fleet, "mosquitto"))
    wait_for("the server misses the broker", lambda: fleet.client.summary()["mqtt"]["connected"] is False)
    wait_for("the agent misses the broker", lambda: status(fleet, canary)["connected"] is False)
    assert run(AGENT, "status", "--check", "--config", fleet.home(canary) / "agent.toml").returncode == 3
    assert release_that_answers(fleet, canary) == "1"
    assert fleet.client.bundles() != []
    fleet.start_broker()
    wait_for("the agent is back", lambda: status(fleet, canary)["connected"] is True)
    wait_for("the server is back", lambda: fleet.client.summary()["mqtt"]["connected"] is True)

    for name, number in (
        (f"agent-{canary}", signal.SIGINT),
        (f"agent-{other}", signal.SIGTERM),
        ("server", signal.SIGINT),
    ):
        ends_with_everything(fleet, name, number)
    server = fleet.processes.start("server-again", *DSOPS, "server", "run", str(fleet.server))
    fleet.processes.wait_for_line(server, "ready:")
    ends_with_everything(fleet, "server-again", signal.SIGTERM)


def ends_with_everything(fleet: Fleet, name: str, number: signal.Signals) -> None:
    ended = child(fleet, name)
    members = family(ended.pid)
    if name.startswith("agent-"):
        runtime = status(fleet, name.removeprefix("agent-"))["runtime_pid"]
        assert runtime in {process.pid for process in members}
    ended.process.send_signal(number)
    assert ended.process.wait(END_S) == 0, ended.log.read_text()[-2000:]
    assert living(members) == []
    fleet.processes.children.remove(ended)


@pytest.fixture
def fleet_on_a_small_disk(short_path: Path, built: Path) -> Iterator[Fleet]:
    """A fleet whose devices have a file system of their own, of ``DISK_BYTES``."""
    stage = Fleet(short_path, built)
    disk = stage.folder / "devices"
    disk.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mounted = run(["mount"], "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk)
    if mounted.returncode:
        pytest.skip(f"no small file system: {mounted.stderr.strip()}")
    try:
        stage.raise_curtain()
        stage.start_agent(DEVICES[0])
        wait_for("the device is online", lambda: stage.online_devices() == {DEVICES[0]})
        yield stage
    finally:
        stage.processes.stop_all()
        run(["umount"], disk)


def fill(folder: Path, left_bytes: int) -> None:
    """Leave so many bytes free on the file system of a folder, or none at all."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while left_bytes == 0 or shutil.disk_usage(folder).free > left_bytes:
            file.write(bytes(65536 if left_bytes else 4096))


@pytest.mark.slow
def test_a_full_disk_refuses_the_new_release_and_keeps_the_old(fleet_on_a_small_disk: Fleet) -> None:
    fleet, device, disk = fleet_on_a_small_disk, DEVICES[0], fleet_on_a_small_disk.folder / "devices"
    assert roll_out(fleet, 1)["state"] == "succeeded"
    fill(disk, left_bytes=3 << 20)
    ended = roll_out(fleet, 2, timeout_s=8.0)  # the device tries again until there is space, and says why it waits
    ((part,),) = ended["waves"]
    assert (ended["state"], part["state"], part["code"]) == ("paused", "timed_out", "device.no_space"), ended
    assert status(fleet, device)["models"][MODEL]["problem"]["code"] == "device.no_space"
    assert release_that_answers(fleet, device) == "1"
    fleet.client.abort_rollout(ended["id"])

    fill(disk, left_bytes=0)
    assert shutil.disk_usage(disk).free == 0
    fleet.publish(3)
    rollout = fleet.client.create_rollout(plan(3))["id"]
    agent = child(fleet, f"agent-{device}")
    wait_for("the device says that its disk is full", lambda: code_of(fleet, rollout) == "device.no_space")
    assert release_that_answers(fleet, device) == "1"
    assert agent.process.poll() is None
    (disk / "filler").unlink()
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] != "running", timeout_s=90)
    assert fleet.client.rollout(rollout)["state"] == "succeeded"
    assert release_that_answers(fleet, device) == "3"


def code_of(fleet: Fleet, rollout: str) -> str:
    ((part,),) = fleet.client.rollout(rollout)["waves"]
    return str(part["code"])


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="dsops-test-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["2. ", "4. "])
def test_ctrl_c_stops_the_whole_demonstration(short_folder: Path, step: str) -> None:
    process = subprocess.Popen(
        [*DSOPS, "demo", "--devices", "2"],
        stdout=(short_folder / "out").open("wb"),
        stderr=(short_folder / "err").open("wb"),
        env=os.environ | {"TMPDIR": str(short_folder)},
        start_new_session=True,
    )
    try:
        wait_for(
            f"step {step}has begun",
            lambda: any(line.startswith(step) for line in (short_folder / "out").read_text().splitlines()),
            timeout_s=120,
        )
        time.sleep(2.0)  # in the middle of it
        assert process.poll() is None, (short_folder / "err").read_text()
        assert processes_that_name(short_folder) != []
        process.send_signal(signal.SIGINT)
        assert process.wait(15.0) == 130, (short_folder / "err").read_text()
    finally:
        process.kill()
        process.wait()
    assert processes_that_name(short_folder) == []
    assert list(short_folder.glob("dsops-demo-*")) == []
    told = (short_folder / "err").read_text()
    assert "Traceback" not in told
    assert "error[request.interrupted]" in told
