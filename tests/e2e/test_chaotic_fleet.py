"""Everything that controller and agents say to each other goes through a bad courier; rollouts end all the same."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Ills
from chaos_proxy import Between, ChaosProxy
from fleet_stage import DEVICES, Fleet, plan, raised, wait_for
from memory_peak import MemoryPeak
from typing_extensions import override

from dsops import strictjson
from dsops.directive import PAYLOAD_TYPE, Directive, payload_digest
from dsops.dsse import decode
from dsops_agent.identity import IdentityFolder
from dsops_controller.demo.processes import Child
from dsops_controller.demo.stage import MODEL, Ports
from dsops_controller.server.mosquitto import CONTROLLER

BAD = Ills(
    duplicate=0.05,
    drop=0.02,
    reorder=0.05,
    corrupt=0.01,
    reset_after=400,
    reset_after_s=6.0,
    bytes_per_s=8e6,
    pieces=True,
)
PADDING_BYTES = 5_000_000
GROWTH_BYTES = 8_000_000
"""What an agent's control process may need; the two transfers together are a quarter more."""


class ChaoticFleet(Fleet):
    """A fleet whose broker is where nobody looks for it; where they look is the proxy."""

    def __init__(self, folder: Path, built: Path, seed: int) -> None:
        super().__init__(folder, built)
        self.hidden_port = Ports.free().broker
        between = Between(self.ports.broker, self.hidden_port, self.server / "ca", self._identity)
        self.proxy = ChaosProxy(between, Ills(), seed)
        self.proxy.keep = lambda topic: topic.endswith("/dn/desired")

    @override
    def start_broker(self) -> Child:
        configured = self.server / "mosquitto" / "mosquitto.conf"
        text, count = re.subn(
            rf"^listener {self.ports.broker}\b",
            f"listener {self.hidden_port}",
            configured.read_text(),
            flags=re.MULTILINE,
        )
        assert count == 1
        configured.write_text(text)
        self.proxy.start()
        return super().start_broker()

    def directives(self) -> dict[tuple[str, int], set[str]]:
        """Return what the controller sent: digests of payloads by device and number."""
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for topic, envelope in list(self.proxy.sent):
            if envelope:
                said = Directive.model_validate(strictjson.loads(decode(envelope, PAYLOAD_TYPE).content()))
                assert f"/d/{said.device}/" in topic
                found[said.device, said.seq].add(payload_digest(envelope))
        return found

    def _identity(self, name: str) -> tuple[Path, Path]:
        if name == CONTROLLER:
            return self.server / "ca" / f"{name}.crt", self.server / "ca" / f"{name}.key"
        identity = IdentityFolder(self.home(name) / "state" / "identity").load(name)
        assert identity is not None
        return identity.certificate_path, identity.key_path


@pytest.fixture(params=[1, 2])
def chaotic(request: pytest.FixtureRequest, short_path: Path, built: Path) -> Iterator[ChaoticFleet]:
    stage = ChaoticFleet(short_path, built, request.param)
    try:
        with raised(stage):
            yield stage
    finally:
        stage.proxy.stop()


@pytest.mark.faults
@pytest.mark.e2e
def test_rollouts_through_a_bad_courier_end_succeeded(chaotic: ChaoticFleet) -> None:
    chaotic.proxy.become(BAD)
    peaks = {child.name: MemoryPeak(child.pid) for child in chaotic.agents()}
    began_s = time.monotonic()
    for release in (1, 2):
        chaotic.publish(release, PADDING_BYTES)
        everyone = plan(release) | {"waves": [{"devices": list(DEVICES)}], "timeout_s": 240}
        rollout = chaotic.client.create_rollout(everyone)["id"]
        wait_for("the rollout ends", lambda rollout=rollout: chaotic.client.rollout(rollout)["state"] != "running", 260)
        ended = chaotic.client.rollout(rollout)
        assert ended["state"] == "succeeded", json.dumps(ended, indent=1)
    took_s = time.monotonic() - began_s
    assert set(peaks) == {child.name for child in chaotic.agents()}
    grown = {name: peak.growth_bytes() for name, peak in peaks.items()}
    print(f"{chaotic.proxy.done}, {took_s:.1f} s for two rollouts, peak memory grew by bytes: {grown}")
    assert max(grown.values()) <= GROWTH_BYTES

    for ill in ("duplicate", "drop", "reorder", "corrupt", "reset"):
        assert chaotic.proxy.done[ill], chaotic.proxy.done
    sent = chaotic.directives()
    assert {device for device, _ in sent} == set(DEVICES)
    assert all(len(payloads) == 1 for payloads in sent.values()), "one number, one directive"
    for device in DEVICES:
        bundle = chaotic.home(device) / "state/slots" / MODEL / "active/bundle"
        assert bundle.read_bytes() == (chaotic.folder / "2.bundle").read_bytes()
