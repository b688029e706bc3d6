"""Which partitions go: past their days, and the oldest of a model over its bytes."""

from datetime import date, timedelta

from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.retention import FileStat, RetentionRules, plan

TODAY = date(2026, 3, 1)


def file(days_ago: int, model: str | None = None, size: int = 10) -> FileStat:
    return FileStat("p", TODAY - timedelta(days=days_ago), model, size, 5)


def rules(days: int, sample_bytes: int = 0) -> RetentionRules:
    return RetentionRules(dict.fromkeys(LakeTable, days), sample_bytes)


def gone(table: LakeTable, files: list[FileStat], chosen: RetentionRules) -> list[str]:
    return [drop.name for drop in plan(table, files, TODAY, chosen)]


def test_a_day_goes_when_all_its_days_are_over() -> None:
    files = [file(29), file(30), file(31), file(31), file(-1)]
    (drop,) = plan(LakeTable.TELEMETRY, files, TODAY, rules(30))
    assert (drop.day, drop.rows, drop.bytes) == (TODAY - timedelta(days=31), 10, 20)
    assert drop.predicate() == "day = '2026-01-29'"


def test_zero_days_keep_everything() -> None:
    assert gone(LakeTable.TELEMETRY, [file(9999)], rules(0)) == []


def test_the_oldest_samples_of_a_model_go_over_its_bytes() -> None:
    files = [file(day, "a") for day in (0, 1, 2, 3)] + [file(day, "b", 4) for day in (0, 9)]
    assert gone(LakeTable.SAMPLES, files, rules(0, 25)) == ["a/2026-02-26", "a/2026-02-27"]


def test_the_newest_day_of_samples_stays_whatever_its_size() -> None:
    assert gone(LakeTable.SAMPLES, [file(0, "a", 99), file(1, "a", 1)], rules(0, 25)) == ["a/2026-02-28"]


def test_bytes_bound_samples_alone() -> None:
    assert gone(LakeTable.TELEMETRY, [file(0, None, 99), file(1, None, 99)], rules(0, 25)) == []


def test_what_is_too_old_does_not_count_for_the_bytes() -> None:
    files = [file(0, "a"), file(1, "a"), file(80, "a", 1000)]
    (drop,) = plan(LakeTable.SAMPLES, files, TODAY, rules(30, 25))
    assert (drop.name, drop.why) == ("a/2025-12-11", "older than 30 days")


def test_a_quote_in_a_name_stays_in_its_literal() -> None:
    (drop,) = plan(LakeTable.SAMPLES, [file(80, "it's")], TODAY, rules(30))
    assert drop.predicate() == "(day = '2025-12-11' and model = 'it''s')"
