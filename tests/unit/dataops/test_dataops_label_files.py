"""Files of labels: what is read, and what is refused with its place."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from dsops.errors import InvalidInput
from dsops_controller.dataops.labels.label_files import LabelFile, parse_labels

CSV, STUDIO = LabelFile.CSV, LabelFile.LABEL_STUDIO


def studio(*tasks: Any) -> bytes:
    return json.dumps(tasks).encode()


def task(*annotations: Any, sample: object = "cam/aa/1") -> dict[str, Any]:
    return {"id": 3, "data": {"sample_id": sample}, "annotations": list(annotations)}


def annotation(value: dict[str, Any], who: object = 1, **more: Any) -> dict[str, Any]:
    return {"completed_by": who, "result": [{"type": "x", "value": value}], **more}


def test_a_table_of_labels_is_read() -> None:
    text = "\ufeffLabel,sample,labeller,time\n\n# a note\ncat,cam/aa/1,ann,2026-01-02T03:04:05+01:00\ndog,cam/aa/2,,\n"
    found = parse_labels(CSV, text.encode(), "bob").labels
    assert [(one.where, one.sample, one.labeller, one.label) for one in found] == [
        ("line 4", "cam/aa/1", "ann", "cat"),
        ("line 5", "cam/aa/2", "bob", "dog"),
    ]
    assert found[0].time == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert found[1].time is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no labels"),
        ("sample,label\n", "no labels"),
        ("id,label\na,b\n", "does not name the columns"),
        ("sample,sample,label\na,b,c\n", "does not name the columns"),
        ("sample,label\na,b\n", "line 2: it does not say whose"),
        ("sample,label,labeller\na,,ann\n", "line 2: the label '' has not 1 to 256"),
        ("sample,label,labeller\na,b\n", "line 2: 1 columns too few"),
        ("sample,label,labeller\na,b,c,d\n", "line 2: 1 columns too many"),
        ("sample,label,labeller,time\na,b,c,noon\n", "line 2: 'noon' is not a time"),
        ("sample,label,labeller,time\na,b,c,0001-01-01T00:00:00+14:00\n", "line 2"),
        (f"sample,label,labeller\na,{'x' * 257},c\n", "line 2: the label"),
        ('sample,label,labeller\na,"b\nc",d\n', "line 3: the label"),
    ],
)
def test_a_wrong_table_is_refused_by_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_labels(CSV, text.encode())
    assert problem in str(caught.value)


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        parse_labels(CSV, b"sample,label\n\xff\xfe,cat\n")


def test_every_kind_of_answer_is_read() -> None:
    data = studio(
        task(annotation({"choices": ["cat"]}, {"email": "ann@x", "id": 1}, updated_at="2026-01-01T00:00:00Z")),
        task(annotation({"rating": 4}, 7), annotation({"number": 1.5}, "zoe")),
        task(annotation({"choices": ["cat"]}, was_cancelled=True), {"completed_by": 1, "result": []}),
    )
    found = parse_labels(STUDIO, data)
    assert [(one.labeller, one.label) for one in found.labels] == [("ann@x", "cat"), ("user-7", "4"), ("zoe", "1.5")]
    assert found.skipped == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{}", "no list of tasks"),
        (b"[1]", "no list of tasks"),
        (b"[", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (studio({"id": 1, "label": "cat", "annotator": 2}), "JSON_MIN"),
        (studio(task(annotation({"choices": ["a"]}), sample=5)), "task 1 (id 3): it has no data.sample_id"),
        (studio(task(annotation({"choices": ["a", "b"]}))), "task 1 (id 3): an annotation has 2 answers"),
        (studio(task(annotation({"rectanglelabels": ["a"], "x": 1}))), "has 0 answers (x)"),
        (studio(task(annotation({"choices": ["a"]}, None))), "does not say who"),
        (studio(task(annotation({"choices": ["a"]}, True))), "does not say who"),
        (studio(task({"completed_by": 1})), "has no result"),
        (studio(task(annotation({"number": True}))), "has 0 answers"),
    ],
)
def test_a_wrong_export_is_refused_by_task(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_labels(STUDIO, data)
    assert problem in str(caught.value)


def test_only_the_first_problems_are_told_and_all_are_counted() -> None:
    text = "sample,label,labeller\n" + "a,,c\n" * 30
    with pytest.raises(InvalidInput, match=r"line 11.*\(and 20 more\)") as caught:
        parse_labels(CSV, text.encode())
    assert caught.value.details["problems"] == 30
