"""Concept drift by labels: the truth changes, the frames do not (SEA; Street and Kim, KDD 2001)."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from dsops.errors import InvalidInput
from dsops_controller.dataops.drift.audited_errors import Audit, ErrorDetector, judge, wilson

START = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE, AFTER = 8.0, 9.5
FLIPPED = 0.1
"""Share of labels that are wrong in any case, so that the best model errs as often."""
AUDITED = 0.05


def sea(rng: np.random.Generator, frames: int, threshold: float) -> np.ndarray:
    """Whether a model that learned the threshold before is wrong, for the frames of the audit."""
    x = rng.uniform(0.0, 10.0, (frames, 3))
    x = x[rng.random(frames) < AUDITED]
    truth = (x[:, 0] + x[:, 1] <= threshold) ^ (rng.random(len(x)) < FLIPPED)
    return (x[:, 0] + x[:, 1] <= BEFORE) != truth


def labels_to_alarm(detector: ErrorDetector, wrong: np.ndarray) -> int | None:
    return next((n for n, one in enumerate(wrong, 1) if detector.add(is_wrong=bool(one))), None)


def test_a_change_of_the_truth_is_found_within_400_labels() -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        detector = ErrorDetector(FLIPPED)
        assert labels_to_alarm(detector, sea(rng, 10_000, BEFORE)) is None
        found.append(labels_to_alarm(detector, sea(rng, 30_000, AFTER)) or 10_000)
    assert np.mean(np.array(found) <= 400) >= 0.90
    assert np.median(found) <= 250


def test_no_alarm_without_a_change_in_400000_frames() -> None:
    rng = np.random.default_rng(100)
    wrong = sea(rng, 400_000, BEFORE)
    assert len(wrong) > 19_000
    assert labels_to_alarm(ErrorDetector(FLIPPED), wrong) is None


def audits(wrong: list[bool], label: str = "seven") -> list[Audit]:
    return [
        Audit(START + timedelta(minutes=at), f"s-{at:05}", one, label if one else "one") for at, one in enumerate(wrong)
    ]


def test_the_verdict_says_since_when_and_which_samples() -> None:
    rng = np.random.default_rng(5)
    wrong = [*(rng.random(500) < 0.05).tolist(), *(rng.random(300) < 0.5).tolist()]
    verdict = judge(reversed(audits(wrong)), 0.05)
    assert (verdict.state, verdict.labels, verdict.wrong) == ("drift", 800, sum(wrong))
    assert verdict.limit == pytest.approx(0.06)
    assert verdict.low < verdict.wrong / 800 < verdict.high
    alarm = verdict.alarm
    assert alarm is not None
    assert timedelta(minutes=450) <= alarm.since - START <= timedelta(minutes=550)
    assert 500 < alarm.labels < 560
    assert alarm.samples[0] > alarm.samples[-1], "newest first"
    assert set(alarm.samples) <= {one.sample for one in audits(wrong) if one.is_wrong}
    assert alarm.labels_wrong == {"seven": len(alarm.samples)}


def test_few_errors_are_ok_and_none_are_no_news() -> None:
    assert judge(audits([False] * 100), 0.05).state == "ok"
    nothing = judge([], 0.05)
    assert (nothing.state, nothing.labels, nothing.low, nothing.high) == ("ok", 0, 0.0, 1.0)


def test_half_of_the_way_is_a_warning() -> None:
    wrong: list[bool] = []
    while (found := judge(audits(wrong), 0.05)).state == "ok":
        wrong.append(True)
    assert found.state == "warning"
    assert found.log_e < found.threshold


def test_wilsons_interval() -> None:
    low, high = wilson(10, 100)
    assert (low, high) == (pytest.approx(0.0552, abs=1e-4), pytest.approx(0.1744, abs=1e-4))


def test_error_rates_that_leave_nothing_to_detect_are_refused() -> None:
    for rate, margin in ((1.0, 0.01), (-0.1, 0.01), (0.99, 0.01), (0.0, 0.0)):
        with pytest.raises(InvalidInput, match="nothing to detect"):
            ErrorDetector(rate, margin)
