"""Rows of a real table, Elec2 (Harries, 1999), in random order: an exact null, into which sensors' faults are put."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dsops.profile import Profile
from dsops_agent.drift.explain import because
from dsops_agent.drift.monitor import DriftMonitor, Level
from dsops_controller.build.profile import feature

TABLE = Path(__file__).parents[3] / "benchmarks/data/elec.csv.gz"
REFERENCE, BEFORE, AFTER = 2000, 500, 1500
DEMAND = 1
Rows = NDArray[np.float64]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """20,000 rows of prices, demands and transfer, shuffled."""
    with gzip.open(TABLE, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return np.random.default_rng(0).permutation(table[:, 1:6])[:20_000]


@pytest.fixture(scope="module")
def profile(rows: Rows) -> Profile:
    reference = rows[:REFERENCE]
    signals = tuple(feature(f"input_{at + 1}", reference[:, at]) for at in range(reference.shape[1]))
    return Profile(n_ref=REFERENCE, signals=signals, arl0=1e4)


def fed(monitor: DriftMonitor, rows: Rows) -> int | None:
    """Return after how many rows there was drift."""
    columns = {f"input_{at + 1}": rows[:, at].tolist() for at in range(rows.shape[1])}
    verdicts = monitor.feed(columns)
    return next((number for number, verdict in enumerate(verdicts, 1) if verdict.level is Level.DRIFT), None)


def frozen(x: Rows) -> Rows:
    return with_demand(x, np.full(len(x), x[0, DEMAND]))


def biased(x: Rows) -> Rows:
    return with_demand(x, x[:, DEMAND] + 0.5 * x[:, DEMAND].std())


def amplified(x: Rows) -> Rows:
    return with_demand(x, x[:, DEMAND] * 1.15)


def zeros(x: Rows) -> Rows:
    return with_demand(x, np.where(np.arange(len(x)) % 20 == 0, 0.0, x[:, DEMAND]))


def gaps(x: Rows) -> Rows:
    return with_demand(x, np.where(np.arange(len(x)) % 20 == 0, np.nan, x[:, DEMAND]))


def noisy(x: Rows) -> Rows:
    return with_demand(x, x[:, DEMAND] + np.random.default_rng(1).normal(0.0, 0.7 * x[:, DEMAND].std(), len(x)))


def swapped(x: Rows) -> Rows:
    return x[:, [0, 3, 2, 1, 4]]


def with_demand(x: Rows, values: NDArray[np.float64]) -> Rows:
    changed = x.copy()
    changed[:, DEMAND] = values
    return changed


def test_the_table_without_a_fault_is_no_drift(rows: Rows, profile: Profile) -> None:
    assert fed(DriftMonitor(profile), rows[REFERENCE : REFERENCE + 10_000]) is None


@pytest.mark.parametrize("fault", [frozen, biased, amplified, zeros, gaps, noisy, swapped])
def test_a_faulty_sensor_is_found_and_named(rows: Rows, profile: Profile, fault: Callable[[Rows], Rows]) -> None:
    monitor = DriftMonitor(profile)
    start = REFERENCE + 3000
    assert fed(monitor, rows[start : start + BEFORE]) is None
    found = fed(monitor, fault(rows[start + BEFORE : start + BEFORE + AFTER]))
    assert found is not None
    wrong = {f"input_{DEMAND + 1}"} | ({"input_4"} if fault is swapped else set())
    first = next(iter(monitor.contributions()))
    assert first in wrong
    assert because(next(one for one in monitor.stand() if one.signal.name == first))


def test_gaps_are_called_missing(rows: Rows, profile: Profile) -> None:
    monitor = DriftMonitor(profile)
    fed(monitor, gaps(rows[REFERENCE : REFERENCE + 1500]))
    demand = next(one for one in monitor.stand() if one.signal.name == f"input_{DEMAND + 1}")
    assert because(demand).startswith("missing 5% instead of 0%")
