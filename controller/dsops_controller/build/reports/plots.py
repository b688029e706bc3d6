"""Draws the report page's plots as SVG.

Each function returns markup for the page; texts are escaped by the way it is put together (``Markup.format`` and
``Markup.join`` escape what is not markup). Colours come from the page's style sheet by class, so that a plot follows
light and dark mode. A plot is 360 units wide, about the width of a phone, and grows with its place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dsops_controller.build.evaluation.evaluation import Latency, Matrix
from dsops_controller.build.evaluation.metrics import ReliabilityBin
from dsops_controller.build.reports import text

WIDTH = 360.0
WRITTEN_CELLS = 12
"""Confusion matrices of up to this many classes have their counts written in the cells."""
_LABEL_WIDTH = 96.0
_ROW = 20.0
_MATRIX = 320.0
_SVG = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
_TEXT = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
_LINE = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
_BOX = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"><title>{}</title></rect>')
_CELL = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"/>')
_SAID = Markup("<g>{}<title>{}</title></g>")
_CURVE = Markup('<polyline class="curve {}" points="{}"/>')
_DOT = Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: its name, its value, the value as people read it, and a class for its colour."""

    label: str
    value: float
    shown: str
    style: str = "variant"


def bars(heading: str, rows: Sequence[Bar]) -> Markup:
    """Draw horizontal bars from a common zero; values below zero go to the left."""
    low, high = min(0.0, *(row.value for row in rows)), max(0.0, *(row.value for row in rows))
    left, room = _LABEL_WIDTH, WIDTH - _LABEL_WIDTH - 64
    scale = room / (high - low) if high > low else 0.0
    zero = left - low * scale
    parts = [_line(zero, 0, zero, _ROW * len(rows), "axis")]
    for place, row in enumerate(rows):
        parts.append(_bar(row, place * _ROW, zero, row.value * scale))
    return _svg(heading, _ROW * len(rows) + 2, parts)


def _bar(row: Bar, top: float, zero: float, length: float) -> Markup:
    end = zero + max(length, 0.0)
    return Markup("").join(
        [
            _text(_LABEL_WIDTH - 6, top + 14, text.short(row.label, 15), "end"),
            _box(
                zero + min(length, 0.0),
                top + 4,
                max(abs(length), 0.75),
                _ROW - 8,
                row.style,
                f"{row.label}: {row.shown}",
            ),
            _text(end + 5, top + 14, row.shown, "start", "figure"),
        ]
    )


def matrix(heading: str, counts: Matrix, labels: Sequence[str]) -> Markup:
    """Draw a confusion matrix: rows are the truth, columns what the model said, colour the share of the row."""
    size = len(counts)
    cell, left, top = _MATRIX / size, WIDTH - _MATRIX, 14.0
    parts = [_text(left + _MATRIX / 2, 9, "what the model said", "middle", "soft")]
    for row, line in enumerate(counts):
        y = top + row * cell
        if size <= 2 * WRITTEN_CELLS:
            width = 5 if size <= WRITTEN_CELLS else 4
            parts.append(_text(left - 3, y + cell / 2 + 3, text.short(labels[row], width), "end", "tick"))
        for column, count in enumerate(line):
            parts.append(_cell(left + column * cell, y, cell, count, max(sum(line), 1), row == column))
            if count:
                said = f"{labels[row]} taken for {labels[column]}: {count} of {sum(line)}"
                parts[-1] = _SAID.format(parts[-1], text.clean(said))
            if count and size <= WRITTEN_CELLS:
                style = "count strong" if count / max(sum(line), 1) > 0.5 else "count"
                parts.append(_text(left + (column + 0.5) * cell, y + cell / 2 + 3.5, str(count), "middle", style))
    return _svg(heading, top + _MATRIX + 2, parts)


def _cell(x: float, y: float, size: float, count: int, total: int, on_diagonal: bool) -> Markup:
    """Return one cell; a wrong answer is drawn stronger than its share, or it could not be seen beside the right."""
    share = count / total
    strength = 0.0 if not count else 0.12 + 0.88 * (share if on_diagonal else math.sqrt(share))
    gap = 0.5 if size > 6 else 0.0
    return _CELL.format(
        "right" if on_diagonal else "wrong" if count else "empty",
        _n(x + gap),
        _n(y + gap),
        _n(size - 2 * gap),
        _n(size - 2 * gap),
        _n(strength) if count else "1",
    )


