"""The broker is killed in the middle of a transfer and has forgotten everything: the transfer ends identical.

Real processes: mosquitto, controller, one agent with its runtime. All of them speak to the broker through a relay that
is slow, so that there is a middle, and that counts what comes down.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops.bundle import file_digest
from dsops_controller.build.recipe import build_model
from dsops_controller.demo.ports import free_ports
from dsops_controller.demo.prepare import prepare
from dsops_controller.demo.processes import Child
from dsops_controller.demo.stage import HOST, MODEL

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

PADDING_BYTES = 8_000_000
RATE_BYTES_S = 2_000_000
WINDOW_BYTES = 1 << 20
KILL_AT = (0.25, 0.6)
PATIENCE_S = 180


class Relay:
    """Forwards connections to the broker; what comes down is slowed and counted."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server((HOST, port))
        [self.broker_port] = free_ports(1)
        self._lock = threading.Lock()
        self.down_bytes = 0

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection((HOST, self.broker_port))
                except OSError:
                    client.close()
                    continue
                for ends, is_down in (((client, broker), False), ((broker, client), True)):
                    threading.Thread(target=self._forward, args=(*ends, is_down), daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _forward(self, source: socket.socket, sink: socket.socket, is_down: bool) -> None:
        with suppress(OSError):
            while data := source.recv(32 * 1024):
                sink.sendall(data)
                if is_down:
                    with self._lock:
                        self.down_bytes += len(data)
                    time.sleep(len(data) / RATE_BYTES_S)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class FleetBehindRelay(Fleet):
    """A fleet whose broker listens behind the relay."""

    relay: Relay

    def start_broker(self) -> Child:
        conf = self.server / "mosquitto" / "mosquitto.conf"
        front, behind = f"listener {self.ports.broker}", f"listener {self.relay.broker_port}"
        conf.write_text(conf.read_text(encoding="utf-8").replace(front, behind), encoding="utf-8")
        child = super().start_broker()
        self.wait_until("the broker listens behind the relay", self._broker_listens, child)
        return child

    def _broker_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.relay.broker_port)) == 0

    def kill_broker_and_forget(self) -> None:
        (child,) = [child for child in self.processes.children if child.name == "mosquitto"]
        child.process.kill()
        child.process.wait()
        self.processes.children.remove(child)
        for stored in (self.server / "mosquitto").glob("**/*.db"):
            stored.unlink()


@pytest.fixture
def fleet(tmp_path: Path, short_path: Path) -> Iterator[FleetBehindRelay]:
    prepare(tmp_path / "recipe", seed=7)
    build_model(tmp_path / "recipe", tmp_path / "built")
    stage = FleetBehindRelay(short_path, tmp_path / "built")
    stage.relay = Relay(stage.ports.broker)
    threading.Thread(target=stage.relay.run, daemon=True).start()
    try:
        stage.raise_curtain()
        stage.start_agent(DEVICES[0])
        wait_for("the device is online", lambda: stage.online_devices() == {DEVICES[0]}, PATIENCE_S)
        yield stage
    finally:
        stage.processes.stop_all()
        stage.relay.close()


def observed(fleet: Fleet) -> dict[str, Any]:
    path = fleet.home(DEVICES[0]) / "state" / "status.json"
    with suppress(OSError, ValueError):
        models = json.loads(path.read_text(encoding="utf-8")).get("models", {})
        return dict(models.get(MODEL, {}))
    return {}


def finish(fleet: Fleet, rollout: str) -> str:
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] != "running", PATIENCE_S)
    return str(fleet.client.rollout(rollout)["state"])


def test_a_broker_that_forgot_everything(fleet: FleetBehindRelay, record_property: Any) -> None:
    fleet.publish(1)
    assert finish(fleet, fleet.client.create_rollout(plan(1))["id"]) == "succeeded"
    fleet.publish(2, PADDING_BYTES)
    before = fleet.relay.down_bytes
    rollout = fleet.client.create_rollout(plan(2))["id"]
    for share in KILL_AT:
        wait_for(
            f"{share:.0%} are there",
            lambda share=share: observed(fleet).get("install") == "fetching" and observed(fleet)["progress"] >= share,
            PATIENCE_S,
        )
        fleet.kill_broker_and_forget()
        fleet.start_broker()
    assert finish(fleet, rollout) == "succeeded"
    came = fleet.relay.down_bytes - before
    file = fleet.folder / "2.bundle"
    size = file.stat().st_size
    record_property("bytes per byte", came / size)
    print(f"{came} bytes came down for a bundle of {size}, with {len(KILL_AT)} deaths of the broker: {came / size:.3f}")
    installed = list(fleet.home(DEVICES[0]).glob(f"state/slots/{MODEL}/[ab]/bundle"))
    assert file_digest(file) in [file_digest(path) for path in installed]
    assert came <= 1.05 * size + len(KILL_AT) * WINDOW_BYTES
