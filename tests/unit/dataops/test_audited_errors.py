"""Concept drift by labels: the truth changes, the frames do not (SEA; Street and Kim, KDD 2001)."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from dsops.errors import InvalidInput
from dsops_controller.dataops.drift.audited_errors import Audit, ErrorDetector, judge

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


def test_labels_that_changed_their_meaning_are_found_within_400() -> None:
    """Drift.md 6, row 14: labels permuted, inputs the same."""
    rng, found = np.random.default_rng(1), 0
    for _round in range(40):
        detector = ErrorDetector(0.05)
        assert labels_to_alarm(detector, rng.random(200) < 0.05) is None
        found += (labels_to_alarm(detector, rng.random(400) < 0.40) or 401) <= 400
    assert found >= 36


def test_years_without_a_change_do_not_hide_one() -> None:
    rng, found = np.random.default_rng(6), 0
    for _round in range(5):
        detector = ErrorDetector(0.05)
        assert labels_to_alarm(detector, rng.random(2000) < 0.05) is None
        found += labels_to_alarm(detector, rng.random(200) < 0.30) is not None
    assert found >= 4


def test_at_the_boundary_false_alarms_are_as_rare_as_promised() -> None:
    """Errors exactly at the limit: 1 in 30,000 labels on average at most, so 1 in 20 streams of 1,500 at most."""
    rng = np.random.default_rng(4)
    early = sum(labels_to_alarm(ErrorDetector(0.05), rng.random(1500) < 0.06) is not None for _round in range(10))
    assert early <= 2


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


def test_error_rates_that_leave_nothing_to_detect_are_refused() -> None:
    for rate, margin in ((1.0, 0.01), (-0.1, 0.01), (0.99, 0.01), (0.0, 0.0)):
        with pytest.raises(InvalidInput, match="nothing to detect"):
            ErrorDetector(rate, margin)
