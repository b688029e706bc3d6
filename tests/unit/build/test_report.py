import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from report_cases import HOSTILE, class_row, classification, measured, regression, report
from rich.console import Console

from dsops import strictjson
from dsops_controller.build.evaluation.evaluation import Confusion, Evaluation
from dsops_controller.build.evaluation.gate import Verdict
from dsops_controller.build.reports import text
from dsops_controller.build.reports.page import render_page
from dsops_controller.build.reports.report import Report, encode_report
from dsops_controller.build.reports.table import tables

FAILED = Verdict("max_accuracy_drop", 0.001, 0.01, passed=False)
SLOW = Verdict("max_latency_ms", 1.0, 2.0, passed=False)
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags and texts, and checks that what is opened is closed in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def printed(shown: Report, width: int = 80, *, full: bool = False) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, soft_wrap=True, no_color=True)
    for part in tables(shown, full=full):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value


def test_the_document_holds_every_figure() -> None:
    document = strictjson.loads(encode_report(report(classification(), verdicts=(FAILED,))))
    assert isinstance(document, dict)
    assert document["format"] == 1
    assert document["passed"] is False
    (variant,) = document["variants"]
    assert variant["metrics"]["accuracy"] == pytest.approx(
        {"float": 0.98, "variant": 0.97, "drop": 0.01, "better": "higher"}
    )
    assert variant["gate"][0]["key"] == "max_accuracy_drop"
    assert variant["classes"][0]["recall_drop"] == pytest.approx(0.05)
    assert variant["slices"][0]["value"] == "low"
    assert variant["confusion"]["variant"] == [[19, 1], [1, 3]]
    assert document["float"]["macs"] == 9216
    assert document["parity"]["largest_relative"] == 1e-6
    assert document["measured_here"]["float"]["memory"] == {"base_bytes": 30 << 20, "peak_bytes": 33 << 20}


def test_what_depends_on_the_machine_stands_apart() -> None:
    here, there = classification(), replace(classification(), measured_before=measured(80.0), measured_after=None)
    first, second = (json.loads(encode_report(report(one, verdicts=(SLOW,)))) for one in (here, there))
    assert first["measured_here"] != second["measured_here"]
    assert first["measured_here"]["variants"]["v0"]["gate"][0]["key"] == "max_latency_ms"
    del first["measured_here"], second["measured_here"]
    assert first == second
    assert 8.0 not in set(numbers(first))


def test_a_report_without_most_figures_is_complete() -> None:
    shown = report(regression(), regression(10.0, 30.0))
    document = json.loads(encode_report(shown))
    assert document["measured_here"]["float"] is None
    assert document["variants"][1]["confusion"] is None
    assert "MAE" in printed(shown)
    page = Page(render_page(shown))
    assert "MAE, 20 worse than float" in page.texts
    assert "Calibration" not in page.texts


def test_a_report_without_any_metric_is_complete() -> None:
    bare = replace(regression(), figures=(), has_truth=False)
    assert "no metric" in Page(render_page(report(bare))).texts
    assert "without truth" in render_page(report(bare)).decode()
    assert "size" in printed(report(bare))


def test_the_terminal_shows_the_models_and_the_worst() -> None:
    many = replace(
        classification(),
        classes=tuple(class_row(f"class {place}", 20, 1.0, 1.0 - place / 20) for place in range(9)),
    )
    shown = printed(report(many, regression(), verdicts=(FAILED,)))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown
    assert lines[0].startswith("digits  classification, 100 frames, from model.onnx")
    assert any(line.split()[:3] == ["float", "98.00", "%"] for line in lines)
    assert any(line.startswith("v0: max_accuracy_drop") and "FAIL" in line for line in lines)
    worst = next(place for place, line in enumerate(lines) if "classes that lost most" in line)
    assert lines[worst + 1].startswith("class 8")
    assert lines[worst + 1].rstrip().endswith("40.00 pp")
    assert lines[worst + 6].startswith("and 3 more")
    assert any(line.startswith("note  v0: SOFTMAX stays float") for line in lines)
    assert "class 1" in printed(report(many), full=True)


