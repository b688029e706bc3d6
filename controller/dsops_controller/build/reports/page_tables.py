"""Makes the tables of the report page: what each holds, not how it looks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsops_controller.build.evaluation.evaluation import ClassRow, Evaluation, Measured, by_kind
from dsops_controller.build.evaluation.metrics import Difference
from dsops_controller.build.evaluation.parity import Parity
from dsops_controller.build.reports import text
from dsops_controller.build.reports.report import Report, VariantReport

SLICES = 40
CLASSES = 20
ALL_CLASSES = 200
OPERATORS = 15
KINDS = 8
_NOTHING = 1e-9
_AT_LEAST, _AT_MOST = "\N{GREATER-THAN OR EQUAL TO}", "\N{LESS-THAN OR EQUAL TO}"


@dataclass(frozen=True)
class Cell:
    """One cell: a text, and what it is marked by: a class, a verdict, or a share drawn as a meter."""

    text: str
    style: str = ""
    passed: bool | None = None
    share: float | None = None


@dataclass(frozen=True)
class TableView:
    """A table; the first cell of each row names it.

    ``words`` are other columns of texts. A folded table opens on demand.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    remark: str = ""
    words: tuple[int, ...] = ()
    is_folded: bool = False


def models_table(report: Report) -> TableView:
    """Return a row for the float model and one for each variant, with every metric."""
    first = report.variants[0].evaluation
    names = [figure.name for figure in first.figures]
    headings = ("model", *map(text.title, names), "agreement", "size", "MACs", "latency", "p95", "memory")
    before = [text.metric(figure.name, figure.before) for figure in first.figures]
    rows = [_row("float", *before, "", text.size(first.before.size_bytes), text.count(first.before.macs))]
    rows[0] += _costs(first.measured_before)
    rows += [_model(variant, names) for variant in report.variants]
    return TableView("Float against variants", headings, tuple(rows), "on the same frames")


def _model(variant: VariantReport, names: Sequence[str]) -> tuple[Cell, ...]:
    evaluation = variant.evaluation
    figures = []
    for name in names:
        figure = evaluation.figure(name)
        figures.append(text.NONE if figure is None else text.metric(name, figure.after))
    cells = _row(
        variant.name,
        *figures,
        text.metric("agreement", evaluation.agreement),
        text.size(evaluation.after.size_bytes),
        text.count(evaluation.after.macs),
    )
    return cells + _costs(evaluation.measured_after)


def _costs(measured: Measured | None) -> tuple[Cell, ...]:
    if measured is None:
        return (Cell(text.NONE),) * 3
    latency = measured.latencies[0]
    memory = text.NONE if measured.memory is None else text.size(measured.memory.model_bytes)
    return Cell(text.duration(latency.median_us)), Cell(text.duration(latency.p95_us)), Cell(memory)


def gate_table(report: Report) -> TableView:
    """Return every key of the gate, judged for every variant; those that failed first."""
    every = [(variant.name, verdict) for variant in report.variants for verdict in variant.verdicts]
    rows = [
        (
            Cell(text.clean(f"{name}: {verdict.key}")),
            Cell("pass" if verdict.passed else "fail", "word", passed=verdict.passed),
            Cell(text.number(verdict.figure)),
            Cell(f"{_AT_LEAST if verdict.key.startswith('min_') else _AT_MOST} {text.number(verdict.limit)}"),
            Cell(text.clean(verdict.where), "word"),
            Cell("default" if verdict.is_default else "recipe", "word"),
        )
        for name, verdict in sorted(every, key=lambda pair: pair[1].passed)
    ]
    headings = ("variant and key", "verdict", "found", "allowed", "where", "set by")
    return TableView("What a variant must keep", headings, tuple(rows), words=(1, 4, 5))


def parity_table(parity: Parity) -> TableView:
    """Return how far the float TFLite model is from onnxruntime."""
    remark = f"{parity.frames} frames, onnxruntime against LiteRT"
    return TableView("Parity of the float model with its source", _DIFFERENCES, _differences(parity.outputs), remark)


def variant_tables(variant: VariantReport) -> Iterator[TableView]:
    """Yield the tables of one variant: those for which there are figures."""
    evaluation = variant.evaluation
    if evaluation.classes:
        yield from _classes(evaluation)
    if evaluation.slices:
        yield _slices(evaluation)
    yield TableView("Differences of the outputs", _DIFFERENCES, _differences(evaluation.differences))
    yield _kinds(evaluation)
    yield _operators(evaluation)


_DIFFERENCES = ("output", "largest", "mean", "relative", "cosine", "SQNR")


