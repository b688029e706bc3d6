"""Which classes and samples labellers disagree on."""

import pytest

from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.quality import quality


def labelled(*groups: tuple[str, str, int]) -> dict[str, dict[str, str]]:
    """Return samples: what ann said, what bob said, how many."""
    rows = [(a, b) for a, b, count in groups for _ in range(count)]
    return {f"cam/{number:04}": {"ann": a, "bob": b} for number, (a, b) in enumerate(rows)}


def test_the_class_that_is_not_agreed_on_is_listed_with_what_was_said_instead() -> None:
    given = labelled(
        ("cat", "cat", 120), ("dog", "dog", 100), ("fox", "fox", 30), ("fox", "dog", 14), ("fox", "cat", 2)
    )
    found = quality(given, ["cat", "dog", "fox"], Scale.NOMINAL)
    assert [one.name for one in found.classes] == ["cat", "dog", "fox"]
    fox = found.classes[2]
    assert fox.is_listed
    assert [(one.instead, one.samples) for one in fox.confusions] == [("dog", 14), ("cat", 2)]
    assert not found.classes[0].is_listed
    assert (found.samples, found.twice, len(found.disagreements)) == (266, 266, 16)
    assert found.disagreements[0].labels == {"ann": "fox", "bob": "dog"}
    assert found.pairs[0].agreed == 250
    assert found.pairs[0].kappa.value == pytest.approx(found.alpha.value, abs=0.01)


def test_labels_that_all_agree_list_no_class_and_are_known_only_where_two_looked() -> None:
    given = labelled(("cat", "cat", 150), ("dog", "dog", 150)) | {"cam/x": {"ann": "cat"}}
    found = quality(given, ["cat", "dog"], Scale.NOMINAL)
    assert (found.samples, found.twice, found.listed, found.disagreements) == (301, 300, (), ())
    assert found.alpha.value == 1.0


def test_few_labels_are_listed_however_well_they_agree() -> None:
    assert quality(labelled(("cat", "cat", 4), ("dog", "dog", 4)), ["cat", "dog"], Scale.NOMINAL).listed == (
        "cat",
        "dog",
    )


def test_a_third_labeller_does_not_make_a_sample_count_more() -> None:
    two = labelled(("a", "a", 40), ("b", "b", 40), ("a", "b", 10))
    three = {sample: labels | {"cid": labels["ann"]} for sample, labels in two.items()}
    found = quality(three, ["a", "b"], Scale.NOMINAL)
    assert found.classes[0].kappa.items == pytest.approx(90)
    assert len(found.pairs) == 3


def test_numbers_are_compared_as_numbers() -> None:
    given = {f"s{i}": {"ann": str(i), "bob": str(i + 0.1)} for i in range(30)}
    found = quality(given, [], Scale.INTERVAL)
    assert found.alpha.value == pytest.approx(1.0, abs=1e-3)
    assert found.classes == ()
    nominal = quality(given, [], Scale.NOMINAL).alpha.value
    assert nominal is not None
    assert nominal < 0.1


def test_nothing_labelled_is_no_fault() -> None:
    found = quality({}, ["a"], Scale.NOMINAL)
    assert (found.samples, found.alpha.value, found.pairs, found.classes) == (0, None, (), ())
