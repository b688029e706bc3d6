"""When a model should be trained anew."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dsops_controller.dataops.drift.audited_errors import Audit, Verdict, judge
from dsops_controller.retraining.envelope import Subject, request_id
from dsops_controller.retraining.rules import Figures, decide
from dsops_controller.retraining.settings import Cause, RetrainingSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = RetrainingSettings()


def cause(figures: Figures, settings: RetrainingSettings = RULES) -> Cause | None:
    found = decide(figures, settings, NOW)
    return None if found is None else found.cause


def named(count: int) -> tuple[str, ...]:
    return tuple(f"cam-{number}" for number in range(count))


@pytest.mark.parametrize(
    ("drifted", "watched", "is_wanted"),
    [(2, 10, False), (3, 10, True), (3, 150, True), (3, 151, False), (20, 1000, True)],
)
def test_drift_on_three_devices_and_two_percent(drifted: int, watched: int, *, is_wanted: bool) -> None:
    assert (cause(Figures(drifted=named(drifted), watched=watched)) is Cause.DRIFT) is is_wanted


def test_the_evidence_names_the_devices_the_surest_first() -> None:
    found = decide(Figures(drifted=named(4), watched=10), RULES, NOW)
    assert found is not None
    assert (found.evidence["drifted"], found.evidence["devices"], found.evidence["fdr"]) == (4, 10, 0.05)
    assert found.evidence["named"] == ["cam-0", "cam-1", "cam-2", "cam-3"]


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
    loud: dict[str, Any] = {"drifted": named(9), "watched": 9, "new_labels": 999}
    assert cause(Figures(**loud, is_open=True)) is None
    assert cause(Figures(**loud, asked=NOW - timedelta(hours=23))) is None
    assert cause(Figures(**loud, asked=NOW - timedelta(hours=24))) is Cause.DRIFT
    assert cause(Figures(**loud), RetrainingSettings(causes=())) is None
    assert cause(Figures(**loud), RetrainingSettings(causes=(Cause.LABEL_COUNT,))) is Cause.LABEL_COUNT


def verdict(wrong: int, right: int) -> Verdict:
    start = NOW - timedelta(days=1)
    answers = [False] * right + [True] * wrong
    return judge((Audit(start + timedelta(minutes=n), f"s-{n:03}", one, "cat") for n, one in enumerate(answers)), 0.05)


def test_an_audit_asks_with_the_samples_that_speak_for_it() -> None:
    assert cause(Figures()) is None
    assert cause(Figures(audit=verdict(5, 95))) is None
    found = decide(Figures(audit=verdict(50, 50)), RULES, NOW)
    assert found is not None
    assert (found.cause, found.evidence["wrong"], found.evidence["labels"]) == (Cause.AUDITED_ERROR, 50, 100)
    assert found.evidence["labels_wrong"]["cat"] == len(found.evidence["samples"]) > 4
    json.dumps(found.evidence)


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
