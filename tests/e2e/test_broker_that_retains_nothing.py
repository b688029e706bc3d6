"""A fleet whose broker keeps no retained messages: the controller is asked for every document and chunk."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for
from test_kills_during_a_rollout import finish, status
from typing_extensions import override

from dsops_controller.demo.processes import Child

CANARY = DEVICES[0]
PADDING_BYTES = 5_000_000


class Forgetful(Fleet):
    """The stage with such a broker."""

    @override
    def start_broker(self) -> Child:
        with (self.server / "mosquitto" / "mosquitto.conf").open("a") as conf:
            conf.write("retain_available false\n")
        return super().start_broker()


@pytest.fixture
def forgetful(short_path: Path, built: Path) -> Iterator[Forgetful]:
    stage = Forgetful(short_path, built)
    try:
        stage.raise_curtain()
        stage.start_agent(CANARY)
        wait_for("the device is online", lambda: stage.online_devices() == {CANARY})
        yield stage
    finally:
        stage.processes.stop_all()


@pytest.mark.slow
@pytest.mark.e2e
def test_a_device_gets_its_directive_and_pulls_five_megabytes(forgetful: Forgetful) -> None:
    forgetful.publish(1, PADDING_BYTES)
    rollout = forgetful.client.create_rollout(plan(1))["id"]
    assert finish(forgetful, rollout)["state"] == "succeeded"
    assert status(forgetful, CANARY)["models"]["digits"]["active_release"] == 1
    wait_for("the broker counted", lambda: (forgetful.client.summary()["mqtt"]["bytes_out"] or 0) > PADDING_BYTES)
    assert forgetful.client.summary()["mqtt"]["refused"] == 0
    assert not forgetful.client.broker(again=True)["limits"]["retain"]
