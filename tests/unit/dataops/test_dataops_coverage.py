"""What labels cover: enough of each class and site, and not long ago."""

from datetime import UTC, datetime, timedelta

import pytest

from dsops_controller.dataops.labels.coverage import Coverage, coverage
from dsops_controller.dataops.labels.labels import LabelRow

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def rows(
    label: str, count: int, *, site: str = "north", predicted: str = "", age_days: int = 1, who: str = "ann"
) -> list[LabelRow]:
    then = NOW - timedelta(days=age_days)
    return [
        LabelRow(
            f"cam/{label}{site}{predicted}{age_days}/{number}", who, label, 1, then, then, "", "cam", site, "animals",
            1,
            "random", predicted or label, then,
        )
        for number in range(count)
    ]  # fmt: skip


def names(found: Coverage) -> dict[str, bool]:
    return {case.name: case.is_covered for case in (*found.classes, *found.sites)}


@pytest.mark.parametrize(
    ("count", "age_days", "is_covered"), [(19, 1, False), (20, 1, True), (20, 90, True), (20, 91, False), (0, 1, False)]
)
def test_covered_is_twenty_labels_and_one_in_ninety_days(count: int, age_days: int, is_covered: bool) -> None:
    found = coverage(rows("cat", count, age_days=age_days), ["cat"], NOW)
    assert names(found)["cat"] is is_covered
    assert ("cat" in found.uncovered) is not is_covered


def test_classes_and_sites_without_any_label_are_named() -> None:
    found = coverage(rows("cat", 30), ["cat", "fox"], NOW, ["south"])
    assert names(found) == {"cat": True, "fox": False, "north": True, "south": False}
    assert {case.name for case in found.class_sites if not case.is_covered} == {"cat/south", "fox/north", "fox/south"}


def test_disputed_samples_cover_nothing_and_two_labellers_count_once() -> None:
    both = rows("cat", 25) + rows("cat", 25, who="bob")
    disputed = rows("fox", 5) + [
        LabelRow(**{name: getattr(row, name) for name in row.__slots__} | {"labeller": "bob", "label": "cat"})
        for row in rows("fox", 5)
    ]
    found = coverage(both + disputed, ["cat", "fox"], NOW)
    assert (found.samples, found.disputed) == (25, 5)
    assert names(found)["fox"] is False


def test_cells_say_how_often_a_class_is_taken_for_another() -> None:
    found = coverage(rows("fox", 30) + rows("fox", 10, predicted="dog") + rows("dog", 40), ["dog", "fox"], NOW)
    cell = next(cell for cell in found.cells if (cell.predicted, cell.label) == ("dog", "fox"))
    assert cell.samples == 10
    assert (cell.share_low, cell.share_high) == pytest.approx((0.142, 0.402), abs=2e-3)
    fox = next(case for case in found.classes if case.name == "fox")
    assert (fox.right, fox.right_low) == (30, pytest.approx(0.598, abs=2e-3))
