"""What monitoring counts in the database is what people are told of each device, over SQLite and PostgreSQL."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dsops import states
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.drift.fleet_view import by_model
from dsops_controller.dataops.drift.standing import STALE_AFTER, Standings
from dsops_controller.dataops.drift.tally import NO_DRIFT, tally
from dsops_controller.dataops.testing import DIGEST
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import drift_newest, drift_state, metadata
from dsops_controller.db.times import from_ms, to_ms

BOTH = pytest.mark.parametrize(
    "new_url",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.integration, pytest.mark.slow])],
    indirect=True,
    scope="module",
)
DEVICES = 160
OTHERS = [state.value for state in states.Device if state is not states.Device.ACCEPTED]
NOW = from_ms(0) + STALE_AFTER + timedelta(days=1)
HEARD_MS = (*[to_ms(NOW)] * 9, to_ms(NOW - STALE_AFTER), to_ms(NOW - STALE_AFTER) - 1, 0)
"""Of these the last two are too long ago."""
LEVELS = ("ok", "warning", "drift")


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_it_counts_as_the_view_of_each_device_does(new_url: Callable[[Path], str], tmp_path: Path, seed: int) -> None:
    db, draw = Database(new_url(tmp_path)), random.Random(seed)
    pairs = [(f"cam-{device}", f"model-{model}") for device in range(DEVICES) for model in range(3)]
    with db.write() as connection:
        metadata.create_all(connection)
        known = [{"id": f"cam-{number}", "state": _state(number), "created_ms": 0} for number in range(DEVICES - 5)]
        connection.execute(devices.insert(), known)  # the last ones are forgotten
        connection.execute(drift_newest.insert(), [_report(draw, *one) for one in pairs if draw.random() < 0.8])
        connection.execute(drift_state.insert(), [_told(draw, *one) for one in pairs if draw.random() < 0.4])
    standings = Standings(db).newest()
    assert {_state(int(one.device[4:])) for one in standings} == {"accepted"}
    assert {one.device for one in standings} <= {row["id"] for row in known}
    assert Standings(db).newest(device="cam-1"), "who asks for a device is told whatever it is"
    for fdr in (0.01, 0.05, 0.5):
        with db.read() as connection:
            found = tally(connection, fdr, NOW)
        lately = [one for one in standings if one.counts(NOW)]
        assert found.levels == Counter((one.model, one.release, one.level.value) for one in lately)
        models = by_model(standings, NOW, fdr)
        assert sum(one.stale for one in models) == len(standings) - len(lately) > 0
        assert found.skewed == {one.model: one.skewed for one in models}
        assert found.drifted == {one.model: one.drifted for one in models}
        assert found.devices == {one.model: one.devices for one in models}
        assert min(map(len, found.drifted.values())) > 0
    alarming = Standings(db).alarming()
    assert alarming == [one for one in standings if one.level is Level.DRIFT or one.skew.state == "skew"]
    assert {one.reported is None for one in alarming} == {True, False}
    db.close()


@BOTH
def test_a_fleet_that_has_reported_nothing_has_no_models(new_url: Callable[[Path], str], tmp_path: Path) -> None:
    db = Database(new_url(tmp_path))
    with db.write() as connection:
        metadata.create_all(connection)
        found = tally(connection, 0.05, NOW)
    assert found == NO_DRIFT
    db.close()


def _state(number: int) -> str:
    """Return the state of a device: every fifth is not accepted."""
    return OTHERS[number // 5 % len(OTHERS)] if number % 5 == 1 else "accepted"


def _report(draw: random.Random, device: str, model: str) -> dict[str, object]:
    most = 12.0 if draw.random() < 0.2 else 2.0
    return {
        "device": device, "model": model, "release": draw.randint(1, 3), "digest": DIGEST, "frames": 1,
        "time_ms": draw.randint(1, 100), "state": draw.choice(LEVELS), "since_ms": 1, "onset_ms": 0, "score": 0.0,
        "heard_ms": _heard_ms(device, model),
        "log_e": draw.uniform(-1, most), "log_e_before": draw.uniform(-1, most), "epoch_ms": 1, "epoch_frames": 1,
        "skew": draw.choice(("pending", "ok", "skew")), "signals": "{}",
        "skew_facts": '{"frames": 1, "p_value": 1.0, "signals": []}',
    }  # fmt: skip


def _told(draw: random.Random, device: str, model: str) -> dict[str, object]:
    return {
        "device": device, "model": model, "release": draw.randint(1, 3), "level": draw.choice(LEVELS), "score": 0.0,
        "frames": 1, "since_ms": draw.randint(1, 100), "heard_ms": _heard_ms(device, model), "figures": "{}",
    }  # fmt: skip


def _heard_ms(device: str, model: str) -> int:
    return random.Random(f"{device} {model}").choice(HEARD_MS)
