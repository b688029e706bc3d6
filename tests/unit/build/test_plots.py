from xml.etree import ElementTree

import pytest
from markupsafe import Markup
from report_cases import HOSTILE, measured

from dsops_controller.build.evaluation.metrics import ReliabilityBin
from dsops_controller.build.reports import plots

BINS = (ReliabilityBin(0.5, 0.6, 5, 0.55, 0.4), ReliabilityBin(0.9, 1.0, 95, 0.98, 0.97))


def parse(drawing: Markup) -> ElementTree.Element:
    """Return the root; what is not well-formed is an error here."""
    return ElementTree.fromstring(drawing)


def boxes(root: ElementTree.Element, style: str) -> list[dict[str, str]]:
    return [part.attrib for part in root.iter("rect") if part.get("class") == style]


def test_bars_are_as_long_as_their_values() -> None:
    root = parse(plots.bars("Sizes", [plots.Bar("float", 40.0, "40 KiB", "float"), plots.Bar("int8", 10.0, "10 KiB")]))
    (long,), (short,) = boxes(root, "float"), boxes(root, "variant")
    assert float(long["width"]) == pytest.approx(4 * float(short["width"]), rel=0.01)
    assert root.get("aria-label") == "Sizes"
    assert {"float", "40 KiB", "int8", "10 KiB"} <= {part.text for part in root.iter("text")}


def test_bars_below_zero_go_to_the_left() -> None:
    root = parse(plots.bars("Drop", [plots.Bar("a", 3.0, "3", "loss"), plots.Bar("b", -1.0, "-1", "gain")]))
    (right,), (left,) = boxes(root, "loss"), boxes(root, "gain")
    zero = float(right["x"])
    assert float(left["x"]) + float(left["width"]) == pytest.approx(zero, abs=0.02)
    assert 0 < float(left["x"]) < zero


def test_bars_of_nothing_have_a_place() -> None:
    assert len(boxes(parse(plots.bars("Drop", [plots.Bar("a", 0.0, "0")])), "variant")) == 1


def test_a_matrix_colours_right_and_wrong() -> None:
    root = parse(plots.matrix("Confusion", ((9, 1), (0, 10)), ("cat", "dog")))
    right, wrong, empty = (boxes(root, style) for style in ("right", "wrong", "empty"))
    assert (len(right), len(wrong), len(empty)) == (2, 1, 1)
    assert float(right[0]["fill-opacity"]) < float(right[1]["fill-opacity"]) == 1.0
    assert "cat taken for dog: 1 of 10" in {part.text for part in root.iter("title")}
    assert {"9", "1", "10"} <= {part.text for part in root.iter("text")}


def test_a_large_matrix_has_no_counts_written() -> None:
    counts = tuple(tuple(7 if row == column else 0 for column in range(40)) for row in range(40))
    root = parse(plots.matrix("Confusion", counts, [f"class {place}" for place in range(40)]))
    assert len(boxes(root, "right")) == 40
    assert "7" not in {part.text for part in root.iter("text")}


def test_reliability_has_a_curve_for_each_model() -> None:
    root = parse(plots.reliability("Calibration", BINS, BINS[1:]))
    curves = {part.get("class"): part.get("points", "").split() for part in root.iter("polyline")}
    assert {name: len(points) for name, points in curves.items()} == {"curve float": 2, "curve variant": 1}
    dots = [part for part in root.iter("circle") if part.get("class") == "dot float"]
    assert float(dots[0].attrib["cy"]) > float(dots[1].attrib["cy"]), "lower accuracy is drawn lower"
    assert float(dots[0].attrib["r"]) < float(dots[1].attrib["r"]), "fewer frames are drawn smaller"


def test_latencies_share_an_axis() -> None:
    slow, fast = measured(100.0).latencies[0], measured(50.0).latencies[0]
    root = parse(plots.latencies("Latency", [("float", "float", slow), ("int8", "variant", fast)]))
    medians = {
        part.get("class"): float(part.attrib["x1"]) for part in root.iter("line") if "median" in part.attrib["class"]
    }
    assert medians["median variant"] < medians["median float"]
    assert len(boxes(root, "float")) == len(slow.counts)


def test_hostile_texts_stay_texts() -> None:
    drawings = (
        plots.bars(HOSTILE, [plots.Bar(HOSTILE, 1.0, HOSTILE)]),
        plots.matrix(HOSTILE, ((1, 1), (1, 1)), (HOSTILE, "\x00\u202ecat")),
        plots.latencies(HOSTILE, [(HOSTILE, "float", measured(5.0).latencies[0])]),
    )
    for drawing in drawings:
        root = parse(drawing)
        assert {part.tag for part in root.iter()} <= {"svg", "g", "rect", "line", "text", "title", "polyline"}
        assert "<script" not in drawing
        assert "\u202e" not in drawing
