"""The report as one HTML page that needs nothing else: no network, no script, no file beside it.

Jinja escapes every text; a content security policy in the page forbids scripts and connections, should a text from a
recipe ever get past that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dsops_controller.build.reports import text
from dsops_controller.build.reports.page_plots import Plot, model_plots, variant_plots
from dsops_controller.build.reports.page_tables import (
    TableView,
    gate_table,
    models_table,
    parity_table,
    variant_tables,
)
from dsops_controller.build.reports.report import Report, VariantReport

_TEMPLATES = Path(__file__).with_name("templates")
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class VariantView:
    """One variant, as the template shows it."""

    name: str
    passed: bool
    headline: str
    headline_name: str
    facts: Facts
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    tables: tuple[TableView, ...]


@dataclass(frozen=True)
class PageView:
    """The whole page, as the template shows it."""

    title: str
    description: str
    subtitle: str
    passed: bool
    models: TableView
    plots: tuple[Plot, ...]
    gate: TableView
    variants: tuple[VariantView, ...]
    parity: TableView | None
    lineage: Facts
    machine: Facts


def render_page(report: Report) -> bytes:
    """Return the page, UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(page=_page(report))
    return page.encode("utf-8", errors="replace")


def _page(report: Report) -> PageView:
    first = report.variants[0].evaluation
    frames = f"{first.frames} frames" + ("" if first.has_truth else " without truth")
    return PageView(
        title=text.clean(report.model),
        description=text.clean(report.description),
        subtitle=f"{report.task}, evaluated on {frames}, from {text.clean(report.source)}",
        passed=report.passed,
        models=models_table(report),
        plots=tuple(model_plots(report)),
        gate=gate_table(report),
        variants=tuple(_variant(variant) for variant in report.variants),
        parity=None if report.parity is None else parity_table(report.parity),
        lineage=tuple(_lineage(report)),
        machine=tuple((name, text.clean(value)) for name, value in report.machine.items() if value),
    )


def _variant(variant: VariantReport) -> VariantView:
    evaluation = variant.evaluation
    main = evaluation.main
    return VariantView(
        name=text.clean(variant.name),
        passed=variant.passed,
        headline=text.NONE if main is None else text.metric(main.name, main.after),
        headline_name="no metric" if main is None else f"{text.title(main.name)}, {text.against(main.name, main.drop)}",
        facts=tuple(_facts(variant)),
        notes=tuple(text.clean(note) for note in variant.notes),
        plots=tuple(variant_plots(variant)),
        tables=tuple(variant_tables(variant)),
    )


def _facts(variant: VariantReport) -> Iterator[tuple[str, str]]:
    evaluation = variant.evaluation
    yield "made by", text.clean(variant.mode)
    if evaluation.agreement is not None:
        yield "agrees with float", text.metric("agreement", evaluation.agreement)
    before, after = evaluation.before.size_bytes, evaluation.after.size_bytes
    yield "size", f"{text.size(after)} ({text.ratio(before, after, 'smaller', 'larger')})"
    first, second = evaluation.measured_before, evaluation.measured_after
    if first is not None and second is not None:
        old, new = first.latencies[0].median_us, second.latencies[0].median_us
        yield "latency", f"{text.duration(new)} ({text.ratio(old, new, 'faster', 'slower')})"
        if second.memory is not None:
            yield "memory", text.size(second.memory.model_bytes)


def _lineage(report: Report) -> Iterator[tuple[str, str]]:
    lineage = report.lineage
    yield "source", text.clean(report.source)
    if lineage.source_sha256:
        yield "source sha256", lineage.source_sha256
    if lineage.commit:
        yield "training commit", text.clean(lineage.commit)
    for what, entries in (("data", lineage.datasets), ("parameter", lineage.parameters), ("", lineage.facts)):
        for name, value in sorted(entries.items()):
            yield text.clean(f"{what} {name}".strip()), text.clean(value)
