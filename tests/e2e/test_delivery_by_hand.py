"""A fleet that loses its broker: a device installs from a kit, by the real programs on both sides, sealed and not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from http_servers import RangeServer
from test_kills_during_a_rollout import finish, status
from test_sealed_fleet import answers_from, publish_sealed

CANARY = DEVICES[0]


def install(fleet: Fleet, path: Path) -> subprocess.CompletedProcess[str]:
    words = ["install", str(path), "--config", str(fleet.home(CANARY) / "agent.toml")]
    return subprocess.run(
        [sys.executable, "-m", "dsops_agent", *words], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
@pytest.mark.e2e
def test_a_device_without_a_network_installs_a_sealed_model_from_a_stick(fleet: Fleet, tmp_path: Path) -> None:
    for child in [child for child in fleet.processes.children if child.name == "mosquitto"]:
        fleet.processes.stop(child)
    wait_for("the device is offline", lambda: not status(fleet, CANARY)["connected"])
    publish_sealed(fleet, 1, tmp_path / "digits.key")
    bare = install(fleet, fleet.folder / "1.bundle")
    assert bare.returncode == 6, bare
    assert bare.stderr.startswith("error[request.conflict]: no directive wants this bundle\n")
    assert "do: bring what the device shall run as well: dsops device kit" in bare.stderr
    fleet.client.create_rollout(plan(1))
    wait_for("there is a directive", lambda: "bundles" in directive(fleet))
    kit = tmp_path / "stick"
    made = fleet.commands.run("device", "kit", CANARY, "--out", kit, online=True)
    assert [bundle["release"] for bundle in made["bundles"]] == [1]
    done = install(fleet, kit)
    assert done.returncode == 0, (done, status(fleet, CANARY))
    assert "digits: committed" in done.stdout
    answers_from(fleet, CANARY, 1)
    sources = {source["name"]: source for source in status(fleet, CANARY)["sources"]}
    assert sources["broker"]["chunks"] == 0
    (kit / "kit.json").write_text(json.dumps({**made, "v": 2}))
    assert install(fleet, kit).returncode == 2


@pytest.mark.slow
@pytest.mark.e2e
def test_a_challenger_comes_on_the_stick_with_its_champion(fleet: Fleet, tmp_path: Path) -> None:
    for child in [child for child in fleet.processes.children if child.name == "mosquitto"]:
        fleet.processes.stop(child)
    fleet.publish(1)
    fleet.publish(2)
    fleet.client.create_rollout(plan(1))
    wait_for("there is a directive", lambda: "bundles" in directive(fleet))
    fleet.commands.run("challenger", "set", "digits/2", "--device", CANARY, "--shadow", "100", online=True)
    wait_for("it names the challenger", lambda: directive(fleet).get("challengers"))
    kit = tmp_path / "stick"
    made = fleet.commands.run("device", "kit", CANARY, "--out", kit, online=True)
    assert [(one["release"], one["is_challenger"]) for one in made["bundles"]] == [(1, False), (2, True)]
    done = install(fleet, kit)
    assert done.returncode == 0, (done, status(fleet, CANARY))
    assert "digits: committed" in done.stdout
    assert "challenger of digits: committed" in done.stdout
    answers_from(fleet, CANARY, 1)
    assert status(fleet, CANARY)["models"]["digits"]["challenger"]["release"] == 2


def directive(fleet: Fleet) -> dict[str, object]:
    try:
        return fleet.client.directive(CANARY)
    except Exception:  # noqa: BLE001  (there is none yet)
        return {}


@pytest.mark.slow
@pytest.mark.e2e
def test_what_bundle_export_writes_is_what_agents_fetch_from_a_web_server(fleet: Fleet, tmp_path: Path) -> None:
    fleet.publish(1)
    folder = tmp_path / "www"
    fleet.commands.run("bundle", "export", "digits/1", "--out", folder, online=True)
    server = RangeServer(folder)
    config = fleet.home(CANARY) / "agent.toml"
    config.write_text(config.read_text() + f'\n[transfer]\nhttp = "{server.url}"\n')
    (agent,) = [child for child in fleet.processes.children if child.name == f"agent-{CANARY}"]
    fleet.processes.stop(agent)
    fleet.run_agent(CANARY)
    rollout = fleet.client.create_rollout(plan(1))["id"]
    assert finish(fleet, rollout)["state"] == "succeeded"
    sources = {source["name"]: source for source in status(fleet, CANARY)["sources"]}
    assert sources["broker"]["chunks"] == 0, sources
    assert sources[server.url]["chunks"] > 10
    assert {name for name, _ in server.asked} <= {path.name for path in folder.iterdir()}
    assert any(wanted for _, wanted in server.asked)
    server.close()
