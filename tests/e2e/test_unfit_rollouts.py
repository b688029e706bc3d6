"""Bundles that do not fit, in a whole fleet: the operator sees why, the devices fetched nothing and serve on."""

from pathlib import Path
from typing import Any

import pytest
from fleet_stage import DEVICES, Fleet, plan
from test_kills_during_a_rollout import finish

from dsops.bundle import Bundle, encode_bundle
from dsops.files import write_atomically
from dsops.manifest import Manifest
from dsops_controller.build.bundles.package import build_bundle

CANARY = DEVICES[0]


def publish_changed(fleet: Fleet, release: int, **changes: object) -> Path:
    """Push a release whose manifest says something else."""
    path = fleet.folder / f"{release}.bundle"
    opened_manifest = build_bundle(fleet.built, release, path, "int8")
    opened = Bundle.open(path)
    blobs = {blob.name: opened.read(blob.name) for blob in opened_manifest.blobs}
    fields = opened_manifest.model_dump()
    for key, value in changes.items():
        fields[key] = fields[key] | value if isinstance(value, dict) else value
    write_atomically(path, encode_bundle(Manifest.model_validate(fields), blobs))
    fleet.commands.run("bundle", "sign", path, "--keys", fleet.keys, online=True)
    fleet.commands.run("bundle", "push", path, online=True)
    return path


def roll_out(fleet: Fleet, release: int, **changes: object) -> dict[str, Any]:
    rollout = fleet.client.create_rollout(plan(release) | changes)["id"]
    found = finish(fleet, rollout)
    if found["state"] == "paused":
        fleet.client.abort_rollout(rollout)
    return found


def fits_by_the_controller(fleet: Fleet, release: int) -> dict[str, Any]:
    """Return what `dsops device why` says of whether a release fits the canary."""
    [answer] = [one for one in fleet.client.why(CANARY, "digits") if one["release"] == release]
    [fits] = [rule for rule in answer["rules"] if rule["rule"] == "fits"]
    assert answer["accepted"] is (fits["ok"] is not False)
    assert isinstance(fits, dict)
    return fits


@pytest.mark.slow
@pytest.mark.e2e
def test_a_bundle_that_does_not_fit_is_refused_by_name_and_nothing_is_fetched(fleet: Fleet) -> None:
    fleet.publish(1)
    assert roll_out(fleet, 1)["state"] == "succeeded"
    staging = fleet.home(CANARY) / "state/staging"
    unfit = {
        2: ("incompatible.runtime", {"compatibility": {"min_litert": "99"}}, "it needs LiteRT 99"),
        3: ("incompatible.delegate", {"compatibility": {"delegates": ("edgetpu",)}}, "the delegate edgetpu"),
        4: ("incompatible.memory", {"budgets": {"max_memory_bytes": 2**50}}, "bytes of memory"),
        5: ("incompatible.tensors", {"labels": ()}, "output label BYTES [n] is gone"),
    }
    for release, (code, changes, text) in unfit.items():
        publish_changed(fleet, release, **changes)
        foreseen = fits_by_the_controller(fleet, release)
        if code == "incompatible.delegate":  # only the device knows what it has
            assert foreseen["ok"] is None
        else:
            assert (foreseen["ok"], foreseen["code"]) == (False, code)
        found = roll_out(fleet, release)
        [canary] = found["waves"][0]
        assert (found["state"], canary["state"], canary["code"]) == ("paused", "incompatible", code)
        assert text in canary["message"]
        assert list(staging.iterdir()) == []
        fits = fits_by_the_controller(fleet, release)
        assert (fits["ok"], fits["code"]) == (False, code)
        assert text in fits["text"]
    fleet.publish(6)
    assert roll_out(fleet, 6)["state"] == "succeeded"
