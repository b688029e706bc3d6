"""A rollout is ended while a device fetches its bundle: the device stops, says so itself, and asks for nothing more."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops_controller.demo.stage import MODEL

PADDING_BYTES = 40_000_000
CANCEL_S = 5.0
"""What the product promises, from the operator's word to the device's own report."""


def reported(fleet: Fleet, device: str) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = fleet.client.device(device)["models"]
    return models.get(MODEL, {})


@pytest.mark.slow
@pytest.mark.e2e
def test_an_aborted_rollout_stops_a_device_on_its_way(fleet: Fleet, record_property: Callable[..., None]) -> None:
    canary = DEVICES[0]
    fleet.publish(1, PADDING_BYTES)
    rollout = fleet.client.create_rollout(plan(1))["id"]
    wait_for("the transfer is under way", lambda: reported(fleet, canary).get("install") == "fetching")
    began_s = time.monotonic()
    ended = fleet.client.abort_rollout(rollout)
    wait_for(
        "the device says that it stopped",
        lambda: (reported(fleet, canary).get("problem") or {}).get("code") == "request.cancelled",
    )
    took_s = time.monotonic() - began_s
    print(f"a cancel took effect, and was reported, after {took_s:.2f} s")
    record_property("cancel_s", round(took_s, 2))
    assert took_s <= CANCEL_S
    assert {part["state"] for wave in ended["waves"] for part in wave} == {"aborted"}
    state = reported(fleet, canary)
    assert (state["install"], state["active"]) == ("rejected", None)
    assert not list((fleet.home(canary) / "state" / "staging").iterdir()), "what came of the transfer is gone"

    second = fleet.client.create_rollout(plan(1))["id"]  # and it is no obstacle to the next one
    wait_for("it fetches again", lambda: reported(fleet, canary).get("install") == "fetching")
    fleet.client.abort_rollout(second)
