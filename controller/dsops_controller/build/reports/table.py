"""The report on a terminal: compact, and readable at 80 columns and without colour."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dsops_controller.build.evaluation.evaluation import Evaluation, Measured, SliceRow, by_kind
from dsops_controller.build.evaluation.gate import Verdict
from dsops_controller.build.reports import text
from dsops_controller.build.reports.report import Report, VariantReport

WORST = 5
OPERATORS = 3
_NAME_WIDTH = 14
_WHERE_WIDTH = 34
_METRICS = 2
_RESULT = {True: "pass", False: "FAIL"}
_COMPARED = ("frames", "float", "variant", "drop")
_NOTHING = 1e-9


def tables(report: Report, *, full: bool = False) -> list[RenderableType]:
    """Return what to print one after another: a heading, the models, the gate, and where variants fell behind.

    Args:
        report: The report.
        full: Every key of the gate, and every class and slice that lost anything, instead of the worst few.
    """
    found: list[RenderableType] = [_heading(report), _models(report)]
    if any(variant.verdicts for variant in report.variants):
        found.append(_gate(report, full=full))
    for variant in report.variants:
        found.extend(_details(variant, sys.maxsize if full else WORST))
    notes = [f"note  {variant.name}: {text.clean(note)}" for variant in report.variants for note in variant.notes]
    parts = [*found, Text("\n".join(notes))] if notes else found
    return [piece for part in parts for piece in (Text(""), part)][1:]


def _heading(report: Report) -> Text:
    first = report.variants[0].evaluation
    lines = Text(f"{report.model}", style="bold")
    lines.append(f"  {report.task}, {first.frames} frames, from {text.clean(report.source)}", style="not bold")
    if report.parity is not None:
        parity = f"{report.parity.largest_relative:.1e} relative on {report.parity.frames} frames"
        lines.append(f"\nfloat TFLite differs from onnxruntime by {parity}", style="not bold")
    return lines


def _models(report: Report) -> RenderableType:
    first = report.variants[0].evaluation
    names = [figure.name for figure in first.figures[:_METRICS]]
    table = _table("", *(text.title(name) for name in names), "agree", "size", "latency", "memory", "gate")
    before = [text.metric(figure.name, figure.before) for figure in first.figures[:_METRICS]]
    size = text.size(first.before.size_bytes)
    _add(table, "float", *before, "", size, *_costs(first.measured_before), "")
    for variant in report.variants:
        _add(table, *_model(variant, names), style="" if variant.passed else "red")
    return table


def _model(variant: VariantReport, names: Sequence[str]) -> Iterator[str]:
    evaluation = variant.evaluation
    yield text.short(variant.name, _NAME_WIDTH)
    for name in names:
        figure = evaluation.figure(name)
        yield text.NONE if figure is None else text.metric(name, figure.after)
    yield text.metric("agreement", evaluation.agreement)
    yield text.size(evaluation.after.size_bytes)
    yield from _costs(evaluation.measured_after)
    yield _RESULT[variant.passed]


def _costs(measured: Measured | None) -> tuple[str, str]:
    if measured is None:
        return text.NONE, text.NONE
    memory = text.NONE if measured.memory is None else text.size(measured.memory.model_bytes)
    return text.duration(measured.latencies[0].median_us), memory


def _gate(report: Report, *, full: bool) -> RenderableType:
    table = _table("gate", "found", "allowed", "", words=(0, 3))
    for variant in report.variants:
        shown = [verdict for verdict in variant.verdicts if full or not verdict.passed]
        for verdict in shown:
            _add(table, *_verdict(variant.name, verdict), style="" if verdict.passed else "red")
        others = len(variant.verdicts) - len(shown)
        if others:
            _add(table, f"{variant.name}: {others} {'other ' if shown else ''}keys", "", "", _RESULT[True])
    return table


def _verdict(variant: str, verdict: Verdict) -> tuple[str, str, str, str]:
    sign = ">=" if verdict.key.startswith("min_") else "<="
    where = f" ({text.short(verdict.where, _WHERE_WIDTH)})" if verdict.where else ""
    allowed = f"{sign} {text.number(verdict.limit)}"
    return f"{variant}: {verdict.key}{where}", text.number(verdict.figure), allowed, _RESULT[verdict.passed]


def _details(variant: VariantReport, most: int) -> Iterator[RenderableType]:
    evaluation = variant.evaluation
    classes = [
        (row.drop, (row.label, str(row.support), *_shown("recall", row.before.recall, row.after.recall, row.drop)))
        for row in evaluation.classes
    ]
    yield from _worst(f"{variant.name}: classes that lost most recall", classes, most)
    if evaluation.main is not None:
        heading = f"{variant.name}: slices that lost most {text.title(evaluation.main.name)}"
        yield from _worst(heading, [(row.figure.drop, _slice(row)) for row in evaluation.slices], most)
    yield _operators(variant.name, evaluation)


def _slice(row: SliceRow) -> tuple[str, ...]:
    figure = row.figure
    shown = _shown(figure.name, figure.before, figure.after, figure.drop)
    return (f"{row.slice} = {row.value}", str(row.count), *shown)


def _shown(name: str, before: float, after: float, drop: float) -> tuple[str, str, str]:
    return text.metric(name, before), text.metric(name, after), text.drop(name, drop)


def _worst(heading: str, rows: Sequence[tuple[float, tuple[str, ...]]], most: int) -> Iterator[RenderableType]:
    """Yield a table of the rows that lost most; none when none lost anything."""
    lost = sorted((row for row in rows if row[0] > _NOTHING), key=lambda row: -row[0])
    if not lost:
        return
    table = _table(heading, *_COMPARED)
    for _, (name, *cells) in lost[:most]:
        _add(table, text.short(name, _WHERE_WIDTH), *cells)
    if len(lost) > most:
        _add(table, f"and {len(lost) - most} more", *("" for _ in _COMPARED))
    yield table


def _operators(name: str, evaluation: Evaluation) -> RenderableType:
    table = _table(f"{name}: operators that dominate", "number", "MACs", "share", "weights", "time alone")
    for kind in by_kind(evaluation.after, evaluation.measured_after)[:OPERATORS]:
        _add(
            table,
            kind.name,
            str(kind.number),
            text.count(kind.macs),
            text.share(kind.macs, evaluation.after.macs),
            text.size(kind.weight_bytes),
            text.NONE if kind.alone_us is None else text.duration(kind.alone_us),
        )
    return table


def _add(table: Table, *cells: str, style: str = "") -> None:
    """Add a row of plain texts: what looks like markup in a label is a part of it."""
    table.add_row(*map(Text, cells), style=style)


def _table(first: str, *others: str, words: Sequence[int] = (0,)) -> Table:
    """Return a table without lines, whose columns of figures stand to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, heading in enumerate((first, *others)):
        is_word = place in words
        table.add_column(
            Text(heading),
            justify="left" if is_word else "right",
            no_wrap=not is_word,
            overflow="fold" if is_word else "ellipsis",
        )
    return table
