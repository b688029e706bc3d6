"""Faults of sensors in rows of Elec2 (Harries, 1999; 45,312 half hours of electricity prices), in random order.

In time order the rows resemble each other and change without anybody knowing when. Shuffled, they are an exact null on
real values, into which faults are put. Each feature is a signal.
"""

import gzip
from collections.abc import Callable, Mapping

import numpy as np

from dsops.profile import Profile
from dsops_controller.build.profile import feature
from measure.cameras import DATA, Floats
from measure.drift_streams import Pool, Rows

REFERENCE = 2000
Fault = Callable[[Floats, np.random.Generator], Floats]


def rows_of_elec2(seed: int) -> Floats:
    """Return the rows in random order, [45312, 5], features scaled as in the file."""
    with gzip.open(DATA / "elec.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return np.random.default_rng(seed).permutation(table[:, 1:6])


def profile_of(rows: Floats, arl0: float) -> Profile:
    """Return the profile of some rows."""
    signals = [feature(f"input_{at + 1}", rows[:, at]) for at in range(rows.shape[1])]
    return Profile(n_ref=len(rows), signals=tuple(signals), arl0=arl0)


def _frozen(x: Floats, rng: np.random.Generator) -> Floats:
    return _with(x, 1, np.full(len(x), x[0, 1]))


def _biased(by: float) -> Fault:
    return lambda x, _: _with(x, 1, x[:, 1] + by * x[:, 1].std())


def _gain(x: Floats, rng: np.random.Generator) -> Floats:
    return _with(x, 1, x[:, 1] * 1.1)


def _missing(value: float) -> Fault:
    return lambda x, rng: _with(x, 1, np.where(rng.random(len(x)) < 0.05, value, x[:, 1]))


def _noisy(x: Floats, rng: np.random.Generator) -> Floats:
    return _with(x, 1, x[:, 1] + rng.normal(0.0, 0.5 * x[:, 1].std(), len(x)))


def _swapped(x: Floats, rng: np.random.Generator) -> Floats:
    return x[:, [0, 3, 2, 1, 4]]


def _with(x: Floats, column: int, values: Floats) -> Floats:
    changed = x.copy()
    changed[:, column] = values
    return changed


FAULTS: Mapping[str, Fault] = {
    "frozen sensor": _frozen,
    "bias of 0.25 deviations": _biased(0.25),
    "bias of 0.5 deviations": _biased(0.5),
    "gain of 1.1": _gain,
    "5 % missing, sent as 0": _missing(0.0),
    "5 % missing, sent as NaN": _missing(float("nan")),
    "noise of 0.5 deviations": _noisy,
    "two columns swapped": _swapped,
}


def _signal_shifted(by: float) -> Fault:
    return lambda x, _: _with(x, 0, x[:, 0] + by)


def _all_shifted(x: Floats, rng: np.random.Generator) -> Floats:
    return x + 0.15


SYNTHETIC: Mapping[str, Fault] = {
    "one of 8 shifted by 0.25 deviations": _signal_shifted(0.25),
    "one of 8 shifted by 0.5 deviations": _signal_shifted(0.5),
    "one of 8 shifted by 1 deviation": _signal_shifted(1.0),
    "one of 8 spread by 1.3": lambda x, _: _with(x, 0, 1.3 * x[:, 0]),
    "all of 8 shifted by 0.15 deviations": _all_shifted,
}


def synthetic_rows(seed: int) -> Floats:
    """Return 20,000 frames of eight independent normal signals."""
    return np.random.default_rng(seed).normal(size=(20_000, 8))


def pool_with(rows: Floats, fault: Fault | None, rng: np.random.Generator) -> Pool:
    """Return clean rows, and after them the same with a fault."""
    both = rows if fault is None else np.concatenate([rows, fault(rows, rng)])
    names = tuple(f"input_{at + 1}" for at in range(rows.shape[1]))
    return Pool(names, both, np.zeros((len(both), 1), np.float32))


def stream(count: int, lead: int, length: int, rng: np.random.Generator) -> Rows:
    """Return ``lead`` clean rows, then ``length`` with the fault."""
    return np.concatenate([rng.integers(count, size=lead), count + rng.integers(count, size=length)]).astype(np.int32)
