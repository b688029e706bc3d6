"""What people read: figures, moments, nested facts; nothing that a device says can move the cursor."""

import json

import pytest

from dsops_controller.cli import output

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ([], "-"),
        (0, "0"),
        (True, "yes"),
        (28304.0, "28304"),
        (84_600_446_976, "84600446976"),
        (123_456.7, "123457"),
        (0.000712, "0.000712"),
        (0.8467318833, "0.8467"),
        (["a", 1], "a, 1"),
        ("2026-11-21T01:52:12.251240Z", "2026-11-21 01:52:12Z"),
        ("\x1b[2Jgone\r\n", " [2Jgone  "),
    ],
)
def test_values_as_people_read_them(value: object, shown: str) -> None:
    assert output.text(value) == shown


def test_facts_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"id": "cam-1", "telemetry": {"": {"received_ms": 1795225737633}}, "blobs": [{"name": "a.bin", "size": 3}]}
    output.facts(facts | {"hidden": 1}, output.Format.TABLE, hidden=("hidden",))
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["id", "cam-1"], ["telemetry.received_ms", "2026-11-21 01:48:57Z"], ["blobs.a.bin.size", "3"]]
    output.facts(facts, output.Format.JSON, hidden=("id",))
    assert json.loads(capsys.readouterr().out) == facts


def test_tables_are_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    output.rows([{"a": "x" * 200, "b": {"c": 1}}], {"a": "A", "b.c": "C", "none": "NONE"}, output.Format.TABLE)
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split() == ["A", "C", "NONE"]
    assert row.split() == ["x" * 200, "1", "-"]
