"""When a model should be trained anew."""

import math
import random
from datetime import UTC, datetime, timedelta

import pytest

from dsops_controller.retraining.envelope import Subject, request_id
from dsops_controller.retraining.rules import ALPHA, Figures, audit_score, decide
from dsops_controller.retraining.settings import Cause, RetrainingSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = RetrainingSettings()


def cause(figures: Figures, settings: RetrainingSettings = RULES) -> Cause | None:
    found = decide(figures, settings, NOW)
    return None if found is None else found.cause


def alarms(count: int) -> dict[str, float]:
    return {f"cam-{number}": float(number) for number in range(count)}


@pytest.mark.parametrize(
    ("drifted", "watched", "is_wanted"),
    [(2, 10, False), (3, 10, True), (3, 150, True), (3, 151, False), (20, 1000, True)],
)
def test_drift_on_three_devices_and_two_percent(drifted: int, watched: int, *, is_wanted: bool) -> None:
    assert (cause(Figures(drifted=alarms(drifted), watched=watched)) is Cause.DRIFT) is is_wanted


def test_the_evidence_names_the_devices_the_worst_first() -> None:
    found = decide(Figures(drifted=alarms(4), watched=10), RULES, NOW)
    assert found is not None
    assert found.evidence["devices_in_alarm"] == 4
    assert next(iter(found.evidence["scores"])) == "cam-3"


def test_enough_new_labels_ask() -> None:
    assert cause(Figures(new_labels=199)) is None
    assert cause(Figures(new_labels=200)) is Cause.LABEL_COUNT


def test_time_asks_only_where_it_is_set_and_counts_from_the_last_release_or_request() -> None:
    old = Figures(released=NOW - timedelta(days=40))
    assert cause(old) is None
    monthly = RetrainingSettings(schedule_days=30)
    assert cause(old, monthly) is Cause.SCHEDULE
    assert cause(Figures(released=NOW - timedelta(days=40), asked=NOW - timedelta(days=29)), monthly) is None
    assert cause(Figures(), monthly) is None


def test_nothing_asks_while_a_request_is_open_or_soon_after_one() -> None:
    loud = {"drifted": alarms(9), "watched": 9, "new_labels": 999}
    assert cause(Figures(**loud, is_open=True)) is None
    assert cause(Figures(**loud, asked=NOW - timedelta(hours=23))) is None
    assert cause(Figures(**loud, asked=NOW - timedelta(hours=24))) is Cause.DRIFT
    assert cause(Figures(**loud), RetrainingSettings(causes=())) is None
    assert cause(Figures(**loud), RetrainingSettings(causes=(Cause.LABEL_COUNT,))) is Cause.LABEL_COUNT


def audited(draw: random.Random, count: int, error: float) -> list[bool]:
    return [draw.random() < error for _ in range(count)]


def alarm_at(wrong: list[bool], reference: float) -> int | None:
    """Return after how many labels the audit asks, looking after every tenth."""
    return next(
        (n for n in range(10, len(wrong) + 1, 10) if audit_score(wrong[:n], reference) >= math.log(1 / ALPHA)), None
    )


def test_the_audit_finds_labels_that_changed_their_meaning() -> None:
    """Drift.md 6, row 14: labels permuted, inputs the same. An alarm within 400 labels in nine of ten."""
    draw, found = random.Random(1), 0
    for _round in range(40):
        at = alarm_at(audited(draw, 200, 0.05) + audited(draw, 400, 0.40), 0.06)
        found += at is not None and at > 200
    assert found >= 36


def test_the_audit_finds_a_smaller_change_too() -> None:
    draw = random.Random(2)
    found = sum(alarm_at(audited(draw, 100, 0.05) + audited(draw, 400, 0.15), 0.06) is not None for _ in range(20))
    assert found >= 18


def test_years_without_a_change_do_not_hide_one() -> None:
    draw = random.Random(6)
    found = 0
    for _round in range(20):
        quiet = audited(draw, 5000, 0.05)
        found += audit_score(quiet + audited(draw, 200, 0.30), 0.06) >= math.log(1 / ALPHA)
    assert found >= 19


def test_the_audit_of_a_model_as_good_as_it_was_stays_silent() -> None:
    """20,000 audited labels are what 5 % of 400,000 frames give."""
    draw = random.Random(3)
    worst = max(audit_score(audited(draw, 20_000, 0.05)[:n], 0.06) for n in (5_000, 10_000, 20_000) for _ in range(4))
    assert worst < math.log(1 / ALPHA)


def test_at_the_boundary_false_alarms_are_as_rare_as_promised() -> None:
    """Errors exactly at the reference: an alarm within 500 labels at most in half of the streams (here: far fewer)."""
    draw, early = random.Random(4), 0
    for _round in range(40):
        early += alarm_at(audited(draw, 500, 0.06), 0.06) is not None
    assert early <= 4


def test_an_audit_needs_the_error_of_the_build() -> None:
    wrong = tuple([True] * 50)
    assert cause(Figures(audit=wrong, audit_error=0.05)) is Cause.AUDITED_ERROR
    assert cause(Figures(audit=wrong)) is None
    assert cause(Figures(audit=wrong, audit_error=1.0)) is None
    assert audit_score([], 0.0) == 0.0
    assert audit_score([True] * 5, 0.0) > 0


def test_the_id_of_a_request_is_its_cause_data_set_and_bundle() -> None:
    one = Subject("a", 1, "b" * 64, "field/1", "d" * 64)
    assert request_id(Cause.DRIFT, one) == request_id(Cause.DRIFT, Subject("a", 9, "b" * 64, "other/7", "d" * 64))
    others = [
        request_id(Cause.MANUAL, one),
        request_id(Cause.DRIFT, Subject("a", 1, "c" * 64, "field/1", "d" * 64)),
        request_id(Cause.DRIFT, Subject("a", 1, "b" * 64, "field/2", "e" * 64)),
        request_id(Cause.DRIFT, Subject("b", 1, "b" * 64, "field/1", "d" * 64)),
    ]
    assert len({*others, request_id(Cause.DRIFT, one)}) == 5
