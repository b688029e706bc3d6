"""All online keys of the server are stolen: a root and a director's list with other ones put running devices right."""

import pytest
from fleet_stage import Fleet, plan, wait_for


@pytest.mark.slow
@pytest.mark.e2e
def test_running_devices_follow_a_rotation_of_every_online_key(fleet: Fleet) -> None:
    fleet.publish(1)
    first = fleet.client.create_rollout(plan(1))["id"]
    wait_for("the first rollout ends", lambda: fleet.client.rollout(first)["state"] == "succeeded")
    keys = fleet.server / "keys"
    stolen = {file.read_bytes() for file in keys.glob("*.pem")}
    fleet.commands.run("trust", "rotate", "timestamp", "snapshot", "director", "--keys", fleet.keys, online=True)
    assert not stolen & {file.read_bytes() for file in keys.glob("*.pem")}
    fleet.publish(2)
    second = fleet.client.create_rollout(plan(2))["id"]
    wait_for("the second rollout ends", lambda: fleet.client.rollout(second)["state"] == "succeeded")
    releases = {row["models"]["digits"]["active_release"] for row in fleet.client.devices()}
    assert releases == {2}