def reliability(heading: str, before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> Markup:
    """Draw how often each model is right against how sure it is; the diagonal is a model that knows itself."""
    side, left, top = 280.0, 44.0, 8.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    parts = [_grid(left, top, side), _line(*at(0, 0), *at(1, 1), "ideal")]
    for bins, style in ((before, "float"), (after, "variant")):
        most = max((one.count for one in bins), default=1)
        points = [at(one.confidence, one.accuracy) for one in bins]
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        parts.append(_CURVE.format(style, path))
        for one, (x, y) in zip(bins, points, strict=True):
            said = f"{style}: {one.count} frames, confidence {one.confidence:.2f}, accuracy {one.accuracy:.2f}"
            radius = 2.5 + 4 * math.sqrt(one.count / most)
            parts.append(_DOT.format(style, _n(x), _n(y), _n(radius), said))
    parts.append(_text(left + side / 2, top + side + 30, "confidence", "middle", "soft"))
    return _svg(heading, top + side + 36, parts)


def _grid(left: float, top: float, side: float) -> Markup:
    parts = []
    for step in range(5):
        share = step / 4
        y = top + (1 - share) * side
        parts.append(_line(left, y, left + side, y, "grid"))
        parts.append(_text(left - 5, y + 3.5, f"{share:g}", "end", "tick"))
        parts.append(_text(left + share * side, top + side + 14, f"{share:g}", "middle", "tick"))
    return Markup("").join(parts)


def latencies(heading: str, rows: Sequence[tuple[str, str, Latency]]) -> Markup:
    """Draw the latency histogram of each (name, colour class, latency), one below another on a common axis."""
    high = max(latency.edges[-1] for _, _, latency in rows)
    low = min(high * 0.5, *(latency.edges[0] for _, _, latency in rows))
    left, room, height = 8.0, WIDTH - 24.0, 62.0

    def at(micros: float) -> float:
        return left + (micros - low) / (high - low) * room

    parts: list[Markup] = []
    for place, (name, style, latency) in enumerate(rows):
        base = (place + 1) * height + place * 14
        parts.append(_histogram(latency, base, height - 22, at, style))
        parts.append(_line(left, base, left + room, base, "axis"))
        middle = at(latency.median_us)
        parts.append(_line(middle, base - height + 20, middle, base, f"median {style}"))
        shown = (
            f"{text.short(name, 20)}: median {text.duration(latency.median_us)}, p95 {text.duration(latency.p95_us)}"
        )
        parts.append(_text(left, base - height + 12, shown, "start"))
    bottom = len(rows) * (height + 14) - 2
    parts.append(_text(left, bottom + 4, text.duration(low), "start", "tick"))
    parts.append(_text(left + room, bottom + 4, text.duration(high), "end", "tick"))
    return _svg(heading, bottom + 10, parts)


def _histogram(latency: Latency, base: float, height: float, at: Callable[[float], float], style: str) -> Markup:
    most = max(latency.counts)
    parts = []
    for start, end, count in zip(latency.edges, latency.edges[1:], latency.counts, strict=False):
        if count:
            tall = max(height * count / most, 1.0)
            said = f"{count} of {latency.repeats} within {text.duration(start)} to {text.duration(end)}"
            parts.append(_box(at(start), base - tall, max(at(end) - at(start), 0.75), tall, style, said))
    return Markup("").join(parts)


def _svg(heading: str, height: float, parts: Sequence[Markup]) -> Markup:
    return _SVG.format(_n(WIDTH), _n(height), text.clean(heading), Markup("").join(parts))


def _text(x: float, y: float, content: str, anchor: str, style: str = "name") -> Markup:
    return _TEXT.format(style, _n(x), _n(y), anchor, text.clean(content))


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _LINE.format(style, _n(x1), _n(y1), _n(x2), _n(y2))


def _box(x: float, y: float, width: float, height: float, style: str, said: str) -> Markup:
    return _BOX.format(style, _n(x), _n(y), _n(width), _n(height), text.clean(said))


def _n(value: float) -> str:
    """Return a coordinate with two places; more cannot be seen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