def _differences(differences: Sequence[Difference]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(
        _row(
            one.output,
            text.number(one.largest),
            text.number(one.mean),
            text.number(one.relative),
            f"{one.cosine:.6f}",
            "equal" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB",
        )
        for one in differences
    )


def _classes(evaluation: Evaluation) -> Iterator[TableView]:
    """Yield the classes that lost most, and the others in a table that opens on demand."""
    ordered = sorted(evaluation.classes, key=lambda row: (-row.drop, -row.support))
    rows = tuple(_class(row) for row in ordered[:ALL_CLASSES])
    headings = ("class", "frames", "recall float", "recall", "lost", "precision float", "precision", "F1 float", "F1")
    yield TableView("Classes", headings, rows[:CLASSES], _shown(len(rows[:CLASSES]), len(ordered)))
    if len(rows) > CLASSES:
        remark = f"{CLASSES + 1} to {len(rows)} of {len(ordered)}"
        yield TableView("More classes", headings, rows[CLASSES:], remark, is_folded=True)


def _class(row: ClassRow) -> tuple[Cell, ...]:
    recall = (text.metric("recall", row.before.recall), text.metric("recall", row.after.recall))
    precision = (text.metric("precision", row.before.precision), text.metric("precision", row.after.precision))
    f1 = (text.metric("f1", row.before.f1), text.metric("f1", row.after.f1))
    return (*_row(row.label, str(row.support), *recall), _drop("recall", row.drop), *_row(*precision, *f1))


def _slices(evaluation: Evaluation) -> TableView:
    ordered = sorted(evaluation.slices, key=lambda row: -row.figure.drop)
    name = ordered[0].figure.name
    rows = tuple(
        (
            *_row(
                f"{row.slice} = {row.value}",
                str(row.count),
                text.metric(name, row.figure.before),
                text.metric(name, row.figure.after),
            ),
            _drop(name, row.figure.drop),
        )
        for row in ordered[:SLICES]
    )
    headings = ("slice", "frames", f"{text.title(name)} float", text.title(name), "worse by")
    return TableView("Slices", headings, rows, _shown(len(rows), len(ordered)))


def _kinds(evaluation: Evaluation) -> TableView:
    after = evaluation.after
    kinds = by_kind(after, evaluation.measured_after)
    alone = sum(kind.alone_us or 0.0 for kind in kinds)
    rows = tuple(
        (
            *_row(kind.name, str(kind.number), text.count(kind.macs)),
            _share(kind.macs, after.macs),
            Cell(text.size(kind.weight_bytes)),
            Cell(text.NONE if kind.alone_us is None else text.duration(kind.alone_us)),
            _share(kind.alone_us or 0.0, alone),
        )
        for kind in kinds[:KINDS]
    )
    headings = ("operators", "number", "MACs", "share", "weights", "time alone", "share")
    return TableView("Operators that dominate", headings, rows, _shown(len(rows), len(kinds)))


def _operators(evaluation: Evaluation) -> TableView:
    after, measured = evaluation.after, evaluation.measured_after
    times = measured.operator_us if measured is not None and measured.operator_us else (None,) * len(after.operators)
    alone = sum(taken or 0.0 for taken in times)
    both = sorted(zip(after.operators, times, strict=True), key=lambda pair: (-(pair[1] or 0.0), -pair[0].macs))
    rows = tuple(
        (
            *_row(
                f"{one.position} {one.kind}", "\N{MULTIPLICATION SIGN}".join(map(str, one.shape)), text.count(one.macs)
            ),
            _share(one.macs, after.macs),
            Cell(text.size(one.weight_bytes)),
            Cell(text.size(one.moved_bytes)),
            Cell(text.NONE if taken is None else text.duration(taken)),
            _share(taken or 0.0, alone),
        )
        for one, taken in both[:OPERATORS]
    )
    headings = ("place and operator", "output", "MACs", "share", "weights", "bytes moved", "time alone", "share")
    remark = _shown(len(rows), len(both))
    return TableView("Single operators", headings, rows, remark, is_folded=True)


def _row(name: str, *cells: str) -> tuple[Cell, ...]:
    return tuple(Cell(text.clean(cell)) for cell in (name, *cells))


def _drop(name: str, value: float) -> Cell:
    return Cell(text.drop(name, value), "loss" if value > _NOTHING else "")


def _share(part: float, whole: float) -> Cell:
    return Cell(text.share(part, whole), share=part / whole if whole else 0.0)


def _shown(shown: int, total: int) -> str:
    return "" if shown == total else f"the worst {shown} of {total}"
