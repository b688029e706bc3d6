"""Drift of a fleet: e-BH over real monitors, and reports that add up."""

import math

import numpy as np
import pytest

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport
from dsops.profile import Profile, Signal
from dsops_agent.drift.monitor import DriftMonitor
from dsops_controller.dataops.drift.fleet_drift import drifted, merged, noise_variance

BINS = 12
DEVICES, SICK, FRAMES = 100, 20, 1000
NAMES = ("confidence", "entropy", "input_mean", "input_std")


def profile(rng: np.random.Generator, n_ref: int = 2000) -> Profile:
    signals = []
    for name in NAMES:
        values = rng.normal(size=n_ref)
        edges = (values.min() - 1e-6, *np.quantile(values, np.arange(1, 10) / 10), values.max() + 1e-6)
        counts = np.bincount(np.searchsorted(edges, values, "right"), minlength=BINS)
        signals.append(Signal(name=name, kind="ordinal", edges=edges, counts=tuple(counts.tolist())))
    return Profile(n_ref=n_ref, signals=tuple(signals))


def report(made: Profile, values: dict[str, np.ndarray], below: int = 0, thinning: int = 1) -> DriftReport:
    signals = []
    for signal in made.signals:
        counts = np.bincount([signal.bin(value) for value in values[signal.name]], minlength=BINS)
        counts[counts < below] = 0
        signals.append(SignalReport(name=signal.name, counts=counts.tolist(), thinning=thinning))
    return DriftReport(signals=signals, suppressed_below=below)


def frames(rng: np.random.Generator, count: int, by: float = 0.0) -> dict[str, np.ndarray]:
    return {name: rng.normal(by if name == "entropy" else 0.0, 1.0, count) for name in NAMES}


def test_the_rule_of_benjamini_and_hochberg_for_e_values() -> None:
    # Three devices at 0.5: the largest needs 3 / 0.5 = 6, two need 3 each, all three 2 each.
    assert drifted({"a": math.log(6.0), "b": 0.0, "c": 0.0}, 0.5) == ("a",)
    assert drifted({"a": math.log(5.9), "b": 0.0, "c": 0.0}, 0.5) == ()
    assert drifted({"a": math.log(3.1), "b": math.log(3.0), "c": 0.0}, 0.5) == ("a", "b")
    assert drifted({"a": math.log(2.0), "b": math.log(2.0), "c": math.log(2.5)}, 0.5) == ("c", "a", "b")
    assert drifted({}, 0.05) == ()
    assert drifted({"a": math.nan, "b": 99.0}, 0.05) == ("b",)


@pytest.mark.slow
def test_of_100_devices_the_20_that_drifted_are_named_and_hardly_another() -> None:
    wrong, found, named = [], 0, 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        made = profile(rng)
        log_es = {}
        for number in range(DEVICES):
            monitor = DriftMonitor(made)
            monitor.feed({k: v.tolist() for k, v in frames(rng, FRAMES, 0.5 if number < SICK else 0.0).items()})
            log_es[f"cam-{number}"] = monitor.log_e
        chosen = drifted(log_es)
        healthy = sum(int(name.removeprefix("cam-")) >= SICK for name in chosen)
        wrong.append(healthy / max(len(chosen), 1))
        found += len(chosen) - healthy
        named += len(chosen)
    assert named
    assert np.mean(wrong) <= 0.05
    assert found / (3 * SICK) >= 0.90


def test_reports_of_devices_add_up_to_what_one_report_of_all_frames_is() -> None:
    rng = np.random.default_rng(0)
    made = profile(rng)
    parts = [frames(rng, 500) for _ in range(4)]
    together = {name: np.concatenate([part[name] for part in parts]) for name in NAMES}
    whole = merged(made, [report(made, together)])
    sums = merged(made, [report(made, part) for part in parts])
    assert (sums.reports, sums.frames) == (4, 2000)
    assert sums.signals == whole.signals
    assert sums.p_value == whole.p_value


def test_a_small_shift_of_all_devices_shows_only_in_the_sum() -> None:
    rng = np.random.default_rng(1)
    made = profile(rng)
    reports = [report(made, frames(rng, 500, 0.15)) for _ in range(20)]
    alone = [merged(made, [one]).p_value for one in reports]
    assert np.median(alone) > 0.02
    found = merged(made, reports)
    assert found.p_value < 1e-4
    assert found.differing == ("entropy",)
    assert next(iter(found.signals)) == "entropy"


@pytest.mark.parametrize("below", [0, 5])
def test_healthy_fleets_differ_as_rarely_as_they_should(below: int) -> None:
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        made = profile(rng)
        wrong += merged(made, [report(made, frames(rng, 500), below) for _ in range(6)]).p_value < 0.05
    assert wrong <= 7


def test_frames_that_repeat_count_once() -> None:
    rng = np.random.default_rng(2)
    made = profile(rng)
    held = {name: np.repeat(values, 5) for name, values in frames(rng, 200).items()}
    blind = merged(made, [report(made, held)])
    fair = merged(made, [report(made, held, thinning=5)])
    assert blind.p_value < 0.05 < fair.p_value


def test_noise_is_allowed_for() -> None:
    rng = np.random.default_rng(3)
    made = profile(rng)
    share = 1.0 / len(NAMES)
    assert noise_variance(share) == pytest.approx(2 / share**2, rel=0.02)
    wrong = 0
    for _ in range(60):
        told = report(made, frames(rng, 1000))
        for signal in told.signals:
            drawn = rng.geometric(1 - math.exp(-share), (2, BINS))
            signal.counts[:] = (np.array(signal.counts) + drawn[0] - drawn[1]).tolist()
        told.epsilon = 1.0
        wrong += merged(made, [told]).p_value < 0.05
        told.epsilon = 0.0
    assert wrong <= 7


def test_strange_reports_change_nothing() -> None:
    rng = np.random.default_rng(4)
    made = profile(rng)
    strange = DriftReport(
        signals=[SignalReport(name="entropy", counts=[1, 2]), SignalReport(name="other", counts=[1] * BINS)]
    )
    found = merged(made, [strange, DriftReport(epsilon=math.nan)])
    assert (found.reports, found.frames, found.p_value, found.differing) == (0, 0, 1.0, ())
