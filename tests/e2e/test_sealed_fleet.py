"""A sealed model in a whole fleet: served, served again after a crash, gone back to offline, and never on a disk."""

import os
import signal
from pathlib import Path

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from test_kills_during_a_rollout import answers, finish, runtime_of, status

from dsops.bundle import Bundle
from dsops.sealing import content_key
from dsops_controller.demo import digits
from dsops_controller.demo.programs import Classifier
from dsops_controller.demo.stage import MODEL

CANARY = DEVICES[0]


def publish_sealed(fleet: Fleet, release: int, keyfile: Path) -> Path:
    path = fleet.folder / f"{release}.bundle"
    words = ("-r", str(release), "--variant", "int8", "--to", path, "--seal", keyfile)
    fleet.commands.run("bundle", "build", fleet.built, *words)
    fleet.commands.run("bundle", "sign", path, "--keys", fleet.keys, online=True)
    fleet.commands.run("bundle", "push", path, "--content-key", keyfile, online=True)
    return path


def answers_from(fleet: Fleet, device: str, release: int) -> None:
    inference = Classifier(fleet.inference_socket(device), MODEL)
    frame = digits.splits(7).test.x[0]
    wait_for(f"{device} answers from release {release}", lambda: answers(inference, frame) == str(release))
    inference.close()


def files_with(folder: Path, marker: bytes) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and marker in path.read_bytes()}


@pytest.mark.slow
@pytest.mark.e2e
def test_a_sealed_model_is_served_restarted_and_rolled_back_and_no_disk_holds_it(fleet: Fleet, tmp_path: Path) -> None:
    keyfile = tmp_path / "digits.key"
    bundles = []
    for release in (1, 2):
        bundles.append(publish_sealed(fleet, release, keyfile))
        rollout = fleet.client.create_rollout(plan(release))["id"]
        assert finish(fleet, rollout)["state"] == "succeeded"
        for device in DEVICES:
            answers_from(fleet, device, release)

    before = runtime_of(fleet, CANARY)
    os.kill(before, signal.SIGKILL)
    wait_for("there is another runtime", lambda: status(fleet, CANARY)["runtime_pid"] not in (before, None))
    answers_from(fleet, CANARY, 2)

    for name in ("server", "mosquitto", f"agent-{CANARY}"):
        fleet.processes.stop(*(child for child in fleet.processes.children if child.name == name))
    active = fleet.home(CANARY) / "state/slots" / MODEL / "active/bundle"
    active.write_bytes(active.read_bytes()[:-1] + b"?")
    fleet.run_agent(CANARY)
    answers_from(fleet, CANARY, 1)

    fleet.processes.stop_all()
    payload = (fleet.built / "int8/model.tflite").read_bytes()
    third = len(payload) // 3
    for start in (0, third, 2 * third):
        assert files_with(fleet.folder, payload[start : start + 64]) == set()
        assert files_with(fleet.built, payload[start : start + 64]) == {"model.tflite"}
    secret = bytes.fromhex(keyfile.read_text())
    assert files_with(fleet.folder, secret) == set()
    for path in bundles:
        key = content_key(secret, Bundle.open(path).manifest).data
        assert files_with(fleet.folder / "devices", key) == set()
        assert files_with(fleet.folder, key) <= {"state.db", "state.db-wal"}
        assert files_with(fleet.folder, key.hex().encode()) == set()