def test_long_and_hostile_names_do_not_break_the_terminal() -> None:
    shown = printed(
        report(classification(("x" * 200, "\x1b[31m[bold]red"), "[/bold]" + "y" * 90), source="[red]m.onnx")
    )
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    assert "[bold]red" in shown
    assert "from [red]m.onnx" in shown


def test_the_page_needs_nothing_else() -> None:
    data = render_page(report(classification(), verdicts=(FAILED,)))
    page = Page(data)
    assert not page.named("script")
    assert not page.named("link")
    assert not page.named("img")
    references = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "src", "action", "srcset", "data")
    ]
    assert references
    assert all(value is not None and value.startswith("#") for value in references)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {value.removeprefix("#") for value in references if value} <= anchors
    assert b"url(" not in data
    assert b"@import" not in data
    policy = next(one for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_shows_everything_and_names_it() -> None:
    page = Page(render_page(report(classification(), verdicts=(FAILED,))))
    for title in ("Confusion, float", "Confusion, v0", "Recall lost by class", "Calibration", "Latency, 1 thread"):
        assert title in page.texts
    captions = [
        "Float against variants",
        "What a variant must keep",
        "Classes",
        "Slices",
        "Differences of the outputs",
        "Operators that dominate",
        "Parity of the float model with its source",
    ]
    for caption in captions:
        assert caption in page.texts
    assert len(page.named("table")) == len(page.named("caption"))
    assert all(one.get("aria-label") for one in page.named("svg"))
    assert all(one.get("scope") for one in page.named("th"))
    assert "fails its gate" in page.texts
    assert page.named("html")[0]["lang"] == "en"


def test_hostile_texts_are_shown_and_not_run() -> None:
    evaluation = classification((HOSTILE, "\x00\u202e&amp;"), HOSTILE)
    verdicts = (replace(FAILED, where=HOSTILE),)
    changes = dict.fromkeys(("model", "description", "source", "fact", "note"), HOSTILE)
    data = render_page(report(evaluation, verdicts=verdicts, **changes))
    page = Page(data)
    assert not page.named("script")
    assert not page.named("img")
    assert HOSTILE in page.texts
    assert "&amp;" in "".join(page.texts), "what looks like an entity is shown as it is"
    assert "\u202e" not in data.decode()
    assert "\x00" not in data.decode()
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def many_classes(count: int) -> Evaluation:
    counts = tuple(tuple(5 if row == column else 0 for column in range(count)) for row in range(count))
    rows = tuple(class_row(f"c{place}", 5, 1.0, 0.8) for place in range(count))
    return replace(classification(), classes=rows, confusion=Confusion(counts, counts))


def test_a_matrix_that_cannot_be_read_is_not_drawn() -> None:
    assert "Confusion, float" in Page(render_page(report(many_classes(40)))).texts
    page = Page(render_page(report(many_classes(41))))
    assert "Confusion, float" not in page.texts
    assert "More classes" in page.texts
    assert "c40" in page.texts
    assert any("21 classes that changed less are not shown" in one for one in page.texts)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (text.metric("accuracy", 0.98204), "98.20 %"),
        (text.metric("auc", 0.99999), "1.0000"),
        (text.metric("mae", 1234.5678), "1235"),
        (text.metric("mae", None), "\N{EN DASH}"),
        (text.drop("accuracy", 0.0123), "1.23 pp"),
        (text.drop("accuracy", 1e-12), "0"),
        (text.size(1023), "1023 B"),
        (text.size(10064), "9.8 KiB"),
        (text.size(13968296), "13.3 MiB"),
        (text.duration(7.6543), "7.65 \N{MICRO SIGN}s"),
        (text.duration(12345), "12.3 ms"),
        (text.duration(2.5e6), "2.5 s"),
        (text.count(300774272), "301 M"),
        (text.ratio(28000, 10000, "smaller", "larger"), "2.80\N{MULTIPLICATION SIGN} smaller"),
        (text.ratio(5, 10, "faster", "slower"), "2.00\N{MULTIPLICATION SIGN} slower"),
        (text.number(1e-7), "1.00e-07"),
        (text.short("a\nb" + "c" * 20, 8), "a bcccc\N{HORIZONTAL ELLIPSIS}"),
    ],
)
def test_figures_as_people_read_them(shown: str, wanted: str) -> None:
    assert shown == wanted
