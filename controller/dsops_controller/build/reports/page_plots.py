"""Chooses the plots of the report page."""

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from dsops_controller.build.evaluation.evaluation import Evaluation
from dsops_controller.build.reports import plots, text
from dsops_controller.build.reports.report import Report, VariantReport

MATRIX_CLASSES = 40
BARS = 20
_NOTHING = 1e-9


@dataclass(frozen=True)
class Plot:
    """A plot with its texts; ``key`` names the variant where two colours need a legend."""

    title: str
    drawing: Markup
    caption: str
    key: str = ""


def model_plots(report: Report) -> Iterator[Plot]:
    """Yield what compares all models: their sizes and latencies."""
    first = report.variants[0].evaluation
    sizes = [plots.Bar("float", first.before.size_bytes, text.size(first.before.size_bytes), "float")]
    for variant in report.variants:
        count = variant.evaluation.after.size_bytes
        sizes.append(plots.Bar(variant.name, count, text.size(count)))
    yield Plot("Size of the file", plots.bars("Size of each model's file", sizes), "")
    if first.measured_before is None:
        return
    times = [_latency_bar("float", first.measured_before.latencies[0].median_us, "float")]
    times += [
        _latency_bar(variant.name, variant.evaluation.measured_after.latencies[0].median_us, "variant")
        for variant in report.variants
        if variant.evaluation.measured_after is not None
    ]
    threads = first.measured_before.latencies[0].threads
    caption = f"On this machine, {threads} thread{'s' if threads > 1 else ''}."
    yield Plot("Median latency", plots.bars("Median latency of each model", times), caption)


def _latency_bar(name: str, micros: float, style: str) -> plots.Bar:
    return plots.Bar(name, micros, text.duration(micros), style)


def variant_plots(variant: VariantReport) -> Iterator[Plot]:
    """Yield the plots of one variant: those for which there are figures."""
    evaluation = variant.evaluation
    yield from _confusion(variant.name, evaluation)
    yield from _class_drops(evaluation)
    if evaluation.reliability is not None:
        both = evaluation.reliability
        drawing = plots.reliability("Accuracy against confidence", both.before, both.after)
        caption = (
            "How often the label is right, by how sure the model is; the dashed line is a model that knows itself."
        )
        yield Plot("Calibration", drawing, caption, key=text.clean(variant.name))
    yield from _latency(variant.name, evaluation)


def _confusion(name: str, evaluation: Evaluation) -> Iterator[Plot]:
    both = evaluation.confusion
    if both is None or len(both.before) > MATRIX_CLASSES:
        return
    labels = [row.label for row in evaluation.classes]
    for title, counts in (("float", both.before), (text.clean(name), both.after)):
        wrong = sum(sum(line) - line[place] for place, line in enumerate(counts))
        caption = f"Rows are the truth. {wrong} of {evaluation.frames} frames are labelled wrongly."
        yield Plot(f"Confusion, {title}", plots.matrix(f"Confusion matrix of {title}", counts, labels), caption)


def _class_drops(evaluation: Evaluation) -> Iterator[Plot]:
    rows = [row for row in evaluation.classes if row.support]
    if not any(abs(row.drop) > _NOTHING for row in rows):
        return
    if len(rows) > BARS:
        rows = sorted(sorted(rows, key=lambda row: -abs(row.drop))[:BARS], key=lambda row: -row.drop)
    bars = [
        plots.Bar(row.label, row.drop, text.drop("recall", row.drop), "loss" if row.drop > 0 else "gain")
        for row in rows
    ]
    others = sum(row.support > 0 for row in evaluation.classes) - len(rows)
    caption = "Right: recall lost, left: gained, in percentage points."
    caption += f" {others} classes that changed less are not shown." if others else ""
    yield Plot("Recall lost by class", plots.bars("Recall lost by class", bars), caption)


def _latency(name: str, evaluation: Evaluation) -> Iterator[Plot]:
    before, after = evaluation.measured_before, evaluation.measured_after
    if before is None or after is None:
        return
    for first, second in zip(before.latencies, after.latencies, strict=True):
        rows = [("float", "float", first), (name, "variant", second)]
        threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
        caption = f"{second.repeats} inferences; the last bar holds all that are slower. Dashed: median."
        yield Plot(f"Latency, {threads}", plots.latencies(f"Latency with {threads}", rows), caption)
